"""Sequences as spans of packed rows: made of a mask, checked, and laid out for the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check
from ._check import Array
from ._jit import jit

__all__ = ["Spans", "clear_unseen_jit", "spans_of"]

_FORM = "first, count, before, prefix"


def spans_of(mask: Any) -> Array:
    """The sequences of a padded batch as `attention` takes them.

    Parameters
    ----------
    mask : array_like, (B, T)
        Not 0 where there is a token; padding stands before them, after them, or both.

    Returns
    -------
    spans : ndarray of int64, (B, 4)
        Row b of the mask is the sequence of rows ``b T + start`` to ``b T + stop``, and continues no other.

    Raises
    ------
    TypeError, ValueError
        Naming the mask where it is not one.

    Examples
    --------
    >>> spans_of([[0, 1, 1], [1, 1, 1]])
    array([[1, 2, 0, 0],
           [3, 3, 0, 0]])
    """
    values = _check.real("mask", mask)
    if not np.isfinite(values).all():
        raise ValueError("mask: came with NaN or infinity, finite numbers are needed")
    counts = values != 0
    if counts.ndim != 2:
        raise ValueError(f"mask: came with shape {counts.shape}, (B, T) is needed")
    B, T = counts.shape
    lengths = np.count_nonzero(counts, axis=1)
    starts = counts.argmax(axis=1) if T else lengths
    steps = np.count_nonzero(counts[:, 1:] > counts[:, :-1], axis=1) + (counts[:, 0] if T else 0)
    if (steps > 1).any():
        raise ValueError(
            f"mask: came with gaps in row {int(np.argmax(steps > 1))}, tokens side by side are needed"
        )
    return np.column_stack([np.arange(B) * T + starts, lengths, 0 * lengths, 0 * lengths])


class Spans:
    """Spans (S, 4) of `rows` rows, checked.

    Attributes
    ----------
    table : (S, 5)
        With the place where each one's weights begin, as the kernels take them.
    weights, longest, widest : int
        Weights in all; most keys of a span; most weights of a span and head.
    everywhere : bool
        Whether each row is in a span.
    """

    def __init__(self, spans: Any, rows: int, heads: int) -> None:
        array = _check.integers("spans", spans)
        if array.ndim != 2 or array.shape[1] != 4:
            raise ValueError(f"spans: came with shape {array.shape}, (S, 4) is needed: {_FORM}")
        _check_rows(array, rows)
        count, prefix = array[:, 1], array[:, 3]
        sizes = count * (prefix + count)
        ends = heads * np.cumsum(sizes)
        self.table = np.column_stack([array, ends - heads * sizes])
        self.weights = int(ends[-1]) if len(ends) else 0
        self.longest = int((prefix + count).max(initial=1))
        self.widest = int(sizes.max(initial=1))
        self.everywhere = int(count.sum()) == rows


def _check_rows(spans: Array, rows: int) -> None:
    """That all are there, that no row is in two spans, and that none comes before itself."""
    first, count, before, prefix = spans.T
    _refuse(spans, (spans < 0).any(axis=1), "no number below 0")
    outside = (count > rows) | (first > rows - count) | (prefix > rows) | (before > rows - prefix)
    _refuse(spans, outside, f"nothing beyond the {rows} rows")
    own = (count > 0) & (prefix > 0) & (first < before + prefix) & (before < first + count)
    _refuse(spans, own, "nothing before it that is its own")
    live = np.flatnonzero(count)
    order = live[np.argsort(first[live], kind="stable")]
    twice = np.zeros(len(spans), bool)
    twice[order[1:]] = first[order[1:]] < (first + count)[order[:-1]]
    _refuse(spans, twice, "no row of another span")


def _refuse(spans: Array, wrong: Any, needed: str) -> None:
    if wrong.any():
        s = int(np.argmax(wrong))
        raise ValueError(
            f"spans: came with {spans[s].tolist()} ({_FORM}) as span {s}, {needed} is needed there"
        )


@jit
def clear_unseen_jit(weights, spans, heads):  # type: ignore[no-untyped-def]
    """Writes 0 to the weights of tokens that come later."""
    for s in range(spans.shape[0]):
        count, prefix, base = spans[s, 1], spans[s, 3], spans[s, 4]
        J = prefix + count
        for h in range(heads):
            for i in range(count):
                for j in range(prefix + i + 1, J):
                    weights[base + (h * count + i) * J + j] = 0.0
