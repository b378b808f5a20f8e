"""Optimisers over flat parameter arrays. The `_jit` forms take 1-D arrays of one dtype and check nothing."""
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from . import _check
from ._alike import alike, fit, flat
from ._check import Array
from ._jit import jit
from ._vecmath import fused, plus, vector_loops, wide

__all__ = ["adamw", "adamw_jit", "global_norm", "global_norm_jit"]


@fused
def adamw_jit(grads, step, learning_rate, beta1, beta2, eps, weight_decay, params, m, v):
    """Changes params, m, v (N,). Scalar factors are made in float64 first: 1 - .999 is not exact in float32."""
    vector_loops()
    T = params.dtype.type
    decay = T(1.0 - learning_rate * weight_decay)
    rate = T(learning_rate / (1.0 - beta1**step))
    root = T(1.0 / np.sqrt(1.0 - beta2**step))
    fresh1, keep2, fresh2 = T(1.0 - beta1), T(beta2), T(1.0 - beta2)
    least = T(eps)
    for n in range(params.shape[0]):
        grad = grads[n]
        first = m[n] + fresh1 * (grad - m[n])
        second = keep2 * v[n] + fresh2 * grad * grad
        m[n] = first
        v[n] = second
        params[n] = decay * params[n] - rate * (first / (np.sqrt(second) * root + least))


@jit
def global_norm_jit(grads):
    """Returns the Euclidean norm, squared and summed in float64."""
    vector_loops()
    total = np.float64(0.0)
    for n in range(grads.shape[0]):
        grad = wide(grads[n])
        total = plus(total, grad * grad)
    return np.sqrt(total)


def adamw(
    params: Array,
    grads: Any,
    m: Array,
    v: Array,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adam with decoupled weight decay, in place.

    Parameters
    ----------
    params : ndarray
        Changed in place, like m and v.
    grads : array_like, the shape of params
    m, v : ndarray, shape and dtype of params
        Running means of the gradient and of its square; zeros before the first step.
    step : int
        From 1.
    learning_rate : float, at least 0
    beta1, beta2 : float in [0, 1)
    eps : float, at least 0
        Added to ``sqrt(v) / sqrt(1 - beta2**step)``, as in PyTorch.
    weight_decay : float, at least 0
        params shrink by ``learning_rate * weight_decay`` first.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; arrays to be changed are never converted, and none may overlap another.

    References
    ----------
    Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2, with the schedule in the learning rate.

    Examples
    --------
    >>> params, m, v = np.zeros(2), np.zeros(2), np.zeros(2)
    >>> adamw(params, [3.0, -0.5], m, v, step=1, learning_rate=0.1)
    >>> params.round(4)
    array([-0.1,  0.1])
    """
    arrays = params, grads, m, v
    if not (fit(*arrays) and _own_memory(*arrays)):
        arrays = _checked(*arrays)
    numbers = (
        _check.whole("step", step, 1),
        _check.number("learning_rate", learning_rate, 0.0),
        _decay("beta1", beta1),
        _decay("beta2", beta2),
        _check.number("eps", eps, 0.0),
        _check.number("weight_decay", weight_decay, 0.0),
    )
    p, g, m, v = flat(*arrays)
    adamw_jit(g, *numbers, p, m, v)


def _own_memory(p: Array, g: Array, m: Array, v: Array) -> bool:
    """Whether no two overlap, seen without comparing addresses: each is, or is a view of, an array of its own."""
    owners = [array if array.base is None else array.base for array in (p, g, m, v)]
    if any(type(owner) is not np.ndarray or not owner.flags.owndata for owner in owners):
        return False
    p, g, m, v = owners
    return not (p is g or p is m or p is v or g is m or g is v or m is v)


def _checked(params: Any, grads: Any, m: Any, v: Any) -> tuple[Array, Array, Array, Array]:
    """What `adamw` changes as it came, and the gradients as an array like them; no two may overlap."""
    shape, dtype = _parameters(params)
    p, m, v = (_check.in_place(n, a, shape, dtype) for n, a in (("params", params), ("m", m), ("v", v)))
    g = _check.like("grads", grads, dtype)
    _check.shape_is("grads", g, shape, "one gradient a parameter")
    named = zip(("params", "m", "v", "grads"), (p, m, v, g), strict=True)
    for (one, a), (other, b) in combinations(named, 2):
        if np.may_share_memory(a, b):
            raise ValueError(f"{other}: overlaps {one}, memory of its own is needed")
    return p, g, m, v


def _parameters(params: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array of floats."""
    if not isinstance(params, np.ndarray):
        raise TypeError(
            f"params: came as {type(params).__name__}, a NumPy array is needed: it is changed in place"
        )
    if params.dtype is _check.F32 or params.dtype is _check.F64:
        return params.shape, params.dtype
    _check.real("params", params)
    if params.dtype not in (_check.F32, _check.F64) and params.dtype.kind != "O":
        raise TypeError(f"params: came with dtype {params.dtype}, float32 or float64 is needed")
    return params.shape, params.dtype


def _decay(name: str, value: Any) -> float:
    decay = _check.number(name, value, 0.0, 1.0)
    if decay == 1.0:
        raise ValueError(f"{name}: came as 1, a number below 1 is needed")
    return decay


def global_norm(grads: Any) -> float:
    """Euclidean norm of all elements, in float64.

    Parameters
    ----------
    grads : array_like

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If grads are no array of numbers.

    Examples
    --------
    >>> global_norm([3.0, 4.0])
    5.0
    """
    (g,) = alike(("grads",), grads)
    norm: float = global_norm_jit(*flat(g))
    return norm
