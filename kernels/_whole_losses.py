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
    backward_rows,
    clipped_jit,
    forward_rows,
    linear_jit,
    outside_of,
    sequences_jit,
    weighted_sum_jit,
    weighted_sums_jit,
    weights_jit,
)
from ._jit import jit
from ._policy_gradient import grpo_jit, ppo_clip_jit
from ._preference import dpo_pair
from ._shapes import flat, matrix
from ._vecmath import plus

WEIGH, ROWS, SUM = 1, 2, 4
ALL = 7
_ROOM = 1 << 15  # so many logits stay in the second-level cache beside their gradients


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
    last,
    ignore_index,
    temperature,
    beta,
    label_smoothing,
):
    """Chosen responses, of N tokens together, and the others, of M; logits are those of pairs `first` to `last`.

    Columns, of each: weights, logprobs, tops. Pairs, (5, B): sums of logprobs, rewards, of chosen and of others in
    turn, losses. Writes them, masses, d_logits. Returns both totals, how many tokens are outside the vocabulary in
    both, loss. Where any are, no later step is taken.
    """
    logits, d_logits = matrix(logits), matrix(d_logits)
    other_logits, other_d_logits = matrix(other_logits), matrix(other_d_logits)
    tokens, mask, other_tokens, other_mask = flat(tokens), flat(mask), flat(other_tokens), flat(other_mask)
    weights, other_weights = columns[0], other_columns[0]
    total, other_total, loss = np.float64(0.0), np.float64(0.0), np.float64(0.0)
    outside, other_outside = 0, 0
    B = ref_chosen.shape[0]
    if steps & WEIGH:
        V = logits.shape[1], other_logits.shape[1]
        total = weights_jit(tokens, mask, ignore_index, weights)
        other_total = weights_jit(other_tokens, other_mask, ignore_index, other_weights)
        outside = outside_of(tokens, weights, V[0])
        other_outside = outside_of(other_tokens, other_weights, V[1])
    if not (_is_sum(total) and _is_sum(other_total)) or outside + other_outside > 0:
        return total, other_total, outside, other_outside, loss
    if steps & ROWS:
        T, U = tokens.shape[0] // B, other_tokens.shape[0] // B
        chosen = _part(logits, tokens, columns, masses, d_logits, slice(first * T, last * T))
        others = _part(
            other_logits,
            other_tokens,
            other_columns,
            other_masses,
            other_d_logits,
            slice(first * U, last * U),
        )
        _pairs(
            chosen, others, first, last, ref_chosen, ref_rejected, temperature, beta, label_smoothing, pairs
        )
    if steps & SUM:
        for b in range(B):
            loss = plus(loss, pairs[4, b])
        loss = loss / np.float64(B)
    return total, other_total, outside, other_outside, loss


@jit
def _part(logits, tokens, columns, masses, d_logits, part):
    """What a kernel takes of some responses, all of whose tokens are in this part."""
    return logits, tokens[part], columns[0][part], columns[1][part], columns[2][part], masses[part], d_logits


@jit
def _pairs(chosen, others, first, last, ref_chosen, ref_rejected, temperature, beta, label_smoothing, pairs):
    """As many pairs at a time as stay in the cache between their log-probabilities and their gradients."""
    K, B = pairs.dtype.type, pairs.shape[1]
    strength, smoothing, rate = K(beta), K(label_smoothing), K(beta / B)
    T, U = chosen[1].shape[0] // (last - first), others[1].shape[0] // (last - first)
    size = max(_ROOM // max(T * chosen[0].shape[1] + U * others[0].shape[1], 1), 1)
    for start in range(first, last, size):
        stop = min(start + size, last)
        _forward(chosen, (start - first) * T, (stop - first) * T, temperature, pairs[0][start:stop])
        _forward(others, (start - first) * U, (stop - first) * U, temperature, pairs[1][start:stop])
        for b in range(start, stop):
            value, slope, up, down = dpo_pair(
                pairs[0, b], pairs[1, b], ref_chosen[b], ref_rejected[b], strength, smoothing, rate
            )
            pairs[2, b], pairs[3, b], pairs[4, b] = up, down, value
            _backward(chosen, (b - first) * T, (b - first + 1) * T, temperature, slope)
            _backward(others, (b - first) * U, (b - first + 1) * U, temperature, -slope)


@jit
def _forward(responses, start, stop, temperature, sums):
    """Of some responses, whose tokens are start to stop; writes the sums of their log-probabilities."""
    logits, tokens, weights, logprobs, tops, masses, d_logits = responses
    forward_rows(logits, tokens, weights, start, stop, temperature, logprobs, tops, masses, d_logits)
    weighted_sums_jit(logprobs[start:stop], weights[start:stop], sums)


@jit
def _backward(responses, start, stop, temperature, slope):
    """Of one response, whose tokens are start to stop; writes its gradient."""
    logits, tokens, weights, _, tops, masses, d_logits = responses
    backward_rows(logits, tokens, weights, start, stop, slope, temperature, tops, masses, d_logits)
