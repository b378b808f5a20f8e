"""Checks of functions that take several arrays of one shape; short where there is nothing to convert."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from . import _check
from ._check import F32, F64, Array

__all__ = [
    "POLICIES",
    "alike",
    "check_mask",
    "fit",
    "flat",
    "lengths_like",
    "mask_like",
    "masked",
    "nothing",
    "pairs",
    "tables",
]

POLICIES = ("pi_chosen", "pi_rejected", "ref_chosen", "ref_rejected")
"""What losses that are relative to a reference take of each pair."""


def fit(first: Any, *others: Any) -> bool:
    """Whether all are arrays of one shape and type, float32 or float64, writable and in C order."""
    if type(first) is not ndarray:
        return False
    dtype = first.dtype
    if (dtype is not F32 and dtype is not F64) or not first.flags.carray:
        return False
    shape = first.shape
    for other in others:
        if type(other) is not ndarray or other.dtype is not dtype or other.shape != shape:
            return False
        if not other.flags.carray:
            return False
    return True


def alike(names: tuple[str, ...], *values: Any) -> tuple[Array, ...]:
    """The values as C-ordered arrays of one shape and type."""
    return values if fit(*values) else _converted(names, values)


def pairs(names: tuple[str, ...], *values: Any) -> tuple[Array, ...]:
    """The values as C-ordered arrays of one shape and type, not empty: there is a mean over them."""
    arrays = values if fit(*values) else _converted(names, values)
    if not arrays[0].size:
        _check.not_empty(names[0], arrays[0])
    return arrays


def masked(names: tuple[str, ...], *values: Any) -> tuple[Array, ...]:
    """The values, of which the last is a mask and has no name here, as C-ordered arrays of one shape and type."""
    if fit(*values):
        return values
    arrays = _converted(names, values[:-1])
    return (*arrays, mask_like(values[-1], arrays[0]))


def _converted(names: tuple[str, ...], values: tuple[Any, ...]) -> tuple[Array, ...]:
    arrays = _check.floats(names, *values)
    _check.same_shape(names, *arrays)
    return tuple(arrays)


def mask_like(mask: Any, like: Array, name: str = "mask", each: str = "token") -> Array:
    """The mask as a C-ordered array of another's shape and type."""
    array = _check.like(name, mask, like.dtype)
    _check.shape_is(name, array, like.shape, f"one entry a {each}")
    return array


def lengths_like(name: str, lengths: Any, like: Array) -> Array:
    """Tokens of each response, above 0, as a 1-D array of another's type, which has as many elements."""
    array = _check.like(name, lengths, like.dtype)
    _check.shape_is(name, array, like.shape, "one length a response")
    if not array.min() > 0:
        raise ValueError(f"{name}: came with {array.min():g}, lengths above 0 are needed")
    return array.ravel()


def check_mask(weight: float) -> None:
    """What kernels return of the mask alone, its sum or a share of it, is NaN only where the mask itself is wrong."""
    if weight != weight:
        raise ValueError(
            "mask: came with negative, infinite or NaN weights, finite ones of at least 0 are needed"
        )


def flat(*arrays: Array) -> tuple[Array, ...]:
    """All elements, in C order, of arrays of one shape, as views."""
    return arrays if arrays[0].ndim == 1 else tuple([array.ravel() for array in arrays])


def tables(*arrays: Array) -> tuple[Array, ...]:
    """Arrays of one shape as they are, if that is (B, T), else as (1, N)."""
    return arrays if arrays[0].ndim == 2 else tuple([array.reshape(1, -1) for array in arrays])


def nothing(like: Array) -> Array:
    """No elements, of another's type: what jitted forms take for an optional array (N,) that is not there."""
    return like[:0] if like.ndim == 1 else np.empty(0, like.dtype)
