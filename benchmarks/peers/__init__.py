"""How other libraries do the same: per library a table from a case's name to its idioms.

An idiom takes the case's NumPy arguments and returns a call that does the work; buffers, conversions and compilation
are off the clock. `plain` is what people write first, `blocks` the best we know: rows in blocks that stay in the cache,
in place, into arrays made before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Idiom = Callable[..., Callable[[], Any]]
LIBRARIES = ("numpy", "scipy", "torch", "jax")
CACHED = 1 << 16
"""Elements of a block of rows: 256 KiB, so that a block and its copy fit a core's own cache."""


def idioms(case: str, *libraries: str) -> dict[str, Idiom]:
    """The peers of a case, `library idiom` -> idiom; a library that is not installed has none.

    Examples
    --------
    >>> sorted(idioms("gae", "numpy"))
    ['numpy']
    """
    found: dict[str, Idiom] = {}
    for library in libraries or LIBRARIES:
        try:
            importlib.import_module(library)
        except ImportError:
            continue
        found |= importlib.import_module(f"benchmarks.peers.{library}_").IDIOMS.get(case, {})
    return found


def blocks(array: Any) -> list[slice]:
    """Slices of rows of a (N, V) array, each small enough for the cache.

    Examples
    --------
    >>> import numpy as np
    >>> blocks(np.empty((3, 40_000)))
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None)]
    """
    N, V = array.shape
    rows = max(1, CACHED // V)
    return [slice(n, min(n + rows, N)) for n in range(0, N, rows)]
