"""What all arms of a seed share, on the toy and on real pairs: who is trained on what, and a comparison on a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhfbench.harness import compare
from rlhfbench.prepare import Prepared, prepare
from rlhfbench.registry import load_task
from rlhfbench.tasks.pairs import SHARES, PairsTask
from rlhfbench.types import Rollout

EPISODES = 64


@pytest.fixture(scope="module")
def words() -> Prepared:
    return prepare(load_task("words"), "tabular", 3, EPISODES)


def test_a_seed_is_prepared_the_same_each_time(words: Prepared) -> None:
    again = prepare(load_task("words"), "tabular", 3, EPISODES)
    other = prepare(load_task("words"), "tabular", 4, EPISODES)
    np.testing.assert_array_equal(words.reference.params, again.reference.params)
    np.testing.assert_array_equal(words.evaluation_prompts, again.evaluation_prompts)
    np.testing.assert_array_equal(words.evaluation_uniforms, again.evaluation_uniforms)
    np.testing.assert_array_equal(words.preferences.chosen, again.preferences.chosen)
    assert words.meter.as_dict() == again.meter.as_dict()
    assert (words.reference.params != other.reference.params).any()
    assert (words.evaluation_uniforms != other.evaluation_uniforms).any()


def test_the_number_of_evaluations_changes_nothing_else(words: Prepared) -> None:
    more = prepare(load_task("words"), "tabular", 3, 2 * EPISODES)
    np.testing.assert_array_equal(words.reference.params, more.reference.params)
    np.testing.assert_array_equal(words.preferences.rejected, more.preferences.rejected)


def sampled(world: Prepared, n: int, seed: int = 0) -> tuple[Any, Rollout]:
    rng = np.random.default_rng(seed)
    prompts = world.task.prompts(n, rng)
    return prompts, world.reference.sample(prompts, rng.random((n, world.task.max_length)))


def test_scores_are_in_deviations_of_the_reference(words: Prepared) -> None:
    prompts, rollout = sampled(words, 20_000)
    scores = words.reward_model.score(prompts, rollout.responses, rollout.mask)
    assert scores.mean() == pytest.approx(0.0, abs=0.1)
    assert scores.std() == pytest.approx(1.0, abs=0.05)


def test_the_policy_learns_what_is_demonstrated(words: Prepared) -> None:
    _, rollout = sampled(words, 20_000)
    assert (rollout.responses < 4).mean() == pytest.approx(0.6, abs=0.05)


def test_a_clone_shares_no_memory_with_the_reference(words: Prepared) -> None:
    clone = words.reference.clone()
    assert not np.shares_memory(clone.params, words.reference.params)
    assert not np.shares_memory(clone.grads, words.reference.grads)


def test_only_training_is_charged(words: Prepared) -> None:
    phases = words.meter.as_dict()["by_phase"]
    assert phases["sft"] > 0
    assert phases["rm_train"] > 0
    assert {name for name, work in phases.items() if work} <= {"sft", "rm_train", "eval"}


# --- real pairs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def harmless(data_dir: Path) -> PairsTask:
    return PairsTask(str(data_dir / "hh_harmless.train.jsonl"))


def prompt_rows(task: PairsTask, part: str) -> set[bytes]:
    """The prompts of a part as the policy sees them are shorter than they are; what counts is the text."""
    return set(task._encoded.prompt_of[task.rows(part)].tolist())


def test_sft_reward_model_and_judge_share_no_prompt(harmless: PairsTask) -> None:
    texts = [json.loads(line) for line in Path(harmless.path).read_text("utf-8").splitlines()]
    assert harmless.facts()["pairs"] + harmless.facts()["skipped"] == len(texts)
    for seed in range(5):
        split = harmless.for_seed(np.random.default_rng(seed))
        parts = {part: prompt_rows(split, part) for part in SHARES}
        for one in parts:
            for two in parts:
                assert one == two or not parts[one] & parts[two]
        rows = np.concatenate([split.rows(part) for part in SHARES])
        assert sorted(rows.tolist()) == list(range(harmless.facts()["pairs"]))


@pytest.fixture(scope="module")
def real(harmless: PairsTask) -> Prepared:
    return prepare(harmless, "linear", 0, EPISODES)


def shuffled(replies: Any, mask: Any, eos: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """The words of each reply in another order, each with its mask; the end stays where it is."""
    tokens, weights = replies.copy(), mask.copy()
    for row, weight in zip(tokens, weights, strict=True):
        length = int(np.flatnonzero((weight > 0) | (row > 0)).max(initial=-1)) + 1
        length -= int(length > 0 and row[length - 1] == eos)
        order = rng.permutation(length)
        row[:length], weight[:length] = row[order], weight[order]
    return tokens, weights


def test_the_order_of_words_counts_for_the_sft_policy(real: Prepared) -> None:
    task = real.task
    assert isinstance(task, PairsTask)
    assert task.eos is not None
    pairs = task._encoded.pairs.take(task.rows("evaluation")[:100])
    assert len(pairs) == 100
    long = pairs.chosen_mask.sum(axis=1) >= 4
    original = real.reference.logprobs(pairs.prompts, pairs.chosen, pairs.chosen_mask).sum(axis=1)
    rng = np.random.default_rng(0)
    lower = np.zeros(len(pairs))
    for _ in range(5):
        replies, mask = shuffled(pairs.chosen, pairs.chosen_mask, task.eos, rng)
        assert (np.sort(replies) == np.sort(pairs.chosen)).all()
        mixed = real.reference.logprobs(pairs.prompts, replies, mask).sum(axis=1)
        assert mixed.mean() < original.mean() - 1
        lower += mixed < original
    assert (lower[long] / 5).mean() >= 0.8


def test_the_judge_is_another_model_of_other_pairs(real: Prepared) -> None:
    assert real.task.gold == "judge"
    prompts, rollout = sampled(real, 500)
    inputs = (prompts, rollout.responses, rollout.mask)
    judge, model = real.gold.score(*inputs), real.reward_model.score(*inputs)
    correlation = float(np.corrcoef(judge, model)[0, 1])
    assert 0.2 < correlation < 0.99
    assert real.facts["rm_gold_correlation"] == pytest.approx(correlation, abs=0.1)


def test_a_comparison_on_real_pairs_from_beginning_to_end(data_dir: Path, tmp_path: Path) -> None:
    data = str(data_dir / "hh_harmless.train.jsonl")
    arms = ["ppo:updates=2", "dpo:epochs=1"]
    comparison = compare(arms, data=data, seeds=1, jobs=0, out=str(tmp_path))
    record = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    assert [record[name] for name in ("task", "policy", "gold")] == [data, "linear", "judge"]
    for label in ("ppo", "dpo"):
        run = record["algorithms"][label]["runs"][0]
        assert (run["status"], run.get("message")) == ("done", None)
        assert run["rm_score"] > run["reference"]["rm_score"]
    facts = record["facts"]
    assert facts["split_by"] == "prompt"
    assert facts["sha256"] == PairsTask(data).facts()["sha256"]
    assert set(facts["pairs_per_part"]) == set(SHARES)
    assert sum(facts["pairs_per_part"].values()) == facts["pairs"]
    assert 0 < facts["unknown_share"] < 0.2
    assert 0 < facts["cut_share"] < 1
    assert -1 < facts["rm_gold_correlation"] < 1
    assert "judge" in record["verdict"]["text"]
    assert compare(arms, data=data, seeds=1, jobs=0, out=str(tmp_path)).reused == 2
