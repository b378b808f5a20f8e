# mypy: allow-untyped-defs, allow-untyped-calls
"""Sampling from a transformer token by token, all steps in one call.

Between two kernels of a step stand a few microseconds of work; calling each of them from Python took longer. Weights
come as panels (`_products.panels_jit`), which are copied once instead of at every step.
"""

from __future__ import annotations

import numpy as np

from ._attention import attention_step_jit
from ._blocks import draw_jit, embedding_jit, gelu_jit, layer_norm_jit, residual_norm_jit
from ._jit import jit
from ._products import times_panels

__all__ = ["GROUP", "decode_jit"]

GROUP = 36
"""Sequences that take their steps together: so many that products fill registers and caches fit the second level."""
FIRST = np.int64(0)  # panel; a literal would have what it is handed to compiled once more


@jit
def _step(
    tokens, places, slots, ends, table, positions, vectors, biases, panels, heads, keys, values, rooms, logits
):
    """Writes logits (N, V) of the token after each of tokens (N,), which comes at `ends` of sequence `slots`."""
    N = tokens.shape[0]
    streams, others, norms, branches, qkvs, slopes, actives, means, shares, row = rooms
    stream, other, normed, branch = streams[:N], others[:N], norms[:N], branches[:N]
    embedding_jit(tokens, places, table, positions, stream)
    layer_norm_jit(stream, vectors[0], vectors[1], means, shares, normed)
    p = FIRST
    for i in range(keys.shape[0]):
        v = 2 + 6 * i
        p = times_panels(normed, p, panels, qkvs[:N])
        attention_step_jit(qkvs[:N], slots, ends, heads, keys[i], values[i], row, normed)
        p = times_panels(normed, p, panels, branch)
        residual_norm_jit(
            stream, branch, vectors[v], vectors[v + 1], vectors[v + 2], means, shares, other, normed
        )
        p = times_panels(normed, p, panels, slopes[:N])
        gelu_jit(biases[i], slopes[:N], actives[:N])
        p = times_panels(actives[:N], p, panels, branch)
        residual_norm_jit(
            other, branch, vectors[v + 3], vectors[v + 4], vectors[v + 5], means, shares, stream, normed
        )
    times_panels(normed, p, panels, logits)


@jit
def decode_jit(
    uniforms,
    lengths,
    table,
    positions,
    vectors,
    biases,
    panels,
    place,
    start,
    eos,
    never,
    lowest,
    heads,
    keys,
    values,
    rooms,
    scratch,
    logits,
    fresh,
    chosen,
    ids,
    responses,
    mask,
    logprobs,
):
    """Writes responses, mask and logprobs (B, T): a token a step from `uniforms` (B, T), until `eos`.

    The first token, `start`, stands at `place` and comes after `lengths` (B,) tokens in keys (layers, B C, J) and
    values (layers, B J, C), to which every step adds. `vectors`: gain and shift of the first norm, then of each block
    the bias, gain and shift of either residual; `biases` (layers, F) those before the GELU. `panels`: of each block
    the four factors, then the table turned. -1: no `eos`; nothing that is `never`
    drawn, whose logit is set to `lowest`. What is between comes with room for GROUP sequences: `rooms`, `logits`,
    `scratch` of `sample_scratch`, `fresh`, `chosen` and `ids` (4, GROUP).
    """
    B, T = uniforms.shape
    slots, tokens, places, ends = ids[0], ids[1], ids[2], ids[3]
    weights, masses, tops = scratch
    for begin in range(0, B, GROUP):
        n = min(GROUP, B - begin)
        for m in range(n):
            slots[m] = begin + m
            tokens[m] = start
        for t in range(T):
            for m in range(n):
                b = slots[m]
                places[m] = place + t
                ends[m] = lengths[b] + t
                fresh[m] = uniforms[b, t]
            _step(
                tokens[:n],
                places,
                slots,
                ends,
                table,
                positions,
                vectors,
                biases,
                panels,
                heads,
                keys,
                values,
                rooms,
                logits[:n],
            )
            if never >= 0:
                for m in range(n):
                    logits[m, never] = lowest
            draw_jit(logits[:n], fresh, weights, masses, tops, tokens, chosen)
            alive = 0
            for m in range(n):
                b, token = slots[m], tokens[m]
                responses[b, t] = token
                mask[b, t] = 1
                logprobs[b, t] = chosen[m]
                if token != eos:
                    slots[alive] = b
                    tokens[alive] = token
                    alive += 1
            n = alive
            if n == 0:
                break
