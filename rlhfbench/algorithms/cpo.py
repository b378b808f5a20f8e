"""Contrastive preference optimisation: DPO with a uniform reference, and fine-tuning on the chosen responses.

Xu et al. 2024 (arXiv:2401.08417), equation 3 and the likelihood that is added to it.
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
class CPOConfig:
    """Hyper-parameters of CPO; names as in TRL.

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
        Inverse temperature of the reward, beta log pi; Xu et al. 2024: .1.
    cpo_alpha : float
        Weight of the chosen responses' negative log-likelihood, a mean over all tokens of a batch as in TRL. 1 in the
        paper, which sums over tokens, and in TRL; here that drowns the preferences. Chosen for the default world.
    label_smoothing : float
        Assumed share of wrong labels, in [0, .5).
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 0.033
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.1
    cpo_alpha: float = 0.1
    label_smoothing: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_training(self)
        require(self.cpo_alpha >= 0, "cpo_alpha", self.cpo_alpha, "at least 0")
        require(
            0 <= self.label_smoothing < 0.5,
            "label_smoothing",
            self.label_smoothing,
            "at least 0 and below 0.5",
        )


@register("cpo", CPOConfig, needs={"preferences"}, policy_defaults=POLICY_DEFAULTS)
def cpo(setup: Setup, config: CPOConfig) -> Iterator[Metrics]:
    """Learn the chosen responses, and raise them over the rejected ones as DPO does, without a reference."""
    lengths = response_lengths(setup, setup.preferences)
    yield {}

    def loss_of(chosen: Float, rejected: Float, chosen_lengths: Float) -> PairLoss:
        setup.charge("cpo_per_token", len(chosen))
        loss = preference.cpo(
            chosen, rejected, config.beta, config.cpo_alpha, config.label_smoothing, chosen_lengths
        )
        rewards = implicit_rewards(config.beta, chosen), implicit_rewards(config.beta, rejected)
        return PairLoss(*loss, *rewards)

    yield from train(setup, config, loss_of, lengths[0])
