"""The reward of a seed: which model, from where, trained on what; or which verifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

from .compute import ComputeMeter
from .policies.transformer import TransformerPolicy
from .policy_choice import PolicyChoice, TransformerSizes
from .rewards.bags import Features
from .rewards.bradley_terry import LinearRewardModel, train_reward_model
from .rewards.transformer import TransformerRewardModel
from .rewards.transformer_training import train_transformer_reward_model
from .rewards.verifier import Verifier
from .seeding import stream
from .sft import SFT, Model, fine_tune, make_policy
from .types import Demonstrations, PreferencePairs, Task

Trained: TypeAlias = LinearRewardModel | TransformerRewardModel
Reward: TypeAlias = Trained | Verifier
REWARD_MODELS: dict[str, type[Trained]] = {
    model.kind: model for model in (LinearRewardModel, TransformerRewardModel)
}
"""Classes of reward models, by their kind."""
HEAD = 8
"""Numbers of a head, where the reward model's width is not the policy's."""


@dataclass(frozen=True)
class RewardModelChoice:
    """Linear in a bag of `features`, or, with `sizes`, a transformer."""

    features: Features = "unigrams"
    sizes: TransformerSizes | None = None

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
        return f"a transformer of {layers} and width {self.sizes.width}"


def choose_reward_model(task: Task, policy: PolicyChoice) -> RewardModelChoice:
    """What the task's options `rm`, `rm_layers` and `rm_width` mean beside this policy."""
    name = getattr(task, "rm", "unigrams")
    own = policy.options if isinstance(policy.options, TransformerSizes) else None
    if name == "auto":
        name = "unigrams" if own is None else "transformer"
    if name != "transformer":
        return RewardModelChoice(cast(Features, name))
    like = own or TransformerSizes()
    layers = getattr(task, "rm_layers", None) or like.layers
    width = getattr(task, "rm_width", None) or like.width
    heads = like.heads if width == like.width else max(width // HEAD, 1) if width % HEAD == 0 else 1
    return RewardModelChoice(sizes=TransformerSizes(layers, width, heads))


def make_reward_model(
    task: Task,
    policy: PolicyChoice,
    reference: Model,
    demonstrations: Demonstrations,
    pairs: PreferencePairs,
    seed: int,
    meter: ComputeMeter,
) -> tuple[Trained, float | None]:
    """Train the reward model of a seed; its work goes to `rm_train`, its scores are not yet normalised.

    Returns
    -------
    model : LinearRewardModel or TransformerRewardModel
    accuracy : float or None
        On the pairs that it put aside.
    """
    choice, rng = choose_reward_model(task, policy), stream(seed, "rm")
    if choice.sizes is None:
        linear, fit = train_reward_model(pairs, vocab_size=len(task.vocab), features=choice.features, rng=rng)
        meter.add("rm_train", fit.work)
        return linear, fit.accuracy
    if choice.sizes == policy.options:
        start = cast(TransformerPolicy, reference)
    else:
        start = fine_tuned(task, choice.sizes, demonstrations, seed, meter)
    model, training = train_transformer_reward_model(pairs, start, rng)
    meter.add("rm_train", training.work)
    return model, training.accuracy


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
