# mypy: allow-untyped-defs, allow-untyped-calls
"""Causal attention of short sequences, head by head: scores, softmax and mixture of one sequence stay in the cache.

A row of `qkv` (N, 3 C) holds a token's query, key and value, each C numbers of all heads. Sequences come as `spans`
(S, 5): first row, number of rows, first row and number of rows of what comes before (a prompt, which several responses
may share), and where in `weights` the span's begin. Token i of a span sees all that comes before, and the span's
tokens up to i. So the weights of a span are (heads, rows, before + rows); what stands where nothing is seen is rubbish.

Products of a query with all keys are taken with the keys turned (`turned`), so that vectors run along the keys.
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import jit
from ._lanemath import fma, larger, largest, power, total
from ._lanes import load, load_part, splat, store, store_part, width
from ._row import at, length, narrow, put
from ._rows import LOG2E, NO_TOP, START
from ._slim import part, stretch

__all__ = [
    "all_dots",
    "attention_jit",
    "mix",
    "mix_all",
    "turn",
]


@jit(forceinline=True)
def turn(x, column, size, span, turned):
    """Writes turned[:size]: x[:, column : column + size] of all rows that a span sees, a column each row."""
    first, count, before, prefix = span
    for j in range(prefix + count):
        n = before + j if j < prefix else first + j - prefix
        row = part(x, n, column, column + size)
        for d in range(size):
            put(part(turned, d, j, j + 1), 0, at(row, d))


@jit(forceinline=True)
def _dots(x, n, start, size, turned, base, row):
    """Writes row: the products of x[n, start : start + size] with the columns of turned[base : base + size]."""
    J = length(row)
    query = part(x, n, start, start + size)
    v = 0
    while v + width(row) <= J:
        lanes = load(part(turned, base, 0, J), v) * at(query, 0)
        for d in range(1, size):
            lanes = fma(load(part(turned, base + d, 0, J), v), at(query, d), lanes)
        store(row, v, lanes)
        v += width(row)
    if v < J:
        nothing = narrow(0.0, row)
        lanes = load_part(part(turned, base, 0, J), v, J, nothing) * at(query, 0)
        for d in range(1, size):
            lanes = fma(load_part(part(turned, base + d, 0, J), v, J, nothing), at(query, d), lanes)
        store_part(row, v, J, lanes)


@jit(forceinline=True)
def _dots_of_four(x, n, start, size, turned, J, table, base, step):
    """`_dots` of four rows from n on with J columns, each of which is loaded once; writes table from base + k step."""
    r0 = stretch(table, base, base + J)
    r1 = stretch(table, base + step, base + step + J)
    r2 = stretch(table, base + 2 * step, base + 2 * step + J)
    r3 = stretch(table, base + 3 * step, base + 3 * step + J)
    q0, q1 = part(x, n, start, start + size), part(x, n + 1, start, start + size)
    q2, q3 = part(x, n + 2, start, start + size), part(x, n + 3, start, start + size)
    nothing = narrow(0.0, r0)
    v = 0
    while v < J:
        column = load_part(part(turned, 0, 0, J), v, J, nothing)
        a0, a1, a2, a3 = column * at(q0, 0), column * at(q1, 0), column * at(q2, 0), column * at(q3, 0)
        for d in range(1, size):
            column = load_part(part(turned, d, 0, J), v, J, nothing)
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
def all_dots(x, first, count, prefix, start, size, turned, table, base):
    """Scores of a span and head: what query i sees is prefix + i + 1 long, and four of them share a length."""
    J = prefix + count
    i = 0
    while i + 4 <= count:
        _dots_of_four(x, first + i, start, size, turned, prefix + i + 4, table, base + i * J, J)
        i += 4
    while i < count:
        row = stretch(table, base + i * J, base + i * J + prefix + i + 1)
        _dots(x, first + i, start, size, turned, START, row)
        i += 1


@jit(forceinline=True)
def _softmax(row, scale):
    """Turns scores into weights, 2**(x scale) over their sum."""
    J = length(row)
    lowest = narrow(-np.inf, row)
    if width(row) >= J:
        lanes = load_part(row, 0, J, lowest)
        lanes = power(lanes - largest(lanes), scale)
        store_part(row, 0, J, lanes * narrow(1.0 / total(lanes), row))
        return
    if 2 * width(row) >= J:
        lanes, rest = load(row, 0), load_part(row, width(row), J, lowest)
        top = largest(larger(lanes, rest))
        lanes, rest = power(lanes - top, scale), power(rest - top, scale)
        share = narrow(1.0 / total(lanes + rest), row)
        store(row, 0, lanes * share)
        store_part(row, width(row), J, rest * share)
        return
    tops = splat(narrow(NO_TOP, row), row)
    v = 0
    while v + width(row) <= J:
        tops = larger(tops, load(row, v))
        v += width(row)
    if v < J:
        tops = larger(tops, load_part(row, v, J, lowest))
    top = largest(tops)
    mass = np.float64(0.0)
    v = 0
    if width(row) <= J:
        masses = splat(narrow(0.0, row), row)
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
def _softmax_of_four(table, base, step, J, scale):
    """`_softmax` of four rows of at most two vectors, the first J long and each one longer than the one before.

    Each row is one chain of operations that wait for each other; four side by side fill the gaps.
    """
    r0, r1 = stretch(table, base, base + J), stretch(table, base + step, base + step + J + 1)
    r2 = stretch(table, base + 2 * step, base + 2 * step + J + 2)
    r3 = stretch(table, base + 3 * step, base + 3 * step + J + 3)
    W = width(r0)
    lowest = narrow(-np.inf, r0)
    a0, a1 = load_part(r0, 0, J, lowest), load_part(r1, 0, J + 1, lowest)
    a2, a3 = load_part(r2, 0, J + 2, lowest), load_part(r3, 0, J + 3, lowest)
    if W >= J + 3:
        a0, a1 = power(a0 - largest(a0), scale), power(a1 - largest(a1), scale)
        a2, a3 = power(a2 - largest(a2), scale), power(a3 - largest(a3), scale)
        store_part(r0, 0, J, a0 * narrow(1.0 / total(a0), r0))
        store_part(r1, 0, J + 1, a1 * narrow(1.0 / total(a1), r0))
        store_part(r2, 0, J + 2, a2 * narrow(1.0 / total(a2), r0))
        store_part(r3, 0, J + 3, a3 * narrow(1.0 / total(a3), r0))
        return
    b0, b1 = load_part(r0, W, J, lowest), load_part(r1, W, J + 1, lowest)
    b2, b3 = load_part(r2, W, J + 2, lowest), load_part(r3, W, J + 3, lowest)
    t0, t1 = largest(larger(a0, b0)), largest(larger(a1, b1))
    t2, t3 = largest(larger(a2, b2)), largest(larger(a3, b3))
    a0, a1, a2, a3 = (
        power(a0 - t0, scale),
        power(a1 - t1, scale),
        power(a2 - t2, scale),
        power(a3 - t3, scale),
    )
    b0, b1, b2, b3 = (
        power(b0 - t0, scale),
        power(b1 - t1, scale),
        power(b2 - t2, scale),
        power(b3 - t3, scale),
    )
    s0, s1 = narrow(1.0 / total(a0 + b0), r0), narrow(1.0 / total(a1 + b1), r0)
    s2, s3 = narrow(1.0 / total(a2 + b2), r0), narrow(1.0 / total(a3 + b3), r0)
    store_part(r0, 0, J, a0 * s0)
    store_part(r1, 0, J + 1, a1 * s1)
    store_part(r2, 0, J + 2, a2 * s2)
    store_part(r3, 0, J + 3, a3 * s3)
    store_part(r0, W, J, b0 * s0)
    store_part(r1, W, J + 1, b1 * s1)
    store_part(r2, W, J + 2, b2 * s2)
    store_part(r3, W, J + 3, b3 * s3)


@jit(forceinline=True)
def _softmax_all(table, base, count, prefix, scale):
    """Turns the scores of a span and head into weights."""
    J = prefix + count
    i = 0
    while i + 4 <= count and 2 * width(stretch(table, base, base)) >= prefix + i + 4:
        _softmax_of_four(table, base + i * J, J, prefix + i + 1, scale)
        i += 4
    while i < count:
        _softmax(stretch(table, base + i * J, base + i * J + prefix + i + 1), scale)
        i += 1


@jit(forceinline=True)
def mix(weights, base, count, x, column, first, before, prefix, out):
    """Writes out: the sum of `count` rows that a span sees, each times its entry of `weights` from `base` on."""
    size = length(out)
    shares = stretch(weights, base, base + count)
    nothing = narrow(0.0, out)
    v = 0
    while v < size:
        lanes = splat(nothing, out)
        for j in range(count):
            n = before + j if j < prefix else first + j - prefix
            row = load_part(part(x, n, column, column + size), v, size, nothing)
            lanes = fma(row, at(shares, j), lanes)
        store_part(out, v, size, lanes)
        v += width(out)


@jit(forceinline=True)
def _mix_four(table, base, step, count, x, column, first, before, prefix, out, n, start, size):
    """`mix` of four queries, rows of out from n on: they see `count` keys, and each one more than the one before."""
    o0, o1 = part(out, n, start, start + size), part(out, n + 1, start, start + size)
    o2, o3 = part(out, n + 2, start, start + size), part(out, n + 3, start, start + size)
    w0, w1 = stretch(table, base, base + count), stretch(table, base + step, base + step + count + 1)
    w2 = stretch(table, base + 2 * step, base + 2 * step + count + 2)
    w3 = stretch(table, base + 3 * step, base + 3 * step + count + 3)
    nothing = narrow(0.0, o0)
    v = 0
    while v < size:
        a0 = splat(nothing, o0)
        a1, a2, a3 = a0, a0, a0
        for j in range(count):
            m = before + j if j < prefix else first + j - prefix
            row = load_part(part(x, m, column, column + size), v, size, nothing)
            a0 = fma(row, at(w0, j), a0)
            a1 = fma(row, at(w1, j), a1)
            a2 = fma(row, at(w2, j), a2)
            a3 = fma(row, at(w3, j), a3)
        m = first + count - prefix
        row = load_part(part(x, m, column, column + size), v, size, nothing)
        a1 = fma(row, at(w1, count), a1)
        a2 = fma(row, at(w2, count), a2)
        a3 = fma(row, at(w3, count), a3)
        row = load_part(part(x, m + 1, column, column + size), v, size, nothing)
        a2 = fma(row, at(w2, count + 1), a2)
        a3 = fma(row, at(w3, count + 1), a3)
        row = load_part(part(x, m + 2, column, column + size), v, size, nothing)
        a3 = fma(row, at(w3, count + 2), a3)
        store_part(o0, v, size, a0)
        store_part(o1, v, size, a1)
        store_part(o2, v, size, a2)
        store_part(o3, v, size, a3)
        v += width(o0)


@jit(forceinline=True)
def mix_all(table, base, x, column, first, count, before, prefix, out, start, size):
    """Writes the rows of out of a span: each the mixture of what its query sees."""
    J = prefix + count
    i = 0
    while i + 4 <= count:
        keys = prefix + i + 1
        _mix_four(table, base + i * J, J, keys, x, column, first, before, prefix, out, first + i, start, size)
        i += 4
    while i < count:
        mixed = part(out, first + i, start, start + size)
        mix(table, base + i * J, prefix + i + 1, x, column, first, before, prefix, mixed)
        i += 1


@jit
def attention_jit(qkv, spans, heads, turned, weights, out):
    """Writes weights, and the rows of out (N, C) that are in a span; turned (C / heads, longest) is scratch."""
    C = out.shape[1]
    D = C // heads
    scale = narrow(LOG2E / math.sqrt(D), out)
    for s in range(spans.shape[0]):
        first, count, before, prefix, start = spans[s, 0], spans[s, 1], spans[s, 2], spans[s, 3], spans[s, 4]
        J = prefix + count
        for h in range(heads):
            turn(qkv, C + h * D, D, (first, count, before, prefix), turned)
            base = start + h * count * J
            all_dots(qkv, first, count, prefix, h * D, D, turned, weights, base)
            _softmax_all(weights, base, count, prefix, scale)
            mix_all(weights, base, qkv, 2 * C + h * D, first, count, before, prefix, out, h * D, D)
