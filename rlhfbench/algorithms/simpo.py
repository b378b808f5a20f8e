"""Simple preference optimisation: the reward is the mean log-probability of a token, without a reference.

Meng et al. 2024 (arXiv:2405.14734), equation 6. Nothing holds the policy near where it started but the step size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernels import preference

from ..metrics import implicit_rewards
from ..options import require
from ..pair_training import PairLoss, check_training, response_lengths, train
from ..schedules import Schedule
from ..types import Float, Metrics, Setup, register

POLICY_DEFAULTS = {"transformer": {"epochs": 2, "learning_rate": 2e-3}}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies."""


@dataclass(frozen=True)
class SimPOConfig:
    """Hyper-parameters of SimPO; names as in TRL.

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
        Scale of the reward; Meng et al. 2024: 2 to 2.5.
    gamma_beta_ratio : float
        Margin that the rewards' difference is to reach, in units of beta; the paper's gamma / beta, .5 in
        most of its runs.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 0.033
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 2.0
    gamma_beta_ratio: float = 0.5
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_training(self)
        require(self.gamma_beta_ratio >= 0, "gamma_beta_ratio", self.gamma_beta_ratio, "at least 0")


@register("simpo", SimPOConfig, needs={"preferences"}, policy_defaults=POLICY_DEFAULTS)
def simpo(setup: Setup, config: SimPOConfig) -> Iterator[Metrics]:
    """Raise a token's mean log-probability in the chosen over the rejected response by a margin."""
    lengths = response_lengths(setup, setup.preferences)
    yield {}

    def loss_of(chosen: Float, rejected: Float, chosen_lengths: Float, rejected_lengths: Float) -> PairLoss:
        setup.charge("simpo", len(chosen))
        gamma = config.gamma_beta_ratio * config.beta
        loss = preference.simpo(chosen, rejected, chosen_lengths, rejected_lengths, config.beta, gamma)
        rewards = (
            implicit_rewards(config.beta, chosen, lengths=chosen_lengths),
            implicit_rewards(config.beta, rejected, lengths=rejected_lengths),
        )
        return PairLoss(*loss, *rewards)

    yield from train(setup, config, loss_of, *lengths)
