# mypy: allow-untyped-defs, allow-untyped-calls
"""Attention of one more token of each sequence, with the keys and values of what went before in a cache.

Keys are kept turned, so that vectors run along them. Scores are written in whole vectors, into room that has them: a
vector of which a part was written is not read again before that part has reached the cache.
"""

from __future__ import annotations

import math

import numpy as np

from ._abreast import (
    ABREAST,
    at_each,
    largest_each,
    load_each,
    spread,
    store_each,
    store_each_over,
    total_each,
)
from ._jit import jit
from ._lanemath import fma, larger, nothing, power
from ._lanes import load_part, store_part, width
from ._row import narrow
from ._rows import LOG2E, START
from ._slim import part, stretch
from ._turned import LANES

__all__ = ["attention_step_jit", "fill_cache_jit", "step_room"]


def step_room(heads: int, J: int) -> int:
    """Elements of the scratch of `attention_step_jit`: of some heads the scores of J keys each, in whole vectors."""
    return min(heads, ABREAST) * (-(-J // LANES) * LANES)


@jit(forceinline=True)
def _write(x, n, sequence, end, keys, values):
    """Writes token n's key and value at place `end` of a sequence."""
    J, C = keys.shape[1], values.shape[1]
    for c in range(C):
        keys[sequence * C + c, end] = x[n, C + c]
    row, to = part(x, n, 2 * C, 3 * C), part(values, sequence * J + end, 0, C)
    v = 0
    while v < C:
        store_part(to, v, C, load_part(row, v, C, narrow(0.0, values)))
        v += width(to)


@jit
def fill_cache_jit(qkv, before, prefix, keys, values):
    """Copies prompts of `prefix` (B,) rows from `before` (B,) on to keys (B, C, J) and values (B, J, C)."""
    for b in range(keys.shape[0]):
        for j in range(prefix[b]):
            _write(qkv, before[b] + j, START, j, keys[b], values[b])


@jit(forceinline=True)
def _scores(x, start, size, heads, keys, base, J, row, wide):
    """Writes row, in whole vectors: each head's products of its query, x from `start` on, with J columns of its keys.

    Keys begin at row `base`, and in `row` each head has `wide` places.
    """
    zero, W = narrow(0.0, row), width(stretch(row, 0, 0))
    down = keys.shape[1]
    first, step = base * down, size * down
    v = 0
    while v + W < J:
        query = at_each(x, start, size, heads)
        lanes = load_each(keys, first + v, step, heads, W, zero) * query
        more = load_each(keys, first + v + W, step, heads, J - v - W, zero) * query
        for d in range(1, size):
            query, place = at_each(x, start + d, size, heads), first + d * down + v
            lanes = fma(load_each(keys, place, step, heads, W, zero), query, lanes)
            more = fma(load_each(keys, place + W, step, heads, J - v - W, zero), query, more)
        store_each_over(row, v, wide, heads, J - v, lanes)
        store_each_over(row, v + W, wide, heads, J - v - W, more)
        v += 2 * W
    if v < J:
        lanes = load_each(keys, first + v, step, heads, J - v, zero) * at_each(x, start, size, heads)
        for d in range(1, size):
            key = load_each(keys, first + d * down + v, step, heads, J - v, zero)
            lanes = fma(key, at_each(x, start + d, size, heads), lanes)
        store_each_over(row, v, wide, heads, J - v, lanes)


@jit(forceinline=True)
def _softmax(row, wide, heads, J, scale):
    """Turns J scores of each head into weights, 2**(x scale) over their sum, in whole vectors."""
    lowest, W = narrow(-np.inf, row), width(stretch(row, 0, 0))
    lanes = load_each(row, START, wide, heads, J, lowest)
    tops = lanes
    v = W
    while v < J:
        tops = larger(tops, load_each(row, v, wide, heads, J - v, lowest))
        v += W
    top = largest_each(tops)
    lanes = power(lanes - top, scale)
    masses = total_each(lanes)
    v = W
    while v < J:
        more = power(load_each(row, v, wide, heads, J - v, lowest) - top, scale)
        store_each_over(row, v, wide, heads, J - v, more)
        masses = masses + total_each(more)
        v += W
    share = spread(1.0 / masses, row)
    store_each_over(row, START, wide, heads, J, lanes * share)
    v = W
    while v < J:
        more = load_each(row, v, wide, heads, J - v, lowest) * share
        store_each_over(row, v, wide, heads, J - v, more)
        v += W


@jit(forceinline=True)
def _mix(row, wide, size, heads, J, values, start, out, to):
    """Writes out from element `to` on: of each head the sum of J values, each times its weight."""
    zero, down = narrow(0.0, row), values.shape[1]
    v = 0
    while v < size:
        lanes = nothing(at_each(row, START, wide, heads))
        for j in range(J):
            value = load_each(values, start + j * down + v, size, heads, size - v, zero)
            lanes = fma(value, at_each(row, j, wide, heads), lanes)
        store_each(out, to + v, size, heads, size - v, lanes)
        v += width(stretch(row, 0, 0))


@jit
def attention_step_jit(qkv, slots, ends, heads, keys, values, row, out):
    """Attention of one more token of each sequence: token n comes at place ends[n] of sequence slots[n].

    Writes its key into keys (B C, J), its value into values (B J, C), and out (N, C); row (`step_room`,) is scratch.
    """
    N, C = out.shape
    J = keys.shape[1]
    D = C // heads
    wide = row.shape[0] // min(heads, ABREAST)
    scale = narrow(LOG2E / math.sqrt(D), out)
    # What is read soon after an element of it was written has to wait: so each token is written while the one before it
    # is attended to.
    for n in range(N + 1):
        if n < N:
            _write(qkv, n, slots[n], ends[n], keys, values)
        if n > 0:
            b, seen = slots[n - 1], ends[n - 1] + 1
            for h in range(0, heads, ABREAST):
                count, query, mixed = min(ABREAST, heads - h), (n - 1) * 3 * C + h * D, (n - 1) * C + h * D
                _scores(qkv, query, D, count, keys, b * C + h * D, seen, row, wide)
                _softmax(row, wide, count, seen, scale)
                _mix(row, wide, D, count, seen, values, b * J * C + h * D, out, mixed)
