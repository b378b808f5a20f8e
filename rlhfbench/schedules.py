"""Learning rates over a run: factors by the share of it that is done, for `Optimizer.step(scale=...)`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

Schedule: TypeAlias = Literal["linear", "cosine"]


def warmup_cosine(progress: float, warmup: float = 0.0, floor: float = 0.0) -> float:
    """Up in a straight line, then down along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Parameters
    ----------
    progress : float
        Share of the updates that is done, in [0, 1]; beyond 1 it stays at the floor.
    warmup : float
        Share of the updates over which it rises from 0, in [0, 1). The first update then only fills the optimiser's
        moments.
    floor : float
        Where it ends, in [0, 1].

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> [round(warmup_cosine(p, warmup=0.2, floor=0.1), 3) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.5, 1.0, 0.55, 0.1]
    """
    if progress < warmup:
        return progress / warmup
    return floor + (1.0 - floor) * (0.5 + 0.5 * math.cos(math.pi * _falling(progress, warmup)))


def linear(progress: float, warmup: float = 0.0, floor: float = 0.0) -> float:
    """Up in a straight line, then down in another; parameters and result as of `warmup_cosine`.

    Examples
    --------
    >>> [round(linear(p, warmup=0.2, floor=0.1), 3) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.5, 1.0, 0.55, 0.1]
    """
    if progress < warmup:
        return progress / warmup
    return 1.0 - (1.0 - floor) * _falling(progress, warmup)


def _falling(progress: float, warmup: float) -> float:
    """Share of what comes after the warm-up."""
    return min((progress - warmup) / (1.0 - warmup), 1.0)


SCHEDULES: dict[Schedule, Callable[[float, float, float], float]] = {
    "linear": linear,
    "cosine": warmup_cosine,
}


def scheduled(kind: Schedule, progress: float, warmup: float = 0.0, floor: float = 0.0) -> float:
    """The factor of the schedule called `kind`, as TRL names them; parameters and result as of `warmup_cosine`."""
    return SCHEDULES[kind](progress, warmup, floor)
