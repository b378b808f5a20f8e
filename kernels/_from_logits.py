# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `from_logits`: rows of logits (N, V) to rows of their gradient, what is given a token (N,).

All are pure, allocate nothing and raise nothing; outputs stand last and are overwritten. A row counts with its weight.
Where that is 0 nothing is read, neither logits nor token: its gradient is 0, and so is its log-probability. They
return how many tokens are outside the vocabulary; those rows mean nothing.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._lanes import load_part, splat, store, store_part, width
from ._policy_gradient import _grpo_token, _ppo_token, _sequence_rate
from ._row import as_row, at, buffer, length, narrow, put, row_of
from ._row_groups import group_size, inside, read_rows, weigh_rows, write_gradient, write_logs
from ._rows import LOG2E, START, logprob, write_token_gradient
from ._vecmath import plus, wide


@jit
def weights_jit(tokens, mask, ignore_index, weights):
    """Writes weights (N,): the mask, (N,) or none (0,), and 0 at ignored tokens. Returns their sum.

    The sum is NaN if an entry of the mask is negative, infinite or NaN.
    """
    K = weights.dtype.type
    zero, one, most, bad = K(0.0), K(1.0), K(np.inf), K(np.nan)
    count = np.float64(0.0)
    for n in range(tokens.shape[0]):
        weight = mask[n] if mask.shape[0] > 0 else one
        weight = weight if (weight >= zero) & (weight < most) else bad
        weight = zero if tokens[n] == ignore_index else weight
        weights[n] = weight
        count = plus(count, weight)
    return count


@jit
def sequences_jit(weights, advantages, aggregation, count, rates, repeated):
    """Writes, for each token of a sequence, (B, T): rates, minus what it weighs in `grpo_jit`; repeated advantages."""
    B, T = weights.shape
    for b in range(B):
        rate = -_sequence_rate(weights[b], aggregation, B, count)
        for t in range(T):
            rates[b, t] = rate
            repeated[b, t] = advantages[b]


@jit
def _write_zeros(row):
    zero = splat(narrow(0.0, row), row)
    v = 0
    while v + width(row) <= length(row):
        store(row, v, zero)
        v += width(row)
    if v < length(row):
        store_part(row, v, length(row), zero)


@jit
def linear_jit(logits, tokens, weights, rate, temperature, logprobs, d_logits):
    """For losses linear in the log-probabilities, with slope rate * weight. Writes logprobs (N,), d_logits (N, V)."""
    N, V = logits.shape
    scale, group = narrow(LOG2E / temperature, logits), group_size(V)
    chosen, tops = buffer(logits, scale), buffer(logits, scale)
    masses, logs = buffer(logits, 0.0), buffer(logits, 0.0)
    outside = 0
    for first in range(0, N, group):
        count = min(group, N - first)
        outside += weigh_rows(logits, tokens, weights, first, count, scale, chosen, tops, masses, d_logits)
        write_logs(masses, count, logs)
        for g in range(count):
            n = first + g
            row, d = row_of(logits, n), row_of(d_logits, n)
            logprobs[n] = weights[n] - weights[n]
            if weights[n] > 0:
                top, mass, slope = at(tops, g), at(masses, g), rate * wide(weights[n])
                logprobs[n] = logprob(at(chosen, g), scale, top, at(logs, g))
                write_gradient(row, inside(tokens[n], V), scale, top, mass, slope, d)
            else:
                _write_zeros(d)
    return outside


@jit
def clipped_jit(
    logits,
    tokens,
    old_logprobs,
    ref_logprobs,
    advantages,
    weights,
    rates,
    lowest,
    highest,
    beta,
    temperature,
    logprobs,
    d_logits,
):
    """The clipped objective, and with beta above 0 the KL term, times each token's rate.

    Writes logprobs (N,), d_logits (N, V).
    """
    N, V = logits.shape
    K = logprobs.dtype.type
    lower, upper, strength = K(lowest), K(highest), K(beta)
    scale, group = narrow(LOG2E / temperature, logits), group_size(V)
    chosen, tops, slopes = (buffer(logits, scale), buffer(logits, scale), buffer(logits, scale))
    masses, logs = buffer(logits, 0.0), buffer(logits, 0.0)
    outside = 0
    for first in range(0, N, group):
        count = min(group, N - first)
        stop = first + count
        outside += weigh_rows(logits, tokens, weights, first, count, scale, chosen, tops, masses, d_logits)
        write_logs(masses, count, logs)
        for g in range(count):
            n = first + g
            logprobs[n] = weights[n] - weights[n]
            if weights[n] > 0:
                logprobs[n] = logprob(at(chosen, g), scale, at(tops, g), at(logs, g))
        if beta > 0.0:
            for g in range(count):
                n = first + g
                old, ref, each = old_logprobs[n], ref_logprobs[n], advantages[n]
                _, slope, _, _ = _grpo_token(logprobs[n], old, ref, each, weights[n], lower, upper, strength)
                put(slopes, g, slope)
        else:
            _write_slopes(
                as_row(logprobs),
                as_row(old_logprobs),
                as_row(advantages),
                as_row(weights),
                first,
                stop,
                lower,
                upper,
                slopes,
            )
        for g in range(count):
            n = first + g
            row, d = row_of(logits, n), row_of(d_logits, n)
            if weights[n] > 0:
                slope = wide(at(slopes, g)) * wide(rates[n])
                write_gradient(row, inside(tokens[n], V), scale, at(tops, g), at(masses, g), slope, d)
            else:
                _write_zeros(d)
    return outside


@jit
def _write_slopes(logprobs, old_logprobs, advantages, weights, first, stop, lower, upper, out):
    """Writes out: those of the clipped objective, of tokens first to stop; a loop of its own, for it packs."""
    zero = narrow(0.0, weights)
    for v in range(first, stop, width(weights)):
        end = min(v + width(weights), stop)
        _, slopes, _, _ = _ppo_token(
            load_part(logprobs, v, end, zero),
            load_part(old_logprobs, v, end, zero),
            load_part(advantages, v, end, zero),
            load_part(weights, v, end, zero),
            lower,
            upper,
        )
        store_part(out, v - first, end - first, slopes)


@jit
def outside_of(tokens, weights, V):
    """Returns how many tokens that count are outside the vocabulary."""
    count = 0
    for n in range(tokens.shape[0]):
        count += (weights[n] > 0) & ((tokens[n] < 0) | (tokens[n] >= V))
    return count


@jit
def forward_rows(logits, tokens, weights, start, stop, temperature, logprobs, tops, masses, d_logits):
    """First half of a loss whose slopes are known only afterwards, for rows start to stop.

    Writes logprobs, tops, masses (N,) and, if it is given, what `weigh_rows` leaves in d_logits (N, V).
    """
    scale, group = narrow(LOG2E / temperature, logits), group_size(logits.shape[1])
    chosen, some_tops = buffer(logits, scale), buffer(logits, scale)
    some_masses, logs = buffer(logits, 0.0), buffer(logits, 0.0)
    outside = 0
    for first in range(start, stop, group):
        count = min(group, stop - first)
        if d_logits is None:
            outside += read_rows(logits, tokens, weights, first, count, scale, chosen, some_tops, some_masses)
        else:
            outside += weigh_rows(
                logits, tokens, weights, first, count, scale, chosen, some_tops, some_masses, d_logits
            )
        write_logs(some_masses, count, logs)
        for g in range(count):
            n = first + g
            logprobs[n] = weights[n] - weights[n]
            if weights[n] > 0:
                tops[n], masses[n] = at(some_tops, g), at(some_masses, g)
                logprobs[n] = logprob(at(chosen, g), scale, tops[n], at(logs, g))
    return outside


@jit
def backward_rows(logits, tokens, weights, start, stop, slope, temperature, tops, masses, d_logits):
    """Second half, after `forward_rows` with d_logits, of a sequence with this slope. Writes d_logits (N, V)."""
    scale = narrow(LOG2E / temperature, logits)
    for n in range(start, stop):
        row, d = row_of(logits, n), row_of(d_logits, n)
        if weights[n] > 0:
            write_gradient(row, tokens[n], scale, tops[n], masses[n], wide(slope) * wide(weights[n]), d)
        else:
            _write_zeros(d)


@jit
def forward_jit(logits, tokens, weights, temperature, logprobs, tops, masses):
    """For slopes that come in another call. Writes logprobs, tops, masses (N,)."""
    return forward_rows(
        logits, tokens, weights, START, logits.shape[0], temperature, logprobs, tops, masses, None
    )


@jit
def backward_jit(logits, tokens, slopes, weights, tops, masses, temperature, d_logits):
    """After `forward_jit`: from the slope of each weighted log-probability. Writes d_logits (N, V)."""
    scale = narrow(LOG2E / temperature, logits)
    for n in range(logits.shape[0]):
        if weights[n] > 0:
            row, slope = row_of(logits, n), wide(slopes[n]) * wide(weights[n])
            write_token_gradient(row, tokens[n], scale, tops[n], masses[n], slope, row_of(d_logits, n))
        else:
            _write_zeros(row_of(d_logits, n))


@jit
def weighted_sum_jit(logprobs, weights):
    """Returns the sum over (N,), weighted, in float64."""
    total = np.float64(0.0)
    for n in range(logprobs.shape[0]):
        total = plus(total, weights[n] * logprobs[n])
    return total


@jit
def weighted_sums_jit(logprobs, weights, out):
    """Writes out (B,): the sums over as many parts of (N,), all of one length."""
    T = logprobs.shape[0] // max(out.shape[0], 1)
    for b in range(out.shape[0]):
        part = slice(b * T, b * T + T)
        out[b] = weighted_sum_jit(logprobs[part], weights[part])
