"""The reward model of a synthetic task, tested on as many fresh pairs as are asked for: ``rlhfbench rm --task``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .compute import ComputeMeter
from .options import require
from .policy_choice import check_policy, choose_policy
from .prepare import FineTuned, filtered, fine_tuned_reference, normalisation_replies
from .registry import load_task
from .reward_models import RewardTrainer, Trained, choose_reward_model, scores_of
from .reward_report import RewardReport, report_of_scores, reward_report_from_pairs
from .reward_student import Distiller
from .rewards.bradley_terry import LinearRewardModel
from .rewards.composed import ComposedRewardModel
from .seeding import stream
from .tasks.idle_options import check_used
from .tasks.reward_choice import reward_options
from .types import Float, PreferencePairs, Task

HELD_OUT = 100


def reward_report_from_task(
    name: str, pairs: int | None = None, held_out: int | None = None, seed: int = 0
) -> RewardReport:
    """Train on `pairs` pairs of a task (None: its own number) and test on exactly `held_out` others.

    The model is linear in a bag of unigrams unless the task's `rm` names another.

    Parameters
    ----------
    name : str
        ``name[:field=value,...]``.
    pairs, held_out : int, optional
    seed : int
        The pairs are those of this seed in a comparison, but for those held out, which have their own stream.
    """
    require(pairs is None or 1 <= pairs <= 10**6, "--pairs", pairs, "between 1 and 1,000,000")
    require(held_out is None or 1 <= held_out <= 10**6, "--held-out", held_out, "between 1 and 1,000,000")
    require(seed >= 0, "--seed", seed, "0 or more")
    task = load_task(name)
    check_used(task)
    start = fine_tuned_reference(task, check_policy(task, None), seed)
    task = task.for_seed(stream(seed, "split"))
    train = task.preferences(pairs, stream(seed, "preferences"), start.policy)
    test = task.preferences(held_out or HELD_OUT, stream(seed, "held-out"), start.policy)
    if reward_options(task).changed or getattr(task, "rm", "auto") not in ("auto", "unigrams", "verifier"):
        return _variant(task, start, train, test, seed)
    return reward_report_from_pairs(train, test, task.vocab, seed, gold_margins(task, test))


def _variant(
    task: Task, start: FineTuned, train: PreferencePairs, test: PreferencePairs, seed: int
) -> RewardReport:
    """Of the model that the task's options ask for."""
    policy, meter = choose_policy(check_policy(task, None)), ComputeMeter()
    choice = choose_reward_model(task, choose_policy("linear"))
    trainer = RewardTrainer(task, choice, policy, start.policy, start.demonstrations, seed, meter)
    notes = [f"Model: {choice.text}."]
    kept = train
    if choice.options.rm_filter == "agreement":
        kept, _ = filtered(trainer, train)
        notes.append(
            f"Filter: {len(kept):,} of {len(train):,} pairs kept, which cross-fitted models agree with."
        )
    ranked = trainer.rankings(len(train))
    if ranked is not None:
        notes.append(f"Trained on {len(ranked):,} rankings, which count as {ranked.labels:,} labels.")
    members, _ = trainer.members(kept if ranked is None else ranked)
    model: Trained
    (model, *_), unit, asked = members, 1.0, members
    inputs = normalisation_replies(task, start.policy, seed)
    if choice.composed:
        model = trainer.finished(members, inputs)
        assert isinstance(model, ComposedRewardModel)
        unit = model.unit
    if choice.options.rm_student != "none":
        model, *_ = Distiller(task, start.policy, choice.options, meter).fitted(model, inputs)
        asked = [model]
    chosen, rejected = scores_of(model, test, meter)
    margins = unit * (np.asarray(chosen, float) - rejected)
    linear = [member.weights for member in asked if isinstance(member, LinearRewardModel)]
    weights = np.mean(linear, axis=0) if linear else None
    report = report_of_scores(margins, weights, kept, test, task.vocab, gold_margins(task, test))
    return replace(report, notes=tuple(notes))


def gold_margins(task: Task, pairs: PreferencePairs) -> Float | None:
    """(N,) gold of the chosen replies less that of the rejected ones; None where it is not known."""
    if task.gold == "judge":
        return None
    gold = task.gold_score(pairs.prompts, pairs.chosen, pairs.chosen_mask)
    return gold - task.gold_score(pairs.prompts, pairs.rejected, pairs.rejected_mask)
