"""Memory that a run uses again: the arrays of a batch, which every update needs anew in the same shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Room:
    """Arrays by name. What an array holds is gone once its name is asked for again: nobody else may keep it.

    Names of one word are the algorithm's own; those of the helpers that it calls have two.
    """

    def __init__(self) -> None:
        self._held: dict[str, NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array of whatever values: the one that had this name, if that fits."""
        held = self._held.get(name)
        if held is None or held.shape != shape or held.dtype != dtype:
            held = self._held[name] = np.empty(shape, dtype)
        return held

    def like(self, name: str, other: NDArray[Any]) -> NDArray[Any]:
        """One of the shape and type of another."""
        return self(name, other.shape, other.dtype)

    def take(self, index: NDArray[np.int64], **arrays: NDArray[Any]) -> list[NDArray[Any]]:
        """The rows of each array at `index`; what is called `mask` here is ``batch mask`` in the room."""
        _check(index, min(map(len, arrays.values())))
        n = len(index)
        return [  # "raise" would take a copy
            rows.take(index, 0, self(f"batch {name}", (n, *rows.shape[1:]), rows.dtype), "clip")
            for name, rows in arrays.items()
        ]

    def take_both(
        self, name: str, ones: NDArray[Any], others: NDArray[Any], index: NDArray[np.int64]
    ) -> NDArray[Any]:
        """First the rows of `ones` at `index`, then those of `others`."""
        _check(index, min(len(ones), len(others)))
        n = len(index)
        out = self(name, (2 * n, *ones.shape[1:]), ones.dtype)
        ones.take(index, 0, out[:n], "clip")
        others.take(index, 0, out[n:], "clip")
        return out


def _check(index: NDArray[np.int64], rows: int) -> None:
    """That all are there: arrays are taken from with "clip", which has no copy of its own, and refuses nothing."""
    if index.dtype != np.int64:
        raise IndexError(f"index: came as {index.dtype}, int64 is needed")
    if len(index) and index.view(np.uint64).max() >= rows:  # where those below 0 are the largest
        raise IndexError(
            f"index: came with {index.min()} to {index.max()}, at least 0 and below {rows} is needed"
        )
