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
from ._vecmath import exp, plus


@jit
def k1_jit(logprobs, ref_logprobs, out):
    """Writes out (N,)."""
    for n in range(logprobs.shape[0]):
        out[n] = logprobs[n] - ref_logprobs[n]


@jit
def k2_jit(logprobs, ref_logprobs, out):
    """Writes out (N,)."""
    half = out.dtype.type(0.5)
    for n in range(logprobs.shape[0]):
        ratio = logprobs[n] - ref_logprobs[n]
        out[n] = half * ratio * ratio


@jit
def k3_jit(logprobs, ref_logprobs, out):
    """Writes out (N,). In float64, since it is a small difference of numbers near 1."""
    zero = np.float64(0.0)
    one = np.float64(1.0)
    for n in range(logprobs.shape[0]):
        ratio = zero + (logprobs[n] - ref_logprobs[n])
        value = np.exp(-ratio) - one + ratio
        out[n] = zero if value < zero else value  # at least 0 but for rounding; NaN stays


@jit
def gae_jit(rewards, values, mask, gamma, lam, advantages, returns):
    """Writes advantages, returns (B, T); T >= 1."""
    B, T = rewards.shape
    K = rewards.dtype.type
    zero = K(0.0)
    for b in range(B):
        # A zero of the array's own kind: the state after the last token.
        next_value = mask[b, T - 1] - mask[b, T - 1]
        next_advantage = next_value
        for t in range(T - 1, -1, -1):
            weight = mask[b, t]
            on = weight > zero
            reward = rewards[b, t] if on else weight
            value = values[b, t] if on else weight
            delta = reward + K(gamma) * next_value - value
            advantage = delta + K(gamma) * (K(lam) * next_advantage)
            gain = advantage + value
            advantages[b, t] = advantage if on else zero
            returns[b, t] = gain if on else zero
            next_advantage = advantage if on else next_advantage
            next_value = value if on else next_value


@jit
def _weight(mask):
    """Sum of the mask, to divide by: 1 where all is masked, NaN where a weight is negative, infinite or NaN."""
    K = mask.dtype.type
    zero, most, bad = K(0.0), K(np.inf), K(np.nan)
    count = np.float64(0.0)
    for b in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            weight = mask[b, t]
            count = plus(count, weight if (weight >= zero) & (weight < most) else bad)
    nothing = count + np.float64(1.0)
    return nothing if count == np.float64(0.0) else count


@jit
def whiten_jit(x, mask, shift_mean, out):
    """Writes out (B, T)."""
    B, T = x.shape
    zero = x.dtype.type(0.0)
    count = _weight(mask)
    mean = np.float64(0.0)
    for b in range(B):
        for t in range(T):
            mean = mean + mask[b, t] * (x[b, t] if mask[b, t] > zero else mask[b, t])
    mean = mean / count
    variance = np.float64(0.0)
    for b in range(B):
        for t in range(T):
            centred = (x[b, t] if mask[b, t] > zero else mask[b, t]) - mean
            variance = variance + mask[b, t] * centred * centred
    scale = np.float64(1.0) / np.sqrt(variance / count + np.float64(1e-8))
    offset = np.float64(0.0) if shift_mean else mean
    for b in range(B):
        for t in range(T):
            centred = (x[b, t] if mask[b, t] > zero else mask[b, t]) - mean
            out[b, t] = mask[b, t] * (centred * scale + offset)


@jit
def _ppo_token(logprob, old_logprob, advantage, weight, lower, upper):
    """The clipped objective of one token, to be maximised: (objective, slope, clipped, square), times its weight.

    The objective is min(A rho, A clip(rho, lower, upper)) with rho = exp(logprob - old_logprob); slope, its
    derivative by logprob; clipped, the weight where the clip binds; square, that of the log-ratio. All numbers are of
    one kind, and the weight is at least 0; where it is 0 the others do not matter.
    """
    zero = type(weight)(0.0)
    on = weight > zero
    change = logprob - old_logprob
    change = change if on else weight
    scaled = weight * advantage
    scaled = scaled if on else weight
    ratio = exp(change)
    near = lower if ratio < lower else (upper if ratio > upper else ratio)
    gain = scaled * ratio
    bound = scaled * near
    binds = bound < gain
    square = weight * (change * change)
    return bound if binds else gain, zero if binds else gain, weight if binds else zero, square


@jit
def ppo_clip_jit(logprobs, old_logprobs, advantages, mask, cliprange, d_logprobs):
    """Writes d_logprobs (B, T). Returns loss, clipfrac, approxkl."""
    K = logprobs.dtype.type
    lower, upper = K(1.0 - cliprange), K(1.0 + cliprange)
    count = _weight(mask)
    rate = K(-1.0 / count)
    objective = np.float64(0.0)
    clipped = np.float64(0.0)
    squares = np.float64(0.0)
    for b in range(logprobs.shape[0]):
        for t in range(logprobs.shape[1]):
            value, slope, binds, square = _ppo_token(
                logprobs[b, t], old_logprobs[b, t], advantages[b, t], mask[b, t], lower, upper
            )
            d_logprobs[b, t] = slope * rate
            objective = plus(objective, value)
            clipped = plus(clipped, binds)
            squares = plus(squares, square)
    return -objective / count, clipped / count, np.float64(0.5) * squares / count


@jit
def _grpo_token(logprob, old_logprob, ref_logprob, advantage, weight, lower, upper, beta):
    """`_ppo_token` less beta times the KL estimate k3 of the reference: (objective, slope, clipped, kl).

    With beta 0 the KL term neither counts nor harms, but kl is still the weighted estimate.
    """
    zero = type(weight)(0.0)
    value, slope, clipped, _ = _ppo_token(logprob, old_logprob, advantage, weight, lower, upper)
    change = ref_logprob - logprob
    change = change if weight > zero else weight
    rest = exp_remainder(change)
    kl = weight * rest
    pull = beta * (weight * (rest + change))  # e**change - 1
    cost = beta * kl
    cost, pull = (cost, pull) if beta > 0.0 else (zero, zero)
    return value - cost, slope + pull, clipped, kl


@jit
def _sequence_rate(mask, aggregation, B, count):
    """What each token of a sequence weighs in the loss: see `grpo_jit`."""
    here = np.float64(0.0)
    for t in range(mask.shape[0]):
        here = plus(here, mask[t])
    nothing = here + np.float64(1.0)
    length = type(mask[0])(mask.shape[0])  # a number of the array's own kind
    alone = B * (length if aggregation == 2 else (here if here > 0.0 else nothing))
    return np.float64(1.0) / (count if aggregation == 1 else alone)


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
    loss = np.float64(0.0)
    clipped = np.float64(0.0)
    total_kl = np.float64(0.0)
    for b in range(B):
        share = _sequence_rate(mask[b], aggregation, B, count)
        rate = K(-share)
        objective = np.float64(0.0)
        if ref_logprobs.shape[0] > 0:
            for t in range(T):
                value, slope, binds, kl = _grpo_token(
                    logprobs[b, t],
                    old_logprobs[b, t],
                    ref_logprobs[b, t],
                    advantages[b],
                    mask[b, t],
                    lower,
                    upper,
                    strength,
                )
                d_logprobs[b, t] = slope * rate
                objective = plus(objective, value)
                clipped = plus(clipped, binds)
                total_kl = plus(total_kl, kl)
        else:
            for t in range(T):
                value, slope, binds, _ = _ppo_token(
                    logprobs[b, t], old_logprobs[b, t], advantages[b], mask[b, t], lower, upper
                )
                d_logprobs[b, t] = slope * rate
                objective = plus(objective, value)
                clipped = plus(clipped, binds)
        loss = loss - share * objective
    kl = total_kl / count
    return loss, clipped / count, kl if ref_logprobs.shape[0] > 0 else np.float64(np.nan)


@jit
def value_clip_jit(values, old_values, returns, mask, cliprange_value, d_values):
    """Writes d_values (B, T). Returns loss, clipfrac."""
    K = values.dtype.type
    zero, reach = K(0.0), K(cliprange_value)
    count = _weight(mask)
    loss = np.float64(0.0)
    clipped = np.float64(0.0)
    for b in range(values.shape[0]):
        for t in range(values.shape[1]):
            weight = mask[b, t]
            on = weight > zero
            value = values[b, t] if on else weight
            target = returns[b, t] if on else weight
            old = old_values[b, t] if on else weight
            low = old - reach
            high = old + reach
            near = low if not value >= low else (high if value > high else value)  # NaN in old_values stays
            error = value - target
            near_error = near - target
            square = error * error
            near_square = near_error * near_error
            binds = near_square > square
            unknown = near_square != near_square
            loss = loss + weight * (near_square if binds or unknown else square)
            slope = weight * error / count
            d_values[b, t] = zero if binds else slope
            more = clipped + weight
            clipped = more if binds else clipped
    return np.float64(0.5) * loss / count, clipped / count


@jit
def group_advantages_jit(rewards, scale, out):
    """Writes out (N, G); each row is a group."""
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
    N, G = rewards.shape
    others = np.float64(G - 1)
    for n in range(N):
        total = np.float64(0.0)
        for g in range(G):
            total = total + rewards[n, g]
        for g in range(G):
            out[n, g] = rewards[n, g] - (total - rewards[n, g]) / others
