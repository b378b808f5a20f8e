"""What arms of a seed share: all of them the SFT policy, which is also the reference; those of one world the rest."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kernels.flops import Work

from .compute import ComputeMeter
from .cost_models import Costs, make_costs
from .errors import InputError
from .policy_choice import choose_policy
from .reward_models import Reward, RewardTrainer, choose_reward_model
from .reward_student import Distiller
from .rewards.bradley_terry import train_reward_model
from .rewards.gold import Gold, Judge, TaskGold
from .rewards.verifier import Verifier
from .seeding import stream
from .sft import SFT, Model, fine_tune, make_policy
from .tasks.labels import cost_of_a_label, label_facts, price_of_a_person
from .tasks.reward_choice import reward_kind
from .types import Demonstrations, Float, Int, Need, Policy, PreferencePairs, RewardKind, Task
from .verifiers import UserVerifier

NORMALISATION_EPISODES = 2048


@dataclass(frozen=True)
class Filtering:
    """What it took to leave pairs out: of how many, with what work and CPU seconds; both are part of RM training."""

    pairs: int
    work: Work
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """One seed's world. `meter` holds the work of SFT and of RM training, `costs` that of the cost model, if any."""

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
    costs: Costs | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    label_cost: float = 1.0
    """Of the label of one pair."""
    filtering: Filtering | None = None
    own_labels: int | None = None
    """Labels of rankings, steps or answers that the reward model learnt from; None where it learnt from the pairs."""

    def labels(self, needs: Collection[Need]) -> int:
        """How many an arm with these needs learns from; those that were left out had to be bought as well."""
        learns = "reward_model" in needs and self.reward == "model"
        pairs = len(self.preferences) if self.filtering is None else self.filtering.pairs
        from_pairs = "preferences" in needs or (learns and self.own_labels is None)
        return pairs * from_pairs + (self.own_labels or 0) * learns


@dataclass(frozen=True)
class FineTuned:
    """The reference of a seed, what it learnt from and the work that it took."""

    policy: Model
    demonstrations: Demonstrations
    meter: ComputeMeter


def fine_tuned_reference(task: Task, policy: str, seed: int, *, brief: bool = False) -> FineTuned:
    """Demonstrations -> SFT policy: the same for all arms of a seed, whatever their labels and rewards are.

    `brief` is for the warm-up: one epoch, as more would meet no other kernel.
    """
    task = task.for_seed(stream(seed, "split"))
    meter = ComputeMeter()
    reference = make_policy(policy, task, stream(seed, "weights"))
    reference.charge = lambda kind, work, tokens: meter.add("sft", work)
    demonstrations = task.demonstrations(stream(seed, "demonstrations"))
    settings = SFT[choose_policy(policy).name]
    if brief:
        settings = replace(settings, epochs=1, fewest_steps=0)
    fine_tune(reference, demonstrations, stream(seed, "sft"), meter, settings)
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
    with meter.redirect("rm_train" if kind == "model" else "eval"):
        inputs = normalisation_replies(task, reference, seed)
    model: Reward
    filtering, own_labels = None, None
    about: dict[str, Any]
    if kind == "model":
        chosen = choose_reward_model(task, choice)
        trainer = RewardTrainer(task, chosen, choice, reference, demonstrations, seed, meter)
        about = {"reward_model": chosen.text}
        if chosen.options.rm_filter == "agreement":
            before = preferences
            preferences, filtering = filtered(trainer, before)
            about["rm_filter"] = filter_facts(task, before, preferences)
        ranked = trainer.rankings(len(preferences))
        if chosen.judges:
            (members, own_labels), about["rm_accuracy"] = trainer.judges(), None
        else:
            own_labels = None if ranked is None else ranked.labels
            members, about["rm_accuracy"] = trainer.members(preferences if ranked is None else ranked)
        model = trainer.finished(members, inputs)
        if chosen.options.rm_student != "none":
            distiller = Distiller(task, reference, chosen.options, meter)
            model, about["rm_student"] = distiller.distilled(model, inputs, preferences)
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
    price = price_of_a_person(task)
    costs = make_costs(task, choice, reference, demonstrations, seed, NORMALISATION_EPISODES, price)
    if costs is not None:
        about |= {"cost_model": costs.text, "cost_accuracy": costs.accuracy}
    bought = len(preferences) if filtering is None else filtering.pairs
    labelled = {"labels": label_facts(task, bought, preferences)}
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
        costs,
        world_facts(task, kind, model, gold, *inputs) | about | labelled,
        cost_of_a_label(task),
        filtering,
        own_labels,
    )


def filtered(trainer: RewardTrainer, pairs: PreferencePairs) -> tuple[PreferencePairs, Filtering]:
    """The pairs that cross-fitted models agree with, for whoever learns from pairs in this world."""
    flops, functions = (
        counter["rm_train"] for counter in (trainer.meter.flops, trainer.meter.transcendentals)
    )
    started = time.process_time()
    kept = pairs.take(trainer.agreeing(pairs))
    seconds = time.process_time() - started
    if not len(kept):
        raise InputError(
            f"rm_filter: no model agrees with any of {len(pairs):,} pairs, more pairs are needed"
        )
    meter = trainer.meter
    work = Work(meter.flops["rm_train"] - flops, meter.transcendentals["rm_train"] - functions)
    return kept, Filtering(len(pairs), work, seconds)


def filter_facts(task: Task, before: PreferencePairs, after: PreferencePairs) -> dict[str, int]:
    """Pairs before and after; and, where gold is known, those whose label it contradicts."""
    facts = {"pairs": len(before), "kept": len(after)}
    if task.gold == "judge":
        return facts
    return facts | {"wrong": contradicted(task, before), "wrong_kept": contradicted(task, after)}


def contradicted(task: Task, pairs: PreferencePairs) -> int:
    """Pairs of which gold prefers the rejected reply."""
    chosen = task.gold_score(pairs.prompts, pairs.chosen, pairs.chosen_mask)
    return int((chosen < task.gold_score(pairs.prompts, pairs.rejected, pairs.rejected_mask)).sum())


def normalisation_replies(task: Task, reference: Policy, seed: int) -> tuple[Int, Int, Float]:
    """Prompts, responses and mask of the replies that decide the scale of a reward model's scores."""
    prompts = task.prompts(NORMALISATION_EPISODES, stream(seed, "normalisation"))
    uniforms = stream(seed, "normalisation", "uniforms").random((len(prompts), task.max_length))
    rollout = reference.sample(prompts, uniforms)
    return prompts, rollout.responses, rollout.mask


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
