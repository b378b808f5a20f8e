"""The multiplier of a constraint on a mean, moved by gradient ascent."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp


@dataclass
class Multiplier:
    """log value += learning_rate * value * (mean - limit), the slope of value * (mean - limit) by log value.

    Dai et al. 2023 (arXiv:2310.12773), equation 31. It never changes its sign, 0 stays 0; it stops at `highest`.
    """

    value: float
    limit: float
    learning_rate: float
    highest: float

    def update(self, mean: float) -> None:
        """Take in the mean of the constrained quantity over the latest episodes."""
        step = self.learning_rate * self.value * (mean - self.limit)
        self.value = min(self.value * exp(min(step, 700.0)), self.highest)
