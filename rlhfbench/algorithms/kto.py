"""Kahneman-Tversky optimisation: each response is desirable or not by itself.

Ethayarajh et al. 2024 (arXiv:2402.01306), equation 7. A pair gives two examples: its chosen response, which is
desirable, and its rejected one, which is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernels import preference

from ..errors import InputError
from ..metrics import implicit_rewards
from ..options import require
from ..pair_training import PairLoss, batches, check_training, pair_step, reference_logps
from ..schedules import Schedule
from ..types import Float, Metrics, PreferencePairs, Setup, register

POLICY_DEFAULTS = {"transformer": {"epochs": 2, "learning_rate": 2e-3}}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies."""


@dataclass(frozen=True)
class KTOConfig:
    """Hyper-parameters of KTO; names as in TRL.

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
        Inverse temperature of the implicit reward; Ethayarajh et al. 2024: .1.
    desirable_weight, undesirable_weight : float
        What a chosen and a rejected response count; as many come of both, and so 1 as in the paper's balanced data.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 0.033
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_training(self)
        needed = "at least 2: the reference point is estimated on replies to other prompts"
        require(self.batch_size >= 2, "batch_size", self.batch_size, needed)
        for name in ("desirable_weight", "undesirable_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


@register("kto", KTOConfig, needs={"preferences"}, policy_defaults=POLICY_DEFAULTS)
def kto(setup: Setup, config: KTOConfig) -> Iterator[Metrics]:
    """Raise chosen responses above a moving reference point and lower rejected ones below it, each by itself."""
    pairs = setup.preferences
    if len(pairs) < 2:
        raise InputError(
            f"kto: came with {len(pairs)} pairs, at least 2 are needed for replies to other prompts"
        )
    ref_chosen, ref_rejected = reference_logps(setup, pairs)
    others = mismatched(setup, pairs)
    ref_others = np.stack(reference_logps(setup, others))
    yield {}

    def loss_of(
        chosen: Float, rejected: Float, ref_chosen: Float, ref_rejected: Float, kl: float
    ) -> PairLoss:
        n = len(chosen)
        logps, refs = np.concatenate([chosen, rejected]), np.concatenate([ref_chosen, ref_rejected])
        desirable = np.repeat([1.0, 0.0], n)
        setup.charge("kto", 2 * n)
        loss, d_logps = preference.kto(
            logps, refs, desirable, kl, config.beta, config.desirable_weight, config.undesirable_weight
        )
        rewards = (
            implicit_rewards(config.beta, chosen, ref_chosen),
            implicit_rewards(config.beta, rejected, ref_rejected),
        )
        return PairLoss(loss, d_logps[:n], d_logps[n:], *rewards)

    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    for index in batches(setup, config):
        kl = reference_point(setup, others.take(index), ref_others[:, index])
        given = ref_chosen[index], ref_rejected[index], kl
        metrics = pair_step(setup, config, optimizer, loss_of, pairs, index, *given)
        yield {**metrics, "kl/reference_point": kl}


def mismatched(setup: Setup, pairs: PreferencePairs) -> PreferencePairs:
    """Each pair's prompt with the responses of another pair, drawn once: the reference reads them once."""
    order = setup.rng.permutation(len(pairs))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)
    other = pairs.take(partner)
    return PreferencePairs(
        pairs.prompts, other.chosen, other.chosen_mask, other.rejected, other.rejected_mask
    )


def reference_point(setup: Setup, others: PreferencePairs, ref_logps: Float) -> float:
    """The mean log-ratio of mismatched responses (2, n), or 0 where that is below; no gradient goes through it."""
    prompts = np.concatenate([others.prompts, others.prompts])
    responses = np.concatenate([others.chosen, others.rejected])
    mask = np.concatenate([others.chosen_mask, others.rejected_mask])
    logprobs = setup.policy.logprobs(prompts, responses, mask)
    ratios = logprobs.sum(axis=1) - ref_logps.ravel()
    setup.charge("sum", *logprobs.shape)
    setup.charge("elementwise", len(ratios))
    setup.charge("sum", len(ratios))
    setup.charge("elementwise", 1)
    return max(float(ratios.sum() / len(ratios)), 0.0)
