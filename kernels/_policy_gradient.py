# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `policy_gradient`: arrays are (B, T) of one dtype, masks included; the k's take (N,).

All are pure, allocate nothing and raise nothing; outputs stand last and are overwritten. A position counts with its
mask as weight; where the mask is 0 it also replaces the value (`x if on else weight`), so that even NaN does no harm
there. The work depends on the shapes alone: values are selected, never branched over.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._lanemath import exp, nothing, total, where_less, where_positive
from ._lanes import load, load_part, store, store_part, width
from ._row import as_row, length, narrow
from ._veclog import exp_remainder
from ._vecmath import BLOCK, add, inlined, vector_loops
from ._weights import block_weight, tail, total_weight


@inlined
def _ppo_token(logprob, old_logprob, advantage, weight, lower, upper):
    """The clipped objective of one token, to be maximised: (objective, slope, clipped, square), times its weight.

    The objective is min(A rho, A clip(rho, lower, upper)) with rho = exp(logprob - old_logprob); slope, its
    derivative by logprob; clipped, the weight where the clip binds; square, that of the log-ratio. All numbers are of
    one kind, and the weight is at least 0; where it is 0 the others do not matter.
    """
    change = where_positive(weight, logprob) - where_positive(weight, old_logprob)
    scaled = weight * where_positive(weight, advantage)
    ratio = exp(change)
    near = where_less(ratio, lower, lower, where_less(upper, ratio, upper, ratio))
    gain = scaled * ratio
    bound = scaled * near
    slope = where_less(bound, gain, nothing(weight), gain)
    clipped = where_less(bound, gain, weight, nothing(weight))
    return where_less(bound, gain, bound, gain), slope, clipped, weight * (change * change)


@jit
def _ppo_block(logprobs, old_logprobs, advantages, mask, start, stop, lower, upper, rate, d_logprobs):
    """Sums of objective, clipped and square; writes slope times rate."""
    zero = narrow(0.0, mask)
    v = tail(mask, start, stop)
    objective, slope, clipped, squares = _ppo_token(
        load_part(logprobs, v, stop, zero),
        load_part(old_logprobs, v, stop, zero),
        load_part(advantages, v, stop, zero),
        load_part(mask, v, stop, zero),
        lower,
        upper,
    )
    store_part(d_logprobs, v, stop, slope * rate)
    for n in range(start, v, width(mask)):
        value, slope, binds, square = _ppo_token(
            load(logprobs, n), load(old_logprobs, n), load(advantages, n), load(mask, n), lower, upper
        )
        store(d_logprobs, n, slope * rate)
        objective, clipped, squares = objective + value, clipped + binds, squares + square
    return total(objective), total(clipped), total(squares)


@jit
def ppo_clip_jit(logprobs, old_logprobs, advantages, mask, cliprange, d_logprobs):
    """Writes d_logprobs (B, T). Returns loss, clipfrac, approxkl."""
    K = logprobs.dtype.type
    lp, old, each, weights = as_row(logprobs), as_row(old_logprobs), as_row(advantages), as_row(mask)
    N = length(lp)
    lower, upper = K(1.0 - cliprange), K(1.0 + cliprange)
    count = total_weight(mask)
    rate = K(-1.0 / count)
    objective, clipped, squares = np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for start in range(0, N, BLOCK):
        value, binds, square = _ppo_block(
            lp, old, each, weights, start, min(start + BLOCK, N), lower, upper, rate, as_row(d_logprobs)
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
    here = block_weight(as_row(mask), 0, mask.shape[0])
    none = here + np.float64(1.0)
    places = type(mask[0])(mask.shape[0])  # a number of the array's own kind
    alone = B * (places if aggregation == 2 else (here if here > 0.0 else none))
    return np.float64(1.0) / (count if aggregation == 1 else alone)


@inlined
def _grpo_block(logprobs, old_logprobs, ref_logprobs, advantage, mask, lower, upper, beta, rate, d_logprobs):
    """Sums of objective, clipped and kl; writes slope times rate."""
    vector_loops()
    K = logprobs.dtype.type
    objective, clipped, divergence = K(0.0), K(0.0), K(0.0)
    for t in range(logprobs.shape[0]):
        value, slope, binds, kl = _grpo_token(
            logprobs[t], old_logprobs[t], ref_logprobs[t], advantage, mask[t], lower, upper, beta
        )
        d_logprobs[t] = slope * rate
        objective, clipped, divergence = add(objective, value), add(clipped, binds), add(divergence, kl)
    return objective, clipped, divergence


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
    count = total_weight(mask)
    loss, clipped, divergence = np.float64(0.0), np.float64(0.0), np.float64(0.0)
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
                divergence = divergence + kl
            else:
                value, binds = _grpo_block_without_kl(lp, old, advantages[b], weights, lower, upper, rate, d)
            objective, clipped = objective + value, clipped + binds
        loss = loss - share * objective
    kl = divergence / count
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
    count = total_weight(mask)
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
