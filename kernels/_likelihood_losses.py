# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `preference`: KTO, whose examples are no pairs, and losses that add the likelihood of the chosen.

The rules are those of `_preference`.
"""

from __future__ import annotations

import numpy as np

from . import _pair_terms as terms
from ._jit import jit
from ._pair_losses import pairs_mean
from ._veclog import exp_remainder, log
from ._vecmath import BLOCK, add, inlined, plus, vector_loops

_HIGHEST = -(2.0**-23)  # mean log-probability beyond which odds are not told apart: float32's step at 1


@inlined
def _kto_block(logps, ref_logps, desirable, kl, beta, reward_weight, loss_weight, rate, d_logps):
    """Sum of the losses; rate is beta / N."""
    vector_loops()
    T = logps.dtype.type
    zero, one, loss = T(0.0), T(1.0), T(0.0)
    for n in range(logps.shape[0]):
        gain = beta * ((logps[n] - ref_logps[n]) - kl)
        other = -gain
        good = desirable[n] > zero
        right, wrong = terms.sigmoids(gain if good else other, zero, one)
        weight = reward_weight if good else loss_weight
        missed = weight * wrong
        loss = add(loss, missed)
        slope = rate * (missed * right)
        back = -slope
        d_logps[n] = back if good else slope
    return loss


@jit
def kto_jit(logps, ref_logps, desirable, kl, beta, desirable_weight, undesirable_weight, d_logps):
    """Writes d_logps (N,); desirable is a mask (N,)."""
    T = logps.dtype.type
    N = logps.shape[0]
    loss = np.float64(0.0)
    for start in range(0, N, BLOCK):
        part = slice(start, start + BLOCK)
        loss = loss + _kto_block(
            logps[part],
            ref_logps[part],
            desirable[part],
            T(kl),
            T(beta),
            T(desirable_weight),
            T(undesirable_weight),
            T(beta / N),
            d_logps[part],
        )
    return loss / np.float64(N)


@inlined
def _sum(values):
    vector_loops()
    total = np.float64(0.0)
    for n in range(values.shape[0]):
        total = plus(total, values[n])
    return total


@inlined
def _take_off(pull, d):
    vector_loops()
    for n in range(d.shape[0]):
        d[n] = d[n] - pull


@jit
def _likelihood(logps, lengths, weight, d_logps):
    """Weight times the negative log-likelihood, of a response or, with lengths, of a token; its gradient is added."""
    count = _sum(lengths) if lengths.shape[0] > 0 else np.float64(logps.shape[0])
    share = weight / count
    _take_off(logps.dtype.type(share), d_logps)
    return -(share * _sum(logps))


@jit
def cpo_jit(pi_chosen, pi_rejected, chosen_lengths, beta, alpha, label_smoothing, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,); chosen_lengths is (N,) or (0,)."""
    options = (pi_chosen.dtype.type(label_smoothing),)
    policy, outs = (pi_chosen, pi_rejected), (d_chosen, d_rejected)
    loss = pairs_mean(terms.smoothed, policy, None, None, beta, options, outs)
    return loss + _likelihood(pi_chosen, chosen_lengths, alpha, d_chosen)


@inlined
def _orpo_block(pi_chosen, pi_rejected, chosen_lengths, rejected_lengths, limit, rate, d_chosen, d_rejected):
    """Sum of the losses, of which each is sp(-O); rate is beta / N."""
    vector_loops()
    T = pi_chosen.dtype.type
    zero, one, loss = T(0.0), T(1.0), T(0.0)
    for n in range(pi_chosen.shape[0]):
        up = pi_chosen[n] / chosen_lengths[n]
        down = pi_rejected[n] / rejected_lengths[n]
        highest = type(up)(limit)  # of a probability of 1 they are infinite
        up = up if up < highest else highest
        down = down if down < highest else highest
        spare = -(exp_remainder(up) + up)  # 1 - p
        other = -(exp_remainder(down) + down)
        odds = (up - log(spare)) - (down - log(other))
        _, below, _, wrong = terms.softplus(odds, zero, one)
        loss = add(loss, below)
        slope = rate * wrong
        d_chosen[n] = -slope / (spare * chosen_lengths[n])
        d_rejected[n] = slope / (other * rejected_lengths[n])
    return loss


@jit
def orpo_jit(pi_chosen, pi_rejected, chosen_lengths, rejected_lengths, beta, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    N = pi_chosen.shape[0]
    loss = np.float64(0.0)
    for start in range(0, N, BLOCK):
        part = slice(start, start + BLOCK)
        loss = loss + _orpo_block(
            pi_chosen[part],
            pi_rejected[part],
            chosen_lengths[part],
            rejected_lengths[part],
            _HIGHEST,
            T(beta / N),
            d_chosen[part],
            d_rejected[part],
        )
    return beta * (loss / np.float64(N)) + _likelihood(pi_chosen, chosen_lengths, 1.0, d_chosen)
