"""What every algorithm has to keep to; `rlhfbench check NAME` runs it on anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from .compute import ComputeMeter
from .errors import InputError
from .evaluation import Evaluator, Point
from .policy_choice import check_policy
from .prepare import Prepared, prepare
from .records import Result
from .registry import Arm, load_task, parse_arm
from .rewards.gold import Gold
from .run import run
from .types import Float, Int, Rollout, Sampler

SEED, EPISODES = 0, 512


@dataclass(frozen=True)
class Check:
    """One statement, whether it holds, and what was seen."""

    name: str
    passed: bool
    detail: str


class GoldWasRead(Exception):
    """The algorithm asked for the gold score."""


class _Guarded:
    """A gold reward that only evaluation may ask."""

    def __init__(self, inner: Gold) -> None:
        self.inner, self.open = inner, True

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        if not self.open:
            raise GoldWasRead("gold is for evaluation alone")
        return self.inner.score(prompts, responses, mask)


def check(name: str, policy: str | None = None) -> list[Check]:
    """Run the conformance tests on the algorithm that `name` describes (``name:field=value,...`` or ``./file.py:fn``).

    On the lesson's task `words`, with one seed, and with the policy asked for or the task's own: it takes seconds. What
    needs a cost model is checked on `safety-small`.
    """
    task = load_task("safety-small" if "cost_model" in parse_arm(name).spec.needs else "words")
    policy = check_policy(task, policy)
    arm = parse_arm(name, policy=policy)
    world = prepare(task, policy, SEED, EPISODES)
    first = run(world, arm)
    tests: list[Callable[[], Check]] = [
        lambda: _finishes(first),
        lambda: _finite(first),
        lambda: _deterministic(world, arm, first),
        lambda: _evaluation_changes_nothing(world, arm, first),
        lambda: _reference_untouched(world, arm),
        lambda: _gold_unread(world, arm),
        lambda: _metered(first),
        lambda: _budget(world, arm, first),
        lambda: _improves(first),
    ]
    checks = []
    for test in tests:
        checks.append(test())
        if first.status != "done":
            break
    return checks


def _finishes(result: Result) -> Check:
    detail = result.message or f"{result.curve[-1]['update']} updates, {len(result.curve)} points"
    return Check("finishes", result.status == "done", detail)


def _finite(result: Result) -> Check:
    numbers = [v for point in result.curve for v in point.values() if v is not None]
    return Check("finite", bool(np.isfinite(numbers).all()), f"{len(numbers)} numbers in the curve")


def _same(one: Result, two: Result) -> bool:
    names = ("rm_score", "gold_score", "kl", "entropy", "length")
    return all(getattr(one, n) == getattr(two, n) for n in names)


def _deterministic(world: Prepared, arm: Arm, first: Result) -> Check:
    again = run(world, arm)
    return Check(
        "deterministic per seed", _same(first, again) and first.curve == again.curve, "two runs compared"
    )


def _evaluation_changes_nothing(world: Prepared, arm: Arm, first: Result) -> Check:
    seldom = run(world, arm, checkpoints=1)
    return Check("evaluation changes nothing", _same(first, seldom), "evaluated 20 times and once")


def _reference_untouched(world: Prepared, arm: Arm) -> Check:
    before = world.reference.params.copy()
    run(world, arm)
    same = bool((before == world.reference.params).all())
    return Check("reference untouched", same, "its parameters are the same bits afterwards")


def _gold_unread(world: Prepared, arm: Arm) -> Check:
    gold = _Guarded(world.gold)

    @contextmanager
    def opened() -> Iterator[None]:
        gold.open = True
        try:
            yield
        finally:
            gold.open = False

    class Watched(Evaluator):
        def scores(self, rollout: Rollout, meter: ComputeMeter) -> Point:
            with opened():
                return super().scores(rollout, meter)

        def replies(self, served: Sampler, n: int = 20) -> list[dict[str, Any]]:
            with opened():
                return super().replies(served, n)

    gold.open = False
    result = run(replace(world, gold=gold), arm, evaluator=Watched)
    return Check("gold never read", result.status == "done", result.message or "asked by evaluation alone")


def _metered(result: Result) -> Check:
    work = result.compute["flops"]
    return Check("work is charged", work > 0, f"{work:,} FLOPs")


def _budget(world: Prepared, arm: Arm, first: Result) -> Check:
    spent = first.compute["by_phase"]["rm_train"]
    points = first.curve
    step = max(b["flops"] - a["flops"] for a, b in pairwise(points)) if len(points) > 1 else 0
    budget = spent + max((first.compute["flops"] - spent) // 2, 1)
    result = run(world, arm, budget=budget)
    if result.status != "done":
        return Check("budget obeyed", False, str(result.message))
    over = result.compute["flops"] - result.compute["by_phase"]["serve"] - budget
    return Check("budget obeyed", over <= step, f"{over:+,} FLOPs of a budget of {budget:,}")


def _improves(result: Result) -> Check:
    if result.rm_score is None or result.reference["rm_score"] is None:
        raise InputError("the run has no score")
    gain = result.rm_score - result.reference["rm_score"]
    return Check("improves on the lesson's task", gain > 0.2, f"{gain:+.2f} reference sd of RM score")
