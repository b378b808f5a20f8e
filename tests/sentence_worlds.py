"""Seeds of the default world, and what is seen of them; for the slow statements about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhfbench.prepare import Prepared, prepare
from rlhfbench.records import Result
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.run import run
from rlhfbench.seeding import stream

SEEDS = range(1000, 1010)
"""None was used while the numbers of the world, of algorithms or of policies were chosen."""
EPISODES, HELD_OUT = 1024, 4000


@dataclass(frozen=True)
class Seen:
    """One seed of one variant of the world."""

    prepared: Prepared
    policy: str
    contradicting: float
    label_accuracy: float
    gold_accuracy: float
    gold_sd: float

    def run(self, arm: str) -> Result:
        return run(self.prepared, parse_arm(arm, policy=self.policy))


def see(task_text: str, seed: int, policy: str = "linear") -> Seen:
    task = load_task(task_text)
    prepared = prepare(task, policy, seed, EPISODES)
    pairs = task.preferences(HELD_OUT, stream(seed, "held out"), prepared.reference)
    chosen, rejected = (
        (pairs.prompts, pairs.chosen, pairs.chosen_mask),
        (pairs.prompts, pairs.rejected, pairs.rejected_mask),
    )
    gold = task.gold_score(*chosen) - task.gold_score(*rejected)
    score = prepared.reward_model.score(*chosen) - prepared.reward_model.score(*rejected)
    right = (score > 0) + 0.5 * (score == 0)
    ordered = gold != 0
    agrees = np.where(gold > 0, right, 1 - right)[ordered]
    rollout = prepared.reference.sample(prepared.evaluation_prompts, prepared.evaluation_uniforms)
    sd = task.gold_score(prepared.evaluation_prompts, rollout.responses, rollout.mask).std()
    return Seen(
        prepared, policy, float((gold < 0).mean()), float(right.mean()), float(agrees.mean()), float(sd)
    )


def gold_of(result: Result) -> np.ndarray:
    return np.array([point["gold_score"] for point in result.curve])


def given_back(result: Result) -> float:
    """Share of gold's gain at its best point that is lost at the end."""
    gold = gold_of(result)
    return float((gold.max() - gold[-1]) / (gold.max() - gold[0]))
