"""Parts of a comparison: preparing a seed, SFT, RM training, updates of each algorithm, sampling, one evaluation.

pytest benchmarks/bench_algorithms.py --benchmark-enable
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhfbench.compute import ComputeMeter
from rlhfbench.evaluation import Evaluator
from rlhfbench.jobs import open_task
from rlhfbench.prepare import Prepared, prepare
from rlhfbench.registry import parse_arm
from rlhfbench.rewards.bradley_terry import train_reward_model
from rlhfbench.run import run
from rlhfbench.seeding import stream
from rlhfbench.sft import fine_tune, make_policy


@pytest.fixture(scope="module", params=["sentences", "hh_harmless"])
def world(request: pytest.FixtureRequest) -> Prepared:
    if request.param == "sentences":
        return prepare(open_task("sentences", None), "linear", 0, 1024)
    folder: Path = request.getfixturevalue("data_dir")
    task = open_task("pairs", str(folder / "hh_harmless.train.jsonl"))
    return prepare(task, "linear", 0, 256)


@pytest.mark.benchmark(min_rounds=3, max_time=2)
def test_prepare(world: Prepared, benchmark: Any) -> None:
    benchmark.group = f"prepare one seed, {world.task.name}"
    benchmark(prepare, world.task, "linear", 0, 64)


@pytest.mark.benchmark(min_rounds=3, max_time=2)
def test_sft(world: Prepared, benchmark: Any) -> None:
    task = world.task
    demonstrations = task.demonstrations(stream(0, "demonstrations"))

    def tune() -> Any:
        policy = make_policy("linear", task)
        fine_tune(policy, demonstrations, stream(0, "sft"), ComputeMeter())
        return policy

    np.testing.assert_array_equal(tune().params, world.reference.params)
    benchmark.group = f"supervised fine-tuning, {task.name}"
    benchmark.extra_info["demonstrations"] = len(demonstrations)
    benchmark(tune)


@pytest.mark.benchmark(min_rounds=3, max_time=2)
def test_rm_training(world: Prepared, benchmark: Any) -> None:
    """The path of penalties, its choice, and the last fit."""

    def train() -> Any:
        return train_reward_model(world.preferences, vocab_size=len(world.task.vocab), rng=stream(0, "rm"))[0]

    np.testing.assert_array_equal(train().weights, world.reward_model.weights)
    benchmark.group = f"reward model, {world.task.name}"
    benchmark.extra_info["pairs"] = len(world.preferences)
    benchmark(train)


@pytest.mark.benchmark(min_rounds=3, max_time=2)
@pytest.mark.parametrize(
    "arm",
    ["ppo:updates=4", "dpo:epochs=1", "reinforce:updates=4", "grpo:updates=4"],
    ids=["ppo", "dpo", "reinforce", "grpo"],
)
def test_training(world: Prepared, arm: str, benchmark: Any) -> None:
    """Four updates of PPO, REINFORCE and GRPO, one epoch of DPO, and two evaluations."""
    assert run(world, parse_arm(arm), checkpoints=1).status == "done"
    benchmark.group = f"train, {world.task.name}"
    benchmark(run, world, parse_arm(arm), checkpoints=1)


def test_sampling(world: Prepared, benchmark: Any) -> None:
    policy, prompts = world.reference, world.evaluation_prompts[:256]
    uniforms = np.random.default_rng(0).random((256, world.task.max_length))
    tokens = int(policy.sample(prompts, uniforms).mask.sum())
    benchmark.group = f"sample 256 replies, {world.task.name}"
    benchmark.extra_info["tokens"] = tokens
    benchmark(policy.sample, prompts, uniforms)


def test_evaluation(world: Prepared, benchmark: Any) -> None:
    evaluator = Evaluator(world)
    benchmark.group = f"one evaluation, {world.task.name}"
    benchmark(evaluator.point, world.reference, ComputeMeter())
