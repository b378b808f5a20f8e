"""GELU of the rows of a transformer; checked and converted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._blocks import gelu_backward_jit, gelu_jit
from ._check import Array
from ._nn_rows import channels, flat, read_rows

__all__ = ["GELU", "GELUGradients", "gelu", "gelu_backward"]


class GELU(NamedTuple):
    """`out` (..., F), and for the gradient the slope at each, (..., F)."""

    out: Array
    slopes: Array


class GELUGradients(NamedTuple):
    """With respect to x (..., F) and to bias (F,)."""

    d_x: Array
    d_bias: Array


def gelu(x: Any, bias: Any = None, out: Array | None = None) -> GELU:
    """Gaussian error linear unit of ``z = x + bias``, in its tanh form (PyTorch's ``approximate="tanh"``).

    Parameters
    ----------
    x : array_like, (..., F)
    bias : array_like, (F,), optional
    out : ndarray, (..., F), optional

    Returns
    -------
    GELU
        ``out = z / 2 * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 * z**3)))`` and its derivative at z.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    References
    ----------
    Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.

    Examples
    --------
    >>> out, slopes = gelu([-1.0, 0.0, 1.0])
    >>> out.round(4), slopes.round(4)
    (array([-0.1588,  0.    ,  0.8412]), array([-0.083,  0.5  ,  1.083]))
    """
    (a,) = read_rows(("x",), x)
    b = np.zeros(a.shape[-1], a.dtype) if bias is None else channels("bias", bias, a)
    result = _check.output(out, a.shape, a.dtype, x, bias)
    slopes = a.copy()  # the kernel writes them over x
    changed, written = flat(slopes, result)
    gelu_jit(b, changed, written)
    return GELU(result, slopes)


def gelu_backward(slopes: Any, d_out: Any, out: Array | None = None) -> GELUGradients:
    """Gradient of `gelu`.

    Parameters
    ----------
    slopes : array_like, (..., F)
        From `gelu`.
    d_out : array_like, (..., F)
        Gradient with respect to the result.
    out : ndarray, (..., F), optional
        For d_x.

    Returns
    -------
    GELUGradients
        ``d_x = d_out * slopes``, and d_bias its sum. Overwritten, not accumulated.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    Examples
    --------
    >>> gelu_backward([[0.5, 1.0], [0.0, 1.0]], [[2.0, 2.0], [3.0, 4.0]])
    GELUGradients(d_x=array([[1., 2.],
           [0., 4.]]), d_bias=array([1., 6.]))
    """
    a, d = read_rows(("slopes", "d_out"), slopes, d_out)
    d_x = _check.output(out, d.shape, d.dtype, slopes, d_out)
    d_x[...] = d
    d_bias = np.zeros(d.shape[-1], d.dtype)
    gelu_backward_jit(*flat(a, d_x), d_bias)
    return GELUGradients(d_x, d_bias)
