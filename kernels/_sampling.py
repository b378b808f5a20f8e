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
from ._lanemath import nothing, power, total
from ._lanes import load, load_part, width
from ._row import as_row, at, length, narrow
from ._rows import BLOCK, NO_TOP, START, block_mass, block_top, write_weights
from ._slim import stretch

__all__ = ["RUN", "draw", "sample_scratch", "sample_sizes"]

RUN, FAR = 16, 64
"""Elements that are passed over together, where there are many: a vector of one register, or two; and of four."""


def sample_sizes(V: int) -> tuple[int, int]:
    """Of the weights, and of masses and tops, that `sample_scratch` gives."""
    return min(V if V <= FAR else -(-V // FAR) * FAR, BLOCK), -(-V // BLOCK)


def sample_scratch(V: int, dtype: Any) -> tuple[Array, Array, Array]:
    """Scratch arrays of `draw` for rows of V elements: weights, masses, tops."""
    size, count = sample_sizes(V)
    return np.empty(size, dtype), np.empty(count, sums(np.dtype(dtype))), np.empty(count, dtype)


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
    first, before = START, np.float64(0.0)
    if count == 1:
        top = block_top(row, START, V, narrow(NO_TOP, row))
        mass = write_weights(row, START, V, scale, top, as_row(weights))
        for v in range(V, size):
            weights[v] = nothing(weights[0])  # so that sums over it count
    else:
        top, mass = _weigh_blocks(row, scale, size, masses, tops)
    target = uniform * mass
    least = mass * 2.0**-53  # less does not move the sum
    if count > 1:
        block, before = _find(masses, target, least)
        first = min(block * size, V - size)
        write_weights(row, first, first + size, scale, top, as_row(weights))
        for i in range(block * size - first):  # of the block before
            weights[i] = narrow(0.0, row)
    token = first + _find_element(weights, before, target, least)
    return token if mass > 0 else -1, top, mass


@jit
def _weigh_blocks(row, scale, size, masses, tops):
    """(top, mass), and writes masses: those of the blocks."""
    V, count = length(row), masses.shape[0]
    top = narrow(NO_TOP, row)
    for b in range(count):
        start, stop = b * size, min(b * size + size, V)
        top = block_top(row, start, stop, top)
        masses[b] = block_mass(row, start, stop, scale, top)
        tops[b] = top
    mass = np.float64(0.0)
    for b in range(count):
        masses[b] = masses[b] * power(tops[b] - top, scale)
        mass = mass + masses[b]
    return top, mass


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
def _find_element(weights, before, target, least):
    """The first element at which `before` and the sum so far pass the target; else the last that moves it.

    Sums never fall, so that those that do not pass are the first ones, and their number says where.
    """
    size, row = weights.shape[0], stretch(weights, START, weights.shape[0])
    run, stop, zero = START, size, narrow(0.0, weights)
    if size > FAR:
        run, before = _skip(row, START, size, FAR, before, target)
        stop = min(run + FAR, size)
    run, before = _skip(row, run, stop, RUN, before, target)
    element = run
    for v in range(run, run + min(RUN, size)):
        before = before + (at(row, v) if v < size else zero)
        element += before <= target
    stop = min(run + RUN, size)  # a run's sum is rounded otherwise than its prefixes
    return element if element < stop else _last(weights, stop, least)


@jit
def _skip(row, start, stop, size, before, target):
    """The first run of so many elements in which the sum passes the target, or the stop; and the sum before it."""
    run, reached = start, before
    for first in range(start, stop, size):
        reached = reached + _sum(row, first, min(first + size, stop))
        below = reached <= target
        before = reached if below else before
        run = first + size if below else run
    return run, before


@jit
def _sum(row, start, stop):
    """Of these elements in float64; from 0 on, which the ledger counts."""
    zero, v = narrow(0.0, row), start + width(row)
    lanes = load(row, start) if v <= stop else load_part(row, start, stop, zero)
    while v + width(row) <= stop:
        lanes = lanes + load(row, v)
        v += width(row)
    if v < stop:
        lanes = lanes + load_part(row, v, stop, zero)
    return np.float64(0.0) + total(lanes)


@jit
def _last(weights, stop, least):
    """The last element before `stop` of more weight than `least`; else the first."""
    last = stop - 1
    while last > 0 and not weights[last] > least:
        last -= 1
    return last
