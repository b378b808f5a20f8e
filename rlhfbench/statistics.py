"""Interval estimates and tests for a handful of paired seeds. Arrays in, numbers out: it knows no runs and no arms.

Estimate: the interquartile mean (IQM; Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice").
Interval: percentile bootstrap over seeds, both arms of a pair resampled together, its tails widened for small n
(Hesterberg 2015, "What teachers should know about the bootstrap"). Test: exact sign flips. With n = 10 the 95 %
interval covers 93.5-95 % on normal, lognormal and bimodal data; a slow test measures it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]

MIN_INTERVAL = 5  # seeds below which there is no interval
FULL_INTERVAL = 10  # seeds from which the interval keeps its level
EXACT_FLIPS = 16  # seeds up to which all 2^n sign flips are enumerated
RESAMPLES = 10_000
MONTE_CARLO_FLIPS = 2**16


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; what does not exist is None, never NaN.

    Attributes
    ----------
    estimate, low, high : float or None
        In the unit of the data; `low` and `high` are None under 5 seeds.
    n : int
        Seeds.
    method : str
        How it was computed, for people.
    level : float
        Nominal coverage.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    level: float

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, without the level."""
        return {
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "method": self.method,
        }


def interquartile_mean(x: ArrayLike, axis: int = -1) -> Any:
    """Mean of the middle half of the sample, exact for every n.

    The i-th smallest of n values owns the share [(i-1)/n, i/n] of the sample and weighs as much as of that share lies
    in [1/4, 3/4]: with n = 10 the third and the eighth value count half. Where 4 divides n this is the 25 % trimmed
    mean, for n = 1, 2 the mean. It follows a shift or a scale of the data and flips its sign with theirs.

    Parameters
    ----------
    x : array_like
        Finite values.
    axis : int
        The axis of the sample; the others are kept.

    Returns
    -------
    float or ndarray
        `x` without `axis`.
    """
    values = np.sort(np.moveaxis(np.asarray(x, dtype=np.float64), axis, -1), axis=-1)
    return values @ _middle_weights(np.ones(values.shape[-1]))


def bootstrap_bounds(x: ArrayLike, level: float = 0.95) -> tuple[Any, Any]:
    """Percentile bootstrap interval of the IQM of the last axis, for many samples at once.

    All samples of one size share one fixed set of resamples, which is closed under reversal: the same data give the
    same interval, in any order of the seeds, and negated data the negated interval.

    Parameters
    ----------
    x : array_like, shape (..., n)
        Finite samples.
    level : float
        Nominal coverage.

    Returns
    -------
    low, high : float or ndarray, shape (...)
    """
    values = np.sort(np.asarray(x, dtype=np.float64), axis=-1)
    return _central(values @ _resample_weights(values.shape[-1]).T, values.shape[-1], level)


def summary(x: ArrayLike, level: float = 0.95) -> Interval:
    """IQM of one sample (n,) with its bootstrap interval."""
    return _iqm_interval(_sample(x), level, "interquartile mean, percentile bootstrap")


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """IQM of a - b, both (n,) and paired by position, with its bootstrap interval."""
    first, second = _pair(a, b)
    with np.errstate(invalid="ignore"):  # inf - inf: no estimate
        difference = first - second
    return _iqm_interval(difference, level, "interquartile mean, paired percentile bootstrap")


def paired_ratio(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """IQM(a) / IQM(b), both (n,) and paired by position, with its bootstrap interval.

    All of it is None where the interval of the denominator holds 0: the ratio has no sign there. (Under 5 seeds, where
    there is no interval, the range of the denominators stands in for it.)
    """
    top, bottom = _pair(a, b)
    n = top.size
    method = _method("ratio of interquartile means, paired percentile bootstrap", n)
    nothing = Interval(None, None, None, n, method, level)
    if n == 0 or not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        return nothing
    denominator = float(interquartile_mean(bottom))
    bottoms = _resampled_iqm(bottom) if n >= MIN_INTERVAL else bottom
    reach = _central(bottoms, n, level) if n >= MIN_INTERVAL else (bottom.min(), bottom.max())
    if not min(end * np.sign(denominator) for end in reach) > 0:
        return nothing
    estimate = float(interquartile_mean(top)) / denominator
    if n < MIN_INTERVAL:
        return Interval(estimate, None, None, n, method, level)
    # In the tail that the interval leaves out a denominator may still pass 0: there the ratio is beyond all bounds.
    sign = np.sign(denominator)
    tops = _resampled_iqm(top) * sign
    passed = bottoms * sign <= 0
    ratios = np.where(passed, np.copysign(np.inf, tops), tops / np.where(passed, 1.0, bottoms * sign))
    low, high = _central(ratios, n, level)
    return Interval(estimate, float(low), float(high), n, method, level)


def sign_flip_p(d: ArrayLike) -> float:
    """Two-sided p-value of the sign-flip test of paired differences (n,).

    Under the null each difference is as likely as its negative, which holds for two arms that differ only by chance.
    The statistic is |sum of d|: the mean, and not the IQM, so that rare disasters that trimming leaves out still count.
    Ties count against the claim. All 2^n flips up to n = 16, seeded Monte Carlo with 2^16 flips above.
    """
    values = _sample(d)
    if values.size == 0:
        return 1.0
    bar = abs(values.sum()) - 1e-12 * np.abs(values).sum()  # a sum in another order must still be a tie
    if values.size <= EXACT_FLIPS:
        sums = values[:1]  # its other sign mirrors every sum and changes no absolute value
        for value in values[1:]:
            sums = np.concatenate((sums + value, sums - value))
        return float(np.mean(np.abs(sums) >= bar))
    rng = np.random.default_rng(values.size)
    hits = 0
    for _ in range(64):  # in blocks: the signs of all flips at once would fill the memory at large n
        signs = 2.0 * rng.integers(0, 2, size=(MONTE_CARLO_FLIPS // 64, values.size)) - 1.0
        hits += int(np.count_nonzero(np.abs(signs @ values) >= bar))
    return (1 + hits) / (1 + MONTE_CARLO_FLIPS)


def holm(p_values: Sequence[float] | Array) -> Array:
    """P-values (m,) adjusted for m tests by Holm's step-down method (Holm 1979), in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((p.size - np.arange(p.size)) * p[order]), 1.0)
    return adjusted


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion from k successes in n trials (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    if not 0 <= k <= n:
        raise ValueError(f"k has to lie in 0..n, got k = {k}, n = {n}")
    tail = (1.0 - level) / 2.0
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1.0 - tail)) if k < n else 1.0
    return low, high


def auc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    None where one of the two is missing.

    >>> auc([0.1, 0.4, 0.4, 0.8], [False, False, True, True])
    0.875
    """
    from scipy.stats import rankdata

    ranks, truth = rankdata(scores), np.asarray(positive, bool)
    many, few = int(truth.sum()), int((~truth).sum())
    if not many or not few:
        return None
    return float((ranks[truth].sum() - many * (many + 1) / 2) / (many * few))


def more_seeds(interval: Interval, power: float = 0.8) -> int | None:
    """Seeds to add until a difference as large as the estimate is found with this power; at least 1.

    The standard error is read from the interval and shrinks with the square root of n: a two-sided normal test.
    None where there is no interval, or where no number of seeds is enough.
    """
    if not interval.estimate or interval.low is None or interval.high is None:
        return None
    normal = NormalDist()
    quantile = normal.inv_cdf((1.0 + interval.level) / 2.0)
    error = (interval.high - interval.low) / (2.0 * quantile)
    errors = (quantile + normal.inv_cdf(power)) * error / abs(interval.estimate)
    return max(1, math.ceil(interval.n * errors**2) - interval.n) if errors < 1e100 else None


def _sample(x: ArrayLike) -> Array:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"one value per seed is needed, got an array of shape {values.shape}")
    return values


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    first, second = _sample(a), _sample(b)
    if first.size != second.size:
        raise ValueError(f"paired samples need the same seeds, got {first.size} and {second.size}")
    return first, second


def _method(name: str, n: int) -> str:
    return (
        name
        if n < MIN_INTERVAL or n >= FULL_INTERVAL
        else f"{name} (n < {FULL_INTERVAL}: covers less than its level)"
    )


def _iqm_interval(values: Array, level: float, method: str) -> Interval:
    n = values.size
    method = _method(method, n)
    if n == 0 or not np.isfinite(values).all():
        return Interval(None, None, None, n, method, level)
    estimate = float(interquartile_mean(values))
    if n < MIN_INTERVAL:
        return Interval(estimate, None, None, n, method, level)
    low, high = bootstrap_bounds(values, level)
    return Interval(estimate, float(low), float(high), n, method, level)


def _middle_weights(counts: Array) -> Array:
    """Weights (..., n) that the IQM gives the sorted values when the i-th of them occurs counts[..., i] times."""
    edges = np.cumsum(counts, axis=-1)
    edges = np.concatenate((np.zeros_like(edges[..., :1]), edges / edges[..., -1:]), axis=-1)
    return 2.0 * np.diff(np.clip(edges, 0.25, 0.75), axis=-1)


@lru_cache(maxsize=4)
def _resample_counts(n: int) -> Array:
    """How often each of n values occurs in each resample, (RESAMPLES, n); one half is the other reversed."""
    rng = np.random.default_rng(n)
    half = rng.multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES // 2).astype(np.float64)
    counts = np.concatenate((half, half[:, ::-1]))
    counts.flags.writeable = False
    return counts


@lru_cache(maxsize=4)
def _resample_weights(n: int) -> Array:
    """The IQM of resample r of a sorted sample is row r of this (RESAMPLES, n) matrix times the sample."""
    weights = _middle_weights(_resample_counts(n))
    weights.flags.writeable = False
    return weights


def _resampled_iqm(values: Array) -> Array:
    """IQM of every resample of seeds, (RESAMPLES,): the same seeds in row r whatever the values, hence paired."""
    order = np.argsort(values, kind="stable")
    weights = _middle_weights(_resample_counts(values.size)[:, order])
    return np.asarray(weights @ values[order])


def _central(resampled: Array, n: int, level: float) -> tuple[Any, Any]:
    """The middle `level` of the last axis by order statistics, so that a negated axis gives the negated bounds.

    A bootstrap over n seeds has the spread of a variance with divisor n, too small by sqrt((n - 1) / n): the tails are
    cut at the normal quantile times sqrt(n / (n - 1)). At n = 10 coverage rises from 93 to 94.5 %.
    """
    normal = NormalDist()
    tail = normal.cdf(normal.inv_cdf((1.0 - level) / 2.0) * math.sqrt(n / (n - 1)))
    total = resampled.shape[-1]
    cut = int(tail * total)
    ordered = np.partition(resampled, (cut, total - 1 - cut), axis=-1)
    return ordered[..., cut], ordered[..., total - 1 - cut]
