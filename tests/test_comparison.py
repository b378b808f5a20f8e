"""Comparison: which seeds are paired, what failures count as, what does not exist is null."""

from __future__ import annotations

import json

from rlhfbench.algorithms.dpo import DPOConfig
from rlhfbench.comparison import Comparison
from rlhfbench.harness import lost_run, started
from rlhfbench.ppo_step import PPOConfig
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
    assert list(found) == [("b", 3)]
    assert (found["b", 3].rm_score, found["b", 3].gold_score) == (0.1, 0.2)
    assert found["b", 3].message == "killed"


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
