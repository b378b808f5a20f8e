"""Reward-model distillation: beta times the policy's log-ratios is fitted to the reward model's scores, pair by pair.

Least squares on differences within a pair: Fisch et al. 2024 (arXiv:2405.19316), section 3. REBEL (Gao et al. 2024,
arXiv:2404.16767) regresses the same, on fresh pairs and relative to the last policy instead of the reference. Who was
preferred plays no part beyond what the reward model learnt of it: any two replies to a prompt would do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..metrics import implicit_rewards, mean
from ..pair_training import PairLoss, check_training, reference_logps, train
from ..schedules import Schedule
from ..types import Float, Metrics, Setup, register

POLICY_DEFAULTS = {"transformer": {"epochs": 4, "learning_rate": 6e-3}}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies."""


@dataclass(frozen=True)
class DistillConfig:
    """Hyper-parameters of reward-model distillation.

    Parameters
    ----------
    epochs : int
        Passes over the pairs of replies. Chosen for the default world.
    batch_size : int
        Pairs an update. As `dpo`.
    learning_rate : float
        The highest of AdamW; it falls to a tenth. Chosen for log-linear policies.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    beta : float
        Weight of the KL whose optimum is sought, in RM-score units per nat; as PPO's, and so its default.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 0.033
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.3
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_training(self)


@register("distill", DistillConfig, needs={"reward_model", "preferences"}, policy_defaults=POLICY_DEFAULTS)
def distill(setup: Setup, config: DistillConfig) -> Iterator[Metrics]:
    """Fit beta times the margin of log-ratios to the difference of the RM's scores, on the replies of the pairs."""
    pairs = setup.preferences
    chosen = setup.reward_model.score(pairs.prompts, pairs.chosen, pairs.chosen_mask)
    gaps = chosen - setup.reward_model.score(pairs.prompts, pairs.rejected, pairs.rejected_mask)
    setup.charge("elementwise", len(gaps))
    columns = reference_logps(setup, pairs)
    yield {}

    def loss_of(
        chosen: Float, rejected: Float, ref_chosen: Float, ref_rejected: Float, gaps: Float
    ) -> PairLoss:
        setup.charge("elementwise", 8 * len(gaps))
        loss = squared_error(chosen, rejected, ref_chosen, ref_rejected, gaps, config.beta)
        rewards = (
            implicit_rewards(config.beta, chosen, ref_chosen),
            implicit_rewards(config.beta, rejected, ref_rejected),
        )
        return PairLoss(*loss, *rewards)

    yield from train(setup, config, loss_of, *columns, gaps)


def squared_error(
    chosen: Float, rejected: Float, ref_chosen: Float, ref_rejected: Float, gaps: Float, beta: float
) -> tuple[float, Float, Float]:
    """Mean of (gap - beta times the margin of log-ratios) squared, and its slopes by chosen and rejected."""
    margins = (chosen - ref_chosen) - (rejected - ref_rejected)
    left = gaps - beta * margins
    pull = 2.0 * beta / len(left)
    return mean(left * left), -pull * left, pull * left
