"""Room for activations: arrays by name, where vectors do not straddle cache lines, out of memory that is used again."""

from __future__ import annotations

import threading
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import nn

LINE = 64
"""Bytes of a cache line, and of the widest register."""
LARGE = 4 << 20
"""Bytes from which on NumPy asks the system for large pages."""

BLOCK = 4096
"""Numbers that are compared at a time."""


def aligned(size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(size,) numbers of whatever value, the first of them at the beginning of a cache line."""
    if dtype.hasobject:
        return np.empty(size, dtype)
    raw = np.empty(size * dtype.itemsize + LINE, np.uint8)
    begin = -raw.ctypes.data % LINE
    return raw[begin : begin + size * dtype.itemsize].view(dtype)


class Buffers:
    """Arrays by name, of whatever they held, side by side in one stretch of memory.

    `begin` takes them all back, so that one call's arrays lie where another's were. What finds no room has memory of
    its own until then, when the stretch grows to what was asked for, and by an eighth at least. It never shrinks.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._memory = aligned(0, dtype)
        self._used = self._apart = 0
        self._flat: dict[str, NDArray[Any]] = {}
        self._latest: dict[str, NDArray[Any]] = {}

    def begin(self) -> Buffers:
        """Nothing is in use any more."""
        self._flat.clear()
        self._latest.clear()
        if self._used > len(self._memory):
            self._memory, size = aligned(0, self.dtype), max(self._used, len(self._memory) * 9 // 8)
            large = LARGE // self.dtype.itemsize
            self._memory = aligned(large if 3 * large // 4 < size < large else size, self.dtype)
        self._used = self._apart = 0
        if "ints" in self.__dict__:
            self.ints.begin()
        return self

    def __call__(self, name: str, *shape: int) -> NDArray[Any]:
        view = self._latest.get(name)
        if view is not None and view.shape == shape:
            return view
        size = prod(shape)
        flat = self._flat.get(name)
        if flat is None or len(flat) < size:
            flat = self._flat[name] = self._cut(size)
        view = self._latest[name] = flat[:size].reshape(shape)
        return view

    @property
    def nbytes(self) -> int:
        """What it holds."""
        panel = nn.PANEL if "panel" in self.__dict__ else 0
        ints = self.ints.nbytes if "ints" in self.__dict__ else 0
        return (len(self._memory) + self._apart + panel) * self.dtype.itemsize + ints

    @cached_property
    def ints(self) -> Buffers:
        """The same for whole numbers."""
        return Buffers(np.dtype(np.int64))

    @cached_property
    def panel(self) -> NDArray[Any]:
        """Scratch of every product."""
        return aligned(nn.PANEL, self.dtype)

    def _cut(self, size: int) -> NDArray[Any]:
        """`size` numbers from the beginning of a cache line on."""
        line = max(LINE // self.dtype.itemsize, 1)
        start = self._used
        self._used += -(-size // line) * line
        if self._used > len(self._memory):
            self._apart += size
            return aligned(size, self.dtype)
        return self._memory[start : start + size]


def equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether shape and numbers are the same, some at a time: all at once are an array as long."""
    if one.shape != other.shape:
        return False
    one, other = one.reshape(-1), other.reshape(-1)
    starts = range(0, one.size, BLOCK)
    return all(np.array_equal(one[i : i + BLOCK], other[i : i + BLOCK]) for i in starts)


class _Shared(threading.local):
    def __init__(self) -> None:
        self.by_dtype: dict[np.dtype[Any], Buffers] = {}


_SHARED = _Shared()


def scratch(dtype: np.dtype[Any]) -> Buffers:
    """Room for what no call leaves behind, which all policies of a thread share."""
    found = _SHARED.by_dtype.get(dtype)
    if found is None:
        found = _SHARED.by_dtype[dtype] = Buffers(dtype)
    return found
