# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `policy_gradient` that come before a loss: KL estimates, advantages, whitening.

The rules are those of `_policy_gradient`.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._lanemath import fma, total, where_positive
from ._lanes import load, load_part, splat, store, store_part, width
from ._row import as_row, at, length, narrow
from ._veclog import exp_remainder
from ._vecmath import BLOCK, fused, inlined, vector_loops, wide
from ._weights import divisor, tail, total_weight, valid


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


@inlined
def _gae_row(rewards, values, mask, gamma, decay, advantages, returns):
    """Four loops over a row that stays in the cache: only the third, where each token waits for the next, is slow."""
    vector_loops()
    T = mask.shape[0]
    zero = type(mask[0])(0.0)
    one = type(mask[0])(1.0)
    following = zero
    for i in range(T):  # the value of the next token that counts
        last = np.uint64(T - 1 - i)  # of a signed index Numba would ask each time whether it is negative
        returns[last] = following
        following = values[last] if mask[last] > zero else following
    for t in range(T):  # the one-step error, and what the next advantage is multiplied by
        on = mask[t] > zero
        reward = rewards[t] if on else zero
        value = values[t] if on else zero
        delta = reward + gamma * returns[t] - value
        advantages[t] = delta if on else zero
        returns[t] = decay if on else one
    carried = zero
    for i in range(T):
        last = np.uint64(T - 1 - i)
        carried = advantages[last] + returns[last] * carried
        advantages[last] = carried
    for t in range(T):
        on = mask[t] > zero
        advantage = advantages[t]
        gain = advantage + (values[t] if on else zero)
        returns[t] = gain if on else zero
        advantages[t] = advantage if on else zero


@jit
def gae_jit(rewards, values, mask, gamma, lam, advantages, returns):
    """Writes advantages, returns (B, T); T >= 1. Returns `total_weight` of the mask."""
    K = rewards.dtype.type
    for b in range(rewards.shape[0]):
        _gae_row(rewards[b], values[b], mask[b], K(gamma), K(gamma * lam), advantages[b], returns[b])
    return total_weight(mask)


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
