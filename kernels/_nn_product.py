"""Matrix products of narrow layers; checked and converted."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check
from ._check import Array
from ._products import PANEL, TIMES, TIMES_TURNED, TURNED_TIMES, product_jit

__all__ = ["product"]

_KINDS = {"": TIMES, "a": TURNED_TIMES, "b": TIMES_TURNED}


def product(a: Any, b: Any, turned: str = "", out: Array | None = None) -> Array:
    """``a @ b``, ``a.T @ b`` or ``a @ b.T`` of many rows and few columns.

    A row of the result depends on no other row, to the last bit, which is not so of BLAS.

    Parameters
    ----------
    a, b : array_like, two dimensions
    turned : "", "a" or "b"
        Which of them is taken with rows as columns.
    out : ndarray, optional

    Returns
    -------
    ndarray

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    Examples
    --------
    >>> product([[1.0, 2.0]], [[3.0, 4.0]], turned="b")
    array([[11.]])
    """
    x, y = _check.floats(("a", "b"), a, b)
    kind = _KINDS.get(turned) if isinstance(turned, str) else None
    if kind is None:
        raise ValueError(f"turned: came as {turned!r}, '', 'a' or 'b' is needed")
    for name, array in (("a", x), ("b", y)):
        if array.ndim != 2 or 0 in array.shape[1:]:
            raise ValueError(
                f"{name}: came with shape {array.shape}, two axes are needed, the last not empty"
            )
    rows, deep = x.shape[::-1] if turned == "a" else x.shape
    found, columns = y.shape[::-1] if turned == "b" else y.shape
    if found != deep:
        raise ValueError(f"b: came with shape {y.shape}, {deep} is needed where a, {x.shape}, has it as well")
    result = _check.output(out, (rows, columns), x.dtype, a, b)
    result[...] = 0
    if result.size:
        product_jit(x, y, kind, 0, np.empty(PANEL, x.dtype), result)
    return result
