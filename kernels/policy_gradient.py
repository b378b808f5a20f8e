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
from ._advantages import (
    gae_jit,
    group_advantages_jit,
    k1_jit,
    k2_jit,
    k3_jit,
    rloo_advantages_jit,
    whiten_jit,
)
from ._alike import alike, flat
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

_ESTIMATORS = {"k1": k1_jit, "k2": k2_jit, "k3": k3_jit}
AGGREGATIONS = {"grpo": 0, "bnpo": 1, "dr_grpo": 2}


class GAE(NamedTuple):
    """Advantages, and advantages + values; 0 at padding."""

    advantages: Array
    returns: Array


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


def kl_estimate(logprobs: Any, ref_logprobs: Any, kind: str = "k1", out: Array | None = None) -> Array:
    """Estimate of KL(pi || ref) from each token that pi drew, with r = log pi - log ref.

    Parameters
    ----------
    logprobs, ref_logprobs : array_like, one shape
        Log-probability of the token under pi and under the reference.
    kind : {"k1", "k2", "k3"}
        ``r``: unbiased, may be negative. ``r**2 / 2``: biased. ``exp(-r) - 1 + r``: unbiased, at least 0.
    out : ndarray, that shape, optional

    Returns
    -------
    ndarray, that shape
        In nats.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    References
    ----------
    Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html

    Examples
    --------
    >>> kl_estimate([-1.0], [-2.0], "k3").round(4)
    array([0.3679])
    """
    if not isinstance(kind, str) or kind not in _ESTIMATORS:
        raise ValueError(f"kind: came as {kind!r}, one of {', '.join(_ESTIMATORS)} is needed")
    x, y = logprobs, ref_logprobs
    if not alike((x, y)):
        x, y = _check.floats(("logprobs", "ref_logprobs"), x, y)
        _check.same_shape(("logprobs", "ref_logprobs"), x, y)
    result = _check.output(out, x.shape, x.dtype, logprobs, ref_logprobs)
    _ESTIMATORS[kind](flat(x), flat(y), flat(result))
    return result


def k1(logprobs: Any, ref_logprobs: Any, out: Array | None = None) -> Array:
    """`kl_estimate` of kind k1: the log-ratio itself.

    Examples
    --------
    >>> k1([-1.0], [-2.0])
    array([1.])
    """
    return kl_estimate(logprobs, ref_logprobs, "k1", out)


def k2(logprobs: Any, ref_logprobs: Any, out: Array | None = None) -> Array:
    """`kl_estimate` of kind k2: half the squared log-ratio.

    Examples
    --------
    >>> k2([-1.0], [-2.0])
    array([0.5])
    """
    return kl_estimate(logprobs, ref_logprobs, "k2", out)


def k3(logprobs: Any, ref_logprobs: Any, out: Array | None = None) -> Array:
    """`kl_estimate` of kind k3: unbiased and never negative.

    Examples
    --------
    >>> k3([-1.0, -1.0], [-1.0, -2.0]).round(4)
    array([0.    , 0.3679])
    """
    return kl_estimate(logprobs, ref_logprobs, "k3", out)


def _mask(mask: Any, like: Array) -> Array:
    array = _check.like("mask", mask, like.dtype)
    _check.shape_is("mask", array, like.shape, "one entry a token")
    return array


def _per_token(names: tuple[str, ...], mask: Any, *values: Any) -> tuple[Array, ...]:
    """The values and the mask as arrays of one dtype and shape, in C order."""
    given = (*values, mask)
    if alike(given):
        return given
    arrays = _check.floats(names, *values)
    _check.same_shape(names, *arrays)
    return (*arrays, _mask(mask, arrays[0]))


def _check_mask(mean: float) -> None:
    """A mean of weights over the mask is NaN only where the mask itself is wrong."""
    if mean != mean:
        raise ValueError(
            "mask: came with negative, infinite or NaN weights, finite ones of at least 0 are needed"
        )


def gae(rewards: Any, values: Any, mask: Any, gamma: float, lam: float) -> GAE:
    """Generalised advantage estimation, backwards over the tokens that count.

    Parameters
    ----------
    rewards, values : array_like, (..., T)
        Reward for each token, and value of the state before it.
    mask : array_like, (..., T)
        Padding may stand anywhere: the token before it is followed by the token after it, and the last one by 0.
    gamma, lam : float in [0, 1]
        Discount, and weight of longer returns.

    Returns
    -------
    GAE
        advantages and returns, (..., T) each.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    References
    ----------
    Schulman et al. 2016 (arXiv 1506.02438), eq. 16.

    Examples
    --------
    >>> gae([0.0, 1.0, 9.0], [0.5, 0.5, 9.0], [1, 1, 0], gamma=1.0, lam=1.0)
    GAE(advantages=array([0.5, 0.5, 0. ]), returns=array([1., 1., 0.]))
    """
    r, v, m = _per_token(("rewards", "values"), mask, rewards, values)
    T = _check.last_axis("rewards", r)
    discount = _check.number("gamma", gamma, 0.0, 1.0)
    weight = _check.number("lam", lam, 0.0, 1.0)
    result = GAE(np.empty(r.shape, r.dtype), np.empty(r.shape, r.dtype))
    outs = result.advantages.reshape(-1, T), result.returns.reshape(-1, T)
    _check_mask(gae_jit(r.reshape(-1, T), v.reshape(-1, T), m.reshape(-1, T), discount, weight, *outs))
    return result


def whiten(x: Any, mask: Any, *, shift_mean: bool = True) -> Array:
    """``(x - mean) / sqrt(variance + 1e-8)`` over the tokens that count; population variance.

    Parameters
    ----------
    x, mask : array_like, one shape
    shift_mean : bool
        Whether the mean goes; if False it is put back after scaling.

    Returns
    -------
    ndarray, that shape
        0 at padding.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    References
    ----------
    Ziegler et al. 2019 (arXiv 1909.08593), in the published code.

    Examples
    --------
    >>> whiten([-1.0, -3.0, 100.0], [1, 1, 0]).round(4)
    array([ 1., -1.,  0.])
    """
    values, m = _per_token(("x",), mask, x)
    out = np.empty(values.shape, values.dtype)
    _check_mask(whiten_jit(values.reshape(1, -1), m.reshape(1, -1), bool(shift_mean), out.reshape(1, -1)))
    return out


def ppo_clip(logprobs: Any, old_logprobs: Any, advantages: Any, mask: Any, cliprange: float) -> PPOClip:
    """Clipped surrogate loss: mean of ``-min(A rho, A clip(rho, 1 - cliprange, 1 + cliprange))``.

    Parameters
    ----------
    logprobs, old_logprobs, advantages : array_like, one shape
        rho = exp(logprobs - old_logprobs).
    mask : array_like, that shape
    cliprange : float, at least 0

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
    arrays = _per_token(names, mask, logprobs, old_logprobs, advantages)
    reach = _check.number("cliprange", cliprange, 0.0)
    d = np.empty(arrays[0].shape, arrays[0].dtype)
    loss, clipfrac, approxkl = ppo_clip_jit(*[a.reshape(1, -1) for a in arrays], reach, d.reshape(1, -1))
    _check_mask(clipfrac)
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
    names: tuple[str, ...] = ("logprobs", "old_logprobs", "advantages")
    given = [logprobs, old_logprobs, advantages]
    if ref_logprobs is not None:
        names, given = (*names, "ref_logprobs"), [*given, ref_logprobs]
    lp, old, each, *ref = _check.floats(names, *given)
    T = _check.last_axis("logprobs", lp)
    _check.same_shape(("logprobs", "old_logprobs"), lp, old)
    _check.shape_is("advantages", each, lp.shape[:-1], "one a sequence")
    if ref:
        _check.shape_is("ref_logprobs", ref[0], lp.shape, "as for logprobs")
    m = _mask(mask, lp)
    low = _check.number("cliprange", cliprange, 0.0)
    high = low if cliprange_high is None else _check.number("cliprange_high", cliprange_high, 0.0)
    strength = _check.number("beta", beta, 0.0)
    if strength and not ref:
        raise ValueError(
            "ref_logprobs: came as None with beta above 0, the reference's log-probabilities are needed"
        )
    reference = ref[0] if ref else np.empty((0, T), lp.dtype)
    d = np.empty(lp.shape, lp.dtype)
    loss, clipfrac, kl = grpo_jit(
        *[a.reshape(-1, T) for a in (lp, old, reference)],
        flat(each),
        m.reshape(-1, T),
        low,
        high,
        strength,
        AGGREGATIONS[loss_type],
        d.reshape(-1, T),
    )
    _check_mask(clipfrac)
    return GRPO(loss, d, clipfrac, kl)


def value_clip(values: Any, old_values: Any, returns: Any, mask: Any, cliprange_value: float) -> ValueClip:
    """Clipped value loss: half the mean of ``max((V - R)**2, (clip(V, V_old -+ cliprange_value) - R)**2)``.

    Parameters
    ----------
    values, old_values, returns : array_like, one shape
    mask : array_like, that shape
    cliprange_value : float, at least 0

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
    arrays = _per_token(names, mask, values, old_values, returns)
    reach = _check.number("cliprange_value", cliprange_value, 0.0)
    d = np.empty(arrays[0].shape, arrays[0].dtype)
    loss, clipfrac = value_clip_jit(*[a.reshape(1, -1) for a in arrays], reach, d.reshape(1, -1))
    _check_mask(clipfrac)
    return ValueClip(loss, d, clipfrac)


def _groups(rewards: Any, group_size: Any, least: int) -> tuple[Array, int]:
    (r,) = _check.floats(("rewards",), rewards)
    G = _check.whole("group_size", group_size, least)
    if r.size % G:
        raise ValueError(f"group_size: came as {G}, a divisor of the {r.size} rewards is needed")
    return r, G


def group_advantages(rewards: Any, group_size: int, scale: bool = True) -> Array:
    """``(reward - mean) / (deviation + 1e-4)`` within each group; sample deviation (G - 1).

    Parameters
    ----------
    rewards : array_like
        Each `group_size` successive elements answer one prompt.
    group_size : int, at least 1
        A group of 1 has no deviation and advantage 0.
    scale : bool
        Whether to divide; without it, as in Dr. GRPO.

    Returns
    -------
    ndarray, the shape of rewards

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where the groups do not come out even.

    References
    ----------
    Shao et al. 2024 (arXiv 2402.03300), section 4.1.2; Liu et al. 2025 (2503.20783) for scale=False.

    Examples
    --------
    >>> group_advantages([1.0, 3.0, 5.0, 5.0], 2).round(3)
    array([-0.707,  0.707,  0.   ,  0.   ])
    """
    r, G = _groups(rewards, group_size, 1)
    out = np.empty(r.shape, r.dtype)
    group_advantages_jit(r.reshape(-1, G), bool(scale), out.reshape(-1, G))
    return out


def rloo_advantages(rewards: Any, group_size: int) -> Array:
    """Reward minus the mean reward of the others of its group (leave one out).

    Parameters
    ----------
    rewards : array_like
        Each `group_size` successive elements answer one prompt.
    group_size : int, at least 2

    Returns
    -------
    ndarray, the shape of rewards

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where the groups do not come out even.

    References
    ----------
    Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740), section 3.

    Examples
    --------
    >>> rloo_advantages([1.0, 2.0, 6.0], 3)
    array([-3. , -1.5,  4.5])
    """
    r, G = _groups(rewards, group_size, 2)
    out = np.empty(r.shape, r.dtype)
    rloo_advantages_jit(r.reshape(-1, G), out.reshape(-1, G))
    return out
