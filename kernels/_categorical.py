# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `categorical`: logits are (N, V), one distribution a row.

All are pure, allocate nothing and raise nothing; what they write stands last. The work depends on the shapes alone:
values are selected, never branched over. Sums are kept in float64.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._vecmath import exp, larger, plus


@jit
def _top(row):
    """The largest entry. Subtracting it leaves no exponential above 1 (log-sum-exp)."""
    top = row[0]
    for v in range(1, row.shape[0]):
        top = larger(top, row[v])
    return top


@jit
def _normalizer(row, top):
    """sum exp(row - top), in float64."""
    total = np.float64(0.0)
    for v in range(row.shape[0]):
        total = plus(total, exp(row[v] - top))
    return total


@jit
def _weights(row, top, out):
    """exp(row - top) and its sum. Writes out (V,)."""
    for v in range(row.shape[0]):
        out[v] = exp(row[v] - top)
    total = np.float64(0.0)
    for v in range(row.shape[0]):
        total = plus(total, out[v])
    return total


@jit
def log_softmax_jit(logits, out):
    """Writes out (N, V)."""
    T = out.dtype.type
    for n in range(logits.shape[0]):
        row = logits[n]
        top = _top(row)
        lognorm = T(np.log(_normalizer(row, top)))
        for v in range(row.shape[0]):
            out[n, v] = row[v] - top - lognorm


@jit
def token_logprobs_jit(logits, tokens, out):
    """Writes out (N,). Returns how many tokens are outside the vocabulary; their entries mean nothing."""
    T = out.dtype.type
    V = logits.shape[1]
    outside = 0
    for n in range(logits.shape[0]):
        token = tokens[n]
        if token < 0 or token >= V:
            outside += 1
            token = 0
        row = logits[n]
        top = _top(row)
        out[n] = row[token] - top - T(np.log(_normalizer(row, top)))
    return outside


@jit
def token_logprobs_backward_jit(logits, tokens, d_logprobs, out):
    """Writes out (N, V). Returns how many tokens are outside the vocabulary; their rows mean nothing."""
    T = out.dtype.type
    V = logits.shape[1]
    outside = 0
    for n in range(logits.shape[0]):
        token = tokens[n]
        if token < 0 or token >= V:
            outside += 1
            token = 0
        row = out[n]
        total = _weights(logits[n], _top(logits[n]), row)
        scale = T(-d_logprobs[n] / total)
        for v in range(V):
            row[v] = scale * row[v]
        row[token] += d_logprobs[n]
    return outside


@jit
def entropy_jit(logits, out):
    """Writes out (N,)."""
    for n in range(logits.shape[0]):
        row = logits[n]
        zero = row.dtype.type(0.0)
        top = _top(row)
        total = np.float64(0.0)
        moment = np.float64(0.0)
        for v in range(row.shape[0]):
            shifted = row[v] - top
            weight = exp(shifted)
            total = plus(total, weight)
            moment = plus(moment, weight * (shifted if weight > zero else zero))  # 0 log 0 = 0
        out[n] = np.log(total) - moment / total


@jit
def _divergence(row, top, ref_row, ref_top):
    """(sum w g, sum w, sum w') of w = exp(row - top), w' likewise, and gap g = (row - top) - (ref_row - ref_top).

    Where w is 0, g is taken as top - top: 0 log 0 = 0, also for two -inf.
    """
    zero = row.dtype.type(0.0)
    moment = np.float64(0.0)
    total = np.float64(0.0)
    ref_total = np.float64(0.0)
    for v in range(row.shape[0]):
        shifted = row[v] - top
        ref_shifted = ref_row[v] - ref_top
        weight = exp(shifted)
        possible = weight > zero
        gap = (shifted if possible else top) - (ref_shifted if possible else top)
        moment = plus(moment, weight * gap)
        total = plus(total, weight)
        ref_total = plus(ref_total, exp(ref_shifted))
    return moment, total, ref_total


@jit
def kl_divergence_jit(logits, ref_logits, out):
    """Writes out (N,)."""
    zero = np.float64(0.0)
    for n in range(logits.shape[0]):
        top = _top(logits[n])
        ref_top = _top(ref_logits[n])
        moment, total, ref_total = _divergence(logits[n], top, ref_logits[n], ref_top)
        value = moment / total - np.log(total) + np.log(ref_total)
        out[n] = zero if value < zero else value  # rounding may leave a little below 0; NaN stays


@jit
def kl_divergence_backward_jit(logits, ref_logits, d_kl, out):
    """Writes out (N, V)."""
    T = out.dtype.type
    zero = T(0.0)
    for n in range(logits.shape[0]):
        row = out[n]
        top = _top(logits[n])
        ref_top = _top(ref_logits[n])
        total = _weights(logits[n], top, row)
        moment = np.float64(0.0)
        for v in range(row.shape[0]):
            possible = row[v] > zero
            shifted = logits[n, v] - top
            ref_shifted = ref_logits[n, v] - ref_top
            gap = (shifted if possible else top) - (ref_shifted if possible else top)
            moment = plus(moment, row[v] * gap)
        mean = T(moment / total)
        scale = T(d_kl[n] / total)
        for v in range(row.shape[0]):
            possible = row[v] > zero
            shifted = logits[n, v] - top
            ref_shifted = ref_logits[n, v] - ref_top
            gap = (shifted if possible else top) - (ref_shifted if possible else top)
            row[v] = scale * row[v] * (gap - mean)


@jit
def sample_jit(logits, uniforms, temperature, weights, out):
    """Writes out (N,); weights (V,) is scratch. Returns how many rows have no probability to draw from.

    Token v is drawn when the uniform lies in the v-th part of the cumulative sum. Every entry is scanned, whichever
    is drawn. A token of weight 0 does not move the sum, so it is never the first to exceed the target.
    """
    T = weights.dtype.type
    V = logits.shape[1]
    nothing = 0
    for n in range(logits.shape[0]):
        row = logits[n]
        top = _top(row)
        for v in range(V):
            weights[v] = exp((row[v] - top) / T(temperature))
        total = np.float64(0.0)
        for v in range(V):
            total = plus(total, weights[v])
        target = uniforms[n] * total
        reached = np.float64(0.0)
        token = -1
        last = -1
        for v in range(V):
            further = reached + weights[v]
            last = v if further > reached else last
            token = v if token < 0 and further > target else token
            reached = further
        if not total > 0:  # NaN too
            nothing += 1
        out[n] = token if token >= 0 else last  # rounding, or u = 1, left the target at the very end
    return nothing
