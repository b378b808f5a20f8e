"""Layer norm of the rows of a transformer, alone and of a sum; checked and converted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._blocks import (
    layer_norm_backward_jit,
    layer_norm_jit,
    residual_norm_jit,
)
from ._check import Array
from ._nn_rows import channels, flat, moments, read_rows

__all__ = [
    "LayerNorm",
    "LayerNormGradients",
    "ResidualNorm",
    "ResidualNormGradients",
    "layer_norm",
    "layer_norm_backward",
    "residual_norm",
    "residual_norm_backward",
]


class LayerNorm(NamedTuple):
    """`out` (..., C); for the gradient each row's mean, and one over its deviation, (...)."""

    out: Array
    means: Array
    shares: Array


class LayerNormGradients(NamedTuple):
    """With respect to x (..., C), gain and shift (C,)."""

    d_x: Array
    d_gain: Array
    d_shift: Array


class ResidualNorm(NamedTuple):
    """`out` and the sum `stream` (..., C); for the gradient each row's mean, and one over its deviation, (...)."""

    out: Array
    stream: Array
    means: Array
    shares: Array


class ResidualNormGradients(NamedTuple):
    """With respect to x, and so to the branch as well, (..., C); to bias, gain and shift (C,)."""

    d_x: Array
    d_bias: Array
    d_gain: Array
    d_shift: Array


def layer_norm(x: Any, gain: Any, shift: Any, out: Array | None = None) -> LayerNorm:
    """Each row with mean 0 and variance 1, times `gain` plus `shift`.

    Parameters
    ----------
    x : array_like, (..., C)
    gain, shift : array_like, (C,)
    out : ndarray, (..., C), optional

    Returns
    -------
    LayerNorm
        ``out = (x - mean) * share * gain + shift``, where ``share = 1 / sqrt(variance + 1e-5)``.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    References
    ----------
    Ba, Kiros and Hinton 2016 (arXiv:1607.06450), equation 4, with 1e-5 as in PyTorch.

    Examples
    --------
    >>> layer_norm([[1.0, 3.0]], gain=[1.0, 1.0], shift=[0.0, 5.0]).out.round(4)
    array([[-1.,  6.]])
    """
    (a,) = read_rows(("x",), x)
    g, s = channels("gain", gain, a), channels("shift", shift, a)
    result = _check.output(out, a.shape, a.dtype, x, gain, shift)
    means, shares = np.empty(a.shape[:-1], a.dtype), np.empty(a.shape[:-1], a.dtype)
    rows, written = flat(a, result)
    layer_norm_jit(rows, g, s, means.reshape(-1), shares.reshape(-1), written)
    return LayerNorm(result, means, shares)


def layer_norm_backward(
    d_out: Any, x: Any, gain: Any, means: Any, shares: Any, out: Array | None = None
) -> LayerNormGradients:
    """Gradient of `layer_norm`.

    Parameters
    ----------
    d_out : array_like, (..., C)
        Gradient with respect to the result.
    x : array_like, (..., C)
    gain : array_like, (C,)
    means, shares : array_like, (...)
        From `layer_norm`.
    out : ndarray, (..., C), optional
        For d_x.

    Returns
    -------
    LayerNormGradients
        ``d_x = share * (d - mean(d) - unit * mean(d * unit))``, where ``d = d_out * gain`` and ``unit`` is the row
        with mean 0 and variance 1. Overwritten, not accumulated.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    Examples
    --------
    >>> x, gain = [[1.0, 2.0, 6.0]], [1.0, 1.0, 1.0]
    >>> norm = layer_norm(x, gain, shift=[0.0, 0.0, 0.0])
    >>> d_x, d_gain, d_shift = layer_norm_backward([[1.0, 0.0, 0.0]], x, gain, norm.means, norm.shares)
    >>> d_x.round(4), d_gain.round(4), d_shift
    (array([[ 0.1763, -0.2204,  0.0441]]), array([-0.9258,  0.    ,  0.    ]), array([1., 0., 0.]))
    """
    d, a = read_rows(("d_out", "x"), d_out, x)
    g, (m, s) = channels("gain", gain, a), moments(means, shares, a)
    d_x = _check.output(out, a.shape, a.dtype, d_out, x, gain, means, shares)
    d_x[...] = 0
    d_gain, d_shift, no_bias = (np.zeros(a.shape[-1], a.dtype) for _ in range(3))
    slopes, rows, written = flat(d, a, d_x)
    layer_norm_backward_jit(slopes, rows, g, m, s, written, d_gain, d_shift, no_bias)
    return LayerNormGradients(d_x, d_gain, d_shift)


def residual_norm(
    x: Any, branch: Any, bias: Any, gain: Any, shift: Any, out: Array | None = None
) -> ResidualNorm:
    """A branch and its bias added to the residual stream, and `layer_norm` of the sum, in one pass.

    Parameters
    ----------
    x, branch : array_like, (..., C)
    bias, gain, shift : array_like, (C,)
    out : ndarray, (..., C), optional

    Returns
    -------
    ResidualNorm
        ``stream = x + branch + bias`` and ``out = layer_norm(stream, gain, shift)``.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    References
    ----------
    Xiong et al. 2020 (arXiv:2002.04745), the pre-norm transformer.

    Examples
    --------
    >>> norm = residual_norm([[1.0, 1.0]], [[0.0, 1.0]], bias=[0.0, 1.0], gain=[1.0, 1.0], shift=[0.0, 0.0])
    >>> norm.stream, norm.out.round(4)
    (array([[1., 3.]]), array([[-1.,  1.]]))
    """
    a, b = read_rows(("x", "branch"), x, branch)
    more, g, s = channels("bias", bias, a), channels("gain", gain, a), channels("shift", shift, a)
    result = _check.output(out, a.shape, a.dtype, x, branch, bias, gain, shift)
    stream = np.empty(a.shape, a.dtype)
    means, shares = np.empty(a.shape[:-1], a.dtype), np.empty(a.shape[:-1], a.dtype)
    rows, branches, summed, written = flat(a, b, stream, result)
    residual_norm_jit(rows, branches, more, g, s, means.reshape(-1), shares.reshape(-1), summed, written)
    return ResidualNorm(result, stream, means, shares)


def residual_norm_backward(
    d_out: Any,
    d_stream: Any,
    stream: Any,
    gain: Any,
    means: Any,
    shares: Any,
    out: Array | None = None,
) -> ResidualNormGradients:
    """Gradient of `residual_norm`.

    Parameters
    ----------
    d_out, d_stream : array_like, (..., C)
        Gradients with respect to both results.
    stream : array_like, (..., C)
    gain : array_like, (C,)
    means, shares : array_like, (...)
        Like the stream from `residual_norm`.
    out : ndarray, (..., C), optional
        For d_x.

    Returns
    -------
    ResidualNormGradients
        d_x is that of `layer_norm_backward` plus d_stream, and d_bias its sum. Overwritten, not accumulated.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    Examples
    --------
    >>> stream, gain = [[1.0, 3.0]], [1.0, 1.0]
    >>> norm = layer_norm(stream, gain, shift=[0.0, 0.0])
    >>> gradients = residual_norm_backward([[1.0, 1.0]], [[0.5, 0.0]], stream, gain, norm.means, norm.shares)
    >>> gradients.d_bias.round(4) + 0
    array([0.5, 0. ])
    """
    d, along, a = read_rows(("d_out", "d_stream", "stream"), d_out, d_stream, stream)
    g, (m, s) = channels("gain", gain, a), moments(means, shares, a)
    d_x = _check.output(out, a.shape, a.dtype, d_out, d_stream, stream, gain, means, shares)
    d_x[...] = along
    d_bias, d_gain, d_shift = (np.zeros(a.shape[-1], a.dtype) for _ in range(3))
    slopes, rows, written = flat(d, a, d_x)
    layer_norm_backward_jit(slopes, rows, g, m, s, written, d_gain, d_shift, d_bias)
    return ResidualNormGradients(d_x, d_bias, d_gain, d_shift)
