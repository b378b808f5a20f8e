"""KL controllers: what becomes of PPO's beta between updates. KL is per sequence, in nats."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Literal, Protocol, TypeAlias

Controller: TypeAlias = Literal["fixed", "ziegler", "doubling", "schulman17", "dual"]


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
    """beta doubles above `over` times the target and halves below 1/`under` of it; between them it rests. Bounded.

    With over 1 and under 2 it is the lesson's rule, with 1.5 and 1.5 that of Schulman et al. 2017, section 4.
    """

    beta: float
    target: float
    low: float
    high: float
    over: float = 1.0
    under: float = 2.0

    def update(self, kl: float, episodes: int) -> None:
        if kl > self.over * self.target:
            self.beta = min(2.0 * self.beta, self.high)
        elif kl < self.target / self.under:
            self.beta = max(self.beta / 2.0, min(self.low, self.beta))  # a beta that began below stays there


@dataclass
class Dual:
    """log beta += (kl - target) * episodes / horizon: ascent of the dual of "score, subject to KL at most target".

    Where beta is the multiplier of that constraint, its derivative is kl - target. In log beta it stays above 0. Unlike
    `ziegler` it moves in proportion to the excess in nats, however large that is.
    """

    beta: float
    target: float
    horizon: float
    low: float
    high: float

    def update(self, kl: float, episodes: int) -> None:
        moved = log(max(self.beta, self.low)) + (kl - self.target) * episodes / self.horizon
        self.beta = exp(min(max(moved, log(self.low)), log(self.high)))


def controller(
    kind: Controller,
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
    if kind == "dual":
        return Dual(beta, target, horizon, low, high)
    if kind == "schulman17":
        return Doubling(beta, target, low, high, over=1.5, under=1.5)
    return Doubling(beta, target, low, high)
