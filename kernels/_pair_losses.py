# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `preference`, those that share one loop over pairs; the rules are those of `_preference`.

What a pair's loss is comes from `_pair_terms` as an argument of that loop, so that each loss is compiled with its own
and none with another's. Where there is no reference, or there are no lengths, None stands for them.
"""

from __future__ import annotations

import numpy as np

from . import _pair_terms as terms
from ._jit import jit
from ._vecmath import BLOCK, add, inlined, vector_loops


@inlined
def _reward(logps, ref, lengths, beta, n):
    """Of one response: beta log pi/ref, or the mean of it over the response's tokens."""
    ratio = logps[n]
    if ref is not None:
        ratio = ratio - ref[n]
    if lengths is not None:
        ratio = ratio / lengths[n]
    return beta * ratio


@inlined
def _slope(d, lengths, n):
    if lengths is not None:
        d = d / lengths[n]
    return d


@inlined
def _pairs_block(
    term, chosen, rejected, ref_chosen, ref_rejected, lengths, others, beta, options, rate, up, down
):
    """Sum of the losses; lengths and others are those of the chosen and the rejected, rate is beta / N."""
    vector_loops()
    T = chosen.dtype.type
    zero, one, loss = T(0.0), T(1.0), T(0.0)
    for n in range(chosen.shape[0]):
        higher = _reward(chosen, ref_chosen, lengths, beta, n)
        lower = _reward(rejected, ref_rejected, others, beta, n)
        value, d_higher, d_lower = term(higher, lower, options, zero, one)
        loss = add(loss, value)
        up[n] = _slope(rate * d_higher, lengths, n)
        down[n] = _slope(rate * d_lower, others, n)
    return loss


@jit
def pairs_mean(term, policy, reference, lengths, beta, options, outs):
    """Mean of `term` over pairs, its gradient to outs; each a tuple, of the chosen and of the rejected."""
    chosen, rejected = policy
    up, down = outs
    T = chosen.dtype.type
    N = chosen.shape[0]
    loss = np.float64(0.0)
    for start in range(0, N, BLOCK):
        part = slice(start, start + BLOCK)
        # Here and not in a function of its own, which may not return an array that it makes.
        if reference is None:
            ref_up, ref_down = None, None
        else:
            ref_up, ref_down = reference[0][part], reference[1][part]
        if lengths is None:
            longer, shorter = None, None
        else:
            longer, shorter = lengths[0][part], lengths[1][part]
        loss = loss + _pairs_block(
            term,
            chosen[part],
            rejected[part],
            ref_up,
            ref_down,
            longer,
            shorter,
            T(beta),
            options,
            T(beta / N),
            up[part],
            down[part],
        )
    return loss / np.float64(N)


@jit
def robust_jit(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, label_smoothing, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (T(label_smoothing / (1.0 - 2.0 * label_smoothing)),)
    policy, reference, outs = (pi_chosen, pi_rejected), (ref_chosen, ref_rejected), (d_chosen, d_rejected)
    return pairs_mean(terms.robust, policy, reference, None, beta, options, outs)


@jit
def exo_pair_jit(
    pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, label_smoothing, d_chosen, d_rejected
):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (
        T(np.log1p(-label_smoothing)),
        T(np.log(label_smoothing)),
        T(np.log((1.0 - label_smoothing) / label_smoothing)),
    )
    policy, reference, outs = (pi_chosen, pi_rejected), (ref_chosen, ref_rejected), (d_chosen, d_rejected)
    return pairs_mean(terms.exo, policy, reference, None, beta, options, outs)


@jit
def discopop_jit(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, tau, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (T(1.0 / tau),)
    policy, reference, outs = (pi_chosen, pi_rejected), (ref_chosen, ref_rejected), (d_chosen, d_rejected)
    return pairs_mean(terms.discovered, policy, reference, None, beta, options, outs)


@jit
def nca_pair_jit(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (T(0.5),)
    policy, reference, outs = (pi_chosen, pi_rejected), (ref_chosen, ref_rejected), (d_chosen, d_rejected)
    return pairs_mean(terms.anchored, policy, reference, None, beta, options, outs)


@jit
def bco_pair_jit(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, delta, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (T(delta),)
    policy, reference, outs = (pi_chosen, pi_rejected), (ref_chosen, ref_rejected), (d_chosen, d_rejected)
    return pairs_mean(terms.classified, policy, reference, None, beta, options, outs)


@jit
def sppo_hard_jit(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (T(0.5), T(1.0 / (beta * beta)))
    policy, reference, outs = (pi_chosen, pi_rejected), (ref_chosen, ref_rejected), (d_chosen, d_rejected)
    return pairs_mean(terms.squared, policy, reference, None, beta, options, outs)


@jit
def apo_zero_jit(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (T(0.0),)
    policy, reference, outs = (pi_chosen, pi_rejected), (ref_chosen, ref_rejected), (d_chosen, d_rejected)
    return pairs_mean(terms.apart, policy, reference, None, beta, options, outs)


@jit
def apo_down_jit(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (T(0.0),)
    policy, reference, outs = (pi_chosen, pi_rejected), (ref_chosen, ref_rejected), (d_chosen, d_rejected)
    return pairs_mean(terms.lowered, policy, reference, None, beta, options, outs)


@jit
def sigmoid_norm_jit(
    pi_chosen,
    pi_rejected,
    ref_chosen,
    ref_rejected,
    chosen_lengths,
    rejected_lengths,
    beta,
    d_chosen,
    d_rejected,
):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (T(0.0),)
    policy, reference, outs = (pi_chosen, pi_rejected), (ref_chosen, ref_rejected), (d_chosen, d_rejected)
    lengths = chosen_lengths, rejected_lengths
    return pairs_mean(terms.per_token, policy, reference, lengths, beta, options, outs)


@jit
def simpo_jit(pi_chosen, pi_rejected, chosen_lengths, rejected_lengths, beta, gamma, d_chosen, d_rejected):
    """Writes d_chosen, d_rejected (N,)."""
    T = pi_chosen.dtype.type
    options = (T(gamma),)
    policy, outs = (pi_chosen, pi_rejected), (d_chosen, d_rejected)
    lengths = chosen_lengths, rejected_lengths
    return pairs_mean(terms.per_token, policy, None, lengths, beta, options, outs)
