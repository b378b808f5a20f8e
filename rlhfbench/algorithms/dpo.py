"""Direct preference optimisation: the policy itself is the reward model. The family of losses that TRL's `dpo` has.

Rafailov et al. 2023 (arXiv:2305.18290), equation 7; label smoothing ("cDPO") Mitchell 2023; the others below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from kernels import preference

from ..metrics import implicit_rewards
from ..options import require, require_left_out
from ..pair_training import PairLoss, check_training, reference_logps, response_lengths, train
from ..schedules import Schedule
from ..types import Float, Metrics, Setup, register

LossType = Literal[
    "sigmoid",  # Rafailov et al. 2023, eq. 7
    "hinge",  # SLiC, Zhao et al. 2023; RSO, Liu et al. 2023
    "robust",  # Chowdhury et al. 2024
    "exo_pair",  # Ji et al. 2024, eq. 16
    "nca_pair",  # Chen et al. 2024
    "bco_pair",  # Jung et al. 2024, without the running mean, as TRL has it now
    "sppo_hard",  # Wu et al. 2024, eq. 4.7
    "aot",  # Melnyk et al. 2024
    "apo_zero",  # D'Oosterlinck et al. 2024, eq. 7
    "apo_down",  # the same, eq. 8
    "discopop",  # Lu et al. 2024, eq. 5
    "sigmoid_norm",  # Tulu 3, Lambert et al. 2024
]
"""What `kernels.preference` calls them too; `sigmoid` is its `dpo`."""

SMOOTHED = {"sigmoid", "robust", "exo_pair", "aot"}
"""Losses that know of wrong labels; with the others a label smoothing would do nothing."""

POLICY_DEFAULTS = {"transformer": {"epochs": 2, "learning_rate": 2e-3}}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies."""


@dataclass(frozen=True)
class DPOConfig:
    """Hyper-parameters of DPO; names as in TRL.

    Parameters
    ----------
    epochs : int
        Passes over the preference pairs. Chosen for the default world.
    batch_size : int
        Pairs an update. Rafailov et al. 2023: 64.
    learning_rate : float
        The highest of AdamW; it falls to a tenth. Chosen for log-linear policies.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    beta : float
        Inverse temperature of the implicit reward; Rafailov et al. 2023: .1. Not comparable with PPO's beta, which is
        in RM-score units.
    loss_type : str
        What is done with the log-ratios: `LossType` names them and their papers.
    label_smoothing : float
        Assumed share of wrong labels, in [0, .5); for `sigmoid`, `robust`, `aot` and `exo_pair`, which needs some.
    discopop_tau : float
        Temperature of the mixture of `discopop`; Lu et al. 2024: .05.
    length_penalty : float
        Alpha of R-DPO (Park et al. 2024, arXiv:2403.19159): what a token costs, in units of reward; `sigmoid` alone.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 0.033
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.1
    loss_type: LossType = "sigmoid"
    label_smoothing: float = 0.0
    discopop_tau: float = 0.05
    length_penalty: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_training(self)
        smoothing, loss = self.label_smoothing, self.loss_type
        require(0 <= smoothing < 0.5, "label_smoothing", smoothing, "at least 0 and below 0.5")
        require(smoothing == 0 or loss in SMOOTHED, "label_smoothing", smoothing, f"0 with {loss}")
        require(smoothing > 0 or loss != "exo_pair", "label_smoothing", smoothing, "above 0 with exo_pair")
        require(self.discopop_tau > 0, "discopop_tau", self.discopop_tau, "above 0")
        if loss != "discopop":
            require_left_out(self, "loss_type=discopop", "discopop_tau")
        require(self.length_penalty >= 0, "length_penalty", self.length_penalty, "at least 0")
        require(
            self.length_penalty == 0 or loss == "sigmoid",
            "length_penalty",
            self.length_penalty,
            f"0 with {loss}",
        )


@register("dpo", DPOConfig, needs={"preferences"}, policy_defaults=POLICY_DEFAULTS)
def dpo(setup: Setup, config: DPOConfig) -> Iterator[Metrics]:
    """Raise the odds of the chosen over the rejected response, relative to the reference."""
    reference = reference_logps(setup, setup.preferences)
    per_token = config.loss_type == "sigmoid_norm"
    lengths: tuple[Float, ...] = ()
    if per_token or config.length_penalty:
        lengths = response_lengths(setup, setup.preferences)
    if config.length_penalty:
        # A token's price in the reward, beta log pi/ref + alpha |y|, is a reference that finds it so much less likely.
        price = config.length_penalty / config.beta
        setup.charge("elementwise", 4 * len(setup.preferences))
        reference = (reference[0] - price * lengths[0], reference[1] - price * lengths[1])
    yield {}

    columns = (*reference, *(lengths if per_token else ()))
    yield from train(setup, config, partial(losses, setup, config), *columns)


def losses(
    setup: Setup,
    config: DPOConfig,
    chosen: Float,
    rejected: Float,
    ref_chosen: Float,
    ref_rejected: Float,
    *lengths: Float,
) -> PairLoss:
    """The loss of the configured type."""
    kernel = "dpo" if config.loss_type == "sigmoid" else config.loss_type
    setup.charge(kernel, len(chosen))
    given = (chosen, rejected, ref_chosen, ref_rejected, *lengths)
    loss = getattr(preference, kernel)(*given, config.beta, **options(config))
    rewards = (
        implicit_rewards(config.beta, chosen, ref_chosen),
        implicit_rewards(config.beta, rejected, ref_rejected),
    )
    return PairLoss(loss.loss, loss.d_chosen, loss.d_rejected, *rewards)


def options(config: DPOConfig) -> dict[str, float]:
    """What the loss takes beside beta."""
    if config.loss_type == "discopop":
        return {"tau": config.discopop_tau}
    return {"label_smoothing": config.label_smoothing} if config.loss_type in SMOOTHED else {}
