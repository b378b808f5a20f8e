# mypy: allow-untyped-defs, allow-untyped-calls
"""Attention of one more token of each sequence, with the keys and values of what went before in a cache.

Keys are kept turned, so that vectors run along them. Scores are written in whole vectors, into room that has them: a
vector of which a part was written is not read again before that part has reached the cache.
"""

from __future__ import annotations

import math

import numpy as np

from ._heads import (
    HEADS,
    at_heads,
    largest_of_heads,
    load_heads,
    plus,
    shares_of_heads,
    store_heads,
    store_heads_over,
    totals_of_heads,
)
from ._jit import jit
from ._lanemath import fma, larger, nothing, power
from ._lanes import load_part, store_part, width
from ._row import narrow
from ._rows import LOG2E, START
from ._slim import part, stretch

__all__ = ["attention_step_jit", "fill_cache_jit", "step_room"]

LANES = 16
"""Most numbers of a vector."""


def step_room(heads: int, J: int) -> int:
    """Elements of the scratch of `attention_step_jit`: of some heads the scores of J keys each, in whole vectors."""
    return min(heads, HEADS) * (-(-J // LANES) * LANES)


@jit
def fill_cache_jit(qkv, before, prefix, keys, values):
    """Copies prompts of `prefix` (B,) rows from `before` (B,) on to keys (B, C, J) and values (B, J, C)."""
    B, C = keys.shape[:2]
    for b in range(B):
        first = before[b]
        for c in range(C):
            for j in range(prefix[b]):
                keys[b, c, j] = qkv[first + j, C + c]
        for j in range(prefix[b]):
            for c in range(C):
                values[b, j, c] = qkv[first + j, 2 * C + c]


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
        query = at_heads(x, start, size, heads)
        lanes = load_heads(keys, first + v, step, heads, W, zero) * query
        more = load_heads(keys, first + v + W, step, heads, J - v - W, zero) * query
        for d in range(1, size):
            query, place = at_heads(x, start + d, size, heads), first + d * down + v
            lanes = fma(load_heads(keys, place, step, heads, W, zero), query, lanes)
            more = fma(load_heads(keys, place + W, step, heads, J - v - W, zero), query, more)
        store_heads_over(row, v, wide, heads, J - v, lanes)
        store_heads_over(row, v + W, wide, heads, J - v - W, more)
        v += 2 * W
    if v < J:
        lanes = load_heads(keys, first + v, step, heads, J - v, zero) * at_heads(x, start, size, heads)
        for d in range(1, size):
            key = load_heads(keys, first + d * down + v, step, heads, J - v, zero)
            lanes = fma(key, at_heads(x, start + d, size, heads), lanes)
        store_heads_over(row, v, wide, heads, J - v, lanes)


@jit(forceinline=True)
def _softmax(row, wide, heads, J, scale):
    """Turns J scores of each head into weights, 2**(x scale) over their sum, in whole vectors."""
    lowest, W = narrow(-np.inf, row), width(stretch(row, 0, 0))
    lanes = load_heads(row, START, wide, heads, J, lowest)
    tops = lanes
    v = W
    while v < J:
        tops = larger(tops, load_heads(row, v, wide, heads, J - v, lowest))
        v += W
    top = largest_of_heads(tops)
    lanes = power(lanes - top, scale)
    masses = totals_of_heads(lanes)
    v = W
    while v < J:
        more = power(load_heads(row, v, wide, heads, J - v, lowest) - top, scale)
        store_heads_over(row, v, wide, heads, J - v, more)
        masses = plus(masses, totals_of_heads(more))
        v += W
    share = shares_of_heads(masses, row)
    store_heads_over(row, START, wide, heads, J, lanes * share)
    v = W
    while v < J:
        more = load_heads(row, v, wide, heads, J - v, lowest) * share
        store_heads_over(row, v, wide, heads, J - v, more)
        v += W


@jit(forceinline=True)
def _mix(row, wide, size, heads, J, values, start, out, to):
    """Writes out from element `to` on: of each head the sum of J values, each times its weight."""
    zero, down = narrow(0.0, row), values.shape[1]
    v = 0
    while v < size:
        lanes = nothing(at_heads(row, START, wide, heads))
        for j in range(J):
            value = load_heads(values, start + j * down + v, size, heads, size - v, zero)
            lanes = fma(value, at_heads(row, j, wide, heads), lanes)
        store_heads(out, to + v, size, heads, size - v, lanes)
        v += width(stretch(row, 0, 0))


@jit
def attention_step_jit(qkv, slots, ends, heads, keys, values, row, out):
    """Attention of one more token of each sequence: token n comes at place ends[n] of sequence slots[n].

    Writes its key into keys (B C, J), its value into values (B J, C), and out (N, C); row (`step_room`,) is scratch.
    """
    N, C = out.shape
    J = keys.shape[1]
    D = C // heads
    wide = row.shape[0] // min(heads, HEADS)
    scale = narrow(LOG2E / math.sqrt(D), out)
    # What is read soon after an element of it was written has to wait: so each token is written while the one before it
    # is attended to.
    for n in range(N + 1):
        if n < N:
            _write(qkv, n, slots[n], ends[n], keys, values)
        if n > 0:
            b, seen = slots[n - 1], ends[n - 1] + 1
            for h in range(0, heads, HEADS):
                count, query, mixed = min(HEADS, heads - h), (n - 1) * 3 * C + h * D, (n - 1) * C + h * D
                _scores(qkv, query, D, count, keys, b * C + h * D, seen, row, wide)
                _softmax(row, wide, count, seen, scale)
                _mix(row, wide, D, count, seen, values, b * J * C + h * D, out, mixed)
