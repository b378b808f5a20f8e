"""KL controllers: fixed points, saturation, how fast they move, and the bounds that they keep to."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfbench import oracle
from rlhfbench.kl_control import Controller, Doubling, Dual, Fixed, KLControl, Ziegler, controller

kls = st.floats(0, 1e6)
betas = st.floats(1e-3, 10)
targets = st.floats(1e-3, 100)
episodes = st.integers(1, 4096)
BOUNDS = {"low": 1e-3, "high": 10.0}


def ziegler(beta: float = 0.1, target: float = 6.0, horizon: float = 10_000.0, **bounds: float) -> Ziegler:
    return Ziegler(beta, target, horizon, **({"low": 1e-9, "high": 1e9} | bounds))


def schulman17(beta: float, target: float) -> KLControl:
    return controller("schulman17", beta, target=target, horizon=1.0, **BOUNDS)


def test_each_kind_has_its_controller() -> None:
    options: dict[str, Any] = {"target": 6.0, "horizon": 10_000.0, **BOUNDS}
    names: tuple[Controller, ...] = get_args(Controller)
    kinds = {kind: controller(kind, 0.1, **options) for kind in names}
    assert [type(c) for c in kinds.values()] == [Fixed, Ziegler, Doubling, Doubling, Dual]
    assert {c.beta for c in kinds.values()} == {0.1}


@given(betas, st.lists(kls))
def test_fixed_stays(beta: float, seen: list[float]) -> None:
    control = Fixed(beta)
    for kl in seen:
        control.update(kl, 64)
    assert control.beta == beta


@given(betas, targets, episodes)
def test_ziegler_rests_at_its_target(beta: float, target: float, n: int) -> None:
    control = ziegler(beta, target)
    control.update(target, n)
    assert control.beta == beta


@given(betas, targets, episodes, st.floats(1.2, 1e6))
def test_ziegler_saturates_at_a_fifth(beta: float, target: float, n: int, factor: float) -> None:
    far, near = ziegler(beta, target), ziegler(beta, target)
    far.update(factor * target, n)
    near.update(1.2 * target, n)
    assert far.beta == pytest.approx(near.beta, rel=1e-9)
    assert far.beta == pytest.approx(beta * (1 + 0.2 * n / 10_000), rel=1e-9)
    none, little = ziegler(beta, target), ziegler(beta, target)
    none.update(0.0, n)
    little.update(0.8 * target, n)
    assert none.beta == pytest.approx(little.beta, rel=1e-9)
    assert none.beta == pytest.approx(beta * (1 - 0.2 * n / 10_000), rel=1e-9)


@pytest.mark.parametrize("n", [1, 64, 256, 1024])
def test_ziegler_doubles_in_as_many_updates_as_the_horizon_says(n: int) -> None:
    control, updates = ziegler(), 0
    while control.beta < 0.2:
        control.update(100.0, n)
        updates += 1
    assert updates == math.ceil(math.log(2) / math.log(1 + 0.2 * n / 10_000) - 1e-9)


@given(betas, targets, episodes, kls, kls)
def test_ziegler_is_monotone_in_kl(beta: float, target: float, n: int, one: float, two: float) -> None:
    low, high = ziegler(beta, target), ziegler(beta, target)
    low.update(min(one, two), n)
    high.update(max(one, two), n)
    assert low.beta <= high.beta


@given(betas, targets, st.lists(st.tuples(kls, st.integers(1, 100_000)), max_size=50))
def test_adaptive_betas_stay_within_their_bounds(
    beta: float, target: float, seen: list[tuple[float, int]]
) -> None:
    controls: tuple[KLControl, ...] = (
        Ziegler(beta, target, 100.0, **BOUNDS),
        Doubling(beta, target, **BOUNDS),
        schulman17(beta, target),
        Dual(beta, target, 100.0, **BOUNDS),
    )
    for control in controls:
        for kl, n in seen:
            control.update(kl, n)
            assert BOUNDS["low"] * (1 - 1e-12) <= control.beta <= BOUNDS["high"] * (1 + 1e-12)


@given(targets, st.floats(0.5, 1.0))
def test_doubling_rests_between_half_the_target_and_the_target(target: float, share: float) -> None:
    control = Doubling(0.1, target, **BOUNDS)
    control.update(max(share * target, target / 2), 64)
    assert control.beta == 0.1


@given(targets, st.floats(1.01, 1e3), st.floats(0, 0.49))
def test_doubling_doubles_above_and_halves_below(target: float, above: float, below: float) -> None:
    control = Doubling(0.1, target, **BOUNDS)
    control.update(above * target, 64)
    assert control.beta == 0.2
    control.update(below * target, 64)
    assert control.beta == 0.1


def test_doubling_reaches_its_bounds_and_comes_back() -> None:
    control = Doubling(0.1, 6.0, **BOUNDS)
    seen = []
    for _ in range(10):
        control.update(7.0, 64)
        seen.append(control.beta)
    assert seen == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 10.0]
    for _ in range(20):
        control.update(0.0, 64)
    assert control.beta == 1e-3
    control.update(7.0, 64)
    assert control.beta == 2e-3


@given(targets, st.floats(1 / 1.5, 1.5))
def test_schulman17_rests_within_a_factor_of_one_and_a_half(target: float, share: float) -> None:
    control = schulman17(0.1, target)
    control.update(min(max(share * target, target / 1.5), 1.5 * target), 64)
    assert control.beta == 0.1
    control.update(1.51 * target, 64)
    assert control.beta == 0.2
    control.update(0.66 * target, 64)
    assert control.beta == 0.1


@given(betas, targets, episodes)
def test_dual_rests_at_its_target(beta: float, target: float, n: int) -> None:
    control = Dual(beta, target, 10_000.0, **BOUNDS)
    control.update(target, n)
    assert control.beta == pytest.approx(beta)


@given(st.floats(0.01, 1), targets, st.floats(-0.5, 0.5), st.integers(1, 1000))
def test_dual_moves_log_beta_by_the_excess_in_nats_and_by_episodes(
    beta: float, target: float, excess: float, n: int
) -> None:
    """In one batch of n episodes or in n of one, it goes as far, and back again."""
    once, often = (Dual(beta, target, 1000.0, **BOUNDS) for _ in range(2))
    once.update(target + excess, n)
    for _ in range(n):
        often.update(target + excess, 1)
    assert once.beta == pytest.approx(beta * math.exp(excess * n / 1000))
    assert often.beta == pytest.approx(once.beta)
    once.update(target - excess, n)
    assert once.beta == pytest.approx(beta)


def test_dual_ascent_finds_the_beta_whose_optimum_has_the_target_kl() -> None:
    """Where the policy is the optimum at each beta, the multiplier converges to that of the constraint."""
    scores = np.linspace(-2, 2, 50)[None]
    logp = np.full((1, 50), -math.log(50))
    control = Dual(0.05, 0.5, 64.0, **BOUNDS)
    for _ in range(200):
        tilted, _ = oracle.optimum(logp, scores, control.beta)
        kl = oracle.kl_divergence(tilted, logp)
        control.update(kl, 64)
    assert kl == pytest.approx(0.5, abs=1e-6)
