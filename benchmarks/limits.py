"""What the processor gives to one thread, whatever the memory: exponentials, division with a square root, a call.

A kernel that has to take so many of them cannot be faster. As `bandwidth`, measured in the same round robin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels._jit import jit
from kernels._row import as_row, narrow
from kernels._rows import LOG2E, block_mass
from kernels._vecmath import vector_loops

RESIDENT = 2048
"""Elements that stay in the first-level cache."""


@jit
def _exponentials(x: Any, times: int) -> Any:
    row, scale = as_row(x), narrow(LOG2E, x)
    total = 0.0
    for _ in range(times):
        total += block_mass(row, 0, x.shape[0], scale, x[0])
    return total


@jit
def _roots(x: Any, y: Any, out: Any, times: int) -> None:
    vector_loops()
    for _ in range(times):
        for n in range(x.shape[0]):
            out[n] = x[n] / np.sqrt(y[n])


def exponentials(elements: int) -> Callable[[], Any]:
    """A call that takes so many float32 exponentials and adds them up, from the first-level cache."""
    x = np.linspace(-5, 0, RESIDENT, dtype=np.float32)
    return lambda: _exponentials(x, -(-elements // RESIDENT))


def roots(elements: int) -> Callable[[], Any]:
    """A call that takes so many float32 quotients by a square root, from the first-level cache."""
    x, y, out = (np.linspace(1, 2, RESIDENT, dtype=np.float32) for _ in range(3))
    return lambda: _roots(x, y, out, -(-elements // RESIDENT))


@jit
def _nothing_2(a: Any, b: Any) -> int:
    return 0


@jit
def _nothing_3(a: Any, b: Any, c: Any) -> int:
    return 0


@jit
def _nothing_5(a: Any, b: Any, c: Any, d: float, e: Any, f: Any) -> int:
    return 0


@jit
def _nothing_10(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, i: Any, j: Any) -> int:
    return 0


def empty_calls() -> dict[int, Callable[[], Any]]:
    """Jitted functions of so many arrays that do nothing: what Numba takes to get there and back."""
    x, y, z, mask, out = (np.ones((1, 2), np.float32) for _ in range(5))
    tokens, one = np.zeros(1, np.int64), np.empty(1, np.float32)
    ten = [np.ones((1, 2), np.float32) for _ in range(10)]
    return {
        2: lambda: _nothing_2(x, one),
        3: lambda: _nothing_3(x, tokens, one),
        5: lambda: _nothing_5(x, y, z, 0.2, mask, out),
        10: lambda: _nothing_10(*ten),
    }


def array_costs() -> dict[str, Callable[[], Any]]:
    """What a public function cannot do without: one look at an array that came, and one array made for a result."""
    x, shape, dtype = np.ones((2, 2), np.float32), (2, 2), np.dtype(np.float32)
    return {
        "look": lambda: (x.dtype, x.shape, x.flags.carray),
        "new": lambda: np.empty(shape, dtype),
        "call": lambda: None,
    }
