"""Where a world's reward comes from: a model of which capacity, or a verifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..errors import InputError
from ..options import require
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

    Parameters
    ----------
    rm_layers, rm_width : int, optional
        Size of a transformer reward model; by default the policy's. One of another size is fine-tuned on the
        demonstrations first.
    """

    rm_layers: int | None = None
    rm_width: int | None = None


def check_reward_model(rm: str, rm_layers: int | None, rm_width: int | None) -> None:
    """Refuse sizes that are none, or that belong to no transformer."""
    for name, value, most in (("rm_layers", rm_layers, 48), ("rm_width", rm_width, 4096)):
        if value is not None:
            require(rm in ("transformer", *LABELLED), name, value, "left out unless rm=transformer")
            require(1 <= value <= most, name, value, f"between 1 and {most:,}")


def check_step_options(rm: str, rm_solutions: int | None, rm_aggregate_steps: str | None) -> None:
    """Refuse solutions that no model is trained on, and an aggregate where no steps are judged."""
    if rm_solutions is not None:
        require(rm in LABELLED, "rm_solutions", rm_solutions, "left out unless rm=process or rm=outcome")
        require(2 <= rm_solutions <= 10**6, "rm_solutions", rm_solutions, "between 2 and 1,000,000")
    if rm_aggregate_steps is not None:
        require(rm == "process", "rm_aggregate_steps", rm_aggregate_steps, "left out unless rm=process")


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
    return "verifier"
