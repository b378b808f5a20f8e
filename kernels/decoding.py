# mypy: allow-untyped-defs, allow-untyped-calls
"""Sampling token by token from a pre-norm transformer with tied embeddings: for `rlhfbench.policies`.

As many sequences are decoded at a time as there are slots of the cache, so that their keys and values, the weights and
all between stay in the second-level cache; where one ends, the next takes its slot. What a row becomes does not depend
on the rows beside it. Kernels are called through their addresses (`_linked`): this loop is compiled without them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba import types
from numba.np.numpy_support import from_dtype

from ._attention_step import attention_step_jit, fill_cache_jit, step_room
from ._blocks import draw_jit, embedding_jit, gelu_over_jit, layer_norm_jit, residual_norm_jit
from ._check import Array, sums
from ._jit import jit
from ._linked import Call, addresses, arrays, call
from ._products import PACKED, TIMES, TIMES_TURNED, panels_jit, panels_shape, product_jit
from ._rows import START
from ._sampling import sample_sizes
from ._shapes import block, piece
from ._tensors import DOWN, DOWN_BIAS, GAIN1, GAIN2, PROJ, PROJ_BIAS, QKV, SHIFT1, SHIFT2, UP, UP_BIAS
from ._turned import LANES

__all__ = [
    "Model",
    "Now",
    "Places",
    "Prompts",
    "Room",
    "calls",
    "decode",
    "decode_jit",
    "laid_out",
    "panels_of",
    "sums_and_uniforms",
]


class Model(NamedTuple):
    """A transformer of L blocks, width C and vocabulary V; the perceptrons are 4 C wide.

    Attributes
    ----------
    table, places, gain, shift, blocks, starts : arrays
        As in `Tensors`; `context` + T places. The token table's first V rows are what logits are made of, and the next
        one is the start token.
    panels : (panels, size)
        Room for all weights as `product_jit` takes them packed: `panels_shape` of each of a block, and of the head.
    heads, V, context : int
        The start token's place is `context`.
    eos, never : int
        Token that ends a sequence, and one that has the logit `floor`; -1: none.
    floor : float
    """

    table: Array
    places: Array
    gain: Array
    shift: Array
    blocks: Array
    starts: Array
    panels: Array
    heads: int
    V: int
    context: int
    eos: int
    never: int
    floor: float


class Prompts(NamedTuple):
    """`qkv` (L, rows, 3 C) of all prompts' tokens; `spans` (5 B,), of which `before` and `prefix` count."""

    qkv: Array
    spans: Array


Place: TypeAlias = tuple[int, int]
"""Where something begins, and how many numbers it has."""


class Places(NamedTuple):
    """Of attention's weights, of a draw's weights and tops, of the log-probabilities of what is drawn, and of rows."""

    seen: Place
    weights: Place
    tops: Place
    drawn: Place
    rows: Place


class Room(NamedTuple):
    """Scratch for S slots and J places: `keys` (L, S, *`keys_shape`), `values` (L, S, J, C), and what a step needs.

    That is `panel` (PANEL,), what lies at these places of `memory`, and from `sums_and_uniforms` the last two.
    """

    keys: Array
    values: Array
    panel: Array
    memory: Array
    at: Places
    masses: Array
    uniforms: Array


class Now(NamedTuple):
    """Of each sequence that is being decoded (S,): number, slot, latest token, that one's place, what is before it."""

    sequences: Array
    slots: Array
    tokens: Array
    places: Array
    ends: Array


FILL, PACK, EMBED, NORM, TIMES_, ATTEND, RESIDUAL, GELU, DRAW = range(9)


def calls(dtype: Any) -> tuple[Call, ...]:
    """What `decode_jit` calls for arrays of this type."""
    x1, x2, i1, _, i = arrays(dtype)
    x3, d1, m1 = x2.copy(ndim=3), x1.copy(dtype=types.float64), x1.copy(dtype=masses(dtype))
    return (
        (fill_cache_jit, (x2, i1, i1, x3, x3)),
        (panels_jit, (x2, i, x2)),
        (embedding_jit, (i1, i1, x2, x2, x2)),
        (layer_norm_jit, (x2, x1, x1, x1, x1, x2)),
        (product_jit, (x2, x2, i, i, x1, x2)),
        (attention_step_jit, (x2, i1, i1, i, x3, x3, x1, x2)),
        (residual_norm_jit, (x2, x2, x1, x1, x1, x1, x1, x2, x2)),
        (gelu_over_jit, (x1, x2)),
        (draw_jit, (x2, d1, x1, m1, x1, i1, x1)),
    )


def masses(dtype: Any) -> Any:
    """Numba type of `Room.masses`."""
    return types.pyobject if dtype.hasobject else from_dtype(np.dtype(sums(dtype)))


@cache
def panels_of(layers: int, C: int, V: int, itemsize: int) -> tuple[int, int]:
    """Shape of `Model.panels`."""
    shapes = [panels_shape(*shape, itemsize) for shape in ((C, 3 * C), (C, C), (C, 4 * C), (4 * C, C))]
    head, elements = panels_shape(C, V, itemsize)
    return layers * sum(count for count, _ in shapes) + head, elements


@cache
def laid_out(S: int, J: int, C: int, V: int) -> tuple[int, Places]:
    """Elements of `Room.memory`, and what lies there, each from a cache line's beginning on."""
    places, end = [], 0
    for size in (step_room(J), *sample_sizes(V), S, S * (11 * C + V + 2)):
        places.append((end, size))
        end -= size // -LANES * LANES
    return end, Places(*places)


def sums_and_uniforms(S: int, V: int, dtype: Any) -> tuple[Array, Array]:
    """The last two of `Room`."""
    return np.empty(sample_sizes(V)[1], sums(np.dtype(dtype))), np.empty(S)


@jit(inline="always")
def _pack(code, model):
    """Fills the panels, in the order in which a step takes them."""
    L, C, n = model.blocks.shape[0], model.table.shape[1], 0
    for i in range(L):
        flat = model.blocks[i]
        for name, rows, columns in ((QKV, C, 3 * C), (PROJ, C, C), (UP, C, 4 * C), (DOWN, 4 * C, C)):
            w = block(flat, model.starts[name], rows, columns)
            n += call(panels_jit, code[PACK], (w, TIMES, model.panels[n:]))
    call(panels_jit, code[PACK], (model.table[: model.V], TIMES_TURNED, model.panels[n:]))


@jit(inline="always")
def _admit(code, model, prompts, room, now, n, b):
    """Makes sequence b the nth of those that are being decoded."""
    slot = now.slots[n]
    before, prefix = piece(prompts.spans, 5 * b + 2, 1), piece(prompts.spans, 5 * b + 3, 1)
    for i in range(model.blocks.shape[0]):
        keys, values = room.keys[i, slot : slot + 1], room.values[i, slot : slot + 1]
        call(fill_cache_jit, code[FILL], (prompts.qkv[i], before, prefix, keys, values))
    now.sequences[n], now.tokens[n], now.places[n], now.ends[n] = b, model.V, model.context, prefix[0]


@jit(inline="always")
def _step(code, model, room, now, n):
    """From the latest tokens of n sequences to the next ones, which take their place."""
    L, C = room.values.shape[0], room.values.shape[3]
    V, N, panels, panel, memory = model.V, n * C, model.panels, room.panel, room.memory
    at, first = room.at, room.at.rows[0]
    stream, inside = block(memory, first, n, C), block(memory, first + N, n, C)
    normed, branch = block(memory, first + 2 * N, n, C), block(memory, first + 3 * N, n, C)
    qkv, active = block(memory, first + 4 * N, n, 3 * C), block(memory, first + 7 * N, n, 4 * C)
    logits, moments = block(memory, first + 11 * N, n, V), first + 11 * N + n * V
    means, shares = piece(memory, moments, n), piece(memory, moments + n, n)
    seen = piece(memory, at.seen[0], at.seen[1])
    tokens, slots, ends = now.tokens[:n], now.slots[:n], now.ends[:n]
    call(embedding_jit, code[EMBED], (tokens, now.places[:n], model.table, model.places, stream))
    flat, starts = model.blocks[0], model.starts
    gain, shift = piece(flat, starts[GAIN1], C), piece(flat, starts[SHIFT1], C)
    call(layer_norm_jit, code[NORM], (stream, gain, shift, means, shares, normed))
    p = 0
    for i in range(L):
        flat = model.blocks[i]
        p += call(product_jit, code[TIMES_], (normed, panels[p:], PACKED, 0, panel, qkv))
        attend = qkv, slots, ends, model.heads, room.keys[i], room.values[i], seen, normed
        call(attention_step_jit, code[ATTEND], attend)
        p += call(product_jit, code[TIMES_], (normed, panels[p:], PACKED, 0, panel, branch))
        bias = piece(flat, starts[PROJ_BIAS], C)
        gain, shift = piece(flat, starts[GAIN2], C), piece(flat, starts[SHIFT2], C)
        call(
            residual_norm_jit,
            code[RESIDUAL],
            (stream, branch, bias, gain, shift, means, shares, inside, normed),
        )
        p += call(product_jit, code[TIMES_], (normed, panels[p:], PACKED, 0, panel, active))
        call(gelu_over_jit, code[GELU], (piece(flat, starts[UP_BIAS], 4 * C), active))
        p += call(product_jit, code[TIMES_], (active, panels[p:], PACKED, 0, panel, branch))
        bias = piece(flat, starts[DOWN_BIAS], C)
        if i + 1 < L:
            flat = model.blocks[i + 1]
            gain, shift = piece(flat, starts[GAIN1], C), piece(flat, starts[SHIFT1], C)
        else:
            gain, shift = model.gain, model.shift
        call(
            residual_norm_jit,
            code[RESIDUAL],
            (inside, branch, bias, gain, shift, means, shares, stream, normed),
        )
    call(product_jit, code[TIMES_], (normed, panels[p:], PACKED, 0, panel, logits))
    if model.never >= 0:
        for k in range(n):
            logits[k, model.never] = model.floor
    weights, tops = piece(memory, at.weights[0], at.weights[1]), piece(memory, at.tops[0], at.tops[1])
    drawn = piece(memory, at.drawn[0], n)
    call(draw_jit, code[DRAW], (logits, room.uniforms[:n], weights, room.masses, tops, tokens, drawn))


def decode(
    model: Model,
    prompts: Prompts,
    uniforms: Array,
    room: Room,
    now: Now,
    responses: Array,
    logprobs: Array,
    mask: Array,
) -> tuple[int, int]:
    """Draws a response to each prompt by `uniforms` (B, T) float64: writes the last three (B, T).

    Gives how many tokens it drew, and how many keys these saw.
    """
    code = addresses(calls, model.table.dtype)
    tokens, pairs = decode_jit(code, model, prompts, uniforms, room, now, responses, logprobs, mask)
    return int(tokens), int(pairs)


@jit
def decode_jit(code, model, prompts, uniforms, room, now, responses, logprobs, mask):
    """As `decode`; `code` is from `addresses`, for the arrays' type."""
    B, T = uniforms.shape
    _pack(code, model)
    for s in range(now.slots.shape[0]):
        now.slots[s] = s
    for b in range(B):
        for t in range(T):
            responses[b, t], logprobs[b, t], mask[b, t] = 0, 0, 0
    n, following, tokens, pairs = START, START, START, START
    while n > 0 or following < B:
        while n < now.slots.shape[0] and following < B:
            _admit(code, model, prompts, room, now, n, following)
            n += 1
            following += 1
        for k in range(n):
            room.uniforms[k] = uniforms[now.sequences[k], now.places[k] - model.context]
        _step(code, model, room, now, n)
        left = START
        for k in range(n):
            b, token, place, slot = now.sequences[k], now.tokens[k], now.places[k], now.slots[k]
            t = place - model.context
            tokens += 1
            pairs += now.ends[k] + 1
            responses[b, t], logprobs[b, t], mask[b, t] = token, room.memory[room.at.drawn[0] + k], 1
            if t + 1 < T and token != model.eos:
                # Those that end hand their slots to the places behind.
                now.slots[k], now.slots[left] = now.slots[left], slot
                now.sequences[left], now.tokens[left] = b, token
                now.places[left], now.ends[left] = place + 1, now.ends[k] + 1
                left += 1
        n = left
    return tokens, pairs
