# mypy: allow-untyped-defs, allow-untyped-calls
"""Sums of a mask's weights, which losses and advantages divide by; a wrong weight makes them NaN."""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._lanemath import total, where_less
from ._lanes import load, load_part, width
from ._row import as_row, length, narrow
from ._vecmath import BLOCK, inlined


@inlined
def valid(weight, zero, bad):
    """The weight, or NaN instead of one that is negative."""
    return where_less(weight, zero, bad, weight)


@inlined
def tail(row, start, stop):
    """Where the last vector of row[start:stop] begins: a part of one, with which sums begin."""
    return stop - (stop - start) % width(row)


@jit
def block_weight(mask, start, stop):
    """Sum of the weights mask[start:stop] in float64, NaN where one is negative or NaN."""
    zero, bad = narrow(0.0, mask), narrow(np.nan, mask)
    last = tail(mask, start, stop)
    count = valid(load_part(mask, last, stop, zero), zero, bad)
    for v in range(start, last, width(mask)):
        count = count + valid(load(mask, v), zero, bad)
    return total(count)


@inlined
def divisor(count):
    """A sum of weights to divide by: 1 where all is masked, NaN where a weight is wrong."""
    nothing = count + np.float64(1.0)
    finite = count if count < np.inf else np.float64(np.nan)
    return nothing if count == np.float64(0.0) else finite


@jit
def total_weight(mask):
    """Sum of the mask, to divide by: 1 where all is masked, NaN where a weight is negative, infinite or NaN."""
    weights = as_row(mask)
    N = length(weights)
    count = np.float64(0.0)
    for start in range(0, N, BLOCK):
        count = count + block_weight(weights, start, min(start + BLOCK, N))
    return divisor(count)
