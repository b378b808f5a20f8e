# mypy: allow-untyped-defs, allow-untyped-calls
"""Causal attention of short sequences, head by head: scores, softmax and mixture of one sequence stay in the cache.

A row of `qkv` (N, 3 C) holds a token's query, key and value, each C numbers of all heads. Sequences come as `spans`
(S, 5): first row, number of rows, first row and number of rows of what comes before (a prompt, which several responses
may share), and where in `weights` the span's begin. Token i of a span sees all that comes before, and the span's
tokens up to i. So the weights of a span are (heads, rows, before + rows); what stands where nothing is seen is rubbish.

Products of a query with all keys are taken with the keys turned (`turned`), so that vectors run along the keys. Where a
row of scores fits one or two registers it stays there until it is a row of weights (`_queries`): whole registers are
written, in the order of rows, each over the rubbish behind the one before it.
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import jit
from ._lanemath import fma, larger, largest, power, total
from ._lanes import load, load_part, splat, store, store_part, width
from ._queries import weigh_both, weigh_eight, weigh_four, weigh_four_long
from ._row import at, length, narrow
from ._rows import LOG2E, NO_TOP
from ._slim import part, stretch
from ._span_sums import mix_narrow, mix_wide
from ._turned import FEW, QUERIES, turn

__all__ = ["attention_jit", "dots_of_four"]


@jit(forceinline=True)
def dots_of_four(x, n, rows, start, size, turned, J, table, base, step):
    """Writes table from base + k step on: the products of rows n + k of x with J columns of turned[:size].

    Where there are fewer than four rows the last one is taken several times.
    """
    last = rows - 1
    k1, k2, k3 = min(1, last), min(2, last), last
    r0, r1 = stretch(table, base, base + J), stretch(table, base + k1 * step, base + k1 * step + J)
    r2, r3 = (
        stretch(table, base + k2 * step, base + k2 * step + J),
        stretch(table, base + k3 * step, base + k3 * step + J),
    )
    q0, q1 = part(x, n, start, start + size), part(x, n + k1, start, start + size)
    q2, q3 = part(x, n + k2, start, start + size), part(x, n + k3, start, start + size)
    v = 0
    while v < J:
        column = load(part(turned, 0, 0, J), v)
        a0, a1, a2, a3 = column * at(q0, 0), column * at(q1, 0), column * at(q2, 0), column * at(q3, 0)
        for d in range(1, size):
            column = load(part(turned, d, 0, J), v)
            a0 = fma(column, at(q0, d), a0)
            a1 = fma(column, at(q1, d), a1)
            a2 = fma(column, at(q2, d), a2)
            a3 = fma(column, at(q3, d), a3)
        store_part(r0, v, J, a0)
        store_part(r1, v, J, a1)
        store_part(r2, v, J, a2)
        store_part(r3, v, J, a3)
        v += width(r0)


@jit(forceinline=True)
def _softmax(row, scale):
    """Turns scores into weights, 2**(x scale) over their sum."""
    J = length(row)
    lowest = narrow(-np.inf, row)
    tops = splat(narrow(NO_TOP, row), row)
    v = 0
    while v + width(row) <= J:
        tops = larger(tops, load(row, v))
        v += width(row)
    if v < J:
        tops = larger(tops, load_part(row, v, J, lowest))
    top = largest(tops)
    masses = splat(narrow(0.0, row), row)
    v = 0
    while v + width(row) <= J:
        lanes = power(load(row, v) - top, scale)
        store(row, v, lanes)
        masses = masses + lanes
        v += width(row)
    mass = total(masses)
    if v < J:
        lanes = power(load_part(row, v, J, lowest) - top, scale)
        store_part(row, v, J, lanes)
        mass = mass + total(lanes)
    share = narrow(1.0 / mass, row)
    v = 0
    while v + width(row) <= J:
        store(row, v, load(row, v) * share)
        v += width(row)
    if v < J:
        store_part(row, v, J, load_part(row, v, J, lowest) * share)


@jit(forceinline=True)
def _weigh_four(x, n, rows, start, size, turned, seen, scale, weights, base, step):
    """Weights of queries n to n + rows, four at most, from weights[base] on; the first sees `seen` keys."""
    keys, lanes = seen + rows - 1, width(stretch(weights, 0, 0))
    if keys <= lanes:
        weigh_four(x, n, rows, start, size, turned, seen, scale, weights, base, step)
    elif keys <= 2 * lanes:
        weigh_four_long(x, n, rows, start, size, turned, seen, scale, weights, base, step)
    else:
        dots_of_four(x, n, rows, start, size, turned, keys, weights, base, step)
        for k in range(rows):
            _softmax(stretch(weights, base + k * step, base + k * step + seen + k), scale)


@jit(forceinline=True)
def _weigh(x, n, rows, start, size, turned, seen, scale, weights, base, step):
    """`_weigh_four` of `QUERIES` at most."""
    if rows > 4 and seen + rows - 1 <= width(stretch(weights, 0, 0)):
        weigh_eight(x, n, rows, start, size, turned, seen, scale, weights, base, step)
    else:
        for k in range(0, rows, 4):
            own = base + k * step
            _weigh_four(x, n + k, min(rows - k, 4), start, size, turned, seen + k, scale, weights, own, step)


@jit
def attention_jit(qkv, spans, heads, turned, weights, out):
    """Writes weights, and the rows of out (N, C) that are in a span; turned (`turned_shape`) is scratch.

    Behind the last weight there has to be room (`with_room`), and spans come in the order of their weights.
    """
    C = out.shape[1]
    D = C // heads
    scale = narrow(LOG2E / math.sqrt(D), out)
    lanes = width(stretch(weights, 0, 0))
    for s in range(spans.shape[0]):
        first, count, before, prefix, start = spans[s, 0], spans[s, 1], spans[s, 2], spans[s, 3], spans[s, 4]
        J = prefix + count
        together = 2 if 0 < count <= FEW and lanes >= J else 1
        begin = 0
        while begin < heads:
            some = min(together, heads - begin)
            turn(qkv, C + begin * D, some * D, first, count, before, prefix, turned)
            if some == 2:
                base = start + begin * count * J
                weigh_both(qkv, first, count, begin * D, D, turned, prefix + 1, scale, weights, base, J)
            for h in range(begin, begin + some):
                value = 2 * C + h * D
                for i in range(0, count, QUERIES):
                    n, rows, seen, base = (
                        first + i,
                        min(QUERIES, count - i),
                        prefix + i + 1,
                        start + (h * count + i) * J,
                    )
                    if some == 1:
                        _weigh(qkv, n, rows, h * D, D, turned, seen, scale, weights, base, J)
                    keys = first, before, prefix
                    if lanes >= 2 * D:
                        mix_narrow(weights, base, J, rows, seen, qkv, value, *keys, out, n, h * D, D)
                    else:
                        mix_wide(weights, base, J, rows, seen, qkv, value, *keys, out, n, h * D, D)
            begin += some
