"""Categorical distributions given by logits: probabilities, entropy, divergence, sampling, and their gradients.

Logits have any leading shape and the vocabulary last, (..., V); -inf, like all below -1e38, means probability 0. They
may be float32, float64, float16 or bfloat16 (an `ml_dtypes` array, or its bits as uint16); half precision is read as it
is and computed with in float32, which results then have. Rows may lie apart, as in ``logits[:, :-1]``; a row itself
must not have gaps, or a copy is made. Other arguments follow the logits' precision.

Each function takes `out`, an array for the result, and `threads`, among which rows are shared out; any number of them
gives the same bits. `out` must not overlap an input, but a result of the logits' own shape may take their place
(``out=logits``), and its rows may lie apart as theirs may; of half precision it may have their type. The `_jit` forms
take (N, V) arrays, half precision as int16 and uint16, check nothing, and write `out`.
"""

from __future__ import annotations

from typing import Any

from . import _batch, _check
from ._categorical import (
    entropy_backward_jit,
    entropy_jit,
    kl_divergence_backward_jit,
    kl_divergence_jit,
    log_softmax_jit,
    sample_jit,
    token_logprobs_backward_jit,
    token_logprobs_jit,
)
from ._check import Array
from ._sampling import sample_scratch, uniforms_jit

__all__ = [
    "entropy",
    "entropy_backward",
    "entropy_backward_jit",
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


def log_softmax(logits: Any, out: Array | None = None, *, threads: int = 1) -> Array:
    """Log-probabilities, ``logits - logsumexp(logits)``.

    Parameters
    ----------
    logits : array_like, (..., V)
    out : ndarray, (..., V), optional
    threads : int

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
    (x,) = _batch.logits(("logits",), logits)
    result, written = _batch.gradient(out, x, (logits,))
    _batch.over_rows(log_softmax_jit, threads, x, written)
    return result


def _slopes(name: str, value: Any, x: Array) -> Array:
    """Gradients with respect to one number a row."""
    return _check.shaped(name, value, _batch.number(x), x.shape[:-1], _LEADING)


def _forward(forward: Any, d: Array, *others: Any) -> tuple[Array, ...]:
    """What a backward pass writes beside the gradient: one number a row, as `d` has, or nothing."""
    return () if forward is None else (_check.output(forward, d.shape, d.dtype, *others, name="forward"),)


def _tokens(tokens: Any, x: Array) -> Array:
    array = _check.integers("tokens", tokens)
    if array.shape != x.shape[:-1]:
        _check.shape_is("tokens", array, x.shape[:-1], _LEADING)
    return array


def _all_inside(outside: int, tokens: Array, x: Array) -> None:
    if outside:
        V = x.shape[-1]
        raise ValueError(
            f"tokens: came with values from {tokens.min()} to {tokens.max()}, 0 to {V - 1} is needed (V = {V})"
        )


def token_logprobs(logits: Any, tokens: Any, out: Array | None = None, *, threads: int = 1) -> Array:
    """Log-probability of one given token a row.

    Parameters
    ----------
    logits : array_like, (..., V)
    tokens : array_like of int, (...)
        In [0, V); at padding any valid token will do.
    out : ndarray, (...), optional
    threads : int

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
    >>> import numpy as np
    >>> token_logprobs([[0.0, 0.0], [0.0, -np.inf]], [1, 0]).round(4) + 0
    array([-0.6931,  0.    ])
    """
    (x,) = _batch.logits(("logits",), logits)
    t = _tokens(tokens, x)
    result = _batch.numbers(out, x, logits, tokens)
    _all_inside(_batch.over_rows(token_logprobs_jit, threads, x, t, result), t, x)
    return result


def token_logprobs_backward(
    logits: Any,
    tokens: Any,
    d_logprobs: Any,
    out: Array | None = None,
    *,
    forward: Array | None = None,
    threads: int = 1,
) -> Array:
    """Gradient with respect to the logits: ``d_logprobs * (1[v = token] - softmax(logits)[v])``.

    Parameters
    ----------
    logits : array_like, (..., V)
    tokens : array_like of int, (...)
    d_logprobs : array_like, (...)
        Gradient with respect to the result of `token_logprobs`; 0 at padding.
    out : ndarray, (..., V), optional
    forward : ndarray, (...), optional
        Receives the result of `token_logprobs`, which the same pass over the row has.
    threads : int

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
    (x,) = _batch.logits(("logits",), logits)
    t = _tokens(tokens, x)
    d = _slopes("d_logprobs", d_logprobs, x)
    result, written = _batch.gradient(out, x, (logits, tokens, d_logprobs))
    more = _forward(forward, d, logits, tokens, d_logprobs, result)
    _all_inside(_batch.over_rows(token_logprobs_backward_jit, threads, x, t, d, written, *more), t, x)
    return result


def entropy(logits: Any, out: Array | None = None, *, threads: int = 1) -> Array:
    """Entropy ``-sum p log p`` of each row, in nats.

    Parameters
    ----------
    logits : array_like, (..., V)
    out : ndarray, (...), optional
    threads : int

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
    >>> import numpy as np
    >>> entropy([[0.0, 0.0], [0.0, -np.inf]]).round(4)
    array([0.6931, 0.    ])
    """
    (x,) = _batch.logits(("logits",), logits)
    result = _batch.numbers(out, x, logits)
    _batch.over_rows(entropy_jit, threads, x, result)
    return result


def entropy_backward(
    logits: Any,
    d_entropy: Any,
    out: Array | None = None,
    *,
    forward: Array | None = None,
    threads: int = 1,
) -> Array:
    """Gradient with respect to the logits: ``-d_entropy * p * (log p + entropy)``.

    Parameters
    ----------
    logits : array_like, (..., V)
    d_entropy : array_like, (...)
        Gradient with respect to the result of `entropy`.
    out : ndarray, (..., V), optional
    forward : ndarray, (...), optional
        Receives the result of `entropy`, which the same pass over the row has.
    threads : int

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
    >>> entropy_backward([[1.0, 0.0]], [1.0]).round(4)
    array([[-0.1966,  0.1966]])
    """
    (x,) = _batch.logits(("logits",), logits)
    d = _slopes("d_entropy", d_entropy, x)
    result, written = _batch.gradient(out, x, (logits, d_entropy))
    more = _forward(forward, d, logits, d_entropy, result)
    _batch.over_rows(entropy_backward_jit, threads, x, d, written, *more)
    return result


def kl_divergence(logits: Any, ref_logits: Any, out: Array | None = None, *, threads: int = 1) -> Array:
    """Exact ``KL(pi || ref) = sum p log(p / q)`` of each row, in nats.

    Parameters
    ----------
    logits, ref_logits : array_like, (..., V)
        Of pi and of the reference.
    out : ndarray, (...), optional
    threads : int

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
    >>> import numpy as np
    >>> kl_divergence([0.0, -np.inf], [0.0, 0.0]).round(4)
    np.float64(0.6931)
    """
    x, y = _batch.logits(("logits", "ref_logits"), logits, ref_logits)
    if x.shape != y.shape:
        _check.same_shape(("logits", "ref_logits"), x, y)
    result = _batch.numbers(out, x, logits, ref_logits)
    _batch.over_rows(kl_divergence_jit, threads, x, y, result)
    return result


def kl_divergence_backward(
    logits: Any,
    ref_logits: Any,
    d_kl: Any,
    out: Array | None = None,
    *,
    forward: Array | None = None,
    threads: int = 1,
) -> Array:
    """Gradient with respect to pi's logits: ``d_kl * p * (log(p / q) - KL)``.

    Parameters
    ----------
    logits, ref_logits : array_like, (..., V)
    d_kl : array_like, (...)
        Gradient with respect to the result of `kl_divergence`.
    out : ndarray, (..., V), optional
    forward : ndarray, (...), optional
        Receives the result of `kl_divergence`, which the same pass over the row has.
    threads : int

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
    x, y = _batch.logits(("logits", "ref_logits"), logits, ref_logits)
    if x.shape != y.shape:
        _check.same_shape(("logits", "ref_logits"), x, y)
    d = _slopes("d_kl", d_kl, x)
    result, written = _batch.gradient(out, x, (logits, ref_logits, d_kl))
    more = _forward(forward, d, logits, ref_logits, d_kl, result)
    _batch.over_rows(kl_divergence_backward_jit, threads, x, y, d, written, *more)
    return result


def sample(
    logits: Any, uniforms: Any, temperature: float = 1.0, out: Array | None = None, *, threads: int = 1
) -> Array:
    """Draw one token a row by inverse CDF.

    Parameters
    ----------
    logits : array_like, (..., V)
    uniforms : array_like, (...)
        Random numbers in [0, 1]; they decide everything, so that equal uniforms give equal tokens.
    temperature : float
        Divides the logits; from 1e-30 to 1e30.
    out : ndarray of int64, (...), optional
    threads : int

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
    >>> import numpy as np
    >>> sample([[0.0, 0.0, -np.inf]] * 3, [0.0, 0.6, 1.0])
    array([0, 1, 1])
    """
    (x,) = _batch.logits(("logits",), logits)
    u = _check.shaped("uniforms", uniforms, _check.F64, x.shape[:-1], _LEADING)
    if not uniforms_jit(u.ravel()):
        raise ValueError(f"uniforms: came with values from {u.min()} to {u.max()}, 0 to 1 is needed")
    heat = _batch.temperature(temperature)
    result = _check.output(out, u.shape, _check.I64, logits, uniforms)

    def draw(x: Array, u: Array, out: Array) -> Any:
        return sample_jit(x, u, heat, *sample_scratch(x.shape[1], _batch.number(x)), out)

    nothing = _batch.over_rows(draw, threads, x, u, result)
    if nothing:
        raise ValueError(
            f"logits: came with {nothing} rows of NaN, +inf or only -inf, a distribution is needed in each"
        )
    return result
