# mypy: allow-untyped-defs, allow-untyped-calls
"""The gradient of `_attention`, from the weights that it left."""

from __future__ import annotations

import math

import numpy as np

from ._attention import all_dots, mix_all, turn
from ._jit import jit
from ._lanemath import fma, total
from ._lanes import load, load_part, splat, store, store_part, width
from ._row import at, length, narrow
from ._rows import START
from ._slim import part, stretch

__all__ = ["attention_backward_jit"]


@jit(forceinline=True)
def _through_softmax(weights, slopes, scale):
    """Turns the slopes of a query's weights into those of its scores."""
    J = length(weights)
    nothing = narrow(0.0, weights)
    moment = np.float64(0.0)
    v = 0
    if width(weights) <= J:
        moments = splat(nothing, weights)
        while v + width(weights) <= J:
            moments = fma(load(weights, v), load(slopes, v), moments)
            v += width(weights)
        moment = total(moments)
    if v < J:
        moment = moment + total(load_part(weights, v, J, nothing) * load_part(slopes, v, J, nothing))
    mean = narrow(moment, weights)
    v = 0
    while v + width(weights) <= J:
        store(slopes, v, (load(slopes, v) - mean) * (load(weights, v) * scale))
        v += width(weights)
    if v < J:
        rest = load_part(weights, v, J, nothing) * scale
        store_part(slopes, v, J, (load_part(slopes, v, J, nothing) - mean) * rest)


@jit(forceinline=True)
def _through_softmax_of_four(table, base, slopes, start, step, J, scale):
    """`_through_softmax` of four rows of at most two vectors, each one longer than the one before, side by side."""
    r0, r1 = stretch(table, base, base + J), stretch(table, base + step, base + step + J + 1)
    r2 = stretch(table, base + 2 * step, base + 2 * step + J + 2)
    r3 = stretch(table, base + 3 * step, base + 3 * step + J + 3)
    z0, z1 = stretch(slopes, start, start + J), stretch(slopes, start + step, start + step + J + 1)
    z2 = stretch(slopes, start + 2 * step, start + 2 * step + J + 2)
    z3 = stretch(slopes, start + 3 * step, start + 3 * step + J + 3)
    W = width(r0)
    none, zero = np.float64(0.0), narrow(0.0, r0)
    a0, a1 = load_part(r0, 0, J, zero), load_part(r1, 0, J + 1, zero)
    a2, a3 = load_part(r2, 0, J + 2, zero), load_part(r3, 0, J + 3, zero)
    c0, c1 = load_part(z0, 0, J, zero), load_part(z1, 0, J + 1, zero)
    c2, c3 = load_part(z2, 0, J + 2, zero), load_part(z3, 0, J + 3, zero)
    if W >= J + 3:
        m0, m1 = narrow(none + total(a0 * c0), r0), narrow(none + total(a1 * c1), r0)
        m2, m3 = narrow(none + total(a2 * c2), r0), narrow(none + total(a3 * c3), r0)
    else:
        b0, b1 = load_part(r0, W, J, zero), load_part(r1, W, J + 1, zero)
        b2, b3 = load_part(r2, W, J + 2, zero), load_part(r3, W, J + 3, zero)
        d0, d1 = load_part(z0, W, J, zero), load_part(z1, W, J + 1, zero)
        d2, d3 = load_part(z2, W, J + 2, zero), load_part(z3, W, J + 3, zero)
        m0, m1 = (
            narrow(none + total(fma(b0, d0, a0 * c0)), r0),
            narrow(none + total(fma(b1, d1, a1 * c1)), r0),
        )
        m2, m3 = (
            narrow(none + total(fma(b2, d2, a2 * c2)), r0),
            narrow(none + total(fma(b3, d3, a3 * c3)), r0),
        )
        store_part(z0, W, J, (d0 - m0) * (b0 * scale))
        store_part(z1, W, J + 1, (d1 - m1) * (b1 * scale))
        store_part(z2, W, J + 2, (d2 - m2) * (b2 * scale))
        store_part(z3, W, J + 3, (d3 - m3) * (b3 * scale))
    store_part(z0, 0, J, (c0 - m0) * (a0 * scale))
    store_part(z1, 0, J + 1, (c1 - m1) * (a1 * scale))
    store_part(z2, 0, J + 2, (c2 - m2) * (a2 * scale))
    store_part(z3, 0, J + 3, (c3 - m3) * (a3 * scale))


@jit(forceinline=True)
def _through_all(table, base, slopes, count, prefix, scale):
    """Turns the slopes of the weights of a span and head into those of the scores."""
    J = prefix + count
    i = 0
    while i + 4 <= count and 2 * width(stretch(table, base, base)) >= prefix + i + 4:
        _through_softmax_of_four(table, base + i * J, slopes, i * J, J, prefix + i + 1, scale)
        i += 4
    while i < count:
        row = stretch(table, base + i * J, base + i * J + prefix + i + 1)
        _through_softmax(row, stretch(slopes, i * J, i * J + prefix + i + 1), scale)
        i += 1


@jit(forceinline=True)
def _gather(table, base, step, start, stop, x, first, column, out):
    """Adds to out: the sum over rows i from start to stop of x[first + i], times table[base + i step]."""
    size = length(out)
    nothing = narrow(0.0, out)
    v = 0
    while v < size:
        lanes = load_part(out, v, size, nothing)
        for i in range(start, stop):
            row = load_part(part(x, first + i, column, column + size), v, size, nothing)
            lanes = fma(row, at(stretch(table, base + i * step, base + i * step + 1), 0), lanes)
        store_part(out, v, size, lanes)
        v += width(out)


@jit(forceinline=True)
def _gather_four(table, base, step, starts, stop, x, first, column, o0, o1, o2, o3):
    """`_gather` of four neighbours in the table, of which each begins at a row of its own, the last one latest."""
    s0, s1, s2, s3 = starts
    size = length(o0)
    nothing = narrow(0.0, o0)
    v = 0
    while v < size:
        a0, a1 = load_part(o0, v, size, nothing), load_part(o1, v, size, nothing)
        a2, a3 = load_part(o2, v, size, nothing), load_part(o3, v, size, nothing)
        for i in range(s0, s3):
            row = load_part(part(x, first + i, column, column + size), v, size, nothing)
            shares = stretch(table, base + i * step, base + i * step + 4)
            a0 = fma(row, at(shares, 0), a0)
            if i >= s1:
                a1 = fma(row, at(shares, 1), a1)
            if i >= s2:
                a2 = fma(row, at(shares, 2), a2)
        for i in range(s3, stop):
            row = load_part(part(x, first + i, column, column + size), v, size, nothing)
            shares = stretch(table, base + i * step, base + i * step + 4)
            a0 = fma(row, at(shares, 0), a0)
            a1 = fma(row, at(shares, 1), a1)
            a2 = fma(row, at(shares, 2), a2)
            a3 = fma(row, at(shares, 3), a3)
        store_part(o0, v, size, a0)
        store_part(o1, v, size, a1)
        store_part(o2, v, size, a2)
        store_part(o3, v, size, a3)
        v += width(o0)


@jit(forceinline=True)
def _row_of_key(j, first, before, prefix):
    return before + j if j < prefix else first + j - prefix


@jit(forceinline=True)
def _gather_all(table, base, x, column, first, count, before, prefix, out, start, size):
    """Adds to the rows of out that a span sees what their weights in `table` say of the queries' rows of x."""
    J = prefix + count
    j = START
    while j + 4 <= J:
        n0, n1 = _row_of_key(j, first, before, prefix), _row_of_key(j + 1, first, before, prefix)
        n2, n3 = _row_of_key(j + 2, first, before, prefix), _row_of_key(j + 3, first, before, prefix)
        o0, o1 = part(out, n0, start, start + size), part(out, n1, start, start + size)
        o2, o3 = part(out, n2, start, start + size), part(out, n3, start, start + size)
        own = j - prefix
        starts = max(own, 0), max(own + 1, 0), max(own + 2, 0), max(own + 3, 0)
        _gather_four(table, base + j, J, starts, count, x, first, column, o0, o1, o2, o3)
        j += 4
    while j < J:
        n = _row_of_key(j, first, before, prefix)
        out_row = part(out, n, start, start + size)
        _gather(table, base + j, J, max(j - prefix, 0), count, x, first, column, out_row)
        j += 1


@jit
def attention_backward_jit(d_out, qkv, weights, spans, heads, turned, slopes, d_qkv):
    """Accumulates into the keys and values of d_qkv (N, 3 C), and overwrites the queries of the spans.

    Scratch: turned (C / heads, longest), and slopes as long as the most weights of one span and head.
    """
    C = d_out.shape[1]
    D = C // heads
    scale = narrow(1.0 / math.sqrt(D), qkv)
    for s in range(spans.shape[0]):
        first, count, before, prefix, start = spans[s, 0], spans[s, 1], spans[s, 2], spans[s, 3], spans[s, 4]
        J = prefix + count
        for h in range(heads):
            key, value = C + h * D, 2 * C + h * D
            turn(qkv, value, D, (first, count, before, prefix), turned)
            base = start + h * count * J
            all_dots(d_out, first, count, prefix, h * D, D, turned, slopes, START)
            _through_all(weights, base, slopes, count, prefix, scale)
            mix_all(slopes, START, qkv, key, first, count, before, prefix, d_qkv, h * D, D)
            _gather_all(slopes, START, qkv, h * D, first, count, before, prefix, d_qkv, key, D)
            _gather_all(weights, base, d_out, h * D, first, count, before, prefix, d_qkv, value, D)
