"""The cost model of a seed, where its task has labels of harm: made apart from the reward model, on its own account."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import numpy as np

from .compute import ComputeMeter
from .policies.transformer import TransformerPolicy
from .policy_choice import PolicyChoice
from .reward_models import choose_reward_model, fine_tuned
from .rewards.composed import Member
from .rewards.cost import train_linear_cost_model, train_transformer_cost_model
from .rewards.penalty import RewardTraining
from .rewards.transformer_training import TransformerTraining
from .seeding import stream
from .sft import Model
from .types import Demonstrations, SafetyLabelled, Task

JUDGMENTS = 3
"""Labels of a pair: which reply does less harm, and of each whether it is unsafe."""


@dataclass(frozen=True)
class Costs:
    """A cost model with what it took: `labels`, the work in `meter` (all of it `rm_train`), and `seconds` of CPU.

    A label is a person's, and `price` is what it costs. `text` says for a report what the model is, `accuracy` is the
    share of judgments that it got right among those put aside.
    """

    model: Member
    labels: int
    meter: ComputeMeter
    seconds: float
    text: str
    accuracy: float | None
    price: float = 1.0


def make_costs(
    task: Task,
    policy: PolicyChoice,
    reference: Model,
    demonstrations: Demonstrations,
    seed: int,
    episodes: int,
    price: float = 1.0,
) -> Costs | None:
    """Train the cost model of a seed, of the kind and size of its reward model; None where there are no such labels.

    Its zero is where it was trained to be; its unit is the standard deviation of the costs of `episodes` replies.
    """
    if not isinstance(task, SafetyLabelled):
        return None
    meter, rng = ComputeMeter(), stream(seed, "cost")
    pairs = task.harm_labels(
        stream(seed, "harm"), reference
    )  # the world's work, as labels of helpfulness are
    choice = choose_reward_model(task, policy)
    started = time.process_time()
    raw: Member
    fit: RewardTraining | TransformerTraining
    if choice.sizes is None:
        words = len(task.vocab)
        raw, fit = train_linear_cost_model(pairs, vocab_size=words, features=choice.features, rng=rng)
    else:
        own = choice.sizes == policy.options
        start = reference if own else fine_tuned(task, choice.sizes, demonstrations, seed, meter, "cost")
        raw, fit = train_transformer_cost_model(pairs, cast(TransformerPolicy, start), rng)
    meter.add("rm_train", fit.work)
    model = scaled(raw, task, reference, seed, episodes, meter)
    seconds = time.process_time() - started
    return Costs(model, JUDGMENTS * len(pairs), meter, seconds, choice.model, fit.accuracy, price)


def no_labels_of_harm(task: str, algorithm: str) -> str:
    """What to say where an algorithm that needs a cost model meets a task that has none."""
    return (
        f"--task: {task} came, which has no labels of harm; {algorithm} needs a task that has, such as safety"
    )


def scaled(
    model: Member, task: Task, reference: Model, seed: int, episodes: int, meter: ComputeMeter
) -> Member:
    """The model whose costs of the reference's replies have deviation 1 and whose zero stays; part of training it."""
    prompts = task.prompts(episodes, stream(seed, "cost", "prompts"))
    sampler = reference.clone()
    sampler.charge = lambda kind, work, tokens: meter.add("rm_train", work)
    rollout = sampler.sample(prompts, stream(seed, "cost", "uniforms").random((episodes, task.max_length)))
    with meter.redirect("rm_train"):
        model.charge = meter.reward_charge
        costs = np.asarray(model.score(prompts, rollout.responses, rollout.mask), float)
    model = model.normalised(costs - costs.mean())  # of mean 0, so that nothing is taken off
    model.charge = None
    return model
