"""What every algorithm has to keep to; `rlhfbench check NAME` runs it on anybody's, `check --all` on all there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from .compute import ComputeMeter
from .errors import InputError
from .evaluation import Evaluator, Point
from .policy_choice import check_policy
from .prepare import Prepared, prepare
from .records import Result
from .registry import Arm, algorithm_names, load_algorithm, load_task, parse_arm
from .rewards.gold import Gold
from .run import run
from .types import Float, Int, Rollout, Sampler, Task

SEED, EPISODES = 0, 512
SHORT = 5
"""Updates of a preset's run."""


@dataclass(frozen=True)
class Check:
    """One statement, whether it holds, and what was seen."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Checked:
    """An algorithm beside a policy, what was checked of it and of its presets, and the seconds that it took."""

    name: str
    policy: str
    checks: list[Check]
    presets: dict[str, list[Check]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failures(self) -> list[tuple[str, Check]]:
        """(arm, check) of what does not hold."""
        found = [(self.name, check) for check in self.checks]
        found += [(f"{self.name}@{p}", check) for p, checks in self.presets.items() for check in checks]
        return [(arm, check) for arm, check in found if not check.passed]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": not self.failures}


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


def check(name: str, policy: str | None = None) -> Checked:
    """Run the conformance tests on the algorithm that `name` describes (``name:field=value,...`` or ``./file.py:fn``).

    On the lesson's task `words`, with one seed, and with the policy asked for or the task's own: it takes seconds. What
    needs a cost model is checked on `safety-small`.
    """
    task = _task(parse_arm(name))
    policy = check_policy(task, policy)
    arm, started = parse_arm(name, policy=policy), time.perf_counter()
    checks = conformance(_world(task, policy), arm)
    return Checked(name, policy, checks, seconds=time.perf_counter() - started)


def check_all(policy: str | None = None) -> Iterator[Checked]:
    """The same of every algorithm there is, one after the other, and a short run of each preset."""
    asked = None if policy is None else check_policy(load_task("words"), policy)
    worlds: dict[str, tuple[str, Prepared]] = {}
    for name in algorithm_names():
        started = time.perf_counter()
        checks: list[Check] = []
        presets: dict[str, list[Check]] = {}
        task, shown = "", asked or ""
        try:
            task = _task(parse_arm(name)).name
            if task not in worlds:
                fits = check_policy(load_task(task), asked)
                worlds[task] = fits, _world(load_task(task), fits)
            shown, world = worlds[task]
            checks = conformance(world, parse_arm(name, policy=shown))
            for preset in load_algorithm(name)[0].presets:
                presets[preset] = short_run(world, f"{name}@{preset}", shown)
        except InputError as error:  # it cannot be loaded, or a preset has a field that it has not
            checks.append(Check("can be run", False, str(error)))
        checked = Checked(name, shown, checks, presets, time.perf_counter() - started)
        yield checked
        if checked.failures:  # whatever it did to the world is no concern of the next
            worlds.pop(task, None)


def _task(arm: Arm) -> Task:
    """The lesson's, or the smallest that has what the arm needs."""
    name = "safety-small" if "cost_model" in arm.spec.needs else "words"
    own = ",".join(f"{option}={value}" for option, value in arm.world.items())
    return load_task(f"{name}:{own}" if own else name)


def _world(task: Task, policy: str) -> Prepared:
    return prepare(task, policy, SEED, EPISODES)


def short_run(world: Prepared, preset: str, policy: str) -> list[Check]:
    """What one run of a preset shows, cut to a few updates: whether its fields go together, not how well it learns."""
    arm = parse_arm(preset, policy=policy)
    names = {"updates": SHORT, "epochs": 1}
    cut = {name: value for name, value in names.items() if hasattr(arm.config, name)}
    result = run(world, replace(arm, config=replace(arm.config, **cut)))
    checks = [_finishes(result)]
    return [*checks, _finite(result), _metered(result)] if checks[0].passed else checks


def conformance(world: Prepared, arm: Arm) -> list[Check]:
    """All the tests of one arm, or as far as there is a point in them."""
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
