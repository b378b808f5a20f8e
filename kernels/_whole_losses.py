# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `from_logits`, a loss each: from logits (N, V) to their gradient, by way of `_from_logits`.

A loss is several steps: weigh the tokens, go through the rows, sum up. One call takes all of them, because a call from
Python costs more than a short row's computation; where rows are shared out, each call takes one, and is given its
share of the arrays. What a step needs of an earlier one is in the arrays, and in `total`, the sum of the weights; where
that is not a number to divide by, no later step is taken. Logits and their gradients are as everywhere, what is given
a token is (N,). Scalars stand last, behind what is shared out.
"""

from __future__ import annotations

import numpy as np

from ._from_logits import (
    backward_jit,
    clipped_jit,
    forward_jit,
    linear_jit,
    sequences_jit,
    weighted_sum_jit,
    weighted_sums_jit,
    weights_jit,
)
from ._jit import jit
from ._policy_gradient import grpo_jit, ppo_clip_jit
from ._preference import dpo_jit

WEIGH, ROWS, SUM = 1, 2, 4
OTHER_ROWS, GRADIENT, OTHER_GRADIENT = 8, 16, 32
ALL = 63


@jit
def _is_sum(total):
    """Whether the weights were at least 0 and finite."""
    return (total >= 0.0) & (total < np.inf)


@jit
def _divisor(total):
    return total if total > 0.0 else np.float64(1.0)


@jit
def sft_loss_jit(logits, tokens, mask, weights, logprobs, d_logits, steps, total, ignore_index, temperature):
    """Writes weights, logprobs (N,), d_logits (N, V). Returns total, tokens outside the vocabulary, loss."""
    outside, loss = 0, np.float64(0.0)
    if steps & WEIGH:
        total = weights_jit(tokens, mask, ignore_index, weights)
    if not _is_sum(total):
        return total, outside, loss
    rate = -1.0 / _divisor(total)
    if steps & ROWS:
        outside = linear_jit(logits, tokens, weights, rate, temperature, logprobs, d_logits)
    if steps & SUM:
        loss = rate * weighted_sum_jit(logprobs, weights)
    return total, outside, loss


@jit
def ppo_loss_jit(
    logits,
    tokens,
    mask,
    weights,
    old_logprobs,
    advantages,
    slopes,
    logprobs,
    d_logits,
    steps,
    total,
    ignore_index,
    temperature,
    cliprange,
):
    """Writes weights, slopes, logprobs (N,), d_logits (N, V).

    Returns total, tokens outside the vocabulary, loss, clipfrac, approxkl.
    """
    outside, loss, clipfrac, kl = 0, np.float64(0.0), np.float64(0.0), np.float64(0.0)
    if steps & WEIGH:
        total = weights_jit(tokens, mask, ignore_index, weights)
        slopes[:] = -1.0 / _divisor(total)
    if not _is_sum(total):
        return total, outside, loss, clipfrac, kl
    if steps & ROWS:
        low, high = 1.0 - cliprange, 1.0 + cliprange
        outside = clipped_jit(
            logits,
            tokens,
            old_logprobs,
            old_logprobs,
            advantages,
            weights,
            slopes,
            low,
            high,
            0.0,
            temperature,
            logprobs,
            d_logits,
        )
    if steps & SUM:
        one = (1, weights.shape[0])
        loss, clipfrac, kl = ppo_clip_jit(
            logprobs.reshape(one),
            old_logprobs.reshape(one),
            advantages.reshape(one),
            weights.reshape(one),
            cliprange,
            slopes.reshape(one),
        )
    return total, outside, loss, clipfrac, kl


@jit
def grpo_loss_jit(
    logits,
    tokens,
    mask,
    weights,
    old_logprobs,
    ref_logprobs,
    repeated,
    slopes,
    logprobs,
    d_logits,
    steps,
    total,
    ignore_index,
    temperature,
    advantages,
    has_ref,
    T,
    cliprange,
    cliprange_high,
    beta,
    aggregation,
):
    """Advantages (B,) of sequences of T tokens. Writes weights, repeated, slopes, logprobs (N,), d_logits (N, V).

    Returns total, tokens outside the vocabulary, loss, clipfrac, kl.
    """
    outside, loss, clipfrac, kl = 0, np.float64(0.0), np.float64(0.0), np.float64(0.0)
    shape = advantages.shape[0], T
    if steps & WEIGH:
        total = weights_jit(tokens, mask, ignore_index, weights)
        sequences_jit(
            weights.reshape(shape),
            advantages,
            aggregation,
            _divisor(total),
            slopes.reshape(shape),
            repeated.reshape(shape),
        )
    if not _is_sum(total):
        return total, outside, loss, clipfrac, kl
    if steps & ROWS:
        low, high = 1.0 - cliprange, 1.0 + cliprange_high
        outside = clipped_jit(
            logits,
            tokens,
            old_logprobs,
            ref_logprobs,
            repeated,
            weights,
            slopes,
            low,
            high,
            beta,
            temperature,
            logprobs,
            d_logits,
        )
    if steps & SUM:
        shown = shape[0] if has_ref else 0
        loss, clipfrac, kl = grpo_jit(
            logprobs.reshape(shape),
            old_logprobs.reshape(shape),
            ref_logprobs[: shown * T].reshape((shown, T)),
            advantages,
            weights.reshape(shape),
            cliprange,
            cliprange_high,
            beta,
            aggregation,
            slopes.reshape(shape),
        )
    return total, outside, loss, clipfrac, kl


@jit
def dpo_loss_jit(
    logits,
    tokens,
    mask,
    weights,
    logprobs,
    tops,
    masses,
    slopes,
    d_logits,
    other_logits,
    other_tokens,
    other_mask,
    other_weights,
    other_logprobs,
    other_tops,
    other_masses,
    other_slopes,
    other_d_logits,
    ref_chosen,
    ref_rejected,
    sums,
    other_sums,
    rewards,
    other_rewards,
    scratch,
    steps,
    ignore_index,
    temperature,
    beta,
    label_smoothing,
):
    """Of B pairs, chosen and other: their tokens (N,) and (M,), logits (N, V) and (M, V); scratch is (2, B).

    Writes all but logits, tokens, masks and references; sums and rewards are (B,). Returns both totals, how many
    tokens are outside the vocabulary in both, loss. Where any are, no later step is taken.
    """
    total, other_total, loss = np.float64(0.0), np.float64(0.0), np.float64(0.0)
    outside, other_outside = 0, 0
    if steps & WEIGH:
        total = weights_jit(tokens, mask, ignore_index, weights)
        other_total = weights_jit(other_tokens, other_mask, ignore_index, other_weights)
    if not (_is_sum(total) and _is_sum(other_total)):
        return total, other_total, outside, other_outside, loss
    if steps & ROWS:
        outside = forward_jit(logits, tokens, weights, temperature, logprobs, tops, masses)
    if steps & OTHER_ROWS:
        other_outside = forward_jit(
            other_logits, other_tokens, other_weights, temperature, other_logprobs, other_tops, other_masses
        )
    if outside + other_outside > 0:
        return total, other_total, outside, other_outside, loss
    if steps & SUM:
        weighted_sums_jit(logprobs, weights, sums)
        weighted_sums_jit(other_logprobs, other_weights, other_sums)
        slope, other_slope = scratch[0], scratch[1]
        loss = dpo_jit(
            sums,
            other_sums,
            ref_chosen,
            ref_rejected,
            beta,
            label_smoothing,
            slope,
            other_slope,
            rewards,
            other_rewards,
        )
        _repeat(slope, slopes)
        _repeat(other_slope, other_slopes)
    if steps & GRADIENT:
        backward_jit(logits, tokens, slopes, weights, tops, masses, temperature, d_logits)
    if steps & OTHER_GRADIENT:
        backward_jit(
            other_logits,
            other_tokens,
            other_slopes,
            other_weights,
            other_tops,
            other_masses,
            temperature,
            other_d_logits,
        )
    return total, other_total, outside, other_outside, loss


@jit
def _repeat(values, out):
    """Writes out (N,): each of (B,) as often as fills it."""
    T = out.shape[0] // values.shape[0]
    for n in range(out.shape[0]):
        out[n] = values[n // T]
