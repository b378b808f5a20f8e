"""What all arms of a seed share: the SFT policy, which is also the reference, the reward model, and who judges."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .compute import ComputeMeter
from .policy_choice import choose_policy
from .reward_models import Trained, choose_reward_model, make_reward_model
from .rewards.bradley_terry import train_reward_model
from .rewards.gold import Gold, Judge, TaskGold
from .seeding import stream
from .sft import SFT, fine_tune, make_policy
from .types import Float, Int, Policy, PreferencePairs, Task

NORMALISATION_EPISODES = 2048


@dataclass(frozen=True)
class Prepared:
    """One seed's world. `meter` holds the work of SFT and of RM training."""

    task: Task
    seed: int
    reference: Policy
    reward_model: Trained
    preferences: PreferencePairs
    gold: Gold
    evaluation_prompts: Int
    evaluation_uniforms: Float
    meter: ComputeMeter
    rm_seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


def prepare(task: Task, policy: str, seed: int, episodes: int) -> Prepared:
    """Demonstrations -> SFT policy (= reference); preference pairs -> reward model; who judges; evaluation prompts.

    Parameters
    ----------
    task : Task
    policy : str
        ``name[:field=value,...]``.
    seed : int
        All streams here depend on it alone, so that all arms share them.
    episodes : int
        Evaluation prompts.
    """
    task = task.for_seed(stream(seed, "split"))
    meter = ComputeMeter()
    choice = choose_policy(policy)
    reference = make_policy(policy, task, stream(seed, "weights"))
    reference.charge = lambda kind, work, tokens: meter.add("sft", work)
    demonstrations = task.demonstrations(stream(seed, "demonstrations"))
    fine_tune(reference, demonstrations, stream(seed, "sft"), meter, SFT[choice.name])

    with meter.redirect("eval"):  # making the data is the world's work, nobody's method
        preferences = task.preferences(None, stream(seed, "preferences"), reference)

    started = time.process_time()
    model, accuracy = make_reward_model(task, choice, reference, demonstrations, preferences, seed, meter)
    # Its scale comes from replies of the reference; that is part of making it.
    prompts = task.prompts(NORMALISATION_EPISODES, stream(seed, "normalisation"))
    uniforms = stream(seed, "normalisation", "uniforms").random((len(prompts), task.max_length))
    with meter.redirect("rm_train"):
        rollout = reference.sample(prompts, uniforms)
        model.charge = meter.reward_charge
        inputs = (prompts, rollout.responses, rollout.mask)
        model = model.normalised(model.score(*inputs))
    model.charge = None
    rm_seconds = time.process_time() - started

    gold: Gold = TaskGold(task)
    judge_pairs = task.judge_preferences()
    if judge_pairs is not None:
        judge, _ = train_reward_model(
            judge_pairs, vocab_size=len(task.vocab), features="bigrams", rng=stream(seed, "judge")
        )
        gold = Judge(judge.normalised(judge.score(*inputs)))
    reference.charge = None
    return Prepared(
        task,
        seed,
        reference,
        model,
        preferences,
        gold,
        *evaluation_inputs(task, seed, episodes),
        meter,
        rm_seconds,
        world_facts(task, model, gold, *inputs)
        | {"reward_model": choose_reward_model(task, choice).text, "rm_accuracy": accuracy},
    )


def evaluation_inputs(task: Task, seed: int, episodes: int) -> tuple[Int, Float]:
    """Prompts (episodes, P) and uniforms (episodes, T) that every arm of the seed is evaluated on."""
    prompts = task.evaluation_prompts(episodes, stream(seed, "evaluation"))
    return prompts, stream(seed, "evaluation", "uniforms").random((episodes, task.max_length))


def world_facts(
    task: Task, model: Trained, gold: Gold, prompts: Int, responses: Int, mask: Float
) -> dict[str, Any]:
    """What the report says of the data: the task's own facts and how far RM and gold agree on reference replies."""
    facts = dict(task.facts()) if hasattr(task, "facts") else {}
    rm, true = model.score(prompts, responses, mask), gold.score(prompts, responses, mask)
    if np.std(rm) > 0 and np.std(true) > 0:
        facts["rm_gold_correlation"] = float(np.corrcoef(rm, true)[0, 1])
    return facts
