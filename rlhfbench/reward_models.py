"""The reward of a seed: which model, from where, trained on what; or which verifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from .compute import ComputeMeter
from .policies.transformer import TransformerPolicy
from .policy_choice import PolicyChoice, TransformerSizes
from .rewards.bradley_terry import Features, LinearRewardModel, train_reward_model
from .rewards.process import StepRewardModel
from .rewards.process_training import train_step_reward_model
from .rewards.transformer import TransformerRewardModel
from .rewards.transformer_training import train_transformer_reward_model
from .rewards.verifier import Verifier
from .seeding import stream
from .sft import SFT, Model, fine_tune, make_policy
from .tasks.reward_choice import LABELLED
from .types import Bool, Demonstrations, LabelledSteps, PreferencePairs, StepAggregate, Stepwise, Task

Trained: TypeAlias = LinearRewardModel | TransformerRewardModel | StepRewardModel
Reward: TypeAlias = Trained | Verifier
REWARD_MODELS: dict[str, type[Trained]] = {
    model.kind: model for model in (LinearRewardModel, TransformerRewardModel, StepRewardModel)
}
"""Classes of reward models, by their kind."""
HEAD = 8
"""Numbers of a head, where the reward model's width is not the policy's."""


@dataclass(frozen=True)
class RewardModelChoice:
    """Linear in a bag of `features`, or, with `sizes`, a transformer; what it judges if not whole replies of pairs."""

    features: Features = "unigrams"
    sizes: TransformerSizes | None = None
    judges: str = ""

    @property
    def kind(self) -> str:
        """As the option `rm` of a task names it."""
        return self.features if self.sizes is None else "transformer"

    @property
    def text(self) -> str:
        """For a report."""
        if self.sizes is None:
            return f"linear in a bag of {self.features}"
        layers = f"{self.sizes.layers} layer{'s' * (self.sizes.layers > 1)}"
        return f"a transformer of {layers} and width {self.sizes.width}{self.judges}"


def choose_reward_model(task: Task, policy: PolicyChoice) -> RewardModelChoice:
    """What the task's options `rm`, `rm_layers` and `rm_width` mean beside this policy."""
    name = getattr(task, "rm", "unigrams")
    own = policy.options if isinstance(policy.options, TransformerSizes) else None
    if name == "auto":
        name = "unigrams" if own is None else "transformer"
    if name not in ("transformer", *LABELLED):
        return RewardModelChoice(cast(Features, name))
    like = own or TransformerSizes()
    layers = getattr(task, "rm_layers", None) or like.layers
    width = getattr(task, "rm_width", None) or like.width
    heads = like.heads if width == like.width else max(width // HEAD, 1) if width % HEAD == 0 else 1
    judges = {
        "process": f" that judges steps, of which the score is the {aggregate_of(task)}",
        "outcome": " that judges answers",
    }
    return RewardModelChoice(sizes=TransformerSizes(layers, width, heads), judges=judges.get(name, ""))


def aggregate_of(task: Task) -> StepAggregate:
    """What a process reward model's score is of its steps."""
    return cast(StepAggregate, getattr(task, "rm_aggregate_steps", None) or "sum")


@dataclass(frozen=True)
class Made:
    """A reward model, its accuracy on pairs that it put aside, and labels of solutions, if it learnt from these."""

    model: Trained
    accuracy: float | None = None
    solution_labels: int | None = None


def make_reward_model(
    task: Task,
    policy: PolicyChoice,
    reference: Model,
    demonstrations: Demonstrations,
    pairs: PreferencePairs,
    seed: int,
    meter: ComputeMeter,
) -> Made:
    """Train the reward model of a seed; its work goes to `rm_train`, its scores are not yet normalised."""
    choice, rng = choose_reward_model(task, policy), stream(seed, "rm")
    if choice.sizes is None:
        linear, fit = train_reward_model(pairs, vocab_size=len(task.vocab), features=choice.features, rng=rng)
        meter.add("rm_train", fit.work)
        return Made(linear, fit.accuracy)
    start = backbone_of(task, policy, reference, demonstrations, seed, meter)
    if getattr(task, "rm", "") in LABELLED:
        return _judge_of_solutions(task, reference, start, seed, meter)
    model, training = train_transformer_reward_model(pairs, start, rng)
    meter.add("rm_train", training.work)
    return Made(model, training.accuracy)


def backbone_of(
    task: Task,
    policy: PolicyChoice,
    reference: Model,
    demonstrations: Demonstrations,
    seed: int,
    meter: ComputeMeter,
) -> TransformerPolicy:
    """What a transformer reward model starts as: the reference, if that is of its size."""
    sizes = choose_reward_model(task, policy).sizes
    assert sizes is not None
    if sizes == policy.options:
        return cast(TransformerPolicy, reference)
    return fine_tuned(task, sizes, demonstrations, seed, meter)


def _judge_of_solutions(
    task: Task, reference: Model, start: TransformerPolicy, seed: int, meter: ComputeMeter
) -> Made:
    """A reward model of steps or, with one label a solution, of answers; the solutions are the same for both."""
    with meter.redirect("eval"):  # making the data is the world's work, nobody's method
        solutions, tokens = labelled_solutions(task, None, reference, seed)
    rng = stream(seed, "rm")
    model, training = train_step_reward_model(solutions, start, tokens, rng, aggregate_of(task))
    meter.add("rm_train", training.work)
    return Made(model, solution_labels=training.labels)


def labelled_solutions(
    task: Task, n: int | None, reference: Model, seed: int, name: str = "solutions"
) -> tuple[LabelledSteps, Bool]:
    """Solutions of the reference, their steps or their answers labelled, as `rm` says; (V,) tokens that end a step."""
    assert isinstance(task, Stepwise)
    solutions = task.solutions(n, stream(seed, name), reference)
    if getattr(task, "rm", "") == "process":
        return solutions, task.step_tokens
    return task.whole(solutions, stream(seed, name, "answers")), np.zeros_like(task.step_tokens)


def fine_tuned(
    task: Task, sizes: TransformerSizes, demonstrations: Demonstrations, seed: int, meter: ComputeMeter
) -> TransformerPolicy:
    """A transformer of the reward model's own size, fine-tuned on the demonstrations; part of making the model."""
    text = PolicyChoice("transformer", sizes).text
    start = cast(TransformerPolicy, make_policy(text, task, stream(seed, "rm", "weights")))
    start.charge = lambda kind, work, tokens: meter.add("rm_train", work)
    with meter.redirect("rm_train"):
        fine_tune(start, demonstrations, stream(seed, "rm", "sft"), meter, SFT["transformer"])
    return start
