# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `preference`, those of scores: one pair an element, arrays (N,) of one dtype; rankings (N, K).

The rules are those of `_preference`; a margin that is not there has no elements.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._veclog import log, log1p
from ._vecmath import BLOCK, add, exp, fused, inlined, vector_loops


@inlined
def logistic(x, zero, one):
    """(log sigma(x), sigma(x), sigma(-x)) from one exponential, which never overflows."""
    negative = -x
    positive = x >= zero
    e = exp(negative if positive else x)
    whole = one + e
    near = one / whole  # sigma(|x|)
    far = e / whole
    log_sigma = (zero if positive else x) - log1p(e)
    return log_sigma, near if positive else far, far if positive else near


@fused
def log_sigmoid_jit(x, out):
    """Writes out (N,)."""
    vector_loops()
    zero = x.dtype.type(0.0)
    for n in range(x.shape[0]):
        negative = -x[n]
        positive = x[n] >= zero
        out[n] = (zero if positive else x[n]) - log1p(exp(negative if positive else x[n]))


@inlined
def _bradley_terry_block(chosen, rejected, margin, heat, smoothing, centering, rate, d_chosen, d_rejected):
    """Sum of the losses; heat is 1 / temperature, rate 1 / N."""
    vector_loops()
    T = chosen.dtype.type
    zero, one = T(0.0), T(1.0)
    loss = T(0.0)
    for n in range(chosen.shape[0]):
        shift = margin[n] if margin.shape[0] > 0 else zero
        gap = (chosen[n] - rejected[n] - shift) * heat
        log_right, _, wrong = logistic(gap, zero, one)
        # (1-e) sp(-gap) + e sp(gap), since sp(gap) = gap + sp(-gap); where e is 0, not 0 times an infinity
        lean = gap if smoothing > zero else wrong
        slope = (smoothing - wrong) * heat
        total = chosen[n] + rejected[n]
        both = total if centering > zero else wrong
        pull = centering * both
        loss = add(loss, (smoothing * lean - log_right) + pull * both)
        d_chosen[n] = (pull + pull + slope) * rate
        d_rejected[n] = (pull + pull - slope) * rate
    return loss


@jit
def bradley_terry_jit(
    chosen, rejected, margin, temperature, label_smoothing, centering, d_chosen, d_rejected
):
    """Writes d_chosen, d_rejected (N,); margin is (N,) or (0,)."""
    T = chosen.dtype.type
    N = chosen.shape[0]
    heat, smoothing, centre, rate = T(1.0 / temperature), T(label_smoothing), T(centering), T(1.0 / N)
    loss = np.float64(0.0)
    for start in range(0, N, BLOCK):
        part = slice(start, start + BLOCK)
        loss = loss + _bradley_terry_block(
            chosen[part],
            rejected[part],
            margin[part],
            heat,
            smoothing,
            centre,
            rate,
            d_chosen[part],
            d_rejected[part],
        )
    return loss / np.float64(N)


@inlined
def _noisy_block(chosen, rejected, margin, heat, noise, centering, rate, d_chosen, d_rejected):
    """Sum of the losses; heat is 1 / temperature, rate 1 / N."""
    vector_loops()
    T = chosen.dtype.type
    zero, half, one = T(0.0), T(0.5), T(1.0)
    loss = T(0.0)
    for n in range(chosen.shape[0]):
        shift = margin[n] if margin.shape[0] > 0 else zero
        gap = (chosen[n] - rejected[n] - shift) * heat
        _, right, wrong = logistic(gap, zero, one)
        seen = right - noise * (right - half)  # (1-e) sigma + e/2
        slope_of_sigma = right * wrong
        slope = -((slope_of_sigma - noise * slope_of_sigma) / seen * heat)
        total = chosen[n] + rejected[n]
        both = total if centering > zero else wrong
        pull = centering * both
        loss = add(loss, pull * both - log(seen))
        d_chosen[n] = (pull + pull + slope) * rate
        d_rejected[n] = (pull + pull - slope) * rate
    return loss


@jit
def noisy_bradley_terry_jit(chosen, rejected, margin, temperature, noise, centering, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,); margin is (N,) or (0,); noise is above 0."""
    T = chosen.dtype.type
    N = chosen.shape[0]
    heat, share, centre, rate = T(1.0 / temperature), T(noise), T(centering), T(1.0 / N)
    loss = np.float64(0.0)
    for start in range(0, N, BLOCK):
        part = slice(start, start + BLOCK)
        loss = loss + _noisy_block(
            chosen[part],
            rejected[part],
            margin[part],
            heat,
            share,
            centre,
            rate,
            d_chosen[part],
            d_rejected[part],
        )
    return loss / np.float64(N)


@jit
def _add_log(top, total, x, one):
    """Add exp(x) to exp(top) * total: the new top and total, without overflow."""
    above = x > top
    e = np.exp((top if above else x) - (x if above else top))
    grown = total * e + one
    added = total + e
    return x if above else top, grown if above else added


@jit
def plackett_luce_jit(scores, d_scores):
    """Writes d_scores (N, K), K >= 1. Work linear in K: two running sums of exponentials.

    Up: lse[k] = log sum_{j>=k} exp(s_j), kept in d_scores. Down: log sum_{k<=i} exp(-lse[k]), from which
    d_i = sum_{k<=i} softmax_{j>=k}(s)_i - 1; the last place makes no choice.
    """
    N, K = scores.shape
    T = scores.dtype.type
    zero, one, count = T(0.0), T(1.0), T(N)
    loss = np.float64(0.0)
    for n in range(N):
        row = scores[n]
        d = d_scores[n]
        d[K - 1] = zero
        top = row[K - 1]
        total = np.float64(1.0)
        for k in range(K - 2, -1, -1):
            top, total = _add_log(top, total, row[k], one)
            lse = top + np.log(total)
            loss = loss + (lse - row[k])
            d[k] = lse
        if K > 1:
            top = -d[0]
            total = np.float64(1.0)
            d[0] = (np.exp(row[0] + top) * total - one) / count
        for k in range(1, K - 1):
            top, total = _add_log(top, total, -d[k], one)
            d[k] = (np.exp(row[k] + top) * total - one) / count
        if K > 1:
            d[K - 1] = np.exp(row[K - 1] + top) * total / count
    return loss / count
