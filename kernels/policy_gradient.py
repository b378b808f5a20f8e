"""What policy-gradient methods compute between rollout and update: KL estimates, advantages, clipped losses.

Arrays are (..., T), tokens last; a mask is 1 where a token counts and 0 on padding, whose content never matters.
Losses are means over the tokens that count, all together; if none does, loss and gradients are 0. `d_<x>` is the
gradient of that mean with respect to x. The `_jit` forms take C-ordered (B, T) arrays of one dtype (`group_advantages`
and `rloo_advantages`: one group a row; `k1`, `k2`, `k3`: (N,)), check nothing, and write their last arguments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._alike import check_mask, fit, mask_like, masked, tables
from ._before_loss import (
    GAE,
    gae,
    gae_jit,
    group_advantages,
    group_advantages_jit,
    k1,
    k1_jit,
    k2,
    k2_jit,
    k3,
    k3_jit,
    kl_estimate,
    rloo_advantages,
    rloo_advantages_jit,
    whiten,
    whiten_jit,
)
from ._check import Array
from ._policy_gradient import grpo_jit, ppo_clip_jit, value_clip_jit

__all__ = [
    "GAE",
    "GRPO",
    "PPOClip",
    "ValueClip",
    "gae",
    "gae_jit",
    "group_advantages",
    "group_advantages_jit",
    "grpo",
    "grpo_jit",
    "k1",
    "k1_jit",
    "k2",
    "k2_jit",
    "k3",
    "k3_jit",
    "kl_estimate",
    "ppo_clip",
    "ppo_clip_jit",
    "rloo_advantages",
    "rloo_advantages_jit",
    "value_clip",
    "value_clip_jit",
    "whiten",
    "whiten_jit",
]

AGGREGATIONS = {"grpo": 0, "bnpo": 1, "dr_grpo": 2}


class PPOClip(NamedTuple):
    """Mean loss, its gradient, share of tokens where the clip binds, and half the mean squared log-ratio."""

    loss: float
    d_logprobs: Array
    clipfrac: float
    approxkl: float


class GRPO(NamedTuple):
    """Loss, its gradient, share of tokens where the clip binds, and mean KL estimate (NaN without a reference)."""

    loss: float
    d_logprobs: Array
    clipfrac: float
    kl: float


class ValueClip(NamedTuple):
    """Half the mean squared error, its gradient, and the share of tokens where the clip binds."""

    loss: float
    d_values: Array
    clipfrac: float


def ppo_clip(
    logprobs: Any,
    old_logprobs: Any,
    advantages: Any,
    mask: Any,
    cliprange: float,
    out: Array | None = None,
) -> PPOClip:
    """Clipped surrogate loss: mean of ``-min(A rho, A clip(rho, 1 - cliprange, 1 + cliprange))``.

    Parameters
    ----------
    logprobs, old_logprobs, advantages : array_like, one shape
        rho = exp(logprobs - old_logprobs).
    mask : array_like, that shape
    cliprange : float, at least 0
    out : ndarray, that shape, optional
        For the gradient.

    Returns
    -------
    PPOClip
        loss; d_logprobs; clipfrac, where the clipped term exceeds the other; approxkl, half the mean squared
        difference of log-probabilities.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    References
    ----------
    Schulman et al. 2017 (arXiv 1707.06347), eq. 7.

    Examples
    --------
    >>> ppo_clip([0.0], [0.0], [2.0], [1], cliprange=0.2)
    PPOClip(loss=-2.0, d_logprobs=array([-2.]), clipfrac=0.0, approxkl=0.0)
    """
    names = ("logprobs", "old_logprobs", "advantages")
    lp, old, each, m = masked(names, logprobs, old_logprobs, advantages, mask)
    reach = _check.number("cliprange", cliprange, 0.0)
    d = _check.output(out, lp.shape, lp.dtype, lp, old, each, m)
    loss, clipfrac, approxkl = ppo_clip_jit(*tables(lp, old, each, m), reach, *tables(d))
    check_mask(clipfrac)
    return PPOClip(loss, d, clipfrac, approxkl)


def grpo(
    logprobs: Any,
    old_logprobs: Any,
    advantages: Any,
    mask: Any,
    cliprange: float,
    cliprange_high: float | None = None,
    beta: float = 0.0,
    ref_logprobs: Any = None,
    loss_type: str = "grpo",
) -> GRPO:
    """Group-relative policy optimisation: `ppo_clip` with one advantage a sequence, plus beta times `k3`.

    Each token costs ``-min(A rho, A clip(rho, 1 - cliprange, 1 + cliprange_high)) + beta k3(log pi, log ref)``.

    Parameters
    ----------
    logprobs, old_logprobs : array_like, (..., T)
        rho = exp(logprobs - old_logprobs).
    advantages : array_like, (...)
        As of `group_advantages`.
    mask : array_like, (..., T)
    cliprange : float, at least 0
    cliprange_high : float, at least 0, optional
        As `cliprange` unless given; DAPO takes .28 beside .2.
    beta : float, at least 0
        Weight of the KL term, whose gradient is that of KL(ref || pi); above 0 only with `ref_logprobs`.
    ref_logprobs : array_like, (..., T), optional
    loss_type : {"grpo", "bnpo", "dr_grpo"}
        How tokens are averaged. "grpo": over each sequence, then over all sequences (one without tokens has loss 0),
        so that tokens of short ones weigh more. "bnpo": over all tokens, as in DAPO. "dr_grpo": their sum divided by
        the number of all positions, padding too.

    Returns
    -------
    GRPO
        loss; d_logprobs; clipfrac, where the clipped term exceeds the other, and kl, the mean of k3, both over all
        tokens whatever the loss_type.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    References
    ----------
    Shao et al. 2024 (arXiv 2402.03300), eq. 3 and 4; Liu et al. 2025 (2503.20783) for "dr_grpo"; Yu et al. 2025
    (2503.14476), eq. 8, for "bnpo" and cliprange_high.

    Examples
    --------
    >>> zero = [[0.0, 0.0], [0.0, 0.0]]
    >>> loss, d_logprobs, clipfrac, kl = grpo(zero, zero, [1.0, -3.0], [[1, 1], [1, 0]], 0.2, ref_logprobs=zero)
    >>> loss, kl
    (1.0, 0.0)
    >>> d_logprobs
    array([[-0.25, -0.25],
           [ 1.5 , -0.  ]])
    """
    if not isinstance(loss_type, str) or loss_type not in AGGREGATIONS:
        raise ValueError(f"loss_type: came as {loss_type!r}, one of {', '.join(AGGREGATIONS)} is needed")
    lp, old, each, m, ref = _sequences(logprobs, old_logprobs, advantages, mask, ref_logprobs)
    low = _check.number("cliprange", cliprange, 0.0)
    high = low if cliprange_high is None else _check.number("cliprange_high", cliprange_high, 0.0)
    strength = _check.number("beta", beta, 0.0)
    if strength and ref is None:
        raise ValueError(
            "ref_logprobs: came as None with beta above 0, the reference's log-probabilities are needed"
        )
    shape = lp.shape
    d = out = np.empty(shape, lp.dtype)
    if len(shape) != 2:
        lp, old, m, out = [a.reshape(-1, shape[-1]) for a in (lp, old, m, d)]
        each, ref = each.ravel(), ref if ref is None else ref.reshape(lp.shape)
    compared = lp[:0] if ref is None else ref
    scalars = low, high, strength, AGGREGATIONS[loss_type]
    loss, clipfrac, kl = grpo_jit(lp, old, compared, each, m, *scalars, out)
    check_mask(clipfrac)
    if ref is not None and not lp.size:  # what the jitted form takes for no reference
        kl = 0.0
    return GRPO(loss, d, clipfrac, kl)


def _sequences(logprobs: Any, old: Any, advantages: Any, mask: Any, ref: Any) -> tuple[Any, ...]:
    """All as C-ordered arrays of one type, (..., T) each but the advantages (...); the reference may be None."""
    arrays = logprobs, old, advantages, mask, ref
    ready = fit(logprobs, old, mask, old if ref is None else ref) and fit(advantages)
    if not ready or advantages.dtype is not logprobs.dtype:
        names = ("logprobs", "old_logprobs", "advantages", "ref_logprobs")
        given = (logprobs, old, advantages) if ref is None else (logprobs, old, advantages, ref)
        lp, old, each, *refs = _check.floats(names[: len(given)], *given)
        _check.same_shape(names[:2], lp, old)
        for array in refs:
            _check.shape_is("ref_logprobs", array, lp.shape, "as for logprobs")
        arrays = lp, old, each, mask_like(mask, lp), refs[0] if refs else None
    _check.last_axis("logprobs", arrays[0])
    _check.shape_is("advantages", arrays[2], arrays[0].shape[:-1], "one a sequence")
    return arrays


def value_clip(
    values: Any,
    old_values: Any,
    returns: Any,
    mask: Any,
    cliprange_value: float,
    out: Array | None = None,
) -> ValueClip:
    """Clipped value loss: half the mean of ``max((V - R)**2, (clip(V, V_old -+ cliprange_value) - R)**2)``.

    Parameters
    ----------
    values, old_values, returns : array_like, one shape
    mask : array_like, that shape
    cliprange_value : float, at least 0
    out : ndarray, that shape, optional
        For the gradient.

    Returns
    -------
    ValueClip
        loss; d_values; clipfrac, where the clipped term exceeds the other.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    References
    ----------
    Ziegler et al. 2019 (arXiv 1909.08593), in the published code; Engstrom et al. 2020 (2005.12729), section 3.

    Examples
    --------
    >>> value_clip([1.0], [0.0], [2.0], [1], cliprange_value=0.5)
    ValueClip(loss=1.125, d_values=array([0.]), clipfrac=1.0)
    """
    names = ("values", "old_values", "returns")
    v, old, target, m = masked(names, values, old_values, returns, mask)
    reach = _check.number("cliprange_value", cliprange_value, 0.0)
    d = _check.output(out, v.shape, v.dtype, v, old, target, m)
    inputs = v.reshape(1, -1), old.reshape(1, -1), target.reshape(1, -1), m.reshape(1, -1)
    loss, clipfrac = value_clip_jit(*inputs, reach, d.reshape(1, -1))
    check_mask(clipfrac)
    return ValueClip(loss, d, clipfrac)
