"""The short way through the checks of functions that take several arrays of one shape."""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np

from ._check import F32, F64, Array

__all__ = ["alike", "flat"]


def alike(values: tuple[Any, ...]) -> TypeGuard[tuple[Array, ...]]:
    """Whether all are arrays of one shape and type, float32 or float64, in C order: there is nothing to convert."""
    first = values[0]
    if type(first) is not np.ndarray:
        return False
    dtype, shape = first.dtype, first.shape
    if dtype is not F32 and dtype is not F64:
        return False
    for value in values:
        if type(value) is not np.ndarray or value.dtype is not dtype or value.shape != shape:
            return False
        if not value.flags.c_contiguous:
            return False
    return True


def flat(array: Array) -> Array:
    """All elements of an array in C order, as a view."""
    return array if array.ndim == 1 else array.reshape(-1)
