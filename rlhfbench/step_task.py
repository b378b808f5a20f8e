"""The process reward model of a task, tested on fresh solutions: ``rlhfbench rm --task arithmetic:rm=process``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .compute import ComputeMeter
from .options import require
from .policy_choice import check_policy, choose_policy
from .prepare import fine_tuned_reference
from .registry import load_task
from .reward_models import RewardTrainer, choose_reward_model, labelled_solutions
from .rewards.process import StepRewardModel
from .rewards.process_training import train_step_reward_model
from .seeding import stream
from .selection import best_of_n_curve
from .sft import Model
from .step_report import Judged, StepReport, first_wrong, held_out_report
from .tasks.reward_choice import LABELLED
from .types import Flags, Float, Int, LabelledSteps

HELD_OUT = 500
BEST_OF = (1, 4, 16, 64)
PROMPTS = 250
"""Of which the best of so many replies is chosen."""


def judges_solutions(name: str) -> bool:
    """Whether the task ``name[:field=value,...]`` asks for a reward model of labelled solutions."""
    return getattr(load_task(name), "rm", "") in LABELLED


def step_report_from_task(
    name: str, solutions: int | None = None, held_out: int | None = None, seed: int = 0
) -> StepReport:
    """Train on labelled solutions of the reference, and test on others whose labels are all right.

    Parameters
    ----------
    name : str
        ``name[:field=value,...]`` with ``rm=process`` or ``rm=outcome``; both models are trained and shown.
    solutions, held_out : int, optional
        To train on (None: the task's own number) and to test on.
    seed : int
        The models are those of this seed in a comparison.
    """
    require(held_out is None or 1 <= held_out <= 10**6, "--held-out", held_out, "between 1 and 1,000,000")
    require(seed >= 0, "--seed", seed, "0 or more")
    task: Any = load_task(name).for_seed(stream(seed, "split"))
    task = replace(task, rm="process", rm_solutions=task.rm_solutions if solutions is None else solutions)
    policy = check_policy(task, None)
    start = fine_tuned_reference(task, policy, seed)
    reference, meter = start.policy, ComputeMeter()
    choice = choose_policy(policy)
    trainer = RewardTrainer(
        task, choose_reward_model(task, choice), choice, reference, start.demonstrations, seed, meter
    )
    models, train = [], labelled_solutions(task, None, reference, seed)[0]
    for world in (task, replace(task, rm="outcome", rm_aggregate_steps=None)):
        labelled, tokens = labelled_solutions(world, None, reference, seed)
        models.append(train_step_reward_model(labelled, trainer.start, tokens, stream(seed, "rm"))[0])
    process, outcome = models

    test = task.solutions(held_out or HELD_OUT, stream(seed, "held-out"), reference)
    replies = test.prompts, test.responses, test.mask
    log_odds, ends = process.log_odds(*replies)
    labels = task.step_labels(test.prompts, test.responses)[ends].astype(np.int64)
    return held_out_report(
        Judged(log_odds[ends], labels, np.nonzero(ends)[0], threshold=0.0),
        right=task.gold_score(*replies) > 0,
        outcome=outcome.score(*replies),
        usual=_usual_error(train),
        chains=len(train),
        steps=int(np.count_nonzero(train.ends)),
        split=f"{len(test):,} solutions drawn apart from those trained on, their labels all right",
        skipped="",
        best_of=_best_of(task, reference, process, outcome, seed),
    )


def _usual_error(solutions: LabelledSteps) -> int | None:
    wrong: Flags = ~solutions.labels[solutions.ends]
    chain: Int = np.nonzero(solutions.ends)[0]
    return Counter(first_wrong(wrong, chain)).most_common(1)[0][0]


def _best_of(
    task: Any, reference: Model, process: StepRewardModel, outcome: StepRewardModel, seed: int
) -> Mapping[str, Mapping[str, float]]:
    """Shares of prompts whose best of n replies is right, for each of `BEST_OF`, by what chooses it."""
    most = max(BEST_OF)
    prompts = np.repeat(task.evaluation_prompts(PROMPTS, stream(seed, "best-of")), most, axis=0)
    uniforms = stream(seed, "best-of", "uniforms").random((len(prompts), task.max_length))
    rollout = reference.sample(prompts, uniforms)
    replies = prompts, rollout.responses, rollout.mask
    right: Float = task.gold_score(*replies).reshape(-1, most)
    scores = {name: process.aggregating(name).score(*replies) for name in ("product", "min", "last", "sum")}
    scores |= {"outcome": outcome.score(*replies), "verifier": right}
    curves = {name: best_of_n_curve(s.reshape(-1, most), right, BEST_OF) for name, s in scores.items()}
    return {name: dict(zip(map(str, BEST_OF), curve.tolist(), strict=True)) for name, curve in curves.items()}
