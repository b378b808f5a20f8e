# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `from_logits`, a loss each: from logits (B, T, V) to their gradient, by way of `_from_logits`.

A loss is several steps: weigh the tokens, go through the rows, sum up. One call takes all of them, because a call from
Python, and each array that it hands over or sees in another shape, costs more than a short row's computation. Where
rows lie apart, or are shared out, B is 1. Shared out, each call takes one step, and is given some of the rows: n of
them, of which the first belongs to token `first`. What is given a token is whole, (B, T) or (1, N), or columns (k, N).
What a step needs of an earlier one is in the columns, of which weights come first, and in `total`, their sum; where
that is not a number to divide by, no later step is taken.
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
from ._shapes import flat, matrix

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
def sft_loss_jit(
    logits, d_logits, tokens, mask, columns, logprobs, steps, first, total, ignore_index, temperature
):
    """Columns: weights. Writes them, logprobs, d_logits. Returns total, tokens outside the vocabulary, loss."""
    logits, d_logits = matrix(logits), matrix(d_logits)
    tokens, mask, logprobs = flat(tokens), flat(mask), flat(logprobs)
    weights = columns[0]
    outside, loss = 0, np.float64(0.0)
    if steps & WEIGH:
        total = weights_jit(tokens, mask, ignore_index, weights)
    if not _is_sum(total):
        return total, outside, loss
    rate = -1.0 / _divisor(total)
    if steps & ROWS:
        part = slice(first, first + logits.shape[0])
        outside = linear_jit(logits, tokens[part], weights[part], rate, temperature, logprobs[part], d_logits)
    if steps & SUM:
        loss = rate * weighted_sum_jit(logprobs, weights)
    return total, outside, loss


@jit
def ppo_loss_jit(
    logits,
    d_logits,
    tokens,
    mask,
    columns,
    old_logprobs,
    advantages,
    logprobs,
    steps,
    first,
    total,
    ignore_index,
    temperature,
    cliprange,
):
    """Columns: weights, slopes. Writes them, logprobs, d_logits.

    Returns total, tokens outside the vocabulary, loss, clipfrac, approxkl.
    """
    logits, d_logits = matrix(logits), matrix(d_logits)
    tokens, mask, logprobs = flat(tokens), flat(mask), flat(logprobs)
    old_logprobs, advantages = flat(old_logprobs), flat(advantages)
    weights, slopes = columns[0], columns[1]
    outside, loss, clipfrac, kl = 0, np.float64(0.0), np.float64(0.0), np.float64(0.0)
    if steps & WEIGH:
        total = weights_jit(tokens, mask, ignore_index, weights)
        slopes[:] = -1.0 / _divisor(total)
    if not _is_sum(total):
        return total, outside, loss, clipfrac, kl
    if steps & ROWS:
        part = slice(first, first + logits.shape[0])
        outside = clipped_jit(
            logits,
            tokens[part],
            old_logprobs[part],
            old_logprobs[part],
            advantages[part],
            weights[part],
            slopes[part],
            1.0 - cliprange,
            1.0 + cliprange,
            0.0,
            temperature,
            logprobs[part],
            d_logits,
        )
    if steps & SUM:
        one = (1, tokens.shape[0])
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
    d_logits,
    tokens,
    mask,
    columns,
    old_logprobs,
    ref_logprobs,
    advantages,
    logprobs,
    steps,
    first,
    total,
    ignore_index,
    temperature,
    cliprange,
    cliprange_high,
    beta,
    aggregation,
    has_ref,
):
    """Columns: weights, slopes, advantages (B,) repeated for the tokens. Writes them, logprobs, d_logits.

    Returns total, tokens outside the vocabulary, loss, clipfrac, kl.
    """
    logits, d_logits = matrix(logits), matrix(d_logits)
    tokens, mask, logprobs = flat(tokens), flat(mask), flat(logprobs)
    old_logprobs, ref_logprobs = flat(old_logprobs), flat(ref_logprobs)
    weights, slopes, repeated = columns[0], columns[1], columns[2]
    outside, loss, clipfrac, kl = 0, np.float64(0.0), np.float64(0.0), np.float64(0.0)
    B = advantages.shape[0]
    shape = B, tokens.shape[0] // max(B, 1)
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
        part = slice(first, first + logits.shape[0])
        outside = clipped_jit(
            logits,
            tokens[part],
            old_logprobs[part],
            ref_logprobs[part],
            repeated[part],
            weights[part],
            slopes[part],
            1.0 - cliprange,
            1.0 + cliprange_high,
            beta,
            temperature,
            logprobs[part],
            d_logits,
        )
    if steps & SUM:
        shown = (B if has_ref else 0, shape[1])
        loss, clipfrac, kl = grpo_jit(
            logprobs.reshape(shape),
            old_logprobs.reshape(shape),
            ref_logprobs[: shown[0] * shown[1]].reshape(shown),
            advantages,
            weights.reshape(shape),
            cliprange,
            cliprange_high,
            beta,
            aggregation,
            slopes.reshape(shape),
        )
        if has_ref and B == 0:
            kl = np.float64(0.0)
    return total, outside, loss, clipfrac, kl


@jit
def dpo_loss_jit(
    logits,
    d_logits,
    other_logits,
    other_d_logits,
    tokens,
    mask,
    columns,
    masses,
    other_tokens,
    other_mask,
    other_columns,
    other_masses,
    ref_chosen,
    ref_rejected,
    pairs,
    steps,
    first,
    ignore_index,
    temperature,
    beta,
    label_smoothing,
):
    """Chosen responses, of N tokens together, and the others, of M.

    Columns, of each: weights, logprobs, tops, slopes. Pairs, (6, B): sums of logprobs, rewards, slopes, of chosen and
    of others in turn. Writes them, masses, d_logits. Returns both totals, how many tokens are outside the vocabulary in
    both, loss. Where any are, no later step is taken.
    """
    logits, d_logits = matrix(logits), matrix(d_logits)
    other_logits, other_d_logits = matrix(other_logits), matrix(other_d_logits)
    tokens, mask, other_tokens, other_mask = flat(tokens), flat(mask), flat(other_tokens), flat(other_mask)
    weights, logprobs, tops, slopes = columns[0], columns[1], columns[2], columns[3]
    other_weights, other_logprobs = other_columns[0], other_columns[1]
    other_tops, other_slopes = other_columns[2], other_columns[3]
    total, other_total, loss = np.float64(0.0), np.float64(0.0), np.float64(0.0)
    outside, other_outside = 0, 0
    if steps & WEIGH:
        total = weights_jit(tokens, mask, ignore_index, weights)
        other_total = weights_jit(other_tokens, other_mask, ignore_index, other_weights)
    if not (_is_sum(total) and _is_sum(other_total)):
        return total, other_total, outside, other_outside, loss
    part, other_part = slice(first, first + logits.shape[0]), slice(first, first + other_logits.shape[0])
    if steps & ROWS:
        outside = forward_jit(
            logits, tokens[part], weights[part], temperature, logprobs[part], tops[part], masses[part]
        )
    if steps & OTHER_ROWS:
        other_outside = forward_jit(
            other_logits,
            other_tokens[other_part],
            other_weights[other_part],
            temperature,
            other_logprobs[other_part],
            other_tops[other_part],
            other_masses[other_part],
        )
    if outside + other_outside > 0:
        return total, other_total, outside, other_outside, loss
    if steps & SUM:
        weighted_sums_jit(logprobs, weights, pairs[0])
        weighted_sums_jit(other_logprobs, other_weights, pairs[1])
        loss = dpo_jit(
            pairs[0],
            pairs[1],
            ref_chosen,
            ref_rejected,
            beta,
            label_smoothing,
            pairs[4],
            pairs[5],
            pairs[2],
            pairs[3],
        )
        _repeat(pairs[4], slopes)
        _repeat(pairs[5], other_slopes)
    if steps & GRADIENT:
        backward_jit(
            logits,
            tokens[part],
            slopes[part],
            weights[part],
            tops[part],
            masses[part],
            temperature,
            d_logits,
        )
    if steps & OTHER_GRADIENT:
        backward_jit(
            other_logits,
            other_tokens[other_part],
            other_slopes[other_part],
            other_weights[other_part],
            other_tops[other_part],
            other_masses[other_part],
            temperature,
            other_d_logits,
        )
    return total, other_total, outside, other_outside, loss


@jit
def _repeat(values, out):
    """Writes out (N,): each of (B,) as often as fills it."""
    T = out.shape[0] // values.shape[0]
    for b in range(values.shape[0]):
        for t in range(T):
            out[b * T + t] = values[b]
