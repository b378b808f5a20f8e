"""Room for activations: arrays by name, where vectors do not straddle cache lines, out of memory that is used again."""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import nn

LINE = 64
"""Bytes of a cache line, and of the widest register."""
LARGE = 2 << 20
"""Bytes of a large page: with 4 KiB each, one call's activations take more than the processor remembers."""


def aligned(size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(size,) numbers of whatever value, the first of them at the beginning of a cache line."""
    if dtype.hasobject:
        return np.empty(size, dtype)
    count = size * dtype.itemsize
    raw = _pages(count)
    begin = -raw.ctypes.data % LINE
    return raw[begin : begin + count].view(dtype)


def _pages(count: int) -> NDArray[np.uint8]:
    """Room for so many bytes from a cache line on: in large pages, of which at least half is used, if there are any."""
    large = (count + LARGE // 2) // LARGE * LARGE
    if large and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            memory = mmap.mmap(-1, max(count, large) + LARGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            raw = np.frombuffer(memory, np.uint8)
            begin = -raw.ctypes.data % LARGE
            memory.madvise(mmap.MADV_HUGEPAGE, begin, large)
            return raw[begin:]
    return np.empty(count + LINE, np.uint8)


class _Place:
    """An array's numbers from `start` to `stop`, and the turn in which it was last asked for."""

    __slots__ = ("flat", "shape", "start", "stop", "turn", "view")

    def __init__(self, nothing: NDArray[Any]) -> None:
        self.start = self.stop = self.turn = 0
        self.flat = self.view = nothing
        self.shape: tuple[int, ...] = nothing.shape


class Buffers:
    """Arrays by name, of whatever they held, side by side in one stretch of memory.

    `begin` takes them all back, so that one call's arrays lie where another's were. What finds no room has memory of
    its own until then, when the stretch grows to what was asked for, and by an eighth at least. It never shrinks.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._line = max(LINE // dtype.itemsize, 1)
        self._memory = aligned(0, dtype)
        self._used = self._apart = self._turn = 0
        self._places: dict[str, _Place] = {}

    def begin(self) -> Buffers:
        """Nothing is in use any more."""
        if self._used > len(self._memory):
            self._places.clear()
            self._memory, size = aligned(0, self.dtype), max(self._used, len(self._memory) * 9 // 8)
            self._memory = aligned(size, self.dtype)
        self._used = self._apart = 0
        self._turn += 1
        if "ints" in self.__dict__:
            self.ints.begin()
        return self

    def __call__(self, name: str, *shape: int) -> NDArray[Any]:
        place = self._places.get(name)
        if place is not None and place.shape == shape:
            if place.turn == self._turn:
                return place.view
            if place.start == self._used:  # where it lay before is where it would be put
                place.turn, self._used = self._turn, place.stop
                return place.view
        return self._put(name, shape)

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

    def _put(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Where the name has room in this turn, or else behind all others."""
        size, place = prod(shape), self._places.get(name)
        if place is None:
            place = self._places[name] = _Place(self._memory[:0])
        if place.turn != self._turn or len(place.flat) < size:
            self._cut(place, size)
        flat = place.flat
        if len(flat) != size:
            flat = flat[:size]
        place.shape, place.view = shape, flat if len(shape) == 1 else flat.reshape(shape)
        return place.view

    def _cut(self, place: _Place, size: int) -> None:
        """Gives it `size` numbers from the beginning of a cache line on."""
        start = self._used
        stop = self._used = start - size // -self._line * self._line
        if stop > len(self._memory):
            self._apart += size
            place.flat = aligned(size, self.dtype)
        else:
            place.flat = self._memory[start : start + size]
        place.start, place.stop, place.turn = start, stop, self._turn


def equal(one: NDArray[Any], other: NDArray[Any], room: Buffers) -> bool:
    """Whether shape and numbers are the same; `room` is for what comes of each of them."""
    if one.shape != other.shape:
        return False
    same = room.ints("same", -(-one.size // 8)).view(np.bool_)[: one.size].reshape(one.shape)
    return bool(np.count_nonzero(np.equal(one, other, out=same)) == same.size)


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
