# mypy: allow-untyped-defs, allow-untyped-calls
"""Attention of one more token of each sequence, with the keys and values of what went before in a cache.

Keys are kept turned, so that vectors run along them. Scores are written in whole vectors, into room that has them: a
vector of which a part was written is not read again before that part has reached the cache.
"""

from __future__ import annotations

import math

import numpy as np

from ._attention import mix
from ._jit import jit
from ._lanemath import fma, larger, largest, power, total
from ._lanes import load_part, store_over, width
from ._row import at, narrow
from ._rows import LOG2E, START
from ._slim import part, stretch

__all__ = ["attention_step_jit", "fill_cache_jit", "step_room"]

LANES = 16
"""Most numbers of a vector."""


def step_room(heads: int, J: int) -> int:
    """Elements of the scratch of `attention_step_jit`: of each head the scores of J keys, in whole vectors."""
    return heads * (-(-J // LANES) * LANES)


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
def _step_scores(x, n, start, size, keys, base, J, row):
    """Writes row, in whole vectors: the products of a query with J columns of keys[base : base + size]."""
    query = part(x, n, start, start + size)
    nothing = narrow(0.0, row)
    v = 0
    while v < J:
        lanes = load_part(part(keys, base, 0, J), v, J, nothing) * at(query, 0)
        for d in range(1, size):
            lanes = fma(load_part(part(keys, base + d, 0, J), v, J, nothing), at(query, d), lanes)
        store_over(row, v, J, lanes)
        v += width(row)


@jit(forceinline=True)
def _step_softmax(row, J, scale):
    """Turns J scores into weights, 2**(x scale) over their sum, in whole vectors."""
    lowest = narrow(-np.inf, row)
    tops = load_part(row, 0, J, lowest)
    v = width(row)
    while v < J:
        tops = larger(tops, load_part(row, v, J, lowest))
        v += width(row)
    top = largest(tops)
    lanes = power(load_part(row, 0, J, lowest) - top, scale)
    store_over(row, 0, J, lanes)
    mass = total(lanes)
    v = width(row)
    while v < J:
        lanes = power(load_part(row, v, J, lowest) - top, scale)
        store_over(row, v, J, lanes)
        mass = mass + total(lanes)
        v += width(row)
    share = narrow(1.0 / mass, row)
    v = 0
    while v < J:
        store_over(row, v, J, load_part(row, v, J, lowest) * share)
        v += width(row)


@jit
def attention_step_jit(qkv, slots, ends, heads, keys, values, row, out):
    """Attention of one more token of each sequence: token n comes at place ends[n] of sequence slots[n].

    Writes its key into keys (B C, J), its value into values (B J, C), and out (N, C); row (`step_room`,) is scratch.
    """
    N, C = out.shape
    J = keys.shape[1]
    D = C // heads
    wide = row.shape[0] // heads
    scale = narrow(LOG2E / math.sqrt(D), out)
    # What is read soon after an element of it was written has to wait: so each token is written while the one before it
    # is attended to, and heads take turns with each thing that there is to do.
    for n in range(N + 1):
        if n < N:
            b, end = slots[n], ends[n]
            for c in range(C):
                keys[b * C + c, end] = qkv[n, C + c]
                values[b * J + end, c] = qkv[n, 2 * C + c]
        if n > 0:
            b, seen = slots[n - 1], ends[n - 1] + 1
            for h in range(heads):
                scores = stretch(row, h * wide, h * wide + wide)
                _step_scores(qkv, n - 1, h * D, D, keys, b * C + h * D, seen, scores)
            for h in range(heads):
                _step_softmax(stretch(row, h * wide, h * wide + wide), seen, scale)
            for h in range(heads):
                mixed = part(out, n - 1, h * D, h * D + D)
                mix(row, h * wide, seen, values, h * D, b * J, START, START, mixed)
