# mypy: allow-untyped-defs, allow-untyped-calls
"""Attention of one more token of each sequence, with the keys and values of what went before in a cache.

Keys are kept in fours (`_fours`).
"""

from __future__ import annotations

import math

from ._abreast import ABREAST, at_each, load_each, store_each
from ._fours import SIDE, fours, put_key, weigh_fours
from ._jit import jit
from ._lanemath import fma, nothing
from ._lanes import load, load_part, store, store_part, width
from ._row import narrow
from ._rows import LOG2E, START
from ._slim import part, stretch

__all__ = ["attention_step_jit", "fill_cache_jit", "step_room"]


def step_room(J: int) -> int:
    """Elements of the scratch of `attention_step_jit`: what some heads give J keys."""
    return fours(J) * SIDE * ABREAST


@jit(forceinline=True)
def _write(x, n, end, keys, values):
    """Writes token n's key and value at place `end` of a sequence."""
    C = values.shape[1]
    put_key(x, n, C, C, keys, end // SIDE, end % SIDE)
    row, to = part(x, n, 2 * C, 3 * C), part(values, end, 0, C)
    v = 0
    while v + width(to) <= C:
        store(to, v, load(row, v))
        v += width(to)
    if v < C:
        store_part(to, v, C, load_part(row, v, C, narrow(0.0, values)))


@jit
def fill_cache_jit(qkv, before, prefix, keys, values):
    """Copies prompts of `prefix` (B,) rows from `before` (B,) on to keys (B, *`keys_shape`) and values (B, J, C)."""
    for b in range(keys.shape[0]):
        for j in range(prefix[b]):
            _write(qkv, before[b] + j, j, keys[b], values[b])


@jit(forceinline=True)
def _mix(weights, size, heads, J, values, start, out, to):
    """Writes out from element `to` on: of each head the sum of J values, each times its weight."""
    zero, C = narrow(0.0, weights), values.shape[1]
    v = 0
    while v < size:
        lanes = nothing(at_each(weights, START, SIDE, heads))
        for j in range(J):
            value = load_each(values, j * C + start + v, size, heads, size - v, zero)
            weight = at_each(weights, j // SIDE * (SIDE * ABREAST) + j % SIDE, SIDE, heads)
            lanes = fma(value, weight, lanes)
        store_each(out, to + v, size, heads, size - v, lanes)
        v += width(stretch(weights, 0, 0))


@jit
def attention_step_jit(qkv, slots, ends, heads, keys, values, weights, out):
    """Attention of one more token of each sequence: token n comes at place ends[n] of sequence slots[n].

    Writes its key into keys (B, *`keys_shape`), its value into values (B, J, C), and out (N, C); weights (`step_room`,)
    is scratch.
    """
    N, C = out.shape
    D = C // heads
    scale = narrow(LOG2E / math.sqrt(D), out)
    # What is read soon after a part of it was written has to wait: so each token is written while the one before it is
    # attended to.
    for n in range(N + 1):
        if n < N:
            _write(qkv, n, ends[n], keys[slots[n]], values[slots[n]])
        if n > 0:
            b, seen = slots[n - 1], ends[n - 1] + 1
            for h in range(0, heads, ABREAST):
                count, start = min(ABREAST, heads - h), h * D
                weigh_fours(qkv, n - 1, start, D, count, keys[b], seen, scale, weights)
                _mix(weights, D, count, seen, values[b], start, out, (n - 1) * C + start)
