"""What may be claimed of one metric: the records of arms and pairs, and the decision for one pair and for all pairs.

Everything reads "second arm against the first": `difference` is second minus first. `better` names the winner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .statistics import Array, Interval, holm, paired_ratio, sign_flip_p, summary

MetricKind: TypeAlias = Literal["better", "equivalent", "inconclusive", "no_claim"]
Kind: TypeAlias = Literal["better", "equivalent", "inconclusive", "no_claim", "split"]

MIN_CLAIM = 6  # seeds; with 5 the smallest two-sided sign-flip p is 2 / 2^5 = .0625
SIGNIFICANT = 0.05
SEED_SHARE = 0.75  # of the seeds have to be on the winner's side
MARGIN = 0.10  # of the larger gain: what counts as no difference


@dataclass(frozen=True)
class ArmScores:
    """Final and starting scores of one arm, (n,) each, paired with the other arms by position.

    A run without a finite score counts with its starting score. `flops` (n,) may be missing; compute is then null.
    RM scores are compared between arms of the same `reward` only: others have a scale and an origin of their own.
    """

    rm_score: ArrayLike
    gold_score: ArrayLike
    rm_reference: ArrayLike
    gold_reference: ArrayLike
    flops: ArrayLike | None = None
    reward: str = ""


@dataclass(frozen=True)
class Contender:
    """The scores of one arm as they count: gains over the start, a missing score replaced by the starting one."""

    label: str
    rm: Array
    gold: Array
    rm_gain: Array
    gold_gain: Array
    flops: Array | None
    reward: str

    @classmethod
    def of(cls, label: str, scores: ArmScores) -> Contender:
        fields = (scores.rm_score, scores.gold_score, scores.rm_reference, scores.gold_reference)
        rm, gold, rm_start, gold_start = (np.asarray(x, dtype=np.float64) for x in fields)
        if {x.shape for x in (rm, gold, rm_start, gold_start)} != {(rm.size,)}:
            raise ValueError(f"{label}: scores and starting scores need one value per seed each")
        rm, gold = (np.where(np.isfinite(x), x, y) for x, y in ((rm, rm_start), (gold, gold_start)))
        flops = None if scores.flops is None else np.asarray(scores.flops, dtype=np.float64)
        return cls(label, rm, gold, rm - rm_start, gold - gold_start, flops, scores.reward)


@dataclass(frozen=True)
class Pair:
    """Two contenders, with what was decided of the second against the first."""

    first: Contender
    second: Contender
    rm: MetricVerdict
    gold: MetricVerdict

    @property
    def flops(self) -> Interval | None:
        """FLOPs of second over first; None where a count is missing or not positive."""
        a, b = self.first.flops, self.second.flops
        if a is None or b is None or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return None
        return paired_ratio(b, a) if min(a.min(initial=np.inf), b.min(initial=np.inf)) > 0 else None


@dataclass(frozen=True)
class MetricVerdict:
    """One metric of two arms: IQM of second minus first with its 95 % interval, and p (after Holm if more arms)."""

    kind: MetricKind
    better: str | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    def mirrored(self) -> MetricVerdict:
        """The same with first and second arm exchanged."""
        difference, low, high = (
            None if v is None else 0.0 - v for v in (self.difference, self.high, self.low)
        )
        return MetricVerdict(self.kind, self.better, difference, low, high, self.p)


Pairs: TypeAlias = dict[tuple[str, str], MetricVerdict]
"""One metric: the verdict on each pair of labels."""


def metric_verdict(
    first: str, second: str, difference: ArrayLike, larger_gain: float, p: float | None = None
) -> MetricVerdict:
    """Decide one metric of two arms.

    A claim needs a sign-flip p < .05, a 95 % interval without 0, and at least 75 % of the seeds and their mean on the
    same side. Equivalent: the 90 % interval lies within 10 % of the larger gain (two one-sided tests at 5 %). A claim
    goes before an equivalence. No claim under 6 seeds.

    Parameters
    ----------
    first, second : str
        Labels.
    difference : (n,)
        Second minus first, per seed.
    larger_gain : float
        The larger absolute gain of the two over the reference, in the unit of `difference`.
    p : float, optional
        P-value adjusted for other comparisons; None: computed for this one alone.
    """
    d = np.asarray(difference, dtype=np.float64)
    interval = summary(d)
    if interval.estimate is None:
        return MetricVerdict("no_claim")
    p = sign_flip_p(d) if p is None else p
    kind, better = _decide(first, second, d, interval, larger_gain, p)
    return MetricVerdict(kind, better, interval.estimate, interval.low, interval.high, p)


def _decide(
    first: str, second: str, d: Array, interval: Interval, larger_gain: float, p: float
) -> tuple[MetricKind, str | None]:
    if d.size < MIN_CLAIM or interval.estimate is None:
        return "no_claim", None
    side = float(np.sign(interval.estimate))
    agree = np.mean(d * side > 0) >= SEED_SHARE and d.mean() * side > 0
    if tells_apart(interval.low, interval.high, p) and agree:
        return "better", second if side > 0 else first
    narrow = summary(d, level=0.90)
    reach = max(abs(narrow.low or 0.0), abs(narrow.high or 0.0))
    return "equivalent" if reach <= MARGIN * larger_gain else "inconclusive", None


def tells_apart(low: float | None, high: float | None, p: float | None) -> bool:
    """Whether interval and test both exclude that there is no difference."""
    return low is not None and high is not None and p is not None and low * high > 0 and p < SIGNIFICANT


def all_pairs(metric: Mapping[str, tuple[Array, Array]]) -> Pairs:
    """Verdicts of one metric, given as label -> (scores, gains), for every pair in the order given."""
    pairs = list(combinations(metric, 2))
    differences = [metric[second][0] - metric[first][0] for first, second in pairs]
    # A pair without scores is no test that was made, but it keeps its place: 1 is never a claim.
    p = holm([sign_flip_p(d) if np.isfinite(d).all() else 1.0 for d in differences])
    gain = {label: abs(summary(gains).estimate or 0.0) for label, (_, gains) in metric.items()}
    return {
        (first, second): metric_verdict(first, second, d, max(gain[first], gain[second]), float(adjusted))
        for (first, second), d, adjusted in zip(pairs, differences, p, strict=True)
    }


def oriented(pairs: Pairs, first: str, second: str) -> MetricVerdict:
    """The verdict on `second` against `first`, whichever way it was computed."""
    return pairs[first, second] if (first, second) in pairs else pairs[second, first].mirrored()


def beats(pairs: Pairs, a: str, b: str) -> bool:
    """Whether a claim says so."""
    return oriented(pairs, b, a).better == a
