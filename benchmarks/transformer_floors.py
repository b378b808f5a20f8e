"""How far the transformer's goals are from the arithmetic: what they ask for, and what the machine could give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.table import duration, grid
from benchmarks.transformer_goals import (
    JOB,
    JOB_TIMES,
    MATMUL,
    NARROW,
    OURS,
    PRODUCTS,
    SPEED,
    Found,
    complete,
    goal_text,
    trl_seconds,
)
from benchmarks.transformer_profile import MATMUL as BY_PRODUCTS
from benchmarks.transformer_profile import REST

JOB_LIKE = "PPO update", NARROW
"""The case whose products stand for those of the ten seeds, of which it is the most."""


class Floor(NamedTuple):
    """Seconds that a goal asks for beside the FLOPs, those a second of the peak, and seconds: products', ours.

    `products` is what BLAS takes for the matrix products of the same call and nothing else; `kinds` are shares of ours.
    """

    goal: str
    asked: float
    flops: float
    peak: float
    products: float
    ours: float
    kinds: dict[str, float]

    @property
    def least(self) -> float:
        """Seconds at the peak."""
        return self.flops / self.peak

    @property
    def beside(self) -> tuple[float, float]:
        """Seconds of ours in kernels that are no products, and in Python and NumPy."""
        whole, rest = sum(self.kinds.values()), self.kinds[REST]
        kernels = whole - rest - self.kinds[BY_PRODUCTS]
        return self.ours * kernels / whole, self.ours * rest / whole

    @property
    def verdict(self) -> str:
        """What the numbers say of the goal."""
        if self.ours <= self.asked:
            return "reached"
        if self.asked <= self.least:
            return "beyond the peak"
        if self.asked <= self.products:
            return "beyond BLAS's own products"
        left, taken = duration(self.asked - self.products), duration(self.ours - self.products)
        return f"leaves {left} beside BLAS's own products, we take {taken}"


def floors(found: Found) -> Iterator[Floor]:
    """One for each goal of speed whose FLOPs were counted."""
    for case, size, peer, least in SPEED:
        sides = [found.side(case, name, size) for name in (OURS, peer, MATMUL, PRODUCTS)]
        profile = found.profile(case, size)
        if None in sides or profile is None:
            continue
        ours, theirs, _, products = (side["best"] for side in sides if side is not None)
        yield Floor(
            f"{case}, {size}: {goal_text(least, peer)}",
            theirs / least,
            sum(profile["flops"].values()),
            _peak(found, case, size),
            products,
            ours,
            profile["kinds"],
        )
    yield from _job(found)


def _peak(found: Found, case: str, size: str) -> float:
    """FLOPs a second of the largest product, beside the case."""
    side: Any = found.side(case, MATMUL, size)
    return float(side["about"]) / float(side["best"])


def _job(found: Found) -> Iterator[Floor]:
    job, products, like = found.job, found.side(JOB_LIKE[0], PRODUCTS, JOB_LIKE[1]), found.profile(*JOB_LIKE)
    if not complete(job) or "seed" not in job or products is None or like is None:
        return
    flops, peak = job["seeds"] * sum(job["seed"]["flops"].values()), _peak(found, *JOB_LIKE)
    cores, ours = job["cores"], job[OURS]["seconds"]
    asked = trl_seconds(job) / JOB_TIMES
    # To each FLOP, be it of a product or not, the seconds of products that come to it in the case.
    by_blas = flops / cores * products["best"] / sum(like["flops"].values())
    goal = f"{JOB}: {JOB_TIMES:g} × TRL"
    yield Floor(goal, asked, flops, cores * peak, by_blas, ours, job["seed"]["kinds"])


def markdown(found: Found) -> Iterator[str]:
    rows = []
    for floor in floors(found):
        shares = (floor.least / taken for taken in (floor.asked, floor.ours))
        times = (floor.asked, floor.least, floor.products, floor.ours)
        rows.append(
            [
                floor.goal,
                f"{floor.flops / 1e6:,.0f}",
                *map(duration, times),
                *map(duration, floor.beside),
                " / ".join(f"{share:.0%}" for share in shares),
                floor.verdict,
            ]
        )
    if rows:
        header = (
            "goal",
            "MFLOP",
            "asked for",
            "at the peak",
            "BLAS, its products alone",
            "ours",
            "of it kernels",
            "Python",
            "of the peak: asked for / ours",
            "so",
        )
        yield "### Floors\n\n" + grid(header, rows)
