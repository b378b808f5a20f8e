"""Direct preference optimisation: the policy itself is the reward model.

Rafailov et al. 2023 (arXiv:2305.18290), equation 7; label smoothing ("cDPO") Mitchell 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernels import categorical, preference

from ..metrics import accuracy, mean
from ..options import require
from ..schedules import Schedule, scheduled
from ..types import Float, Int, Metrics, Optimizer, PreferencePairs, Setup, register

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
    label_smoothing: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.beta > 0, "beta", self.beta, "above 0")
        require(
            0 <= self.label_smoothing < 0.5,
            "label_smoothing",
            self.label_smoothing,
            "at least 0 and below 0.5",
        )
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "at least 0")


@register(
    "dpo",
    DPOConfig,
    needs={"preferences"},
    presets={"cdpo": {"label_smoothing": 0.15}},
    policy_defaults=POLICY_DEFAULTS,
)
def dpo(setup: Setup, config: DPOConfig) -> Iterator[Metrics]:
    """Raise the odds of the chosen over the rejected response, relative to the reference."""
    pairs = setup.preferences
    # The reference never changes, so its log-probabilities are computed once and paid for once.
    ref_chosen = reference_logps(setup, pairs.prompts, pairs.chosen, pairs.chosen_mask)
    ref_rejected = reference_logps(setup, pairs.prompts, pairs.rejected, pairs.rejected_mask)
    yield {}
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    batches = -(-len(pairs) // config.batch_size)
    order = np.arange(len(pairs))
    for step in setup.steps(config.epochs * batches):
        if step % batches == 0:
            order = setup.rng.permutation(len(pairs))
        index = order[step % batches * config.batch_size :][: config.batch_size]
        yield pair_step(setup, config, optimizer, pairs.take(index), ref_chosen[index], ref_rejected[index])


def reference_logps(setup: Setup, prompts: Int, responses: Int, mask: Float) -> Float:
    """(N,) summed log-probabilities under the reference."""
    logprobs = setup.reference.logprobs(prompts, responses, mask)
    setup.charge("sum", *logprobs.shape)
    return np.asarray(logprobs.sum(axis=1))


def pair_step(
    setup: Setup,
    config: DPOConfig,
    optimizer: Optimizer,
    pairs: PreferencePairs,
    ref_chosen: Float,
    ref_rejected: Float,
) -> Metrics:
    """One optimiser step on a batch of pairs; chosen and rejected share one forward pass."""
    n = len(pairs)
    prompts = np.concatenate([pairs.prompts, pairs.prompts])
    responses = np.concatenate([pairs.chosen, pairs.rejected])
    mask = np.concatenate([pairs.chosen_mask, pairs.rejected_mask])

    logits = setup.policy.logits(prompts, responses, mask)
    logprobs = categorical.token_logprobs(logits, responses) * mask
    logps = logprobs.sum(axis=1)
    loss = preference.dpo(
        logps[:n], logps[n:], ref_chosen, ref_rejected, config.beta, label_smoothing=config.label_smoothing
    )
    d_logprobs = np.concatenate([loss.d_chosen, loss.d_rejected])[:, None] * mask
    d_logits = categorical.token_logprobs_backward(logits, responses, d_logprobs, out=logits)
    setup.charge("token_logprobs", *logits.shape)
    setup.charge("elementwise", 2 * mask.size)
    setup.charge("sum", *mask.shape)
    setup.charge("dpo", n)
    setup.charge("token_logprobs_backward", *logits.shape)
    setup.policy.backward(d_logits)
    progress = setup.progress()
    optimizer.step(scheduled(config.lr_scheduler_type, progress, config.warmup_ratio, floor=0.1))

    return {
        "loss": float(loss.loss),
        "rewards/chosen": mean(loss.chosen_rewards),
        "rewards/rejected": mean(loss.rejected_rewards),
        "rewards/margins": mean(loss.chosen_rewards) - mean(loss.rejected_rewards),
        "rewards/accuracies": accuracy(loss.chosen_rewards, loss.rejected_rewards),
        "logps/chosen": mean(logps[:n]),
        "logps/rejected": mean(logps[n:]),
    }
