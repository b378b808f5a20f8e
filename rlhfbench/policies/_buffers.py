"""Room for activations: arrays by name, allocated once, where vectors do not straddle cache lines."""

from __future__ import annotations

import threading
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from kernels import nn

from ..types import Float

LINE = 64
"""Bytes of a cache line, and of the widest register."""
ARENA = 4 << 20
"""Bytes that are asked for at once for arrays smaller than that: from here on NumPy asks the system for large pages."""


def aligned(size: int, dtype: np.dtype[Any]) -> Float:
    """(size,) numbers of whatever value, the first of them at the beginning of a cache line."""
    if dtype.hasobject:
        return np.empty(size, dtype)
    raw = np.empty(size * dtype.itemsize + LINE, np.uint8)
    begin = -raw.ctypes.data % LINE
    return raw[begin : begin + size * dtype.itemsize].view(dtype)


class Buffers:
    """Arrays by name; each call gives a view, of whatever it held. They grow, by half at least, and never shrink."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._flat: dict[str, Float] = {}
        self._latest: dict[str, Float] = {}
        self._arenas: list[Float] = []

    def __call__(self, name: str, *shape: int) -> Float:
        view = self._latest.get(name)
        if view is not None and view.shape == shape:
            return view
        size = prod(shape)
        flat = self._flat.get(name)
        if flat is None or len(flat) < size:
            flat = self._flat[name] = self._cut(size if flat is None else max(size, len(flat) * 3 // 2))
        view = self._latest[name] = flat[:size].reshape(shape)
        return view

    @property
    def nbytes(self) -> int:
        """What it holds: arenas, and arrays that are larger than one."""
        large = sum(flat.nbytes for flat in self._flat.values() if flat.nbytes >= ARENA)
        return len(self._arenas) * ARENA + large

    @cached_property
    def panel(self) -> Float:
        """Scratch of every product."""
        return self("panel", nn.PANEL)

    def _cut(self, size: int) -> Float:
        """`size` numbers of the first arena that has them, and what is left of their last cache line."""
        line = max(LINE // self.dtype.itemsize, 1)
        whole, most = -(-size // line) * line, ARENA // self.dtype.itemsize
        if size >= most:
            return aligned(size, self.dtype)
        i = next((i for i, arena in enumerate(self._arenas) if len(arena) >= whole), len(self._arenas))
        if i == len(self._arenas):
            self._arenas.append(aligned(most, self.dtype))
        cut, self._arenas[i] = self._arenas[i][:size], self._arenas[i][whole:]
        return cut


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
