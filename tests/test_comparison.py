"""Comparison: which seeds are paired, what failures count as, what does not exist is null."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rlhfbench.algorithms.dpo import DPOConfig
from rlhfbench.comparison import Comparison
from rlhfbench.harness import lost_run, started
from rlhfbench.ppo_step import PPOConfig
from rlhfbench.records import SAFETY
from rlhfbench.report import comparison_blocks, main_sheet
from rlhfbench.results import Result

START = {"rm_score": 0.1, "gold_score": 0.2}


def finished(seed: int, score: float = 1.0, status: str = "done") -> Result:
    empty = lost_run(seed, "done", None)
    compute = {**empty.compute, "flops": 100 + seed}
    return Result(seed, status, rm_score=score, gold_score=score, kl=1.0, reference=START, compute=compute)


def comparison(ppo: list[Result], dpo: list[Result]) -> Comparison:
    configs = {"ppo": PPOConfig(), "dpo": DPOConfig()}
    return Comparison("sentences", "linear", "exact", range(len(ppo)), configs, {"ppo": ppo, "dpo": dpo})


def test_a_worker_that_died_leaves_its_arm_with_the_starting_score_that_the_seed_shares():
    died, alone = lost_run(3, "error", "killed"), lost_run(4, "error", "killed")
    stopped = lost_run(3, "interrupted", None)
    runs = {("a", 3): finished(3), ("b", 3): died, ("b", 4): alone, ("c", 3): stopped, ("d", 3): died}
    found = started(runs, {"a": {}, "b": {}, "c": {}, "d": {"rm": "bigrams"}})
    assert list(found) == [("b", 3), ("d", 3)]
    assert (found["d", 3].rm_score, found["d", 3].gold_score) == (None, 0.2)
    assert found["d", 3].reference == {"rm_score": None, "gold_score": 0.2}
    assert (found["b", 3].rm_score, found["b", 3].gold_score) == (0.1, 0.2)
    assert found["b", 3].message == "killed"


def test_a_lost_run_stays_at_the_reference_in_all_that_is_told_of_safety():
    safe = dict.fromkeys(SAFETY, 0.5)
    told = replace(finished(3), safety={**dict.fromkeys(SAFETY, 0.1), "reference": safe})
    runs = {
        ("a", 3): told,
        ("b", 3): lost_run(3, "error", "killed"),
        ("c", 3): lost_run(3, "error", "killed"),
    }
    found = started(runs, {"a": {}, "b": {}, "c": {"rm": "bigrams"}})
    assert found["b", 3].safety == {**safe, "reference": safe}
    other = safe | {"cost": None}
    assert found["c", 3].safety == {**other, "reference": other}


@pytest.mark.parametrize("seeds", [7, 8])
def test_a_lost_run_of_an_arm_with_its_own_reward_keeps_its_seed_for_all(seeds: int):
    """The verdict goes by gold, also between two arms of one reward that were lost together."""
    rewards: dict[str, dict[str, str]] = {"a": {}, "b": {"rm": "bigrams"}, "c": {"rm": "bigrams"}}
    runs = {(a, s): finished(s, 1.0 + 0.01 * s + (a != "a")) for a in rewards for s in range(seeds - 1)}
    lost = seeds - 1
    runs |= {("a", lost): finished(lost)} | {(a, lost): lost_run(lost, "error", "killed") for a in "bc"}
    runs |= started(runs, rewards)
    arms = {a: [runs[a, s] for s in range(seeds)] for a in rewards}
    configs = {a: DPOConfig() for a in rewards}
    both = Comparison("sentences", "linear", "exact", range(seeds), configs, arms, rewards=rewards)
    assert both.paired_seeds == list(range(seeds))
    record = json.loads(json.dumps(both.as_dict(), allow_nan=False))
    assert [record["algorithms"][a]["summary"]["rm_score"]["n"] for a in "abc"] == [seeds, lost, lost]
    assert record["algorithms"]["b"]["summary"]["gold_score"]["n"] == seeds
    assert record["verdict"]["gold_score"]["difference"] is not None
    pair = replace(both, runs={a: arms[a] for a in "bc"})
    assert pair.verdict().rm_score.difference == 0.0
    assert "lack scores" not in pair.verdict().text
    known = {"a": {"labels": {"by": "file", "pairs": 10, "cost": 5.0}}, "b": {}, "c": {}}
    alone = replace(both, runs={a: [arms[a][lost]] for a in "abc"}, seeds=[lost], arm_facts=known)
    shown = " ".join(str(block) for block in comparison_blocks(alone))
    assert "lack scores" not in shown
    assert shown.count("10 as the file has them") == 1
    said = main_sheet(alone).rows[0]
    assert said[0].startswith("RM score")
    assert said[1:] == ("-", "1.00", "-", "-")


def test_seeds_that_an_arm_lacks_are_not_paired_and_failures_stay_in():
    ppo = [finished(0), finished(1), finished(2)]
    dpo = [finished(0), lost_run(1, "interrupted", None), finished(2, 0.1, status="diverged")]
    both = comparison(ppo, dpo)
    assert both.paired_seeds == [0, 2]
    assert list(both.values("dpo", "rm_score")) == [1.0, 0.1]
    assert [r.seed for r in both.failed("dpo")] == [2]


def test_what_does_not_exist_is_null():
    nothing = comparison([lost_run(0, "interrupted", None)], [lost_run(0, "interrupted", None)])
    record = json.loads(json.dumps(nothing.as_dict(), allow_nan=False))
    assert record["reference"] == {"rm_score": None, "gold_score": None}
    assert record["algorithms"]["ppo"]["summary"]["rm_score"]["estimate"] is None
    assert record["verdict"]["kind"] == "no_claim"
    assert record["verdict"]["flops"] == {"ratio": None, "low": None, "high": None}
    assert record["algorithms"]["ppo"]["runs"][0]["status"] == "interrupted"
