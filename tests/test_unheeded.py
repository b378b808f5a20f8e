"""What was asked for and came to nothing is said, in the report and in the JSON; it is no error."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import comparison, curve, result, sweep

from rlhfbench.harness import compare
from rlhfbench.jobs import open_task
from rlhfbench.registry import load_task
from rlhfbench.report import comparison_blocks
from rlhfbench.show import run_blocks
from rlhfbench.sweep_report import sweep_blocks
from rlhfbench.tasks.labels import label_facts
from rlhfbench.unheeded import unheeded

DEAD = """name = "dead"
[[rules]]
name = "never"
principle = "Never say this."
weight = 1.0
kind = "avoid"
words = ["{word}"]
"""


@dataclass(frozen=True)
class Limited:
    cost_limit: float = -0.5


def run_with(name: str, values: list[float], seed: int = 0) -> Any:
    """A run whose points have these values of a metric."""
    points = curve(2.0, 1.5, 3.0, 10**9)
    spread = np.interp(np.linspace(0, 1, len(points)), np.linspace(0, 1, len(values)), values)
    return result(seed, curve=[p | {name: float(v)} for p, v in zip(points, spread, strict=True)])


def lines(config: dict[str, Any] | None = None, facts: Any = None, runs: Any = ()) -> list[str]:
    return list(unheeded(config or {}, facts or {}, runs))


def test_a_limit_that_costs_never_came_down_to_or_never_passed() -> None:
    def told(*runs: list[float]) -> list[str]:
        return lines({"cost_limit": -0.5}, runs=[run_with("objective/cost", costs) for costs in runs])

    assert told([0.0, -0.6], [0.1, -0.5]) == []
    assert told([0.0, -0.4], [0.1, -0.6]) == [
        "mean cost never came down to cost_limit -0.5 in 1 of 2 runs: the lowest there is -0.4"
    ]
    assert told([-0.6, -0.9]) == [
        "mean cost stayed below cost_limit -0.5 in 1 of 1 runs: the highest there is -0.6"
    ]
    assert lines({"cost_limit": -0.5}, runs=[result()]) == []  # a run without a point that says it


def test_a_budget_that_buys_more_pairs_than_there_are() -> None:
    def told(budget: float, pairs: int = 70, price: float = 0.1) -> list[str]:
        return lines(facts={"labels": {"pairs": pairs, "cost": round(pairs * price, 9), "budget": budget}})

    assert told(7.0) == told(7.09) == []
    assert told(7.11) == ["label_budget 7.11 was not spent: there are 70 pairs, at 7 (first seed)"]
    assert lines(facts={"labels": {"pairs": 70, "cost": 7.0}}) == []


def test_replies_in_which_nothing_had_to_be_revised() -> None:
    nothing, some = run_with("revision/violated", [0.0, 0.0]), run_with("revision/violated", [0.0, 0.2])
    assert lines(runs=[nothing, nothing]) == [
        "no reply violates a rule of the constitution, so that nothing was revised"
    ]
    assert lines(runs=[nothing, some]) == lines(runs=[result()]) == []


def make_file(folder: Path, pairs: int = 200) -> str:
    path = folder / "pairs.jsonl"
    rows = [
        {"prompt": f"on {i % 60}", "chosen": f"thanks {i}", "rejected": f"you fool {i}"} for i in range(pairs)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize(("word", "apart"), [("xyzzy", False), ("fool", True)])
def test_rules_that_make_no_difference_in_a_file(word: str, apart: bool, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(DEAD.format(word=word))
    options = f"pairs:labels=ai,label_budget=1000,label_constitution={rules}"
    task = open_task(options, make_file(tmp_path)).for_seed(np.random.default_rng(0))
    pairs = task.preferences(None, np.random.default_rng(1), None)  # type: ignore[arg-type]
    facts = label_facts(task, len(pairs), pairs)
    assert facts["told_apart"] is apart
    found = lines(facts={"labels": facts})
    assert found[:-1] == ([] if apart else [found[0]])
    assert found[-1].startswith("label_budget 1000 was not spent")
    assert apart or "no rule of constitution dead tells the replies of any pair apart" in found[0]


def test_rules_that_make_a_difference_in_the_last_pair_alone(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(DEAD.format(word="whatever"))
    task: Any = load_task(f"sentences:labels=ai,label_constitution={rules}")
    bad = task.vocab.index("whatever")
    prompts, ones = np.tile([0, 3], (130, 1)), np.ones((130, 12), np.float32)
    one, two = np.zeros((2, 130, 12), np.int64)
    pairs = label_pairs(prompts, one, two, ones)
    assert task.told_apart(pairs) is False
    two[-1, 0] = bad
    assert task.told_apart(label_pairs(prompts, one, two, ones)) is True


def test_of_no_pairs_nothing_is_claimed(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(DEAD.format(word="whatever"))
    task: Any = load_task(f"sentences:labels=ai,label_constitution={rules}")
    prompts, tokens, mask = np.tile([0, 3], (2, 1)), np.zeros((2, 12), np.int64), np.ones((2, 12), np.float32)
    pairs = label_pairs(prompts, tokens, tokens, mask)
    assert len(lines(facts={"labels": label_facts(task, 2, pairs)})) == 1
    facts = label_facts(task, 2, pairs.take(np.arange(0)))
    assert "told_apart" not in facts
    assert lines(facts={"labels": facts}) == []


def label_pairs(prompts: Any, chosen: Any, rejected: Any, mask: Any) -> Any:
    from rlhfbench.types import PreferencePairs

    return PreferencePairs(prompts, chosen, mask, rejected, mask)


def test_a_comparison_says_it_in_the_report_and_in_the_json() -> None:
    runs = {
        "ppo": [run_with("objective/cost", [0.0, -0.2], seed) for seed in range(3)],
        "dpo": [result(seed) for seed in range(3)],
    }
    told = {"labels": {"by": "human", "pairs": 70, "cost": 70, "budget": 1000.0}}
    made = comparison(
        seeds=3, runs=runs, configs={"ppo": Limited(), "dpo": Limited()}, arm_facts={"ppo": told, "dpo": told}
    )
    assert made.warnings == [
        "ppo, dpo: label_budget 1000 was not spent: there are 70 pairs, at 70 (first seed)",
        "ppo: mean cost never came down to cost_limit -0.5 in 3 of 3 runs: the lowest there is -0.2",
    ]
    assert made.as_dict()["warnings"] == made.warnings
    shown = [getattr(block, "text", "") for block in comparison_blocks(made)]
    assert [text for text in shown if text.startswith("Warning")] == [f"Warning, {w}." for w in made.warnings]
    assert comparison().as_dict()["warnings"] == []


def test_a_sweep_and_a_run_say_it_too() -> None:
    one = sweep()
    facts = {"labels": {"by": "human", "pairs": 70, "cost": 70, "budget": 1000.0}}
    told = replace(one, comparison=replace(one.comparison, facts=facts))
    assert not any(getattr(b, "text", "").startswith("Warning") for b in sweep_blocks(one))
    assert any(getattr(b, "text", "").startswith("Warning, ") for b in sweep_blocks(told))
    manifest = {"inputs": {"config": {"cost_limit": -0.5}}, "facts": facts}
    texts = [getattr(b, "text", "") for b in run_blocks(manifest, run_with("objective/cost", [0.0, -0.2]))]
    assert sum(text.startswith("Warning: ") for text in texts) == 2


def test_what_a_run_keeps_is_enough_to_say_it(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(DEAD.format(word="xyzzy"))
    arms = ["revise:replies=64,rounds=1,epochs=1", "dpo:labels=ai,epochs=1"]
    task = f"sentences-small:pairs=64,demos=64,label_constitution={rules}"
    made = compare(arms, task=task, policy="linear", seeds=1, jobs=0, out=str(tmp_path / "runs"))
    nothing_revised, chance = made.warnings
    assert nothing_revised.startswith("revise: no reply violates a rule")
    assert chance.startswith("dpo: no rule of constitution dead tells the replies of any pair apart")
