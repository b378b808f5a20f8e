"""KL controllers: what becomes of PPO's beta between updates. KL is per sequence, in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


class KLControl(Protocol):
    beta: float

    def update(self, kl: float, episodes: int) -> None:
        """Take in the mean sequence KL of the latest `episodes`."""
        ...


@dataclass
class Fixed:
    """beta stays as it is."""

    beta: float

    def update(self, kl: float, episodes: int) -> None:
        pass


@dataclass
class Ziegler:
    """beta *= 1 + clip(kl / target - 1, -.2, .2) * episodes / horizon; Ziegler et al. 2019, section 2.2."""

    beta: float
    target: float
    horizon: float
    low: float
    high: float

    def update(self, kl: float, episodes: int) -> None:
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.beta = min(max(self.beta * (1.0 + error * episodes / self.horizon), self.low), self.high)


@dataclass
class Doubling:
    """beta doubles above the target and halves below half of it; between the two it rests. Bounded."""

    beta: float
    target: float
    low: float
    high: float

    def update(self, kl: float, episodes: int) -> None:
        if kl > self.target:
            self.beta = min(2.0 * self.beta, self.high)
        elif kl < self.target / 2:
            self.beta = max(self.beta / 2.0, min(self.low, self.beta))  # a beta that began below stays there


def controller(
    kind: Literal["fixed", "ziegler", "doubling"],
    beta: float,
    *,
    target: float,
    horizon: float,
    low: float,
    high: float,
) -> KLControl:
    """The controller called `kind`, starting at `beta`."""
    if kind == "fixed":
        return Fixed(beta)
    if kind == "ziegler":
        return Ziegler(beta, target, horizon, low, high)
    return Doubling(beta, target, low, high)
