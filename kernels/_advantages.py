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


# Only two of five steps go token by token: looking for the value of the next token that counts, and the recurrence. Of
# these, rows go together; all else goes in vectors, over blocks of whole rows that stay in the first-level cache.
GAE_BLOCK = 1024
ONE, TOGETHER = np.int64(1), np.int64(4)  # rows side by side, for each alone waits for its last step


@inlined
def rows_at_once(T):
    """Rows of T elements that make a block of `gae_jit`."""
    return max(GAE_BLOCK // (TOGETHER * T), 1) * TOGETHER


@inlined
def _latest(weight, value, following):
    return value if weight > 0 else following


@jit
def _write_following(values, mask, b, rows, out):
    """Writes out, rows from b on, one or `TOGETHER`: the value of the next token that counts, or 0."""
    v, m, o = row_of(values, b), row_of(mask, b), row_of(out, b)
    last = length(v) - 1
    following = type(at(v, 0))(0.0)  # a number of the arrays' own kind
    if rows == 1:
        for i in range(last + 1):
            put(o, last - i, following)
            following = _latest(at(m, last - i), at(v, last - i), following)
        return
    v1, m1, o1 = row_of(values, b + 1), row_of(mask, b + 1), row_of(out, b + 1)
    v2, m2, o2 = row_of(values, b + 2), row_of(mask, b + 2), row_of(out, b + 2)
    v3, m3, o3 = row_of(values, b + 3), row_of(mask, b + 3), row_of(out, b + 3)
    following1, following2, following3 = following, following, following
    for i in range(last + 1):
        t = last - i
        put(o, t, following)
        put(o1, t, following1)
        put(o2, t, following2)
        put(o3, t, following3)
        following = _latest(at(m, t), at(v, t), following)
        following1 = _latest(at(m1, t), at(v1, t), following1)
        following2 = _latest(at(m2, t), at(v2, t), following2)
        following3 = _latest(at(m3, t), at(v3, t), following3)


@inlined
def _errors(reward, value, weight, following, gamma, decay, zero, one):
    """Of one token: its one-step error, and what the next advantage is multiplied by. Padding hands on what it gets."""
    error = fma(following, gamma, where_positive(weight, reward)) - where_positive(weight, value)
    return where_positive(weight, error), where_less(zero, weight, decay, one)


@jit
def _write_errors(rewards, values, mask, start, stop, gamma, decay, errors, keep):
    """Writes errors[start:stop], where the following values stood, and keep; returns the sum of the weights."""
    zero, one, bad = narrow(0.0, mask), splat(narrow(1.0, mask), mask), narrow(np.nan, mask)
    v = tail(mask, start, stop)
    weight = load_part(mask, v, stop, zero)
    count = valid(weight, zero, bad)
    reward, value = load_part(rewards, v, stop, zero), load_part(values, v, stop, zero)
    following = load_part(errors, v, stop, zero)
    error, factor = _errors(reward, value, weight, following, gamma, decay, zero, one)
    store_part(errors, v, stop, error)
    store_part(keep, v, stop, factor)
    for n in range(start, v, width(mask)):
        weight = load(mask, n)
        count = count + valid(weight, zero, bad)
        reward, value, following = load(rewards, n), load(values, n), load(errors, n)
        error, factor = _errors(reward, value, weight, following, gamma, decay, zero, one)
        store(errors, n, error)
        store(keep, n, factor)
    return total(count)


@fused
def _carry(errors, keep, b, rows):
    """Writes advantages in place of errors, rows from b on, one or `TOGETHER`."""
    e, k = row_of(errors, b), row_of(keep, b)
    last = length(e) - 1
    carried = type(at(e, 0))(0.0)
    if rows == 1:
        for i in range(last + 1):
            carried = at(e, last - i) + at(k, last - i) * carried
            put(e, last - i, carried)
        return
    e1, k1 = row_of(errors, b + 1), row_of(keep, b + 1)
    e2, k2 = row_of(errors, b + 2), row_of(keep, b + 2)
    e3, k3 = row_of(errors, b + 3), row_of(keep, b + 3)
    carried1, carried2, carried3 = carried, carried, carried
    for i in range(last + 1):
        t = last - i
        carried = at(e, t) + at(k, t) * carried
        carried1 = at(e1, t) + at(k1, t) * carried1
        carried2 = at(e2, t) + at(k2, t) * carried2
        carried3 = at(e3, t) + at(k3, t) * carried3
        put(e, t, carried)
        put(e1, t, carried1)
        put(e2, t, carried2)
        put(e3, t, carried3)


@jit
def _write_returns(values, mask, start, stop, advantages, returns):
    """Writes returns[start:stop], and 0 where padding handed an advantage on."""
    zero = narrow(0.0, mask)
    v = tail(mask, start, stop)
    for n in range(start, v, width(mask)):
        weight, advantage = load(mask, n), load(advantages, n)
        store(returns, n, where_positive(weight, advantage + load(values, n)))
        store(advantages, n, where_positive(weight, advantage))
    weight, advantage = load_part(mask, v, stop, zero), load_part(advantages, v, stop, zero)
    store_part(returns, v, stop, where_positive(weight, advantage + load_part(values, v, stop, zero)))
    store_part(advantages, v, stop, where_positive(weight, advantage))


@jit
def gae_jit(rewards, values, mask, gamma, lam, advantages, returns):
    """Writes advantages, returns (B, T); T >= 1. Returns `total_weight` of the mask."""
    B, T = rewards.shape
    K = rewards.dtype.type
    discount, decay = K(gamma), K(gamma * lam)
    r, v, m, errors, keep = as_row(rewards), as_row(values), as_row(mask), as_row(advantages), as_row(returns)
    count = np.float64(0.0)
    step = rows_at_once(T)
    for first in range(0, B, step):
        last = min(first + step, B)
        alone = first + (last - first) // TOGETHER * TOGETHER
        for b in range(first, alone, TOGETHER):
            _write_following(values, mask, b, TOGETHER, advantages)
        for b in range(alone, last):
            _write_following(values, mask, b, ONE, advantages)
        count = count + _write_errors(r, v, m, first * T, last * T, discount, decay, errors, keep)
        for b in range(first, alone, TOGETHER):
            _carry(advantages, returns, b, TOGETHER)
        for b in range(alone, last):
            _carry(advantages, returns, b, ONE)
        _write_returns(v, m, first * T, last * T, errors, keep)
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
