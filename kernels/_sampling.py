# mypy: allow-untyped-defs, allow-untyped-calls
"""Drawing from one row of logits by inverse CDF.

First the block is found in which the cumulative sum passes the target, then the run of neighbours inside it, then the
element. All blocks, and a whole block's worth of elements, are looked at whichever is drawn, so that the work depends
on the shape alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._check import Array, sums
from ._jit import jit
from ._lanemath import power, total
from ._lanes import load, load_part, store, store_part, width
from ._row import as_row, length, narrow
from ._rows import BLOCK, NO_TOP, block_mass, block_top
from ._slim import stretch

__all__ = ["RUN", "draw", "sample_scratch"]

RUN = 32


def sample_scratch(V: int, dtype: Any) -> tuple[Array, Array, Array]:
    """Scratch arrays of `draw` for rows of V elements: weights, masses, tops."""
    count = -(-V // BLOCK)
    return np.empty(min(V, BLOCK), dtype), np.empty(count, sums(np.dtype(dtype))), np.empty(count, dtype)


@jit
def uniforms_jit(uniforms):
    """Whether all of (N,) are in [0, 1]; NaN is not."""
    inside = True
    for n in range(uniforms.shape[0]):
        inside = inside and 0.0 <= uniforms[n] <= 1.0
    return inside


@jit
def draw(row, uniform, scale, weights, masses, tops):
    """(token, top, mass) for one uniform in [0, 1]; the last three are from `sample_scratch`.

    The token is -1 where the row has no probability to draw from. A token of weight 0 is never drawn: it does not
    move the sum, so it is not the first to pass the target.
    """
    V, size, count = length(row), weights.shape[0], masses.shape[0]
    top = narrow(NO_TOP, row)
    for b in range(count):
        start, stop = b * size, min(b * size + size, V)
        top = block_top(row, start, stop, top)
        masses[b] = block_mass(row, start, stop, scale, top)
        tops[b] = top
    mass = np.float64(0.0)
    for b in range(count):
        if count > 1:
            masses[b] = masses[b] * power(tops[b] - top, scale)
        mass = mass + masses[b]
    target = uniform * mass
    least = mass * 2.0**-53  # less does not move the sum
    block, before = _find(masses, target, least)
    first = min(block * size, V - size)
    _weigh(row, first, scale, top, weights)
    for i in range(block * size - first):  # of the block before
        weights[i] = narrow(0.0, row)
    token = first + _find_element(weights, before, target, least)
    return token if mass > 0 else -1, top, mass


@jit
def _find(masses, target, least):
    """The block in which the cumulative sum passes the target, and the sum before it; else the last that moves it."""
    reached = np.float64(0.0)
    before = np.float64(0.0)
    block = -1
    last = 0
    last_before = np.float64(0.0)
    for b in range(masses.shape[0]):
        past = reached + masses[b]
        found = block < 0 and past > target
        before = reached if found else before
        block = b if found else block
        last_before = reached if masses[b] > least else last_before
        last = b if masses[b] > least else last
        reached = past
    return block if block >= 0 else last, before if block >= 0 else last_before


@jit
def _weigh(row, first, scale, top, weights):
    """Writes weights: those of the row's elements from `first` on."""
    size, out = weights.shape[0], as_row(weights)
    v = 0
    while v + width(row) <= size:
        store(out, v, power(load(row, first + v) - top, scale))
        v += width(row)
    if v < size:
        store_part(out, v, size, power(load_part(row, first + v, first + size, top) - top, scale))


@jit
def _find_element(weights, before, target, least):
    """The first element at which `before` and the sum so far pass the target; else the last that moves it."""
    size = weights.shape[0]
    zero = weights.dtype.type(0.0)
    reached = before
    run = -1
    for start in range(0, size, RUN):
        past = reached + _sum(weights, start, min(start + RUN, size))
        found = run < 0 and past > target
        before = reached if found else before
        run = start if found else run
        reached = past
    run = run if run >= 0 else (size - 1) // RUN * RUN
    element = -1
    for v in range(run, run + min(RUN, size)):
        before = before + (weights[v] if v < size else zero)
        element = v if element < 0 and v < size and before > target else element
    if element < 0:
        element = _last(
            weights, min(run + RUN, size), least
        )  # a run's sum is rounded otherwise than its prefixes
    return element


@jit
def _sum(weights, start, stop):
    row = stretch(weights, start, stop)
    size = length(row)
    total_ = np.float64(0.0)
    v = 0
    while v + width(row) <= size:
        total_ = total_ + total(load(row, v))
        v += width(row)
    if v < size:
        total_ = total_ + total(load_part(row, v, size, narrow(0.0, row)))
    return total_


@jit
def _last(weights, stop, least):
    """The last element before `stop` of more weight than `least`."""
    last = 0
    for v in range(stop):
        last = v if weights[v] > least else last
    return last
