"""What the memory of this machine gives to one thread: reading alone, and copying.

A share of bandwidth means something only against a number taken beside it, so both are callables for the same round
robin as the kernels (`measure.interleave`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels._jit import jit


@jit
def _total(words: Any) -> Any:
    """Integers add up in any order, so that the compiler keeps several packed sums."""
    total = 0
    for n in range(words.shape[0]):
        total += words[n]
    return total


def read(array: Any) -> Any:
    """A call that reads all bytes of a contiguous array once.

    Examples
    --------
    >>> read(np.arange(4, dtype=np.int64))()
    6
    """
    words = array.reshape(-1).view(np.int64)
    return lambda: _total(words)


def copy(array: Any) -> Any:
    """A call that reads an array once and writes it once.

    Examples
    --------
    >>> copy(np.arange(3))()
    array([0, 1, 2])
    """
    target = np.empty_like(array)

    def call() -> Any:
        np.copyto(target, array)
        return target

    return call
