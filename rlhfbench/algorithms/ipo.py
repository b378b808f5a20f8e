"""Identity preference optimisation: the margin is pulled to a finite value, so that certain labels do not run away.

Azar et al. 2023 (arXiv:2310.12036), equation 17, where beta is called tau.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kernels import preference

from ..metrics import implicit_rewards
from ..pair_training import PairLoss, check_training, reference_logps, response_lengths, train
from ..schedules import Schedule
from ..types import Float, Metrics, Setup, register

POLICY_DEFAULTS = {"transformer": {"epochs": 2, "learning_rate": 2e-3}}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies."""


@dataclass(frozen=True)
class IPOConfig:
    """Hyper-parameters of IPO; names as in TRL.

    Parameters
    ----------
    epochs : int
        Passes over the preference pairs. Chosen for the default world.
    batch_size : int
        Pairs an update. As `dpo`.
    learning_rate : float
        The highest of AdamW; it falls to a tenth. Chosen for log-linear policies.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    beta : float
        Strength of the penalty: the margin of log-ratios is pulled to 1 / (2 beta). TRL: .1, which keeps it near the
        reference here; chosen for the default world.
    reduction : {"sum", "mean"}
        Whether the log-ratios are summed over tokens, as the paper writes it, or averaged, as TRL does (after asking
        the paper's authors). The same beta asks for a margin that is longer by a reply's length with the mean.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 0.033
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.03
    reduction: Literal["sum", "mean"] = "sum"
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_training(self)


@register(
    "ipo",
    IPOConfig,
    needs={"preferences"},
    policy_defaults=POLICY_DEFAULTS,
)
def ipo(setup: Setup, config: IPOConfig) -> Iterator[Metrics]:
    """Pull the margin of chosen over rejected log-ratios to 1 / (2 beta), and no further."""
    columns = reference_logps(setup, setup.preferences)
    lengths = response_lengths(setup, setup.preferences) if config.reduction == "mean" else ()
    yield {}

    def loss_of(
        chosen: Float, rejected: Float, ref_chosen: Float, ref_rejected: Float, *lengths: Float
    ) -> PairLoss:
        setup.charge("ipo_per_token" if lengths else "ipo", len(chosen))
        loss = preference.ipo(chosen, rejected, ref_chosen, ref_rejected, config.beta, *lengths)
        rewards = (
            implicit_rewards(config.beta, chosen, ref_chosen),
            implicit_rewards(config.beta, rejected, ref_rejected),
        )
        return PairLoss(*loss, *rewards)

    yield from train(setup, config, loss_of, *columns, *lengths)
