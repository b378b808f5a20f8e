# mypy: allow-untyped-defs, allow-untyped-calls
"""A log-linear autoregressive model: logits, their gradient, and sampling.

    logits[b, t] = mean_p w_prompt[prompts[b, p]] + w_prev[1 + y[b, t-1]] + w_pos[t]

Row 0 of `w_prev` stands for the beginning of the response. A weight array with no rows leaves its term out, so that
with `w_prompt` alone this is the tabular softmax. Prompt tokens below 0 are padding. Positions whose mask is 0 cost
nothing: their logits are 0 and their gradient is not read.

The functions here are the jitted forms, for `rlhfbench.policies`; a value head is the same model with V = 1.
Shapes: prompts (B, P), responses and mask (B, T), w_prompt (rows, V), w_prev (V' + 1 or 0, V), w_pos (T or 0, V).
"""

from __future__ import annotations

from ._jit import jit
from ._row import as_row, narrow
from ._rows import LOG2E, logprob, normalizer
from ._sampling import draw
from ._sampling import sample_scratch as sample_scratch
from ._veclog import log


@jit
def _prompt_row(prompt, w_prompt, out):
    """Mean of the prompt tokens' weights. Writes out (V,)."""
    V = out.shape[0]
    T = w_prompt.dtype.type
    count = 0
    for v in range(V):
        out[v] = T(0.0)
    for p in range(prompt.shape[0]):
        if prompt[p] >= 0:
            count += 1
            # Named, or the index is read anew for every v: `out` might overlap it.
            weights = w_prompt[prompt[p]]
            for v in range(V):
                out[v] += weights[v]
    if count > 1:
        for v in range(V):
            out[v] /= T(count)


@jit
def _row(base, responses, b, t, w_prev, w_pos, out):
    """Base plus the weights of the previous token and of the position, in one pass. Writes out (V,)."""
    V = out.shape[0]
    previous = responses[b, t - 1] + 1 if t > 0 else 0
    if w_prev.shape[0] > 0 and w_pos.shape[0] > 0:
        before, here = w_prev[previous], w_pos[t]
        for v in range(V):
            out[v] = base[v] + before[v] + here[v]
    else:
        for v in range(V):
            out[v] = base[v]


@jit
def logits_jit(prompts, responses, mask, w_prompt, w_prev, w_pos, base, out):
    """Writes out (B, T, V); base (V,) is scratch."""
    B, T, V = out.shape
    zero = out.dtype.type(0.0)
    for b in range(B):
        _prompt_row(prompts[b], w_prompt, base)
        for t in range(T):
            row = out[b, t]
            if mask[b, t] > 0:
                _row(base, responses, b, t, w_prev, w_pos, row)
            else:
                for v in range(V):
                    row[v] = zero


@jit
def logprobs_jit(prompts, responses, mask, w_prompt, w_prev, w_pos, base, row, out):
    """Writes out (B, T), the log-probability of each response token; base, row (V,) are scratch."""
    B, T = responses.shape
    K = out.dtype.type
    scale = narrow(LOG2E, row)
    for b in range(B):
        _prompt_row(prompts[b], w_prompt, base)
        for t in range(T):
            out[b, t] = K(0.0)
            if mask[b, t] > 0:
                _row(base, responses, b, t, w_prev, w_pos, row)
                top, mass = normalizer(as_row(row), scale)
                out[b, t] = logprob(row[responses[b, t]], scale, top, log(mass))


@jit
def backward_jit(prompts, responses, mask, d_logits, total, g_prompt, g_prev, g_pos):
    """Accumulates into g_prompt, g_prev, g_pos; total (V,) is scratch."""
    B, T, V = d_logits.shape
    K = d_logits.dtype.type
    for b in range(B):
        for v in range(V):
            total[v] = K(0.0)
        for t in range(T):
            if mask[b, t] > 0:
                row = d_logits[b, t]
                previous = responses[b, t - 1] + 1 if t > 0 else 0
                if g_prev.shape[0] > 0 and g_pos.shape[0] > 0:
                    before, here = g_prev[previous], g_pos[t]
                    for v in range(V):
                        total[v] += row[v]
                        before[v] += row[v]
                        here[v] += row[v]
                else:
                    for v in range(V):
                        total[v] += row[v]
        count = 0
        for p in range(prompts.shape[1]):
            if prompts[b, p] >= 0:
                count += 1
        if count > 1:
            for v in range(V):
                total[v] /= K(count)
        for p in range(prompts.shape[1]):
            if prompts[b, p] >= 0:
                grad = g_prompt[prompts[b, p]]
                for v in range(V):
                    grad[v] += total[v]


@jit
def sample_jit(
    prompts,
    uniforms,
    eos,
    w_prompt,
    w_prev,
    w_pos,
    base,
    row,
    weights,
    masses,
    tops,
    responses,
    mask,
    logprobs,
):
    """Sample until `eos` (negative: always T tokens).

    Writes responses, mask, logprobs (B, T); base, row (V,) are scratch, and weights, masses, tops from
    `sample_scratch`.
    """
    B, T = responses.shape
    K = logprobs.dtype.type
    scale = narrow(LOG2E, row)
    for b in range(B):
        _prompt_row(prompts[b], w_prompt, base)
        alive = True
        for t in range(T):
            responses[b, t] = 0
            mask[b, t] = K(0.0)
            logprobs[b, t] = K(0.0)
            if alive:
                _row(base, responses, b, t, w_prev, w_pos, row)
                token, top, mass = draw(as_row(row), uniforms[b, t], scale, weights, masses, tops)
                token = token if token > 0 else 0  # a row of NaN has none
                responses[b, t] = token
                mask[b, t] = K(1.0)
                logprobs[b, t] = logprob(row[token], scale, top, log(mass))
                alive = token != eos
