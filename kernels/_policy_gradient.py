# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `policy_gradient`: arrays are (B, T) of one dtype, masks included; the k's take (N,).

All are pure, allocate nothing and raise nothing; outputs stand last and are overwritten. A position counts with its
mask as weight; where the mask is 0 it also replaces the value (`x if on else weight`), so that even NaN does no harm
there. The work depends on the shapes alone: values are selected, never branched over.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._veclog import exp_remainder
from ._vecmath import BLOCK, FUSED, add, exp, plus, vector_loops, wide

fused = jit(fastmath=FUSED)
inlined = jit(
    fastmath=FUSED, forceinline=True
)  # too large for LLVM to do it by itself, and loops would not pack


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
    return _weight(mask)


@inlined
def _checked(weight):
    """The weight, or NaN instead of one that is negative or infinite."""
    K = type(weight)
    return weight if (weight >= K(0.0)) & (weight < K(np.inf)) else K(np.nan)


@inlined
def _total(weights):
    """Sum of a block of weights, NaN where one is wrong."""
    vector_loops()
    total = weights.dtype.type(0.0)
    for t in range(weights.shape[0]):
        total = add(total, _checked(weights[t]))
    return total


@jit
def _weight(mask):
    """Sum of the mask, to divide by: 1 where all is masked, NaN where a weight is negative, infinite or NaN."""
    B, T = mask.shape
    count = np.float64(0.0)
    for b in range(B):
        for start in range(0, T, BLOCK):
            count = count + _total(mask[b, start : start + BLOCK])
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


@inlined
def _ppo_token(logprob, old_logprob, advantage, weight, lower, upper):
    """The clipped objective of one token, to be maximised: (objective, slope, clipped, square), times its weight.

    The objective is min(A rho, A clip(rho, lower, upper)) with rho = exp(logprob - old_logprob); slope, its
    derivative by logprob; clipped, the weight where the clip binds; square, that of the log-ratio. All numbers are of
    one kind, and the weight is at least 0; where it is 0 the others do not matter.
    """
    zero = type(weight)(0.0)
    on = weight > zero
    change = (logprob if on else weight) - (old_logprob if on else weight)
    scaled = weight * (advantage if on else weight)
    ratio = exp(change)
    near = lower if ratio < lower else (upper if ratio > upper else ratio)
    gain = scaled * ratio
    bound = scaled * near
    binds = bound < gain
    square = weight * (change * change)
    return bound if binds else gain, zero if binds else gain, weight if binds else zero, square


@inlined
def _ppo_block(logprobs, old_logprobs, advantages, mask, lower, upper, rate, d_logprobs):
    """Sums of objective, clipped and square; writes slope times rate."""
    vector_loops()
    K = logprobs.dtype.type
    objective, clipped, squares = K(0.0), K(0.0), K(0.0)
    for t in range(logprobs.shape[0]):
        value, slope, binds, square = _ppo_token(
            logprobs[t], old_logprobs[t], advantages[t], mask[t], lower, upper
        )
        d_logprobs[t] = slope * rate
        objective, clipped, squares = add(objective, value), add(clipped, binds), add(squares, square)
    return objective, clipped, squares


@jit
def ppo_clip_jit(logprobs, old_logprobs, advantages, mask, cliprange, d_logprobs):
    """Writes d_logprobs (B, T). Returns loss, clipfrac, approxkl."""
    K = logprobs.dtype.type
    B, T = logprobs.shape
    lower, upper = K(1.0 - cliprange), K(1.0 + cliprange)
    count = _weight(mask)
    rate = K(-1.0 / count)
    objective, clipped, squares = np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for b in range(B):
        for start in range(0, T, BLOCK):
            part = slice(start, start + BLOCK)
            value, binds, square = _ppo_block(
                logprobs[b, part],
                old_logprobs[b, part],
                advantages[b, part],
                mask[b, part],
                lower,
                upper,
                rate,
                d_logprobs[b, part],
            )
            objective, clipped, squares = objective + value, clipped + binds, squares + square
    return -objective / count, clipped / count, np.float64(0.5) * squares / count


@inlined
def _grpo_token(logprob, old_logprob, ref_logprob, advantage, weight, lower, upper, beta):
    """`_ppo_token` less beta times the KL estimate k3 of the reference: (objective, slope, clipped, kl).

    With beta 0 the KL term neither counts nor harms, but kl is still the weighted estimate.
    """
    zero = type(weight)(0.0)
    value, slope, clipped, _ = _ppo_token(logprob, old_logprob, advantage, weight, lower, upper)
    on = weight > zero
    change = (ref_logprob if on else weight) - (logprob if on else weight)
    rest = exp_remainder(change)
    kl = weight * rest
    matters = beta > 0.0
    cost = beta * (kl if matters else zero)
    lean = rest + change  # e**change - 1
    pull = beta * (weight * (lean if matters else zero))
    return value - cost, slope + pull, clipped, kl


@jit
def _sequence_rate(mask, aggregation, B, count):
    """What each token of a sequence weighs in the loss: see `grpo_jit`."""
    here = _total(mask)
    K = type(here)
    nothing = here + K(1.0)
    length = type(mask[0])(mask.shape[0])  # a number of the array's own kind
    alone = B * (length if aggregation == 2 else (here if here > K(0.0) else nothing))
    return np.float64(1.0) / (count if aggregation == 1 else alone)


@inlined
def _grpo_block(logprobs, old_logprobs, ref_logprobs, advantage, mask, lower, upper, beta, rate, d_logprobs):
    """Sums of objective, clipped and kl; writes slope times rate."""
    vector_loops()
    K = logprobs.dtype.type
    objective, clipped, total = K(0.0), K(0.0), K(0.0)
    for t in range(logprobs.shape[0]):
        value, slope, binds, kl = _grpo_token(
            logprobs[t], old_logprobs[t], ref_logprobs[t], advantage, mask[t], lower, upper, beta
        )
        d_logprobs[t] = slope * rate
        objective, clipped, total = add(objective, value), add(clipped, binds), add(total, kl)
    return objective, clipped, total


@inlined
def _grpo_block_without_kl(logprobs, old_logprobs, advantage, mask, lower, upper, rate, d_logprobs):
    """Sums of objective and clipped; writes slope times rate."""
    vector_loops()
    K = logprobs.dtype.type
    objective, clipped = K(0.0), K(0.0)
    for t in range(logprobs.shape[0]):
        value, slope, binds, _ = _ppo_token(logprobs[t], old_logprobs[t], advantage, mask[t], lower, upper)
        d_logprobs[t] = slope * rate
        objective, clipped = add(objective, value), add(clipped, binds)
    return objective, clipped


@jit
def grpo_jit(
    logprobs,
    old_logprobs,
    ref_logprobs,
    advantages,
    mask,
    cliprange,
    cliprange_high,
    beta,
    aggregation,
    d_logprobs,
):
    """Writes d_logprobs (B, T); advantages (B,); ref_logprobs (B, T) or (0, T). Returns loss, clipfrac, kl.

    aggregation: 0 mean of each sequence's tokens, then of the sequences; 1 mean of all tokens; 2 sum / (B T).
    """
    K = logprobs.dtype.type
    B, T = logprobs.shape
    lower, upper, strength = K(1.0 - cliprange), K(1.0 + cliprange_high), K(beta)
    count = _weight(mask)
    loss, clipped, total = np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for b in range(B):
        share = _sequence_rate(mask[b], aggregation, B, count)
        rate = K(-share)
        objective = np.float64(0.0)
        for start in range(0, T, BLOCK):
            part = slice(start, start + BLOCK)
            lp, old, weights, d = logprobs[b, part], old_logprobs[b, part], mask[b, part], d_logprobs[b, part]
            if ref_logprobs.shape[0] > 0:
                ref = ref_logprobs[b, part]
                value, binds, kl = _grpo_block(
                    lp, old, ref, advantages[b], weights, lower, upper, strength, rate, d
                )
                total = total + kl
            else:
                value, binds = _grpo_block_without_kl(lp, old, advantages[b], weights, lower, upper, rate, d)
            objective, clipped = objective + value, clipped + binds
        loss = loss - share * objective
    kl = total / count
    return loss, clipped / count, kl if ref_logprobs.shape[0] > 0 else np.float64(np.nan)


@inlined
def _value_block(values, old_values, returns, mask, reach, rate, d_values):
    """Sums of the squared error and of the weight where the clip binds; writes the slope times rate."""
    vector_loops()
    K = values.dtype.type
    loss, clipped = K(0.0), K(0.0)
    for t in range(values.shape[0]):
        weight = mask[t]
        zero = type(weight)(0.0)
        on = weight > zero
        value = values[t] if on else weight
        target = returns[t] if on else weight
        old = old_values[t] if on else weight
        low = old - reach
        high = old + reach
        near = low if not value >= low else (high if value > high else value)  # NaN in old_values stays
        error = value - target
        near_error = near - target
        square = error * error
        near_square = near_error * near_error
        binds = near_square > square
        unknown = near_square != near_square
        loss = add(loss, weight * (near_square if binds | unknown else square))
        clipped = add(clipped, weight if binds else zero)
        slope = weight * error * rate
        d_values[t] = zero if binds else slope
    return loss, clipped


@jit
def value_clip_jit(values, old_values, returns, mask, cliprange_value, d_values):
    """Writes d_values (B, T). Returns loss, clipfrac."""
    K = values.dtype.type
    B, T = values.shape
    count = _weight(mask)
    rate = K(1.0 / count)
    loss, clipped = np.float64(0.0), np.float64(0.0)
    for b in range(B):
        for start in range(0, T, BLOCK):
            part = slice(start, start + BLOCK)
            square, binds = _value_block(
                values[b, part],
                old_values[b, part],
                returns[b, part],
                mask[b, part],
                K(cliprange_value),
                rate,
                d_values[b, part],
            )
            loss, clipped = loss + square, clipped + binds
    return np.float64(0.5) * loss / count, clipped / count


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
