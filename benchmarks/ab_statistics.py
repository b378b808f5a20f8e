"""The answer to "is it slower?" from the launches of an A/B comparison. Arrays in, answers out; it times nothing.

The unit of analysis is a launch: the median over its rounds of log(seconds of a side / seconds of the base), both timed
within milliseconds. The A/A arm, a second copy of the base, goes through the same and so shows what a ratio of equal
code looks like on this machine at this hour; the head's launches are compared with those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhfbench.statistics import holm

LEVEL = 0.01  # chance of any false alarm in a whole suite, before the tier and the second run
TIER = 0.05  # differences below it are nobody's concern, and may come from where the linker put a loop
SPREADS = 3.0
MAX_GATE = 0.12  # behind a higher gate a slowdown of 15 % could hide
CONFIDENCE = 0.95
NORMAL_MAD = 1.4826  # median absolute deviation -> standard deviation, for normal data


class Answer(StrEnum):
    """What can be said of one benchmark."""

    REGRESSED = "regressed"
    UNCHANGED = "unchanged"
    IMPROVED = "improved"
    UNMEASURED = "unmeasured"


@dataclass(frozen=True)
class Finding:
    """One benchmark, head against base.

    Attributes
    ----------
    base, head : float
        Seconds a call, median over launches.
    ratio, low, high : float
        Median over launches of head / base, paired, and its 95 % interval.
    spread : float
        Standard deviation of the A/A arm's ratios about 1, from their median absolute deviation.
    gate : float
        What the ratio has to pass: the tier, or three spreads if that is more.
    p : float
        Mann-Whitney of the head's launches against the A/A arm's, Holm-adjusted for the suite.
    """

    name: str
    base: float
    head: float
    ratio: float
    low: float
    high: float
    spread: float
    gate: float
    p: float

    @property
    def answer(self) -> Answer:
        """A difference needs both, to pass the gate and not to be chance; else noise must have left room to see one."""
        passed = abs(math.log(self.ratio)) > math.log1p(self.gate)
        if passed and self.p < LEVEL:
            return Answer.REGRESSED if self.ratio > 1 else Answer.IMPROVED
        return Answer.UNMEASURED if passed or self.gate > MAX_GATE else Answer.UNCHANGED

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**asdict(self), "answer": str(self.answer)}


def fewest_launches(benchmarks: int, least: int = 8) -> int:
    """Launches a side under which not even complete separation would be significant after Holm."""
    launches = least
    while 2 / math.comb(2 * launches, launches) * benchmarks >= LEVEL:
        launches += 1
    return launches


def launch_ratios(seconds: ArrayLike, base: ArrayLike) -> NDArray[np.float64]:
    """Log ratio of each launch, from (launches, rounds) seconds a call."""
    return np.asarray(np.median(np.log(seconds) - np.log(base), axis=-1))


def findings(timings: Mapping[str, ArrayLike], tier: float = TIER) -> list[Finding]:
    """Findings of a whole suite.

    Parameters
    ----------
    timings : mapping from name to array, (launches, 3, rounds)
        Seconds a call of the base, its copy, and the head.
    tier : float
        The lowest gate.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> seconds = 1e-3 * np.exp(0.01 * rng.standard_normal((10, 3, 5)))
    >>> [str(finding.answer) for finding in findings({"same": seconds, "slow": seconds * [[1], [1], [1.15]]})]
    ['unchanged', 'regressed']
    """
    from scipy.stats import mannwhitneyu, quantile_test

    rows = []
    for name, values in timings.items():
        seconds = np.asarray(values, dtype=np.float64)
        base, copy, head = np.moveaxis(seconds, 1, 0)
        same, other = launch_ratios(copy, base), launch_ratios(head, base)
        spread = float(NORMAL_MAD * np.median(np.abs(same)))
        bounds = quantile_test(other, p=0.5).confidence_interval(CONFIDENCE)
        rows.append(
            Finding(
                name=name,
                base=float(np.median(base)),
                head=float(np.median(head)),
                ratio=float(np.exp(np.median(other))),
                low=float(np.exp(bounds.low)),
                high=float(np.exp(bounds.high)),
                spread=spread,
                gate=max(tier, SPREADS * spread),
                p=float(mannwhitneyu(other, same, method="exact").pvalue),
            )
        )
    adjusted = holm([row.p for row in rows])
    return [Finding(**{**asdict(row), "p": float(p)}) for row, p in zip(rows, adjusted, strict=True)]
