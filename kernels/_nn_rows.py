"""Checks of what goes over rows of channels, (..., C)."""

from __future__ import annotations

from typing import Any

from . import _check
from ._check import Array

__all__ = ["channels", "flat", "moments", "read_rows"]


def read_rows(names: tuple[str, ...], *values: Any) -> list[Array]:
    """The values as arrays (..., C) of one shape and type."""
    arrays = _check.floats(names, *values)
    _check.last_axis(names[0], arrays[0])
    _check.same_shape(names, *arrays)
    return arrays


def channels(name: str, value: Any, x: Array) -> Array:
    """One number a channel."""
    return _check.shaped(name, value, x.dtype, x.shape[-1:], "one number a channel")


def moments(means: Any, shares: Any, x: Array) -> tuple[Array, Array]:
    """What the forward pass left of each row."""
    shape, why = x.shape[:-1], "one number a row"
    m = _check.shaped("means", means, x.dtype, shape, why)
    s = _check.shaped("shares", shares, x.dtype, shape, why)
    return m.reshape(-1), s.reshape(-1)


def flat(*arrays: Array) -> list[Array]:
    return [a.reshape(-1, a.shape[-1]) for a in arrays]
