"""Categorical distributions given by logits: probabilities, entropy, divergence, sampling, and their gradients.

Logits have any leading shape and the vocabulary last, (..., V); -inf means probability 0. Each function takes `out`,
an array for the result; it must not overlap an input. The `_jit` forms take C-ordered (N, V) arrays of one dtype,
check nothing, and write their last argument.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check
from ._categorical import (
    entropy_jit,
    kl_divergence_backward_jit,
    kl_divergence_jit,
    log_softmax_jit,
    sample_jit,
    token_logprobs_backward_jit,
    token_logprobs_jit,
)
from ._check import Array

__all__ = [
    "entropy",
    "entropy_jit",
    "kl_divergence",
    "kl_divergence_backward",
    "kl_divergence_backward_jit",
    "kl_divergence_jit",
    "log_softmax",
    "log_softmax_jit",
    "sample",
    "sample_jit",
    "token_logprobs",
    "token_logprobs_backward",
    "token_logprobs_backward_jit",
    "token_logprobs_jit",
]

_LEADING = "the logits' shape without the last axis"


def log_softmax(logits: Any, out: Array | None = None) -> Array:
    """Log-probabilities, ``logits - logsumexp(logits)``.

    Parameters
    ----------
    logits : array_like, (..., V)
    out : ndarray, (..., V), optional

    Returns
    -------
    ndarray, (..., V)
        In nats.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    Examples
    --------
    >>> log_softmax([0.0, 0.0]).round(4)
    array([-0.6931, -0.6931])
    """
    (x,) = _check.floats(("logits",), logits)
    V = _check.last_axis("logits", x)
    result = _check.output(out, x.shape, x.dtype, logits)
    log_softmax_jit(x.reshape(-1, V), result.reshape(-1, V))
    return result


def _tokens(tokens: Any, x: Array) -> Array:
    array = _check.integers("tokens", tokens)
    _check.shape_is("tokens", array, x.shape[:-1], _LEADING)
    return array


def _inside(outside: int, tokens: Array, V: int) -> None:
    if outside:
        raise ValueError(
            f"tokens: came with values from {tokens.min()} to {tokens.max()}, 0 to {V - 1} is needed (V = {V})"
        )


def token_logprobs(logits: Any, tokens: Any, out: Array | None = None) -> Array:
    """Log-probability of one given token a row.

    Parameters
    ----------
    logits : array_like, (..., V)
    tokens : array_like of int, (...)
        In [0, V); at padding any valid token will do.
    out : ndarray, (...), optional

    Returns
    -------
    ndarray, (...)
        ``log_softmax(logits)[..., token]``, without the (..., V) array in between.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; a token outside the vocabulary is a ValueError, and `out` is then undefined.

    Examples
    --------
    >>> token_logprobs([[0.0, 0.0], [0.0, -np.inf]], [1, 0]).round(4) + 0
    array([-0.6931,  0.    ])
    """
    (x,) = _check.floats(("logits",), logits)
    V = _check.last_axis("logits", x)
    t = _tokens(tokens, x)
    result = _check.output(out, t.shape, x.dtype, logits, tokens)
    outside = token_logprobs_jit(x.reshape(-1, V), t.reshape(-1), result.reshape(-1))
    _inside(outside, t, V)
    return result


def token_logprobs_backward(logits: Any, tokens: Any, d_logprobs: Any, out: Array | None = None) -> Array:
    """Gradient with respect to the logits: ``d_logprobs * (1[v = token] - softmax(logits)[v])``.

    Parameters
    ----------
    logits : array_like, (..., V)
    tokens : array_like of int, (...)
    d_logprobs : array_like, (...)
        Gradient with respect to the result of `token_logprobs`; 0 at padding.
    out : ndarray, (..., V), optional

    Returns
    -------
    d_logits : ndarray, (..., V)
        Overwritten, not accumulated.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; a token outside the vocabulary is a ValueError, and `out` is then undefined.

    Examples
    --------
    >>> token_logprobs_backward([[0.0, 0.0]], [1], [2.0])
    array([[-1.,  1.]])
    """
    x, d = _check.floats(("logits", "d_logprobs"), logits, d_logprobs)
    V = _check.last_axis("logits", x)
    t = _tokens(tokens, x)
    _check.shape_is("d_logprobs", d, x.shape[:-1], _LEADING)
    result = _check.output(out, x.shape, x.dtype, logits, tokens, d_logprobs)
    outside = token_logprobs_backward_jit(
        x.reshape(-1, V), t.reshape(-1), d.reshape(-1), result.reshape(-1, V)
    )
    _inside(outside, t, V)
    return result


def entropy(logits: Any, out: Array | None = None) -> Array:
    """Entropy ``-sum p log p`` of each row, in nats.

    Parameters
    ----------
    logits : array_like, (..., V)
    out : ndarray, (...), optional

    Returns
    -------
    ndarray, (...)
        Between 0 and log V.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    Examples
    --------
    >>> entropy([[0.0, 0.0], [0.0, -np.inf]]).round(4)
    array([0.6931, 0.    ])
    """
    (x,) = _check.floats(("logits",), logits)
    V = _check.last_axis("logits", x)
    result = _check.output(out, x.shape[:-1], x.dtype, logits)
    entropy_jit(x.reshape(-1, V), result.reshape(-1))
    return result


def kl_divergence(logits: Any, ref_logits: Any, out: Array | None = None) -> Array:
    """Exact ``KL(pi || ref) = sum p log(p / q)`` of each row, in nats.

    Parameters
    ----------
    logits, ref_logits : array_like, (..., V)
        Of pi and of the reference.
    out : ndarray, (...), optional

    Returns
    -------
    ndarray, (...)
        At least 0; inf where the reference excludes what pi does not.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    Examples
    --------
    >>> kl_divergence([0.0, -np.inf], [0.0, 0.0]).round(4)
    np.float64(0.6931)
    """
    x, y = _check.floats(("logits", "ref_logits"), logits, ref_logits)
    V = _check.last_axis("logits", x)
    _check.same_shape(("logits", "ref_logits"), x, y)
    result = _check.output(out, x.shape[:-1], x.dtype, logits, ref_logits)
    kl_divergence_jit(x.reshape(-1, V), y.reshape(-1, V), result.reshape(-1))
    return result


def kl_divergence_backward(logits: Any, ref_logits: Any, d_kl: Any, out: Array | None = None) -> Array:
    """Gradient with respect to pi's logits: ``d_kl * p * (log(p / q) - KL)``.

    Parameters
    ----------
    logits, ref_logits : array_like, (..., V)
    d_kl : array_like, (...)
        Gradient with respect to the result of `kl_divergence`.
    out : ndarray, (..., V), optional

    Returns
    -------
    d_logits : ndarray, (..., V)
        Overwritten, not accumulated.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    Examples
    --------
    >>> kl_divergence_backward([[1.0, 0.0]], [[0.0, 0.0]], [1.0]).round(4)
    array([[ 0.1966, -0.1966]])
    """
    x, y, d = _check.floats(("logits", "ref_logits", "d_kl"), logits, ref_logits, d_kl)
    V = _check.last_axis("logits", x)
    _check.same_shape(("logits", "ref_logits"), x, y)
    _check.shape_is("d_kl", d, x.shape[:-1], _LEADING)
    result = _check.output(out, x.shape, x.dtype, logits, ref_logits, d_kl)
    kl_divergence_backward_jit(x.reshape(-1, V), y.reshape(-1, V), d.reshape(-1), result.reshape(-1, V))
    return result


def sample(logits: Any, uniforms: Any, temperature: float = 1.0, out: Array | None = None) -> Array:
    """Draw one token a row by inverse CDF.

    Parameters
    ----------
    logits : array_like, (..., V)
    uniforms : array_like, (...)
        Random numbers in [0, 1]; they decide everything, so that equal uniforms give equal tokens.
    temperature : float
        Divides the logits; above 0.
    out : ndarray of int64, (...), optional

    Returns
    -------
    tokens : ndarray of int64, (...)
        Never one of probability 0.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; logits with NaN, +inf or nothing but -inf in a row are a ValueError.

    Examples
    --------
    >>> sample([[0.0, 0.0, -np.inf]] * 3, [0.0, 0.6, 1.0])
    array([0, 1, 1])
    """
    (x,) = _check.floats(("logits",), logits)
    V = _check.last_axis("logits", x)
    u = _check.like("uniforms", uniforms, _check.F64)
    _check.shape_is("uniforms", u, x.shape[:-1], _LEADING)
    if u.size and not (u.min() >= 0 and u.max() <= 1):  # NaN fails both
        raise ValueError(f"uniforms: came with values from {u.min()} to {u.max()}, 0 to 1 is needed")
    heat = _check.number("temperature", temperature, above=0.0)
    result = _check.output(out, u.shape, _check.I64, logits, uniforms)
    weights = np.empty(V, x.dtype)
    nothing = sample_jit(x.reshape(-1, V), u.reshape(-1), heat, weights, result.reshape(-1))
    if nothing:
        raise ValueError(
            f"logits: came with {nothing} rows of NaN, +inf or only -inf, a distribution is needed in each"
        )
    return result
