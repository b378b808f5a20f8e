# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `policy_gradient` that come before a loss: KL estimates, advantages, whitening.

The rules are those of `_policy_gradient`.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._lanemath import fma, total, where_less, where_positive
from ._lanes import load, load_part, splat, store, store_part, width
from ._row import as_row, at, length, narrow, put, row_of
from ._veclog import exp_remainder
from ._vecmath import BLOCK, fused, inlined, vector_loops, wide
from ._weights import divisor, tail, valid


@jit
def k1_jit(logprobs, ref_logprobs, out):
    """Writes out (N,)."""
    vector_loops()
    for n in range(logprobs.shape[0]):
        out[n] = logprobs[n] - ref_logprobs[n]


@fused
def k2_jit(logprobs, ref_logprobs, out):
    """Writes out (N,)."""
    vector_loops()
    half = out.dtype.type(0.5)
    for n in range(logprobs.shape[0]):
        ratio = logprobs[n] - ref_logprobs[n]
        out[n] = half * ratio * ratio


@fused
def k3_jit(logprobs, ref_logprobs, out):
    """Writes out (N,); never negative, and accurate where the two are almost the same."""
    vector_loops()
    for n in range(logprobs.shape[0]):
        out[n] = exp_remainder(ref_logprobs[n] - logprobs[n])


# What a token hands to the one before it is s = gamma (value + lam advantage), and its advantage is reward - value + s
# of the next. So s = gamma lam reward + gamma (1 - lam) value + gamma lam s of the next: one recurrence. All else goes
# element by element, over blocks of whole rows that stay in the first-level cache between the three passes.
GAE_BLOCK = 1024
TOGETHER = 4  # rows whose recurrences run side by side, for each alone waits for its last step


@inlined
def rows_at_once(T):
    """Rows of T elements that make a block of `gae_jit`."""
    return max(GAE_BLOCK // (TOGETHER * T), 1) * TOGETHER


@inlined
def _own_terms(reward, value, weight, decay, rest, zero, one):
    """Of one token: its own part of s, and what s of the next is multiplied by. Padding hands on what it gets."""
    own = fma(where_positive(weight, value), rest, where_positive(weight, reward) * decay)
    return own, where_less(zero, weight, decay, one)


@jit
def _write_terms(rewards, values, mask, start, stop, decay, rest, own, keep):
    """Writes own and keep[start:stop]; returns the sum of the weights."""
    zero, one, bad = narrow(0.0, mask), splat(narrow(1.0, mask), mask), narrow(np.nan, mask)
    v = tail(mask, start, stop)
    weight = load_part(mask, v, stop, zero)
    reward, value = load_part(rewards, v, stop, zero), load_part(values, v, stop, zero)
    count = valid(weight, zero, bad)
    term, factor = _own_terms(reward, value, weight, decay, rest, zero, one)
    store_part(own, v, stop, term)
    store_part(keep, v, stop, factor)
    for n in range(start, v, width(mask)):
        weight = load(mask, n)
        count = count + valid(weight, zero, bad)
        term, factor = _own_terms(load(rewards, n), load(values, n), weight, decay, rest, zero, one)
        store(own, n, term)
        store(keep, n, factor)
    return total(count)


@fused
def _hand_back(own, keep):
    """Writes s of the next token in place of each token's own part of s."""
    s = narrow(0.0, own)
    for i in range(length(own)):
        t = length(own) - 1 - i
        term = at(own, t)
        put(own, t, s)
        s = term + at(keep, t) * s


@fused
def _hand_back_together(own_a, own_b, own_c, own_d, keep_a, keep_b, keep_c, keep_d):
    """`_hand_back` of four rows of one length."""
    a = narrow(0.0, own_a)
    b, c, d = a, a, a
    for i in range(length(own_a)):
        t = length(own_a) - 1 - i
        term_a, term_b, term_c, term_d = at(own_a, t), at(own_b, t), at(own_c, t), at(own_d, t)
        put(own_a, t, a)
        put(own_b, t, b)
        put(own_c, t, c)
        put(own_d, t, d)
        a, b = term_a + at(keep_a, t) * a, term_b + at(keep_b, t) * b
        c, d = term_c + at(keep_c, t) * c, term_d + at(keep_d, t) * d


@inlined
def _sums(reward, value, weight, following):
    """Advantage and return of one token."""
    value = where_positive(weight, value)
    advantage = where_positive(weight, where_positive(weight, reward) - value + following)
    return advantage, advantage + value


@jit
def _write_sums(rewards, values, mask, start, stop, advantages, returns):
    """Writes advantages[start:stop], where s of the next token stood, and returns."""
    zero = narrow(0.0, mask)
    v = tail(mask, start, stop)
    for n in range(start, v, width(mask)):
        advantage, gain = _sums(load(rewards, n), load(values, n), load(mask, n), load(advantages, n))
        store(advantages, n, advantage)
        store(returns, n, gain)
    reward, value = load_part(rewards, v, stop, zero), load_part(values, v, stop, zero)
    weight, following = load_part(mask, v, stop, zero), load_part(advantages, v, stop, zero)
    advantage, gain = _sums(reward, value, weight, following)
    store_part(advantages, v, stop, advantage)
    store_part(returns, v, stop, gain)


@jit
def gae_jit(rewards, values, mask, gamma, lam, advantages, returns):
    """Writes advantages, returns (B, T); T >= 1. Returns the mask's sum, NaN where a weight is wrong."""
    B, T = rewards.shape
    K = rewards.dtype.type
    decay, rest = K(gamma * lam), K(gamma * (1.0 - lam))
    r, v, m, own, keep = as_row(rewards), as_row(values), as_row(mask), as_row(advantages), as_row(returns)
    count = np.float64(0.0)
    step = rows_at_once(T)
    for first in range(0, B, step):
        last = min(first + step, B)
        count = count + _write_terms(r, v, m, first * T, last * T, decay, rest, own, keep)
        b = first
        while b + TOGETHER <= last:
            _hand_back_together(
                row_of(advantages, b),
                row_of(advantages, b + 1),
                row_of(advantages, b + 2),
                row_of(advantages, b + 3),
                row_of(returns, b),
                row_of(returns, b + 1),
                row_of(returns, b + 2),
                row_of(returns, b + 3),
            )
            b += TOGETHER
        for n in range(b, last):
            _hand_back(row_of(advantages, n), row_of(returns, n))
        _write_sums(r, v, m, first * T, last * T, own, keep)
    return divisor(count)


@inlined
def _add_moments(x, weight, centre, zero, bad):
    """Of one element: its weight, and weight times the first and the second power of x - centre."""
    change = where_positive(weight, x - centre)
    weighted = weight * change
    return valid(weight, zero, bad), weighted, weighted * change


@jit
def _moments(x, mask, start, stop, centre):
    """Of x[start:stop] - centre: weight, weighted sum, weighted sum of squares."""
    zero, bad = narrow(0.0, mask), narrow(np.nan, mask)
    last = tail(mask, start, stop)
    part = load_part(x, last, stop, zero)
    count, first, second = _add_moments(part, load_part(mask, last, stop, zero), centre, zero, bad)
    for v in range(start, last, width(mask)):
        here, one, two = _add_moments(load(x, v), load(mask, v), centre, zero, bad)
        count, first, second = count + here, first + one, second + two
    return total(count), total(first), total(second)


@jit
def _first(mask):
    """The first element that counts, or the number of elements."""
    n = 0
    while n < length(mask) and not at(mask, n) > 0.0:
        n += 1
    return n


SAMPLE = 256  # elements that tell the first block where to be summed about


@jit
def _mean_and_squares(x, mask):
    """Weight, mean, and sum of squares about the mean, in float64; the mean of nothing is 0.

    Each block is summed about the mean of those before it, and the first about that of a sample with a token in it:
    what rounding takes from the sum of squares is then small beside the whole, wherever the elements lie. Of equal
    ones each difference is exactly 0.
    """
    N = length(x)
    one = np.float64(1.0)
    first = _first(mask)
    centre = at(x, first) if first < N else narrow(0.0, x)
    start = min(first, max(N - SAMPLE, 0))
    here, total_here, _ = _moments(x, mask, start, min(start + SAMPLE, N), centre)
    mean = wide(centre) + total_here / (here if here > 0.0 else one)
    count, squares = np.float64(0.0), np.float64(0.0)
    for start in range(0, N, BLOCK):
        centre = narrow(mean, x)
        here, total_here, squares_here = _moments(x, mask, start, min(start + BLOCK, N), centre)
        offset = total_here / (one if here == 0.0 else here)  # of NaN: NaN
        gap = wide(centre) + offset - mean
        before, count = count, count + here
        share = here / (one if count == 0.0 else count)
        squares = squares + (squares_here - total_here * offset) + gap * gap * (before * share)
        mean = mean + gap * share
    return count, mean, squares


@inlined
def _white(x, weight, centre, scale, offset):
    return weight * where_positive(weight, fma(x - centre, scale, offset))


@jit
def whiten_jit(x, mask, shift_mean, out):
    """Writes out (B, T); returns the mask's sum, NaN where a weight is negative, infinite or NaN."""
    values, weights, white = as_row(x), as_row(mask), as_row(out)
    N = length(values)
    zero = narrow(0.0, values)
    count, mean, squares = _mean_and_squares(values, weights)
    variance = squares / divisor(count)
    variance = np.float64(0.0) if variance < 0.0 else variance
    slope = np.float64(1.0) / np.sqrt(variance + np.float64(1e-8))
    centre, scale = narrow(mean, values), narrow(slope, values)
    kept = np.float64(0.0) if shift_mean else mean
    offset = splat(narrow(kept - (mean - wide(centre)) * slope, values), values)
    last = tail(values, 0, N)
    for n in range(0, last, width(values)):
        store(white, n, _white(load(values, n), load(weights, n), centre, scale, offset))
    x_part, weight = load_part(values, last, N, zero), load_part(weights, last, N, zero)
    store_part(white, last, N, _white(x_part, weight, centre, scale, offset))
    return count if count < np.inf else np.float64(np.nan)


@jit
def group_advantages_jit(rewards, scale, out):
    """Writes out (N, G); each row is a group."""
    vector_loops()
    N, G = rewards.shape
    others = np.float64(G - 1 if G > 1 else 1)
    for n in range(N):
        mean = np.float64(0.0)
        for g in range(G):
            mean = mean + rewards[n, g]
        mean = mean / np.float64(G)
        squares = np.float64(0.0)
        for g in range(G):
            centred = rewards[n, g] - mean
            squares = squares + centred * centred
        deviation = np.sqrt(squares / others) + np.float64(1e-4)
        divisor = deviation if scale else np.float64(1.0)
        for g in range(G):
            out[n, g] = (rewards[n, g] - mean) / divisor


@jit
def rloo_advantages_jit(rewards, out):
    """Writes out (N, G); each row is a group, G >= 2."""
    vector_loops()
    N, G = rewards.shape
    others = np.float64(G - 1)
    for n in range(N):
        total = np.float64(0.0)
        for g in range(G):
            total = total + rewards[n, g]
        for g in range(G):
            out[n, g] = rewards[n, g] - (total - rewards[n, g]) / others
