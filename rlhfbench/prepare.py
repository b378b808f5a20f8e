"""What arms of a seed share: all of them the SFT policy, which is also the reference; those of one world the rest."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .compute import ComputeMeter
from .policy_choice import choose_policy
from .reward_models import Reward, Trained, choose_reward_model, make_reward_model
from .rewards.bradley_terry import train_reward_model
from .rewards.gold import Gold, Judge, TaskGold
from .rewards.verifier import Verifier
from .seeding import stream
from .sft import SFT, Model, fine_tune, make_policy
from .tasks.reward_choice import reward_kind
from .types import Demonstrations, Float, Int, Policy, PreferencePairs, RewardKind, Task
from .verifiers import UserVerifier

NORMALISATION_EPISODES = 2048


@dataclass(frozen=True)
class Prepared:
    """One seed's world. `meter` holds the work of SFT and of RM training."""

    task: Task
    seed: int
    reference: Policy
    reward: RewardKind
    reward_model: Reward
    preferences: PreferencePairs
    gold: Gold
    evaluation_prompts: Int
    evaluation_uniforms: Float
    meter: ComputeMeter
    rm_seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
    solution_labels: int | None = None
    """Labels of steps or answers that the reward model learnt from; None where it learnt from the pairs, if at all."""


@dataclass(frozen=True)
class FineTuned:
    """The reference of a seed, what it learnt from and the work that it took."""

    policy: Model
    demonstrations: Demonstrations
    meter: ComputeMeter


def fine_tuned_reference(task: Task, policy: str, seed: int) -> FineTuned:
    """Demonstrations -> SFT policy: the same for all arms of a seed, whatever their labels and rewards are."""
    task = task.for_seed(stream(seed, "split"))
    meter = ComputeMeter()
    reference = make_policy(policy, task, stream(seed, "weights"))
    reference.charge = lambda kind, work, tokens: meter.add("sft", work)
    demonstrations = task.demonstrations(stream(seed, "demonstrations"))
    fine_tune(reference, demonstrations, stream(seed, "sft"), meter, SFT[choose_policy(policy).name])
    reference.charge = None
    return FineTuned(reference, demonstrations, meter)


def prepare(
    task: Task,
    policy: str,
    seed: int,
    episodes: int,
    verifier: UserVerifier | None = None,
    start: FineTuned | None = None,
) -> Prepared:
    """SFT policy (= reference); preference pairs -> reward model; who judges; evaluation prompts.

    Parameters
    ----------
    task : Task
    policy : str
        ``name[:field=value,...]``.
    seed : int
        All streams here depend on it alone, so that all arms share them.
    episodes : int
        Evaluation prompts.
    verifier : UserVerifier, optional
        Rewards replies in place of a reward model.
    start : FineTuned, optional
        The seed's `fine_tuned_reference`, if it is there already.
    """
    start = start or fine_tuned_reference(task, policy, seed)
    task, choice = task.for_seed(stream(seed, "split")), choose_policy(policy)
    reference, demonstrations, meter = start.policy, start.demonstrations, copy.deepcopy(start.meter)
    reference.charge = lambda kind, work, tokens: meter.add("sft", work)
    with meter.redirect("eval"):  # making the data is the world's work, nobody's method
        preferences = task.preferences(None, stream(seed, "preferences"), reference)

    # A model's scale comes from replies of the reference, which is part of making it.
    kind = reward_kind(task, None if verifier is None else verifier.text)
    started = time.process_time()
    prompts = task.prompts(NORMALISATION_EPISODES, stream(seed, "normalisation"))
    uniforms = stream(seed, "normalisation", "uniforms").random((len(prompts), task.max_length))
    with meter.redirect("rm_train" if kind == "model" else "eval"):
        rollout = reference.sample(prompts, uniforms)
    inputs = (prompts, rollout.responses, rollout.mask)
    model: Reward
    labels = None
    if kind == "model":
        made = make_reward_model(task, choice, reference, demonstrations, preferences, seed, meter)
        model, labels = normalised(made.model, inputs, meter), made.solution_labels
        about = {"reward_model": choose_reward_model(task, choice).text, "rm_accuracy": made.accuracy}
    else:
        model = verifier.reward(task) if verifier is not None else Verifier(task.gold_score)
        about = {"reward_model": "the task's verifier" if verifier is None else f"verifier '{verifier.name}'"}
    rm_seconds = time.process_time() - started if kind == "model" else 0.0

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
        kind,
        model,
        preferences,
        gold,
        *evaluation_inputs(task, seed, episodes),
        meter,
        rm_seconds,
        world_facts(task, kind, model, gold, *inputs) | about,
        labels,
    )


def normalised(model: Trained, inputs: tuple[Int, Int, Float], meter: ComputeMeter) -> Trained:
    """The model whose scores of these replies have mean 0 and deviation 1; scoring them is part of training it."""
    with meter.redirect("rm_train"):
        model.charge = meter.reward_charge
        model = model.normalised(model.score(*inputs))
    model.charge = None
    return model


def evaluation_inputs(task: Task, seed: int, episodes: int) -> tuple[Int, Float]:
    """Prompts (episodes, P) and uniforms (episodes, T) that every arm of the seed is evaluated on."""
    prompts = task.evaluation_prompts(episodes, stream(seed, "evaluation"))
    return prompts, stream(seed, "evaluation", "uniforms").random((episodes, task.max_length))


def world_facts(
    task: Task, kind: RewardKind, model: Reward, gold: Gold, prompts: Int, responses: Int, mask: Float
) -> dict[str, Any]:
    """What the report says of the data: the task's own facts and how far reward and gold agree on reference replies."""
    facts = dict(task.facts()) if hasattr(task, "facts") else {}
    rm, true = model.score(prompts, responses, mask), gold.score(prompts, responses, mask)
    if kind != "gold" and np.std(rm) > 0 and np.std(true) > 0:
        facts["rm_gold_correlation"] = float(np.corrcoef(rm, true)[0, 1])
    return facts
