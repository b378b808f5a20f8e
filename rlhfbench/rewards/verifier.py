"""A program as the reward: nothing is trained, its scores are shown as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import numpy as np

from kernels import flops

from ..types import Float, Int

Check: TypeAlias = Callable[[Int, Int, Float], Float]
"""Prompts (B, P), responses (B, T), mask (B, T) -> scores (B,)."""


class Verifier:
    """Scores replies with `check`. A call is counted for each reply; comparisons are no FLOPs, so none is charged.

    Parameters
    ----------
    check : callable (prompts, responses, mask) -> (B,)

    Attributes
    ----------
    charge : callable ``(Work, sequences)`` or None
        Where the calls are counted.
    """

    kind: ClassVar[str] = "verifier"

    def __init__(self, check: Check) -> None:
        self.check = check
        self.charge: Callable[[flops.Work, int], None] | None = None

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) what the program gives each reply."""
        if self.charge is not None:
            self.charge(flops.Work(0, 0), len(prompts))
        return np.asarray(self.check(prompts, responses, mask), float)

    def __deepcopy__(self, memo: object) -> Verifier:
        return copy.copy(self)  # it holds a whole task, which nothing here writes into
