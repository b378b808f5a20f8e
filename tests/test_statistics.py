"""Estimates, intervals and tests against hand-made cases, scipy, and, slowly, the coverage that they promise."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhfbench.statistics import (
    MIN_INTERVAL,
    Array,
    Interval,
    bootstrap_bounds,
    clopper_pearson,
    holm,
    interquartile_mean,
    more_seeds,
    paired_difference,
    paired_ratio,
    sign_flip_p,
    summary,
)

samples = st.integers(1, 24).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-1e3, 1e3, width=32)))


# --- the estimate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 4.0], 2.5),
        ([0.0, 3.0, 100.0], (0.25 * 0 + 1 * 3 + 0.25 * 100) / 1.5),
        ([9.0, 1.0, 3.0, -50.0], 2.0),
        ([1.0, 2.0, 4.0, 8.0, 100.0], (0.75 * 2 + 4 + 0.75 * 8) / 2.5),
        ([-9.0, -9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 99.0, 99.0], (0.5 * 1 + 2 + 3 + 4 + 5 + 0.5 * 6) / 5),
    ],
)
def test_interquartile_mean_by_hand(x: list[float], expected: float) -> None:
    assert interquartile_mean(x) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("n", [4, 8, 20, 40])
def test_interquartile_mean_is_scipys_trimmed_mean_where_4_divides_n(n: int) -> None:
    from scipy.stats import trim_mean

    x = np.random.default_rng(n).lognormal(size=(3, n, 2))
    np.testing.assert_allclose(interquartile_mean(x, axis=1), trim_mean(x, 0.25, axis=1), rtol=1e-13)


@given(samples)
def test_interquartile_mean_is_the_trimmed_mean_of_four_copies(x: Array) -> None:
    from scipy.stats import trim_mean

    assert interquartile_mean(x) == pytest.approx(trim_mean(np.repeat(x, 4), 0.25), rel=1e-9, abs=1e-9)


# --- the interval ------------------------------------------------------------------------------------------------


def test_interval_of_a_constant_is_that_constant() -> None:
    got = summary(np.full(10, 0.1))
    assert (got.estimate, got.low, got.high) == pytest.approx((0.1, 0.1, 0.1), rel=1e-14)
    zero = paired_difference(np.arange(10.0), np.arange(10.0))
    assert (zero.estimate, zero.low, zero.high) == (0.0, 0.0, 0.0)


def test_interval_agrees_with_a_bootstrap_written_out() -> None:
    from scipy.stats import norm

    x = np.random.default_rng(5).lognormal(size=12)
    drawn = np.random.default_rng(6).choice(x, size=(200_000, 12))
    tail = norm.cdf(norm.ppf(0.025) * np.sqrt(12 / 11))
    expected = np.quantile(interquartile_mean(drawn), [tail, 1 - tail])
    got = summary(x)
    assert [got.low, got.high] == pytest.approx(expected, rel=0.03)


def test_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    seeds, noise = rng.normal(size=10) * 100, rng.normal(size=10)
    got = paired_difference(seeds + noise, seeds)
    assert got.high is not None
    assert got.low is not None
    assert got.high - got.low < 3
    low, high = bootstrap_bounds(np.stack([noise, -noise]))
    assert (got.low, got.high) == pytest.approx((low[0], high[0]))
    assert (low[1], high[1]) == pytest.approx((-high[0], -low[0]))


@given(samples, st.floats(-100, 100))
def test_what_both_arms_share_changes_nothing(x: Array, shift: float) -> None:
    a, b = paired_difference(x, x[::-1]), paired_difference(x + shift, x[::-1] + shift)
    assert numbers(a) == pytest.approx(numbers(b), abs=1e-9)


@given(samples)
def test_exchanged_arms_give_the_negated_interval(x: Array) -> None:
    a, b = paired_difference(x, np.cos(x)), paired_difference(np.cos(x), x)
    assert numbers(a) == pytest.approx([-v for v in (b.estimate, b.high, b.low) if v is not None], abs=1e-9)
    assert b.method == a.method


@given(samples)
def test_an_interval_holds_its_estimate_and_widens_with_its_level(x: Array) -> None:
    narrow, wide = summary(x, level=0.90), summary(x)
    if len(x) < MIN_INTERVAL:
        assert wide.low is wide.high is None
        return
    low, narrow_low, estimate, narrow_high, high = (
        v or 0.0 for v in (wide.low, narrow.low, wide.estimate, narrow.high, wide.high)
    )
    slack = 1e-9
    assert low <= narrow_low + slack
    assert narrow_low <= estimate + slack
    assert estimate <= narrow_high + slack
    assert narrow_high <= high + slack


def test_the_same_data_give_the_same_interval_in_any_order() -> None:
    x = np.random.default_rng(1).normal(size=10)
    assert summary(x) == summary(x.copy()) == summary(x[::-1])


@pytest.mark.parametrize("x", [[], [1.0, np.nan, 2.0, 3.0, 4.0, 5.0], [1.0, np.inf]])
def test_what_does_not_exist_is_none(x: list[float]) -> None:
    for got in (summary(x), paired_difference(x, x), paired_ratio(x, x)):
        assert (got.estimate, got.low, got.high, got.n) == (None, None, None, len(x))
        json.dumps(got.as_dict(), allow_nan=False)


def test_methods_say_where_the_interval_is_too_narrow() -> None:
    said = {n: summary(np.arange(n)).method for n in (4, 5, 9, 10)}
    assert "covers less" in said[5]
    assert "covers less" in said[9]
    assert said[4] == said[10] == "interquartile mean, percentile bootstrap"
    assert list(summary([1.0]).as_dict()) == ["estimate", "low", "high", "n", "method"]


@pytest.mark.parametrize("call", [paired_difference, paired_ratio])
def test_arms_with_different_seeds_are_refused(call: Callable[..., Interval]) -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        call(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="shape"):
        call(np.ones((3, 1)), np.ones(3))


# --- the ratio ---------------------------------------------------------------------------------------------------


def test_ratio_of_proportional_arms_has_no_width() -> None:
    b = np.random.default_rng(2).lognormal(size=10)
    for sign in (1, -1):
        assert numbers(paired_ratio(0.41 * b, sign * b)) == pytest.approx([0.41 * sign] * 3)


def test_ratio_of_exchanged_arms_is_the_reciprocal() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.lognormal(size=10), rng.lognormal(size=10)
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    assert there.low is not None
    assert there.high is not None
    assert numbers(back) == pytest.approx([1 / numbers(there)[i] for i in (0, 2, 1)])


def test_ratio_agrees_with_a_bootstrap_written_out() -> None:
    from scipy.stats import norm

    rng = np.random.default_rng(4)
    b = rng.lognormal(size=12)
    a = b * rng.lognormal(0, 0.3, size=12)
    rows = rng.integers(12, size=(200_000, 12))
    tail = norm.cdf(norm.ppf(0.025) * np.sqrt(12 / 11))
    expected = np.quantile(interquartile_mean(a[rows]) / interquartile_mean(b[rows]), [tail, 1 - tail])
    assert numbers(paired_ratio(a, b))[1:] == pytest.approx(expected, rel=0.03)


def test_ratio_is_none_where_the_denominator_may_be_0() -> None:
    b = np.random.default_rng(0).normal(size=10)
    assert numbers(paired_ratio(np.ones(10), b - np.median(b))) == []
    assert numbers(paired_ratio(np.ones(10), np.zeros(10))) == []
    assert len(numbers(paired_ratio(np.ones(10), b + 9))) == 3
    assert numbers(paired_ratio([1.0, 2.0], [-1.0, 3.0])) == []
    assert numbers(paired_ratio([1.0, 2.0], [2.0, 4.0])) == [0.5]


def test_ratio_stays_finite_where_some_resamples_of_the_denominator_pass_0() -> None:
    b = np.random.default_rng(9).normal(size=10)
    b += (
        0.05 - bootstrap_bounds(b)[0]
    )  # its interval begins at .05, so about 1.5 % of the resamples lie below 0
    for a in (np.ones(10), -np.ones(10), np.linspace(-1, 1, 10)):
        got = numbers(paired_ratio(a, b))
        assert len(got) == 3
        assert np.isfinite(got).all()
        assert got[1] <= got[0] <= got[2]


# --- tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "p"),
    [
        ([], 1.0),
        ([3.0], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([1.0, 2.0], 0.5),
        ([1.0, 1.0, -1.0], 1.0),
        ([1.0] * 5, 2 / 2**5),
        ([-0.1] * 6, 2 / 2**6),
        ([0.1, 0.2, 0.3] * 5 + [0.7], 2 / 2**16),
        ([1.0, 2.0, 4.0, 8.0, 16.0, -1.0], 6 / 2**6),
    ],
)
def test_sign_flips_by_hand(d: list[float], p: float) -> None:
    assert sign_flip_p(d) == p


@pytest.mark.parametrize("n", [2, 6, 10])
def test_sign_flips_are_scipys_permutation_test(n: int) -> None:
    from scipy.stats import permutation_test

    d = np.random.default_rng(n).normal(0.5, 1, size=n)
    expected = permutation_test(
        (d, np.zeros(n)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
    )
    assert sign_flip_p(d) == pytest.approx(expected.pvalue)
    assert sign_flip_p(-d) == sign_flip_p(d)


def test_sign_flips_by_monte_carlo_approach_the_exact_test() -> None:
    d = np.random.default_rng(8).normal(0.5, 1, size=18)
    signs = np.array(list(itertools.product((-1, 1), repeat=18)), dtype=np.int8)
    exact = float(np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-9))
    assert sign_flip_p(d) == pytest.approx(exact, abs=4 * np.sqrt(exact / 2**16))
    assert sign_flip_p(d) == sign_flip_p(d)
    assert sign_flip_p(np.ones(40)) == 1 / (1 + 2**16)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.4]).tolist() == pytest.approx([0.9, 0.8])
    assert holm([0.6, 0.6, 0.6]).tolist() == [1.0, 1.0, 1.0]
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (450, 484)])
def test_clopper_pearson_is_scipys(k: int, n: int) -> None:
    from scipy.stats import binomtest

    for level in (0.95, 0.9):
        expected = binomtest(k, n).proportion_ci(level, method="exact")
        assert clopper_pearson(k, n, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_clopper_pearson_at_its_edges() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(5, 5)[0] == pytest.approx(0.025 ** (1 / 5))
    for k, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"k = {k}, n = {n}"):
            clopper_pearson(k, n)


def test_more_seeds_follows_the_normal_formula() -> None:
    def seeds(estimate: float | None, half: float) -> int | None:
        low, high = (None, None) if estimate is None else (estimate - half, estimate + half)
        return more_seeds(Interval(estimate, low, high, n=10, method="", level=0.95))

    assert seeds(1.0, 1.0) == 11  # 10 * ((1.960 + .842) / 1.960)^2 = 20.4
    assert seeds(0.5, 1.0) == 72  # four times that: 81.7
    assert seeds(5.0, 1.0) == 1
    assert seeds(0.0, 1.0) is seeds(None, 1.0) is seeds(1e-200, 1.0) is None


def test_scipy_waits_until_it_is_needed() -> None:
    probe = "import sys, rlhfbench.verdict; assert not [m for m in sys.modules if m.startswith(('scipy', 'numba'))]"
    subprocess.run([sys.executable, "-c", probe], check=True)


# --- what the interval promises ----------------------------------------------------------------------------------

Mixture = list[tuple[float, float]]  # (weight, mean) of normal components of unit variance


def mixture_iqm(mixture: Mixture) -> float:
    """The population's interquartile mean: the integral of x between its quartiles, over one half."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def quartile(q: float) -> float:
        return float(brentq(lambda x: sum(w * norm.cdf(x - m) for w, m in mixture) - q, -20, 20))

    low, high = quartile(0.25), quartile(0.75)
    mass = (
        w * (m * (norm.cdf(high - m) - norm.cdf(low - m)) - norm.pdf(high - m) + norm.pdf(low - m))
        for w, m in mixture
    )
    return float(sum(mass) / 0.5)


def lognormal_iqm() -> float:
    from scipy.stats import norm

    quartile = norm.ppf(0.75)
    return float(np.exp(0.5) * (norm.cdf(quartile - 1) - norm.cdf(-quartile - 1)) / 0.5)


MIXTURES: dict[str, Mixture] = {
    "normal": [(1.0, 0.0)],
    "bimodal": [(0.5, -2.0), (0.5, 2.0)],
    "lopsided": [(0.7, 0.0), (0.3, 3.0)],
}


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize("population", [*MIXTURES, "lognormal"])
def test_the_interval_covers_what_it_says(population: str, n: int) -> None:
    """20,000 samples of paired differences; the standard error of a coverage is .002."""
    rng = np.random.default_rng(2024)
    target = lognormal_iqm() if population == "lognormal" else mixture_iqm(MIXTURES[population])
    covered = []
    for _ in range(20):
        if population == "lognormal":
            d = rng.lognormal(size=(1000, n))
        else:
            weights, means = zip(*MIXTURES[population], strict=True)
            d = rng.normal(size=(1000, n)) + rng.choice(means, p=weights, size=(1000, n))
        low, high = bootstrap_bounds(d)
        covered.append(np.mean((low <= target) & (target <= high)))
    print(f"{population} n={n} {np.mean(covered):.4f}")
    assert 0.92 <= np.mean(covered) <= 0.97


def numbers(interval: Interval) -> list[float]:
    return [v for v in (interval.estimate, interval.low, interval.high) if v is not None]
