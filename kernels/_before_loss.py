"""What `policy_gradient` has for before the loss: KL estimates, advantages, whitening. Its rules hold."""

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
from ._alike import alike, check_mask, flat, masked, tables
from ._check import Array

__all__ = [
    "GAE",
    "gae",
    "gae_jit",
    "group_advantages",
    "group_advantages_jit",
    "k1",
    "k1_jit",
    "k2",
    "k2_jit",
    "k3",
    "k3_jit",
    "kl_estimate",
    "rloo_advantages",
    "rloo_advantages_jit",
    "whiten",
    "whiten_jit",
]

_ESTIMATORS = {"k1": k1_jit, "k2": k2_jit, "k3": k3_jit}


class GAE(NamedTuple):
    """Advantages, and advantages + values; 0 at padding."""

    advantages: Array
    returns: Array


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
    x, y = alike(("logprobs", "ref_logprobs"), logprobs, ref_logprobs)
    result = _check.output(out, x.shape, x.dtype, logprobs, ref_logprobs)
    _ESTIMATORS[kind](*flat(x, y, result))
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


def gae(
    rewards: Any,
    values: Any,
    mask: Any,
    gamma: float,
    lam: float,
    out: tuple[Array | None, Array | None] = (None, None),
) -> GAE:
    """Generalised advantage estimation, backwards over the tokens that count.

    Parameters
    ----------
    rewards, values : array_like, (..., T)
        Reward for each token, and value of the state before it.
    mask : array_like, (..., T)
        Padding may stand anywhere: the token before it is followed by the token after it, and the last one by 0.
    gamma, lam : float in [0, 1]
        Discount, and weight of longer returns.
    out : (ndarray or None, ndarray or None)
        For advantages and returns, (..., T) each.

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
    r, v, m = masked(("rewards", "values"), rewards, values, mask)
    T = _check.last_axis("rewards", r)
    discount = _check.number("gamma", gamma, 0.0, 1.0)
    weight = _check.number("lam", lam, 0.0, 1.0)
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"out: came as {type(out).__name__}, a tuple of two arrays is needed")
    advantages = _check.output(out[0], r.shape, r.dtype, r, v, m)
    returns = _check.output(out[1], r.shape, r.dtype, r, v, m, advantages)
    if r.ndim == 2:
        total = gae_jit(r, v, m, discount, weight, advantages, returns)
    else:
        r, v, m, a, b = (x.reshape(-1, T) for x in (r, v, m, advantages, returns))
        total = gae_jit(r, v, m, discount, weight, a, b)
    check_mask(total)
    return GAE(advantages, returns)


def whiten(x: Any, mask: Any, out: Array | None = None, *, shift_mean: bool = True) -> Array:
    """``(x - mean) / sqrt(variance + 1e-8)`` over the tokens that count; population variance.

    Parameters
    ----------
    x, mask : array_like, one shape
    out : ndarray, that shape, optional
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
    values, m = masked(("x",), x, mask)
    result = _check.output(out, values.shape, values.dtype, values, m)
    check_mask(whiten_jit(*tables(values, m), bool(shift_mean), *tables(result)))
    return result


def _groups(rewards: Any, group_size: Any, least: int) -> tuple[Array, int]:
    (r,) = alike(("rewards",), rewards)
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
