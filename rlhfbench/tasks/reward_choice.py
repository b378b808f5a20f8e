"""Where a world's reward comes from: a model of which capacity, trained how on what; or a verifier."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, TypeAlias

from ..errors import InputError
from ..options import require
from ..rankings import labels_of
from ..types import RewardKind, Task

RewardModelName: TypeAlias = Literal["auto", "unigrams", "bigrams", "transformer"]
"""`auto`: what suits the policy, a bag of unigrams or a transformer of the policy's size."""
VerifiedReward: TypeAlias = Literal["verifier", "auto", "unigrams", "bigrams", "transformer"]
"""The same where gold is a verifier, which needs no model."""
StepReward: TypeAlias = Literal[
    "verifier", "auto", "unigrams", "bigrams", "transformer", "process", "outcome"
]
"""The same where replies are worked out in steps, which can be labelled, as can their answers."""
LABELLED: tuple[StepReward, ...] = ("process", "outcome")
"""Models of labelled solutions; they are transformers."""


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """Knobs of the reward model, the same on every task; `rm` itself is the task's, as not all have the same models.

    docs/reward-models.md has what they do and where they come from.

    Parameters
    ----------
    rm_layers, rm_width : int, optional
        Size of a transformer reward model; by default the policy's. One of another size is fine-tuned on the
        demonstrations first.
    rm_temperature : float
        Of the annotators, as the loss takes it; > 0.
    rm_smoothing : float
        Label smoothing, in [0, .5].
    rm_noise : float
        Share of labels that the likelihood takes as turned, in [0, .5).
    rm_centering : float
        Weight of the squared sum of a pair's scores, >= 0; 0.01 in Eisenstein et al. 2023.
    rm_margin : float
        Times the strength of a preference, by how much the scores of its pair have to differ, >= 0. Simulated
        annotators say 0, 1/3, 2/3 or 1, so that 1 and 3 are the margins of Llama 2; in a file it is its `margin`.
    rm_words : float, optional
        Weight of a transformer's second loss, by which the state that is scored tells the reply's words; 0 is off.
        Unless given 0.5, and 0 on sums, where only their order says what is right.
    rm_ranking : int
        Replies that annotators rank at a time, for the reward model alone; 2 is pairs.
    rm_ranking_loss : {"plackett_luce", "pairwise"}
        The likelihood of whole rankings, or of all their pairs.
    rm_members : int
        Models that make up the reward, each trained by itself.
    rm_aggregate : {"mean", "min", "uwo"}
        How their scores become one: the mean, the worst, or the mean less `rm_uncertainty` times the variance.
    rm_uncertainty : float, optional
        0.5 unless given, which is what Coste et al. 2023 have for best-of-n (PPO: 0.1).
    rm_length : {"none", "normalised", "penalised", "residual"}
        Score per token, less `rm_length_penalty` a token, or less what a token earns on replies of the reference.
    rm_length_penalty : float, optional
        Deviations of the reference's scores a token; 0.1 unless given.
    rm_filter : {"none", "agreement"}
        Leave out pairs that a reward model trained on other pairs contradicts.
    rm_folds : int, optional
        Parts into which the filter divides the pairs; 5 unless given.
    rm_student : {"none", "ridge", "bag"}
        What algorithms ask: the reward itself, or a linear model that is fitted to its scores, of the SFT policy's
        frozen features or of a bag of the reply's tokens (docs/distillation.md).
    rm_ridge : float, optional
        Strength of that fit's penalty, in units of a feature's mean square; unless given by generalised
        cross-validation.
    """

    rm_layers: int | None = None
    rm_width: int | None = None
    rm_temperature: float = 1.0
    rm_smoothing: float = 0.0
    rm_noise: float = 0.0
    rm_centering: float = 0.0
    rm_margin: float = 0.0
    rm_words: float | None = None
    rm_ranking: int = 2
    rm_ranking_loss: Literal["plackett_luce", "pairwise"] = "plackett_luce"
    rm_members: int = 1
    rm_aggregate: Literal["mean", "min", "uwo"] = "mean"
    rm_uncertainty: float | None = None
    rm_length: Literal["none", "normalised", "penalised", "residual"] = "none"
    rm_length_penalty: float | None = None
    rm_filter: Literal["none", "agreement"] = "none"
    rm_folds: int | None = None
    rm_student: Literal["none", "ridge", "bag"] = "none"
    rm_ridge: float | None = None

    own_words: ClassVar[float] = 0.5
    """`rm_words` of the task, unless given."""
    strengths: ClassVar[bool] = False
    """Whether the task's annotators say how much better a reply is."""
    ranks: ClassVar[bool] = False
    """Whether they rank more than two replies."""

    @property
    def changed(self) -> dict[str, object]:
        """Options that are not as they are by default."""
        return {
            f.name: getattr(self, f.name) for f in fields(RewardOptions) if getattr(self, f.name) != f.default
        }

    @property
    def uncertainty(self) -> float:
        return 0.5 if self.rm_uncertainty is None else self.rm_uncertainty

    @property
    def words(self) -> float:
        return self.own_words if self.rm_words is None else self.rm_words

    @property
    def folds(self) -> int:
        return 5 if self.rm_folds is None else self.rm_folds

    @property
    def length_penalty(self) -> float:
        return 0.1 if self.rm_length_penalty is None else self.rm_length_penalty


def reward_options(task: Task) -> RewardOptions:
    """Those of `task`; the defaults, if it is somebody's own and has none."""
    return task if isinstance(task, RewardOptions) else RewardOptions()


def check_reward_model(rm: str, options: RewardOptions) -> None:
    """Refuse options that are out of range, exclude each other or have nothing to work on."""
    o = options
    for name, value, most in (("rm_layers", o.rm_layers, 48), ("rm_width", o.rm_width, 4096)):
        if value is not None:
            require(rm in ("transformer", *LABELLED), name, value, "left out unless rm=transformer")
            require(1 <= value <= most, name, value, f"between 1 and {most:,}")
    if rm == "verifier":
        for name, given in o.changed.items():
            require(False, name, given, "left out with rm=verifier, where no model is trained")
    if rm in LABELLED:
        for name, given in o.changed.items():
            sized = name in ("rm_layers", "rm_width")
            require(sized, name, given, f"left out with rm={rm}, which learns from labels of solutions")
    _check_loss(o)
    require(1 <= o.rm_members <= 100, "rm_members", o.rm_members, "between 1 and 100")
    if o.rm_words is not None:
        require(rm in ("auto", "transformer"), "rm_words", o.rm_words, "left out unless rm=transformer")
        require(o.rm_words >= 0, "rm_words", o.rm_words, "at least 0")
    one_of_many = o.rm_members > 1 or o.rm_aggregate == "mean"
    require(one_of_many, "rm_aggregate", o.rm_aggregate, "mean, unless rm_members is 2 or more")
    if o.rm_uncertainty is not None:
        needed = "left out unless rm_aggregate=uwo"
        require(o.rm_aggregate == "uwo", "rm_uncertainty", o.rm_uncertainty, needed)
        require(o.rm_uncertainty >= 0, "rm_uncertainty", o.rm_uncertainty, "at least 0")
    if o.rm_length_penalty is not None:
        needed = "left out unless rm_length=penalised"
        require(o.rm_length == "penalised", "rm_length_penalty", o.rm_length_penalty, needed)
    if o.rm_folds is not None:
        needed = "left out unless rm_filter=agreement"
        require(o.rm_filter == "agreement", "rm_folds", o.rm_folds, needed)
        require(2 <= o.rm_folds <= 100, "rm_folds", o.rm_folds, "between 2 and 100")
    if o.rm_ridge is not None:
        require(o.rm_student != "none", "rm_ridge", o.rm_ridge, "left out without rm_student")
        require(o.rm_ridge > 0, "rm_ridge", o.rm_ridge, "above 0")


def _check_loss(o: RewardOptions) -> None:
    require(o.rm_temperature > 0, "rm_temperature", o.rm_temperature, "above 0")
    require(0 <= o.rm_smoothing <= 0.5, "rm_smoothing", o.rm_smoothing, "between 0 and 0.5")
    require(0 <= o.rm_noise < 0.5, "rm_noise", o.rm_noise, "at least 0 and below 0.5")
    require(not (o.rm_noise and o.rm_smoothing), "rm_noise", o.rm_noise, "0 beside rm_smoothing")
    require(o.rm_centering >= 0, "rm_centering", o.rm_centering, "at least 0")
    require(o.rm_margin >= 0, "rm_margin", o.rm_margin, "at least 0")
    require(
        not o.rm_margin or o.strengths, "rm_margin", o.rm_margin, "0 where no strength of preference is known"
    )
    require(2 <= o.rm_ranking <= 16, "rm_ranking", o.rm_ranking, "between 2 and 16")
    if o.rm_ranking > 2:
        require(o.ranks, "rm_ranking", o.rm_ranking, "2 on this task, whose annotators compare pairs")
        require(o.rm_filter == "none", "rm_filter", o.rm_filter, "none beside rm_ranking: it knows pairs")
        require(not o.rm_margin, "rm_margin", o.rm_margin, "0 beside rm_ranking: a ranking has no strength")
        if o.rm_ranking_loss == "plackett_luce":
            for name in ("rm_smoothing", "rm_noise", "rm_centering"):
                value = getattr(o, name)
                require(not value, name, value, "0 beside rankings, unless rm_ranking_loss=pairwise")


def check_step_options(rm: str, rm_solutions: int | None, rm_aggregate_steps: str | None) -> None:
    """Refuse solutions that no model is trained on, and an aggregate where no steps are judged."""
    if rm_solutions is not None:
        require(rm in LABELLED, "rm_solutions", rm_solutions, "left out unless rm=process or rm=outcome")
        require(2 <= rm_solutions <= 10**6, "rm_solutions", rm_solutions, "between 2 and 1,000,000")
    if rm_aggregate_steps is not None:
        require(rm == "process", "rm_aggregate_steps", rm_aggregate_steps, "left out unless rm=process")


def rankings_bought(replies: int, labels: int) -> int:
    """How many rankings of so many replies the labels pay for.

    Raises
    ------
    InputError
        Where they do not pay for one.
    """
    price = labels_of(replies)
    if labels < price:
        raise InputError(
            f"rm_ranking: {replies} came, which takes {price} labels a ranking; {labels} buy none, "
            "fewer replies or more labels are needed"
        )
    return labels // price


def reward_kind(task: Task, verifier: str | None) -> RewardKind:
    """What rewards replies on `task`; a `verifier` of the user's takes the place of whatever is the default.

    Raises
    ------
    InputError
        Where a verifier came beside a reward model that was asked for.
    """
    rm = getattr(task, "rm", "auto")
    if verifier is None:
        return "gold" if rm == "verifier" else "model"
    choice = getattr(task, "__dataclass_fields__", {}).get("rm")
    if choice is not None and rm not in ("verifier", choice.default):
        raise InputError(f"--verifier: {verifier} came with rm={rm}, one of the two is needed")
    for name, value in reward_options(task).changed.items():
        raise InputError(f"--verifier: {verifier} came with {name}={value}, one of the two is needed")
    return "verifier"
