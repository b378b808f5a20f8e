"""Odds ratio preference optimisation: fine-tuning on the chosen responses, and a push against the rejected ones.

Hong et al. 2024 (arXiv:2403.07691), equations 6 and 7. It needs no reference, and in the paper no fine-tuning before;
here it starts from the fine-tuned policy as all others do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernels import preference

from ..metrics import implicit_rewards
from ..pair_training import PairLoss, check_training, response_lengths, train
from ..schedules import Schedule
from ..types import Float, Metrics, Setup, register

POLICY_DEFAULTS = {"transformer": {"epochs": 2, "learning_rate": 2e-3}}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies."""


@dataclass(frozen=True)
class ORPOConfig:
    """Hyper-parameters of ORPO; names as in TRL.

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
        Weight of the odds ratio, lambda in the paper. Hong et al. 2024 and TRL: .1. Chosen for the default
        world, where 1 gains more.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 0.033
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 1.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_training(self)


@register("orpo", ORPOConfig, needs={"preferences"}, policy_defaults=POLICY_DEFAULTS)
def orpo(setup: Setup, config: ORPOConfig) -> Iterator[Metrics]:
    """Learn the chosen responses, and raise their odds over the rejected ones', without a reference."""
    lengths = response_lengths(setup, setup.preferences)
    yield {}

    def loss_of(chosen: Float, rejected: Float, chosen_lengths: Float, rejected_lengths: Float) -> PairLoss:
        setup.charge("orpo", len(chosen))
        loss = preference.orpo(chosen, rejected, chosen_lengths, rejected_lengths, config.beta)
        rewards = (
            implicit_rewards(config.beta, chosen, lengths=chosen_lengths),
            implicit_rewards(config.beta, rejected, lengths=rejected_lengths),
        )
        return PairLoss(*loss, *rewards)

    yield from train(setup, config, loss_of, *lengths)
