# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `policy_gradient` that come before a loss: KL estimates, advantages, whitening.

The rules are those of `_policy_gradient`.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._veclog import exp_remainder
from ._vecmath import BLOCK, add, fused, inlined, plus, vector_loops, wide


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
    """Writes advantages, returns (B, T); T >= 1. Returns the mask's sum, NaN where a weight is wrong."""
    K = rewards.dtype.type
    for b in range(rewards.shape[0]):
        _gae_row(rewards[b], values[b], mask[b], K(gamma), K(gamma * lam), advantages[b], returns[b])
    return total_weight(mask)


@inlined
def _checked(weight):
    """The weight, or NaN instead of one that is negative or infinite."""
    K = type(weight)
    return weight if (weight >= K(0.0)) & (weight < K(np.inf)) else K(np.nan)


@inlined
def block_weight(weights):
    """Sum of a block of weights, NaN where one is wrong."""
    vector_loops()
    total = weights.dtype.type(0.0)
    for t in range(weights.shape[0]):
        total = add(total, _checked(weights[t]))
    return total


@jit
def total_weight(mask):
    """Sum of the mask, to divide by: 1 where all is masked, NaN where a weight is negative, infinite or NaN."""
    B, T = mask.shape
    count = np.float64(0.0)
    for b in range(B):
        for start in range(0, T, BLOCK):
            count = count + block_weight(mask[b, start : start + BLOCK])
    nothing = count + np.float64(1.0)
    return nothing if count == np.float64(0.0) else count


@jit
def _first(x, mask):
    """The first element that counts, or 0."""
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            if mask[b, t] > 0.0:
                return x[b, t]
    return x.dtype.type(0.0)


@inlined
def _moments(x, mask, pivot):
    """Of x - pivot in a row: weight, weighted sum, weighted sum of squares, in float64."""
    vector_loops()
    zero = type(pivot)(0.0)
    count, total, squares = np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for t in range(x.shape[0]):
        weight = _checked(mask[t])
        change = wide((x[t] if mask[t] > zero else mask[t]) - pivot)
        weighted = wide(weight) * change
        count, total, squares = plus(count, weight), plus(total, weighted), plus(squares, weighted * change)
    return count, total, squares


@inlined
def _white(x, mask, pivot, centre, scale, offset, out):
    vector_loops()
    zero = x.dtype.type(0.0)
    for t in range(x.shape[0]):
        weight = mask[t]
        white = weight * ((((x[t] if weight > zero else weight) - pivot) - centre) * scale + offset)
        out[t] = white if weight > zero else zero


@jit
def whiten_jit(x, mask, shift_mean, out):
    """Writes out (B, T); returns the mask's sum, NaN where a weight is negative, infinite or NaN.

    One pass for mean and variance, which loses no accuracy relative to one of the elements: that lies no more than
    sqrt(N) deviations off the mean. And of equal elements not even rounding is left to be divided by 0.
    """
    B = x.shape[0]
    K = x.dtype.type
    pivot = _first(x, mask)
    count, total, squares = np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for b in range(B):
        here, sum_here, squares_here = _moments(x[b], mask[b], pivot)
        count, total, squares = count + here, total + sum_here, squares + squares_here
    nothing = count + np.float64(1.0)
    divisor = nothing if count == np.float64(0.0) else count
    mean = total / divisor
    variance = squares / divisor - mean * mean
    variance = np.float64(0.0) if variance < np.float64(0.0) else variance
    scale = K(np.float64(1.0) / np.sqrt(variance + np.float64(1e-8)))
    whole = K(mean + pivot)
    offset = K(0.0) if shift_mean else whole
    for b in range(B):
        _white(x[b], mask[b], pivot, K(mean), scale, offset, out[b])
    return count


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
