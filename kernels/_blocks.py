# mypy: allow-untyped-defs, allow-untyped-calls
"""What stands between the matrix products of a transformer: embedding, layer norm with the residual, GELU, sampling."""

from __future__ import annotations

import math

import numpy as np

from ._abreast import (
    ABREAST,
    add_products,
    add_rows,
    at_each,
    load_each,
    put_each,
    root,
    spread,
    store_each,
    total_each,
)
from ._jit import jit
from ._lanemath import at_most, fma, power
from ._lanes import load, load_part, store, store_part, width
from ._row import as_row, length, narrow, row_of
from ._rows import LOG2E, START, logprob
from ._sampling import draw
from ._slim import stretch
from ._veclog import log
from ._vecmath import fused, vector_loops

__all__ = [
    "draw_jit",
    "embedding_backward_jit",
    "embedding_jit",
    "gelu_backward_jit",
    "gelu_jit",
    "gelu_over_jit",
    "layer_norm_backward_jit",
    "layer_norm_jit",
    "residual_norm_jit",
]

EPS = 1e-5
# gelu(x) = x sigmoid(2 sqrt(2 / pi) (x + .044715 x**3)): the tanh form, as 1 + tanh(u) = 2 sigmoid(2 u).
RATE = 2 * math.sqrt(2 / math.pi)
CUBE = 0.044715 * RATE
HIGHEST = 80.0  # exponent of e that float32 has; beyond, the sigmoid is below 2e-35


@fused
def embedding_jit(tokens, places, table, positions, out):
    """Writes out (N, C)."""
    vector_loops()
    for n in range(out.shape[0]):
        token, place = tokens[n], places[n]
        for c in range(out.shape[1]):
            out[n, c] = table[token, c] + positions[place, c]


@fused
def embedding_backward_jit(tokens, places, d_out, d_table, d_positions):
    """Accumulates into d_table and d_positions."""
    vector_loops()
    for n in range(d_out.shape[0]):
        token, place = tokens[n], places[n]
        for c in range(d_out.shape[1]):
            d_table[token, c] += d_out[n, c]
            d_positions[place, c] += d_out[n, c]


@jit(forceinline=True)
def _norm(x, first, rows, gain, shift, means, shares, out):
    """Writes so many rows from `first` on, all at once."""
    C = x.shape[1]
    start, size, W = first * C, np.float64(C), width(stretch(gain, 0, 0))
    lanes = load_each(x, start, C, rows, C, narrow(0.0, x))
    v = W
    while v < C:
        lanes = lanes + load_each(x, start + v, C, rows, C - v, narrow(0.0, x))
        v += W
    means_ = total_each(lanes) / size
    mean = spread(means_, x)
    gap = load_each(x, start, C, rows, C, mean) - mean
    lanes = gap * gap
    v = W
    while v < C:
        gap = load_each(x, start + v, C, rows, C - v, mean) - mean
        lanes = fma(gap, gap, lanes)
        v += W
    shares_ = 1.0 / root(total_each(lanes) / size + EPS)
    share = spread(shares_, x)
    put_each(means, first, 1, rows, means_)
    put_each(shares, first, 1, rows, shares_)
    v = 0
    while v < C:
        unit = (load_each(x, start + v, C, rows, C - v, mean) - mean) * share
        to_gain = load_each(gain, v, 0, rows, C - v, narrow(0.0, x))
        to_shift = load_each(shift, v, 0, rows, C - v, narrow(0.0, x))
        store_each(out, start + v, C, rows, C - v, fma(unit, to_gain, to_shift))
        v += W


@jit
def layer_norm_jit(x, gain, shift, means, shares, out):
    """Writes out (N, C), and for the gradient means and shares (N,), one over the deviations."""
    N = x.shape[0]
    for n in range(0, N, ABREAST):
        _norm(x, n, min(ABREAST, N - n), gain, shift, means, shares, out)


@jit
def residual_norm_jit(x, branch, bias, gain, shift, means, shares, stream, out):
    """`layer_norm_jit` of x + branch + bias, which is written to stream (N, C)."""
    N, C = x.shape
    zero = narrow(0.0, x)
    for n in range(0, N, ABREAST):
        rows, v = min(ABREAST, N - n), 0
        while v < C:
            place = n * C + v
            more = load_each(branch, place, C, rows, C - v, zero) + load_each(bias, v, 0, rows, C - v, zero)
            store_each(stream, place, C, rows, C - v, load_each(x, place, C, rows, C - v, zero) + more)
            v += width(stretch(bias, 0, 0))
        _norm(stream, n, rows, gain, shift, means, shares, out)


@jit
def layer_norm_backward_jit(d_out, x, gain, means, shares, d_x, d_gain, d_shift, d_bias):
    """Accumulates into all four: d_x (N, C) holds what comes along the residual, and d_bias (C,) gets the sum of it.

    `d_bias` is that of the branch that was added in `residual_norm_jit`.
    """
    N, C = x.shape
    zero, size, W = narrow(0.0, x), np.float64(C), width(stretch(gain, 0, 0))
    for n in range(0, N, ABREAST):
        start, rows = n * C, min(ABREAST, N - n)
        mean, share = at_each(means, n, 1, rows), at_each(shares, n, 1, rows)
        slope = load_each(d_out, start, C, rows, C, zero) * load_each(gain, START, 0, rows, C, zero)
        sums, moments = slope, slope * ((load_each(x, start, C, rows, C, mean) - mean) * share)
        v = W
        while v < C:
            slope = load_each(d_out, start + v, C, rows, C - v, zero) * load_each(
                gain, v, 0, rows, C - v, zero
            )
            sums = sums + slope
            moments = fma(slope, (load_each(x, start + v, C, rows, C - v, mean) - mean) * share, moments)
            v += W
        first, second = spread(total_each(sums) / size, x), spread(total_each(moments) / size, x)
        v = 0
        while v < C:
            unit = (load_each(x, start + v, C, rows, C - v, mean) - mean) * share
            d = load_each(d_out, start + v, C, rows, C - v, zero)
            add_products(d_gain, v, rows, C - v, d, unit)
            add_rows(d_shift, v, rows, C - v, d)
            slope = d * load_each(gain, v, 0, rows, C - v, zero) - first - unit * second
            d = load_each(d_x, start + v, C, rows, C - v, zero) + slope * share
            store_each(d_x, start + v, C, rows, C - v, d)
            add_rows(d_bias, v, rows, C - v, d)
            v += W


@jit
def _gate(z, row):
    """What gelu multiplies z by, and the part of its exponent that is cubic, over z."""
    one, bend = narrow(1.0, row), z * z * narrow(-CUBE, row)
    exponent = at_most(z * (bend + narrow(-RATE, row)), narrow(HIGHEST, row))
    return one / (power(exponent, narrow(LOG2E, row)) + one), bend


@jit
def _gated(z, row):
    """gelu of z, and its slope."""
    gate, bend = _gate(z, row)
    y = z * gate
    return y, gate - (y - y * gate) * fma(bend, narrow(3.0, row), narrow(-RATE, row))


@jit
def gelu_jit(bias, x, out):
    """Writes out (N, F): gelu(x + bias), and over x its slope there, all that the gradient needs."""
    to_bias = as_row(bias)
    for n in range(x.shape[0]):
        row, to = row_of(x, n), row_of(out, n)
        F = length(row)
        v = 0
        while v + width(row) <= F:
            y, slope = _gated(load(row, v) + load(to_bias, v), row)
            store(to, v, y)
            store(row, v, slope)
            v += width(row)
        if v < F:
            zero = narrow(0.0, row)
            y, slope = _gated(load_part(row, v, F, zero) + load_part(to_bias, v, F, zero), row)
            store_part(to, v, F, y)
            store_part(row, v, F, slope)


@jit
def gelu_over_jit(bias, x):
    """Writes gelu(x + bias) over x (N, F), where nobody asks for the slope."""
    to_bias = as_row(bias)
    for n in range(x.shape[0]):
        row = row_of(x, n)
        F = length(row)
        v = 0
        while v + width(row) <= F:
            z = load(row, v) + load(to_bias, v)
            gate, _ = _gate(z, row)
            store(row, v, z * gate)
            v += width(row)
        if v < F:
            zero = narrow(0.0, row)
            z = load_part(row, v, F, zero) + load_part(to_bias, v, F, zero)
            gate, _ = _gate(z, row)
            store_part(row, v, F, z * gate)


@fused
def gelu_backward_jit(slopes, d_out, d_bias):
    """Turns d_out (N, F) into the gradient of x, which is accumulated into d_bias (F,) too."""
    vector_loops()
    for n in range(d_out.shape[0]):
        for f in range(d_out.shape[1]):
            d = d_out[n, f] * slopes[n, f]
            d_out[n, f] = d
            d_bias[f] += d


@jit
def draw_jit(logits, uniforms, weights, masses, tops, tokens, logprobs):
    """Writes tokens and their logprobs (N,), drawn by inverse CDF; weights, masses, tops are from `sample_scratch`."""
    scale = narrow(LOG2E, logits)
    for n in range(logits.shape[0]):
        row = row_of(logits, n)
        token, top, mass = draw(row, uniforms[n], scale, weights, masses, tops)
        token = token if token > 0 else 0  # a row of NaN has none
        tokens[n] = token
        logprobs[n] = logprob(logits[n, token], scale, top, log(mass))
