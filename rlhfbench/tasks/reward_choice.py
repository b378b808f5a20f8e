"""Which reward model a world trains: the knob of its capacity."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ..options import require

RewardModelName: TypeAlias = Literal["auto", "unigrams", "bigrams", "transformer"]
"""`auto`: what suits the policy, a bag of unigrams or a transformer of the policy's size."""


def check_reward_model(rm: str, rm_layers: int | None, rm_width: int | None) -> None:
    """Refuse sizes that are none, or that belong to no transformer."""
    for name, value, most in (("rm_layers", rm_layers, 48), ("rm_width", rm_width, 4096)):
        if value is not None:
            require(rm == "transformer", name, value, "left out unless rm=transformer")
            require(1 <= value <= most, name, value, f"between 1 and {most:,}")
