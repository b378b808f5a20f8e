# mypy: allow-untyped-defs, allow-untyped-calls
"""Causal attention of short sequences, head by head: scores, softmax and mixture of one sequence stay in the cache.

A row of `qkv` (N, 3 C) holds a token's query, key and value, each C numbers of all heads. Sequences come as `spans`
(S, 5): first row, number of rows, first row and number of rows of what comes before (a prompt, which several responses
may share), and where in `weights` the span's begin. Token i of a span sees all that comes before, and the span's
tokens up to i. So the weights of a span are (heads, rows, before + rows), of which those not seen are not written.

Products of a query with all keys are taken with the keys turned (`turned`), so that vectors run along the keys.
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import jit
from ._lanemath import fma, larger, largest, power, total
from ._lanes import load, load_part, splat, store, store_part, width
from ._row import length, narrow
from ._rows import LOG2E, NO_TOP
from ._slim import part, stretch

__all__ = [
    "attention_backward_jit",
    "attention_jit",
    "attention_step_jit",
    "fill_cache_jit",
]


@jit
def _turn(x, column, size, span, turned):
    """Writes turned[:size]: x[:, column : column + size] of all rows that a span sees, a column each row."""
    first, count, before, prefix = span
    for j in range(prefix):
        for d in range(size):
            turned[d, j] = x[before + j, column + d]
    for j in range(count):
        for d in range(size):
            turned[d, prefix + j] = x[first + j, column + d]


@jit
def _dots(x, n, start, size, turned, base, row):
    """Writes row: the products of x[n, start : start + size] with the columns of turned[base : base + size]."""
    J = length(row)
    v = 0
    while v + width(row) <= J:
        lanes = load(part(turned, base, 0, J), v) * x[n, start]
        for d in range(1, size):
            lanes = fma(load(part(turned, base + d, 0, J), v), x[n, start + d], lanes)
        store(row, v, lanes)
        v += width(row)
    if v < J:
        nothing = narrow(0.0, row)
        lanes = load_part(part(turned, base, 0, J), v, J, nothing) * x[n, start]
        for d in range(1, size):
            lanes = fma(load_part(part(turned, base + d, 0, J), v, J, nothing), x[n, start + d], lanes)
        store_part(row, v, J, lanes)


@jit
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


@jit
def _mix(weights, at, count, x, column, first, before, prefix, out):
    """Writes out: the sum of `count` rows that a span sees, each times its entry of `weights` from `at` on."""
    size = length(out)
    v = 0
    while v < size:
        full = v + width(out) <= size
        lanes = splat(narrow(0.0, out), out)
        shared = min(count, prefix)
        if full:
            for j in range(shared):
                lanes = fma(load(part(x, before + j, column, column + size), v), weights[at + j], lanes)
            for j in range(shared, count):
                n = first + j - prefix
                lanes = fma(load(part(x, n, column, column + size), v), weights[at + j], lanes)
            store(out, v, lanes)
        else:
            nothing = narrow(0.0, out)
            for j in range(shared):
                row = load_part(part(x, before + j, column, column + size), v, size, nothing)
                lanes = fma(row, weights[at + j], lanes)
            for j in range(shared, count):
                row = load_part(part(x, first + j - prefix, column, column + size), v, size, nothing)
                lanes = fma(row, weights[at + j], lanes)
            store_part(out, v, size, lanes)
        v += width(out)


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
            _turn(qkv, C + h * D, D, (first, count, before, prefix), turned)
            base = start + h * count * J
            for i in range(count):
                _dots(
                    qkv,
                    first + i,
                    h * D,
                    D,
                    turned,
                    0,
                    stretch(weights, base + i * J, base + i * J + prefix + i + 1),
                )
            for i in range(count):
                _softmax(stretch(weights, base + i * J, base + i * J + prefix + i + 1), scale)
            for i in range(count):
                mixed = part(out, first + i, h * D, h * D + D)
                _mix(weights, base + i * J, prefix + i + 1, qkv, 2 * C + h * D, first, before, prefix, mixed)


@jit
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


@jit
def _gather(table, at, step, start, stop, x, first, column, out):
    """Adds to out: the sum over rows i from start to stop of x[first + i], times table[at + i step]."""
    size = length(out)
    nothing = narrow(0.0, out)
    v = 0
    while v < size:
        if v + width(out) <= size:
            lanes = load(out, v)
            for i in range(start, stop):
                lanes = fma(load(part(x, first + i, column, column + size), v), table[at + i * step], lanes)
            store(out, v, lanes)
        else:
            lanes = load_part(out, v, size, nothing)
            for i in range(start, stop):
                row = load_part(part(x, first + i, column, column + size), v, size, nothing)
                lanes = fma(row, table[at + i * step], lanes)
            store_part(out, v, size, lanes)
        v += width(out)


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
            _turn(qkv, value, D, (first, count, before, prefix), turned)
            base = start + h * count * J
            for i in range(count):
                _dots(d_out, first + i, h * D, D, turned, 0, stretch(slopes, i * J, i * J + prefix + i + 1))
            for i in range(count):
                row = stretch(weights, base + i * J, base + i * J + prefix + i + 1)
                _through_softmax(row, stretch(slopes, i * J, i * J + prefix + i + 1), scale)
            for i in range(count):
                mixed = part(d_qkv, first + i, h * D, h * D + D)
                _mix(slopes, i * J, prefix + i + 1, qkv, key, first, before, prefix, mixed)
            for j in range(J):
                n = before + j if j < prefix else first + j - prefix
                seen = max(j - prefix, 0)
                _gather(slopes, j, J, seen, count, qkv, first, h * D, part(d_qkv, n, key, key + D))
                _gather(
                    weights, base + j, J, seen, count, d_out, first, h * D, part(d_qkv, n, value, value + D)
                )


@jit
def fill_cache_jit(qkv, before, prefix, keys, values):
    """Copies prompts of `prefix` (B,) rows from `before` (B,) on to keys (B, C, J) and values (B, J, C)."""
    B, C = keys.shape[:2]
    for b in range(B):
        for j in range(prefix[b]):
            n = before[b] + j
            for c in range(C):
                keys[b, c, j] = qkv[n, C + c]
                values[b, j, c] = qkv[n, 2 * C + c]


@jit
def attention_step_jit(qkv, slots, ends, heads, keys, values, row, out):
    """Attention of one more token of each sequence: token n comes at place ends[n] of sequence slots[n].

    Writes its key into keys (B C, J), its value into values (B J, C), and out (N, C); row (J,) is scratch.
    """
    N, C = out.shape
    J = keys.shape[1]
    D = C // heads
    scale = narrow(LOG2E / math.sqrt(D), out)
    for n in range(N):
        b, end = slots[n], ends[n]
        for c in range(C):
            keys[b * C + c, end] = qkv[n, C + c]
            values[b * J + end, c] = qkv[n, 2 * C + c]
        for h in range(heads):
            weights = stretch(row, 0, end + 1)
            _dots(qkv, n, h * D, D, keys, b * C + h * D, weights)
            _softmax(weights, scale)
            _mix(row, 0, end + 1, values, h * D, b * J, 0, 0, part(out, n, h * D, h * D + D))
