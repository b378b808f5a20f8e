"""The reward of a seed: which model, from where, trained on what; or which verifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np

from .compute import ComputeMeter
from .options import require
from .policies.transformer import TransformerPolicy
from .policy_choice import PolicyChoice, TransformerSizes
from .rankings import Rankable, Rankings
from .rewards.bags import Features
from .rewards.bradley_terry import train_reward_model
from .rewards.composed import MEMBERS, ComposedRewardModel, Member, Scheme
from .rewards.objective import Objective
from .rewards.penalty import split_folds
from .rewards.process import StepRewardModel
from .rewards.process_training import train_step_reward_model
from .rewards.transformer_training import RewardModelConfig, train_transformer_reward_model
from .rewards.verifier import Verifier
from .seeding import stream
from .sft import SFT, Model, fine_tune, make_policy
from .tasks.reward_choice import LABELLED, RewardOptions, rankings_bought, reward_options
from .types import (
    Demonstrations,
    Flags,
    Float,
    Int,
    LabelledSteps,
    PreferencePairs,
    RewardModel,
    StepAggregate,
    Stepwise,
    Task,
)

Single: TypeAlias = Member | StepRewardModel
Trained: TypeAlias = Single | ComposedRewardModel
Reward: TypeAlias = Trained | Verifier
REWARD_MODELS: dict[str, type[Trained]] = {
    **MEMBERS,
    ComposedRewardModel.kind: ComposedRewardModel,
    StepRewardModel.kind: StepRewardModel,
}
"""Classes of reward models, by their kind."""
HEAD = 8
"""Numbers of a head, where the reward model's width is not the policy's."""


@dataclass(frozen=True)
class RewardModelChoice:
    """Linear in a bag of `features`, or, with `sizes`, a transformer; trained and made use of by the `options`."""

    features: Features = "unigrams"
    sizes: TransformerSizes | None = None
    options: RewardOptions = field(default_factory=RewardOptions)
    judges: str = ""
    """What it judges, if not whole replies of pairs."""
    policy: TransformerSizes | None = None
    """The policy's, if it is a transformer."""

    @property
    def kept(self) -> tuple[int, TransformerSizes | None]:
        """How many models algorithms ask in the end, and of which size."""
        if self.options.rm_student == "none":
            return self.options.rm_members, self.sizes
        return 1, self.policy if self.options.rm_student == "ridge" else None

    @property
    def kind(self) -> str:
        """As the option `rm` of a task names it."""
        return self.features if self.sizes is None else "transformer"

    @property
    def resolved(self) -> dict[str, Any]:
        """The task's options that say which model it is, none of them left to the policy."""
        layers, width = (None, None) if self.sizes is None else (self.sizes.layers, self.sizes.width)
        return ({} if self.judges else {"rm": self.kind}) | {"rm_layers": layers, "rm_width": width}

    @property
    def text(self) -> str:
        """For a report."""
        return "; ".join([self.model, *filter(None, [self.objective.text, *self._variants()])])

    @property
    def model(self) -> str:
        """The same without what is made of it."""
        if self.sizes is None:
            return f"linear in a bag of {self.features}"
        layers = f"{self.sizes.layers} layer{'s' * (self.sizes.layers > 1)}"
        return f"a transformer of {layers} and width {self.sizes.width}{self.judges}"

    def _variants(self) -> list[str]:
        o = self.options
        by = "their likelihood" if o.rm_ranking_loss == "plackett_luce" else "their pairs"
        how = {
            "mean": "their mean",
            "min": "the worst of them",
            "uwo": f"mean less {o.uncertainty:g} variance",
        }
        length = {
            "none": "",
            "normalised": "per token",
            "penalised": f"less {o.length_penalty:g} a token",
            "residual": "less what length explains",
        }
        student = {
            "none": "",
            "ridge": "distilled into a head on the policy's features",
            "bag": "distilled into a bag of tokens",
        }
        return [
            f"loss of words {o.words:g}" if o.rm_words is not None else "",
            f"rankings of {o.rm_ranking} by {by}" if o.rm_ranking > 2 else "",
            f"{o.rm_members} members, {how[o.rm_aggregate]}" if o.rm_members > 1 else "",
            length[o.rm_length],
            f"pairs filtered by agreement, {o.folds} folds" if o.rm_filter == "agreement" else "",
            student[o.rm_student],
        ]

    @property
    def objective(self) -> Objective:
        o = self.options
        return Objective(
            temperature=o.rm_temperature,
            smoothing=o.rm_smoothing,
            noise=o.rm_noise,
            centering=o.rm_centering,
            margin=o.rm_margin,
            listwise=o.rm_ranking_loss == "plackett_luce",
        )

    @property
    def scheme(self) -> Scheme:
        o = self.options
        return Scheme(o.rm_aggregate, o.uncertainty, o.rm_length, o.length_penalty)

    @property
    def composed(self) -> bool:
        """Whether the reward is more than one model's score."""
        return self.options.rm_members > 1 or self.options.rm_length != "none"


def choose_reward_model(task: Task, policy: PolicyChoice) -> RewardModelChoice:
    """What the task's options `rm` and `rm_…` mean beside this policy."""
    name, options = getattr(task, "rm", "unigrams"), reward_options(task)
    own = policy.options if isinstance(policy.options, TransformerSizes) else None
    if name == "auto":
        name = "unigrams" if own is None else "transformer"
    if name not in ("transformer", *LABELLED):
        needed = "left out beside a bag, which has no state to tell words"
        require(options.rm_words is None, "rm_words", options.rm_words, needed)
        return RewardModelChoice(cast(Features, name), options=options, policy=own)
    like = own or TransformerSizes()
    layers, width = options.rm_layers or like.layers, options.rm_width or like.width
    heads = like.heads if width == like.width else max(width // HEAD, 1) if width % HEAD == 0 else 1
    judges = {
        "process": f" that judges steps, of which the score is the {aggregate_of(task)}",
        "outcome": " that judges answers",
    }.get(name, "")
    return RewardModelChoice(
        sizes=TransformerSizes(layers, width, heads), options=options, judges=judges, policy=own
    )


def aggregate_of(task: Task) -> StepAggregate:
    """What a process reward model's score is of its steps."""
    return cast(StepAggregate, getattr(task, "rm_aggregate_steps", None) or "sum")


@dataclass(frozen=True)
class RewardTrainer:
    """Trains the reward models of a seed; their work goes to `rm_train` of the `meter`."""

    task: Task
    choice: RewardModelChoice
    policy: PolicyChoice
    reference: Model
    demonstrations: Demonstrations
    seed: int
    meter: ComputeMeter

    def members(self, comparisons: PreferencePairs | Rankings) -> tuple[list[Single], float | None]:
        """As many models as the options ask for, not yet normalised.

        A transformer's members differ in where the head starts and in the order of the comparisons, as in Coste et al.
        2023. A linear model has one optimum whatever it starts from, so each of several sees a bootstrap sample.

        Returns
        -------
        members : list
        accuracy : float or None
            Their mean accuracy on the comparisons that they put aside.
        """
        ranked, n = Rankings.of(comparisons), self.choice.options.rm_members
        names: list[tuple[str, ...]] = [(), *((f"member {i}",) for i in range(1, n))]
        found = [self._train(ranked, *name, bootstrap=n > 1) for name in names]
        rights = [right for _, right in found if right is not None]
        return [model for model, _ in found], float(np.mean(rights)) if rights else None

    def judges(self) -> tuple[list[Single], int]:
        """A model of steps or, with one label a solution, of answers; and the labels that it learnt from."""
        with self.meter.redirect("eval"):  # making the data is the world's work, nobody's method
            solutions, tokens = labelled_solutions(self.task, None, self.reference, self.seed)
        rng = stream(self.seed, "rm")
        model, training = train_step_reward_model(solutions, self.start, tokens, rng, aggregate_of(self.task))
        self.meter.add("rm_train", training.work)
        return [model], training.labels

    def rankings(self, pairs: int) -> Rankings | None:
        """Where annotators rank more than two replies at a time: as many rankings as `pairs` labels pay for."""
        replies = self.choice.options.rm_ranking
        if replies == 2 or not isinstance(self.task, Rankable):
            return None
        n = rankings_bought(replies, pairs)
        with self.meter.redirect("eval"):  # making the data is the world's work, nobody's method
            return self.task.rankings(n, replies, stream(self.seed, "rankings"), self.reference)

    def agreeing(self, pairs: PreferencePairs) -> Int:
        """Numbers of the pairs that a model trained on the other folds orders as their label does, or not at all.

        Brodley and Friedl (1999), "Identifying mislabeled training data", JAIR 11: the single-algorithm filter.
        """
        folds = min(self.choice.options.folds, len(pairs))
        fold_of = split_folds(np.arange(len(pairs)), folds, stream(self.seed, "rm", "filter"))
        agrees = np.zeros(len(pairs), bool)
        for fold in range(folds):
            inside = np.flatnonzero(fold_of == fold)
            others = pairs.take(np.flatnonzero(fold_of != fold))
            model, _ = self._train(Rankings.of(others), f"fold {fold}")
            chosen, rejected = scores_of(model, pairs.take(inside), self.meter)
            agrees[inside] = chosen >= rejected
        return np.flatnonzero(agrees)

    def finished(self, members: list[Single], inputs: tuple[Int, Int, Float]) -> Trained:
        """The reward that they make: its scores of `inputs`, replies of the reference, have mean 0 and deviation 1."""
        with self.meter.redirect("rm_train"):
            if self.choice.composed:
                return ComposedRewardModel.fitted(
                    cast(list[Member], members), self.choice.scheme, inputs, self.meter.reward_charge
                )
            (model,) = members
            model.charge = self.meter.reward_charge
            model = model.normalised(model.score(*inputs))
        model.charge = None
        return model

    def _train(self, ranked: Rankings, *name: str, bootstrap: bool = False) -> tuple[Member, float | None]:
        rng, choice = stream(self.seed, "rm", *name), self.choice
        if choice.sizes is not None:
            config = RewardModelConfig(words=choice.options.words)
            model, training = train_transformer_reward_model(
                ranked, self.start, rng, config, choice.objective
            )
            self.meter.add("rm_train", training.work)
            return model, training.accuracy
        rows = rng.integers(len(ranked), size=len(ranked)) if bootstrap else None
        linear, fit = train_reward_model(
            ranked if rows is None else ranked.take(rows),
            vocab_size=len(self.task.vocab),
            features=choice.features,
            objective=choice.objective,
            groups=rows,  # copies of a comparison stay on one side
            rng=rng,
        )
        self.meter.add("rm_train", fit.work)
        return linear, fit.accuracy

    @cached_property
    def start(self) -> TransformerPolicy:
        """What a transformer's training starts from: the reference, or one of its own size."""
        sizes = self.choice.sizes
        if sizes is None or sizes == self.policy.options:
            return cast(TransformerPolicy, self.reference)
        return fine_tuned(self.task, sizes, self.demonstrations, self.seed, self.meter)


def scores_of(model: RewardModel, pairs: PreferencePairs, meter: ComputeMeter) -> tuple[Float, Float]:
    """Scores of the chosen and of the rejected replies, as part of training."""
    with meter.redirect("rm_train"):
        model.charge = meter.reward_charge  # type: ignore[attr-defined]
        chosen = model.score(pairs.prompts, pairs.chosen, pairs.chosen_mask)
        rejected = model.score(pairs.prompts, pairs.rejected, pairs.rejected_mask)
    model.charge = None  # type: ignore[attr-defined]
    return chosen, rejected


def labelled_solutions(
    task: Task, n: int | None, reference: Model, seed: int, name: str = "solutions"
) -> tuple[LabelledSteps, Flags]:
    """Solutions of the reference, their steps or their answers labelled, as `rm` says; (V,) tokens that end a step."""
    assert isinstance(task, Stepwise)
    solutions = task.solutions(n, stream(seed, name), reference)
    if getattr(task, "rm", "") == "process":
        return solutions, task.step_tokens
    return task.whole(solutions, stream(seed, name, "answers")), np.zeros_like(task.step_tokens)


def fine_tuned(
    task: Task,
    sizes: TransformerSizes,
    demonstrations: Demonstrations,
    seed: int,
    meter: ComputeMeter,
    name: str = "rm",
) -> TransformerPolicy:
    """A transformer of the model's own size, fine-tuned on the demonstrations; part of making the model `name`."""
    text = PolicyChoice("transformer", sizes).text
    start = cast(TransformerPolicy, make_policy(text, task, stream(seed, name, "weights")))
    start.charge = lambda kind, work, tokens: meter.add("rm_train", work)
    with meter.redirect("rm_train"):
        fine_tune(start, demonstrations, stream(seed, name, "sft"), meter, SFT["transformer"])
    return start
