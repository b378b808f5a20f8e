# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `preference`: one pair an element, all arrays (N,) of one dtype, N >= 1.

All are pure, allocate nothing and raise nothing. They return the mean loss; the outputs stand last and are
overwritten. Lengths that are not there have no elements. The work depends on the shapes alone: values are selected,
never branched over.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._ranking import logistic
from ._vecmath import BLOCK, add, inlined, vector_loops


@inlined
def dpo_pair(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, smoothing, rate):
    """One pair: (loss, slope of pi_chosen, reward of the chosen, of the rejected); rate is beta / N."""
    zero, one = type(pi_chosen)(0.0), type(pi_chosen)(1.0)
    up = beta * (pi_chosen - ref_chosen)
    down = beta * (pi_rejected - ref_rejected)
    gap = up - down
    log_right, _, wrong = logistic(gap, zero, one)
    lean = gap if smoothing > zero else wrong  # not 0 times an infinity
    return smoothing * lean - log_right, rate * (smoothing - wrong), up, down


@inlined
def _dpo_block(
    pi_chosen,
    pi_rejected,
    ref_chosen,
    ref_rejected,
    beta,
    smoothing,
    rate,
    d_chosen,
    d_rejected,
    chosen_rewards,
    rejected_rewards,
):
    """Sum of the losses; rate is beta / N."""
    vector_loops()
    loss = pi_chosen.dtype.type(0.0)
    for n in range(pi_chosen.shape[0]):
        value, slope, up, down = dpo_pair(
            pi_chosen[n], pi_rejected[n], ref_chosen[n], ref_rejected[n], beta, smoothing, rate
        )
        loss = add(loss, value)
        d_chosen[n] = slope
        d_rejected[n] = -slope
        chosen_rewards[n] = up
        rejected_rewards[n] = down
    return loss


@jit
def dpo_jit(
    pi_chosen,
    pi_rejected,
    ref_chosen,
    ref_rejected,
    beta,
    label_smoothing,
    d_chosen,
    d_rejected,
    chosen_rewards,
    rejected_rewards,
):
    """Writes d_chosen, d_rejected, chosen_rewards, rejected_rewards (N,)."""
    T = pi_chosen.dtype.type
    N = pi_chosen.shape[0]
    loss = np.float64(0.0)
    for start in range(0, N, BLOCK):
        part = slice(start, start + BLOCK)
        loss = loss + _dpo_block(
            pi_chosen[part],
            pi_rejected[part],
            ref_chosen[part],
            ref_rejected[part],
            T(beta),
            T(label_smoothing),
            T(beta / N),
            d_chosen[part],
            d_rejected[part],
            chosen_rewards[part],
            rejected_rewards[part],
        )
    return loss / np.float64(N)


@inlined
def _ipo_block(
    pi_chosen,
    pi_rejected,
    ref_chosen,
    ref_rejected,
    chosen_lengths,
    rejected_lengths,
    target,
    rate,
    d_chosen,
    d_rejected,
):
    """Sum of the losses; target is 1 / (2 tau), rate 2 / N."""
    vector_loops()
    T = pi_chosen.dtype.type
    one, loss = T(1.0), T(0.0)
    for n in range(pi_chosen.shape[0]):
        per_chosen = one / (chosen_lengths[n] if chosen_lengths.shape[0] > 0 else one)
        per_rejected = one / (rejected_lengths[n] if rejected_lengths.shape[0] > 0 else one)
        up = (pi_chosen[n] - ref_chosen[n]) * per_chosen
        down = (pi_rejected[n] - ref_rejected[n]) * per_rejected
        residual = (up - down) - target
        loss = add(loss, residual * residual)
        slope = rate * residual
        d_chosen[n] = slope * per_chosen
        d_rejected[n] = -slope * per_rejected
    return loss


@jit
def ipo_jit(
    pi_chosen,
    pi_rejected,
    ref_chosen,
    ref_rejected,
    chosen_lengths,
    rejected_lengths,
    tau,
    d_chosen,
    d_rejected,
):
    """Writes d_chosen, d_rejected (N,); the lengths are (N,) or (0,)."""
    T = pi_chosen.dtype.type
    N = pi_chosen.shape[0]
    loss = np.float64(0.0)
    for start in range(0, N, BLOCK):
        part = slice(start, start + BLOCK)
        loss = loss + _ipo_block(
            pi_chosen[part],
            pi_rejected[part],
            ref_chosen[part],
            ref_rejected[part],
            chosen_lengths[part],
            rejected_lengths[part],
            T(0.5 / tau),
            T(2.0 / N),
            d_chosen[part],
            d_rejected[part],
        )
    return loss / np.float64(N)


@inlined
def _hinge_block(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, rate, d_chosen, d_rejected):
    """Sum of the losses; rate is beta / N."""
    vector_loops()
    T = pi_chosen.dtype.type
    one, down = T(1.0), -rate
    loss = T(0.0)
    for n in range(pi_chosen.shape[0]):
        gap = (pi_chosen[n] - ref_chosen[n]) - (pi_rejected[n] - ref_rejected[n])
        short = one - beta * gap
        zero = type(short)(0.0)
        missed = not short <= zero  # NaN counts as missed, so that it is seen
        loss = add(loss, short if missed else zero)
        d_chosen[n] = down if missed else zero
        d_rejected[n] = rate if missed else zero
    return loss


@jit
def hinge_jit(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    N = pi_chosen.shape[0]
    loss = np.float64(0.0)
    for start in range(0, N, BLOCK):
        part = slice(start, start + BLOCK)
        loss = loss + _hinge_block(
            pi_chosen[part],
            pi_rejected[part],
            ref_chosen[part],
            ref_rejected[part],
            T(beta),
            T(beta / N),
            d_chosen[part],
            d_rejected[part],
        )
    return loss / np.float64(N)
