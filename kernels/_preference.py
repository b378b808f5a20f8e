# mypy: allow-untyped-defs
"""Jitted bodies of `preference`: one pair an element, all arrays (N,) of one dtype, N >= 1.

All are pure, allocate nothing and raise nothing. They return the mean loss; the outputs stand last and are
overwritten. Optional arrays (margin, lengths) have no elements where there are none. The work depends on the shapes
alone: values are selected, never branched over.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit


@jit
def _logistic(x, zero, one):
    """(log sigma(x), sigma(x), sigma(-x)) from one exponential, which never overflows."""
    negative = -x
    positive = x >= zero
    e = np.exp(negative if positive else x)
    whole = one + e
    near = one / whole  # sigma(|x|)
    far = e / whole
    log_sigma = (zero if positive else x) - np.log1p(e)
    return log_sigma, near if positive else far, far if positive else near


@jit
def log_sigmoid_jit(x, out):
    """Writes out (N,)."""
    zero = x.dtype.type(0.0)
    for n in range(x.shape[0]):
        negative = -x[n]
        positive = x[n] >= zero
        out[n] = (zero if positive else x[n]) - np.log1p(np.exp(negative if positive else x[n]))


@jit
def bradley_terry_jit(
    chosen, rejected, margin, temperature, label_smoothing, centering, d_chosen, d_rejected
):
    """Writes d_chosen, d_rejected (N,); margin is (N,) or (0,)."""
    T = chosen.dtype.type
    zero, one, count = T(0.0), T(1.0), T(chosen.shape[0])
    smoothing = T(label_smoothing)
    loss = np.float64(0.0)
    for n in range(chosen.shape[0]):
        shift = margin[n] if margin.shape[0] > 0 else zero
        gap = (chosen[n] - rejected[n] - shift) / T(temperature)
        log_right, _, wrong = _logistic(gap, zero, one)
        # (1-e) sp(-gap) + e sp(gap), since sp(gap) = gap + sp(-gap); where e is 0, not 0 times an infinity
        lean = gap if smoothing > zero else wrong
        slope = (smoothing - wrong) / T(temperature)
        total = chosen[n] + rejected[n]
        both = total if centering > 0.0 else wrong
        pull = T(centering) * both
        loss = loss + (smoothing * lean - log_right) + pull * both
        d_chosen[n] = (pull + pull + slope) / count
        d_rejected[n] = (pull + pull - slope) / count
    return loss / count


@jit
def noisy_bradley_terry_jit(chosen, rejected, margin, temperature, noise, centering, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,); margin is (N,) or (0,); noise is above 0."""
    T = chosen.dtype.type
    zero, half, one, count = T(0.0), T(0.5), T(1.0), T(chosen.shape[0])
    loss = np.float64(0.0)
    for n in range(chosen.shape[0]):
        shift = margin[n] if margin.shape[0] > 0 else zero
        gap = (chosen[n] - rejected[n] - shift) / T(temperature)
        _, right, wrong = _logistic(gap, zero, one)
        seen = right - T(noise) * (right - half)  # (1-e) sigma + e/2
        rate = right * wrong
        slope = -((rate - T(noise) * rate) / seen / T(temperature))
        total = chosen[n] + rejected[n]
        both = total if centering > 0.0 else wrong
        pull = T(centering) * both
        loss = loss - np.log(seen) + pull * both
        d_chosen[n] = (pull + pull + slope) / count
        d_rejected[n] = (pull + pull - slope) / count
    return loss / count


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


@jit
def dpo_jit(
    pi_chosen,
    pi_rejected,
    ref_chosen,
    ref_rejected,
    beta,
    label_smoothing,
    d_chosen,
    d_rejected,
    chosen_rewards,
    rejected_rewards,
):
    """Writes d_chosen, d_rejected, chosen_rewards, rejected_rewards (N,)."""
    T = pi_chosen.dtype.type
    zero, one, count = T(0.0), T(1.0), T(pi_chosen.shape[0])
    smoothing = T(label_smoothing)
    loss = np.float64(0.0)
    for n in range(pi_chosen.shape[0]):
        up = T(beta) * (pi_chosen[n] - ref_chosen[n])
        down = T(beta) * (pi_rejected[n] - ref_rejected[n])
        gap = up - down
        log_right, _, wrong = _logistic(gap, zero, one)
        lean = gap if smoothing > zero else wrong  # not 0 times an infinity
        loss = loss + (smoothing * lean - log_right)
        slope = T(beta) * (smoothing - wrong) / count
        d_chosen[n] = slope
        d_rejected[n] = -slope
        chosen_rewards[n] = up
        rejected_rewards[n] = down
    return loss / count


@jit
def ipo_jit(
    pi_chosen,
    pi_rejected,
    ref_chosen,
    ref_rejected,
    chosen_lengths,
    rejected_lengths,
    tau,
    d_chosen,
    d_rejected,
):
    """Writes d_chosen, d_rejected (N,); the lengths are (N,) or (0,)."""
    T = pi_chosen.dtype.type
    half, one, count = T(0.5), T(1.0), T(pi_chosen.shape[0])
    loss = np.float64(0.0)
    for n in range(pi_chosen.shape[0]):
        long_chosen = chosen_lengths[n] if chosen_lengths.shape[0] > 0 else one
        long_rejected = rejected_lengths[n] if rejected_lengths.shape[0] > 0 else one
        up = (pi_chosen[n] - ref_chosen[n]) / long_chosen
        down = (pi_rejected[n] - ref_rejected[n]) / long_rejected
        residual = (T(tau) * (up - down) - half) / T(tau)  # h - 1/(2 tau)
        loss = loss + residual * residual
        slope = (residual + residual) / count
        d_chosen[n] = slope / long_chosen
        d_rejected[n] = -slope / long_rejected
    return loss / count


@jit
def hinge_jit(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    zero, one, count = T(0.0), T(1.0), T(pi_chosen.shape[0])
    slope = T(beta / pi_chosen.shape[0])
    loss = np.float64(0.0)
    for n in range(pi_chosen.shape[0]):
        gap = (pi_chosen[n] - ref_chosen[n]) - (pi_rejected[n] - ref_rejected[n])
        short = one - T(beta) * gap
        missed = not short <= zero  # NaN counts as missed, so that it is seen
        grown = loss + short / count
        loss = grown if missed else loss
        d_chosen[n] = -slope if missed else zero
        d_rejected[n] = slope if missed else zero
    return loss
