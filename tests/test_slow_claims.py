"""Slow: how often `compare` claims that one of two runs of the same algorithm is better."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from rlhfbench.comparison import Comparison
from rlhfbench.prepare import prepare
from rlhfbench.registry import Arm, load_task, parse_arm
from rlhfbench.results import Result
from rlhfbench.run import run
from rlhfbench.statistics import clopper_pearson

COMPARISONS, SEEDS, EPISODES = 500, 10, 256
# Few episodes and large steps: final scores differ by far more than the step of 2 / EPISODES in which gold is counted.
# Ties would make every claim rarer than it is.
PPO = "ppo:updates=5,batch_size=8,num_ppo_epochs=1,num_mini_batches=1,learning_rate=0.15"


def compared(arm: Arm, first_seed: int) -> Comparison:
    """PPO against itself on ten paired seeds, as `compare` puts it together."""
    arms = [arm, replace(arm, label=f"{arm.label}#2")]
    runs: dict[str, list[Result]] = {a.label: [] for a in arms}
    seeds = range(first_seed, first_seed + SEEDS)
    for seed in seeds:
        prepared = prepare(load_task("words"), "tabular", seed, EPISODES)
        for a in arms:
            runs[a.label].append(run(prepared, a, checkpoints=1))
    return Comparison("words", "tabular", "exact", seeds, {a.label: a.config for a in arms}, runs)


@pytest.mark.slow
def test_false_claims_about_one_algorithm_are_rare(record_property: Any) -> None:
    """At most 5 % of comparisons, by the lower Clopper-Pearson bound, claim a winner where there is none.

    No run is used twice: each comparison has ten seeds of its own (hence its own worlds) and two arms, 10,000 runs in
    all. Both arms are PPO with equal settings under two labels, so every claim is false, and the comparisons are
    independent trials, as Clopper and Pearson want them.
    """
    arm, claims, ties = parse_arm(PPO), Counter[str](), 0
    for index in range(COMPARISONS):
        comparison = compared(arm, SEEDS * index)
        one, two = comparison.runs.values()
        assert all(a.curve[1:] != b.curve[1:] for a, b in zip(one, two, strict=True))
        ties += sum(a.gold_score == b.gold_score for a, b in zip(one, two, strict=True))
        verdict = comparison.verdict()
        on_rm, on_gold = (m.better is not None for m in (verdict.rm_score, verdict.gold_score))
        claims.update({"RM score": on_rm, "gold": on_gold, "either": on_rm or on_gold})
        claims.update([f"kind {verdict.kind}"])
        assert (verdict.kind in ("better", "split")) == on_gold
    assert ties < 0.1 * COMPARISONS * SEEDS
    for name in ("RM score", "gold", "either"):
        low, high = clopper_pearson(claims[name], COMPARISONS)
        said = f"{claims[name]} of {COMPARISONS} [{low:.1%}, {high:.1%}]"
        record_property(f"false claims, {name}", said)
        print(f"false claims, {name}: {said}")
        assert low <= 0.05, said
    print(dict(claims))
