"""L-BFGS for smooth functions of some thousand numbers, which counts its own work.

Nocedal (1980), "Updating quasi-Newton matrices with limited storage", Mathematics of Computation 35; the step length
is halved until Armijo's condition holds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from kernels import flops

from ..types import Float

Function: TypeAlias = Callable[[Float], tuple[float, Float, flops.Work]]
"""x -> value, gradient, work."""

ARMIJO = 1e-4
HALVINGS = 30
CURVED = 1e-10
"""A step along which the gradient turns by less, relative to both, says nothing of the curvature: not convex there."""


class Minimum(NamedTuple):
    """Where it stopped: `x`, the `value` there, the norm of the gradient, evaluations of the function, and all work."""

    x: Float
    value: float
    slope: float
    evaluations: int
    work: flops.Work


class Tally:
    """Products and sums of vectors that are counted as they are made; arithmetic among scalars is not."""

    def __init__(self) -> None:
        self.flops = 0

    def dot(self, a: Float, b: Float) -> float:
        """a . b"""
        self.flops += 2 * a.size - 1
        product: float = np.dot(a, b)
        return product

    def plus(self, a: Float, scale: float, b: Float) -> Float:
        """a + scale b"""
        self.flops += 2 * a.size
        return a + scale * b

    def scaled(self, scale: float, a: Float) -> Float:
        """scale a"""
        self.flops += a.size
        return scale * a


def minimise(
    function: Function, start: Float, *, tolerance: float = 1e-4, most: int = 200, memory: int = 8
) -> Minimum:
    """Go downhill from `start` until the gradient's norm is at most `tolerance`.

    Parameters
    ----------
    function : callable x (n,) -> value, gradient (n,), work
    start : (n,) float64
    tolerance : float
    most : int
        Steps after which it stops in any case, as it does where no step goes down any more.
    memory : int
        Steps whose change of gradient is remembered.
    """
    tally, pairs = Tally(), deque[tuple[Float, Float, float]](maxlen=memory)
    x = start
    value, gradient, work = function(x)
    evaluations, slope = 1, _norm(tally, gradient)
    for _ in range(most):
        if slope <= tolerance:
            break
        direction = _direction(tally, gradient, pairs, slope)
        falls = tally.dot(gradient, direction)
        step = 1.0
        for _ in range(HALVINGS):
            further = tally.plus(x, step, direction)
            new_value, new_gradient, more = function(further)
            evaluations, work = evaluations + 1, work + more
            if new_value <= value + ARMIJO * step * falls:
                break
            step *= 0.5
        else:
            break
        moved, turned = tally.scaled(step, direction), tally.plus(new_gradient, -1.0, gradient)
        curvature, norm = tally.dot(moved, turned), tally.dot(turned, turned)
        if curvature > CURVED * norm:
            pairs.append((moved, turned, curvature))
        x, value, gradient = further, new_value, new_gradient
        slope = _norm(tally, gradient)
    return Minimum(x, value, slope, evaluations, work + flops.Work(tally.flops, 0))


def _norm(tally: Tally, vector: Float) -> float:
    return math.sqrt(tally.dot(vector, vector))


def _direction(
    tally: Tally, gradient: Float, pairs: deque[tuple[Float, Float, float]], slope: float
) -> Float:
    """Minus the gradient times the inverse curvature that the pairs suggest; at first a step of length 1."""
    if not pairs:
        return tally.scaled(-1.0 / slope, gradient)
    rest, shares = gradient, []
    for moved, turned, curvature in reversed(pairs):
        shares.append(tally.dot(moved, rest) / curvature)
        rest = tally.plus(rest, -shares[-1], turned)
    _, turned, curvature = pairs[-1]
    rest = tally.scaled(curvature / tally.dot(turned, turned), rest)
    for (moved, turned, curvature), share in zip(pairs, reversed(shares), strict=True):
        rest = tally.plus(rest, share - tally.dot(turned, rest) / curvature, moved)
    return tally.scaled(-1.0, rest)
