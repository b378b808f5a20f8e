"""What all arms of a seed share: the SFT policy, which is also the reference, the reward model, and who judges."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from kernels import categorical, flops

from .compute import ComputeMeter
from .optimizer import AdamW
from .policies.linear import LinearPolicy
from .policies.tabular import TabularPolicy
from .rewards.bradley_terry import LinearRewardModel, train_reward_model
from .rewards.gold import Gold, Judge, TaskGold
from .seeding import stream
from .types import Demonstrations, Float, Int, Policy, PreferencePairs, Task

POLICIES = {"linear": LinearPolicy, "tabular": TabularPolicy}
SFT_EPOCHS, SFT_BATCH, SFT_LEARNING_RATE = 6, 64, 0.05
NORMALISATION_EPISODES = 2048


@dataclass(frozen=True)
class Prepared:
    """One seed's world. `meter` holds the work of SFT and of RM training."""

    task: Task
    seed: int
    reference: Policy
    reward_model: LinearRewardModel
    preferences: PreferencePairs
    gold: Gold
    evaluation_prompts: Int
    evaluation_uniforms: Float
    meter: ComputeMeter
    rm_seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


def make_policy(name: str, task: Task) -> LinearPolicy:
    """An untrained policy that fits `task`."""
    return POLICIES[name](
        len(task.prompt_vocab), len(task.vocab), task.max_length, eos=task.eos, never=task.unknown
    )


def prepare(task: Task, policy: str, seed: int, episodes: int) -> Prepared:
    """Demonstrations -> SFT policy (= reference); preference pairs -> reward model; who judges; evaluation prompts.

    Parameters
    ----------
    task : Task
    policy : str
        Name of the policy class.
    seed : int
        All streams here depend on it alone, so that all arms share them.
    episodes : int
        Evaluation prompts.
    """
    task = task.for_seed(stream(seed, "split"))
    meter = ComputeMeter()
    reference = make_policy(policy, task)
    reference.charge = lambda kind, work, tokens: meter.add("sft", work)
    fine_tune(reference, task.demonstrations(stream(seed, "demonstrations")), stream(seed, "sft"), meter)

    with meter.redirect("eval"):  # making the data is the world's work, nobody's method
        preferences = task.preferences(None, stream(seed, "preferences"), reference)

    started = time.process_time()
    features: Literal["unigrams", "bigrams"] = getattr(task, "rm", "unigrams")
    model, training = train_reward_model(
        preferences, vocab_size=len(task.vocab), features=features, rng=stream(seed, "rm")
    )
    meter.add("rm_train", training.work)
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
        world_facts(task, model, gold, *inputs),
    )


def evaluation_inputs(task: Task, seed: int, episodes: int) -> tuple[Int, Float]:
    """Prompts (episodes, P) and uniforms (episodes, T) that every arm of the seed is evaluated on."""
    prompts = task.evaluation_prompts(episodes, stream(seed, "evaluation"))
    return prompts, stream(seed, "evaluation", "uniforms").random((episodes, task.max_length))


def fine_tune(
    policy: LinearPolicy, demos: Demonstrations, rng: np.random.Generator, meter: ComputeMeter
) -> None:
    """Supervised fine-tuning: minimise the mean negative log-likelihood of the demonstrated tokens."""
    optimizer = AdamW(
        policy.params, policy.grads, SFT_LEARNING_RATE, charge=lambda work: meter.add("sft", work)
    )
    batches = -(-len(demos) // SFT_BATCH)
    steps = SFT_EPOCHS * batches
    for epoch in range(SFT_EPOCHS):
        order = rng.permutation(len(demos))
        for batch in range(batches):
            part = demos.take(order[batch * SFT_BATCH : (batch + 1) * SFT_BATCH])
            logits = policy.logits(part.prompts, part.responses, part.mask)
            d_logprobs = np.divide(-part.mask, part.mask.sum())
            policy.backward(categorical.token_logprobs_backward(logits, part.responses, d_logprobs))
            meter.add("sft", flops.work("token_logprobs_backward", *logits.shape))
            meter.add("sft", flops.work("elementwise", 3 * part.mask.size - 1))
            optimizer.step(scale=1.0 - (epoch * batches + batch) / steps)


def world_facts(
    task: Task, model: LinearRewardModel, gold: Gold, prompts: Int, responses: Int, mask: Float
) -> dict[str, Any]:
    """What the report says of the data: the task's own facts and how far RM and gold agree on reference replies."""
    facts = dict(task.facts()) if hasattr(task, "facts") else {}
    rm, true = model.score(prompts, responses, mask), gold.score(prompts, responses, mask)
    if np.std(rm) > 0 and np.std(true) > 0:
        facts["rm_gold_correlation"] = float(np.corrcoef(rm, true)[0, 1])
    return facts
