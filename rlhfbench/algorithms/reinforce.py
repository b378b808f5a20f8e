"""REINFORCE with the batch mean as baseline: the simplest policy gradient on the KL-penalised score.

Williams 1992; for language models Ahmadian et al. 2024 (arXiv:2402.14740).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernels import categorical, policy_gradient

from ..metrics import mean, sequence_mean
from ..options import require
from ..schedules import Schedule, scheduled
from ..types import Metrics, Setup, register

POLICY_DEFAULTS = {"transformer": {"learning_rate": 2e-3}}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies."""


@dataclass(frozen=True)
class ReinforceConfig:
    """Hyper-parameters of REINFORCE.

    Parameters
    ----------
    updates : int
        Rollout batches, one optimiser step each. Chosen for the default world.
    batch_size : int
        Episodes an update.
    learning_rate : float
        The highest of AdamW; it falls to a tenth.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    beta : float
        Weight of the KL penalty, in RM-score units per nat; as PPO's.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    updates: int = 160
    batch_size: int = 256
    learning_rate: float = 0.03
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.3
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        require(self.updates >= 1, "updates", self.updates, "at least 1")
        require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2, for a baseline")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.beta >= 0, "beta", self.beta, "at least 0")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "at least 0")


@register("reinforce", ReinforceConfig, needs={"reward_model"}, policy_defaults=POLICY_DEFAULTS)
def reinforce(setup: Setup, config: ReinforceConfig) -> Iterator[Metrics]:
    """Ascend E[(R - mean R) grad log pi(y|x)], R = score - beta * log(pi/ref)."""
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    B = config.batch_size
    for _ in setup.steps(config.updates):
        prompts = setup.prompts(B)
        rollout = setup.policy.sample(prompts, setup.rng.random((B, setup.policy.max_length)))
        responses, mask = rollout.responses, rollout.mask
        scores = setup.reward_model.score(prompts, responses, mask)
        ref_logprobs = setup.reference.logprobs(prompts, responses, mask)
        kl = policy_gradient.k1(rollout.logprobs, ref_logprobs)  # 0 on padding, where both are 0
        rewards = scores - config.beta * kl.sum(axis=1)
        # The others' mean as baseline: leaving the sample itself out keeps the gradient unbiased.
        advantages = policy_gradient.rloo_advantages(rewards, B)

        logits = setup.policy.logits(prompts, responses, mask)
        d_logprobs = (advantages / -B)[:, None] * mask
        d_logits = categorical.token_logprobs_backward(logits, responses, d_logprobs, out=logits)
        setup.charge("k1", *kl.shape)
        setup.charge("sum", *kl.shape)
        setup.charge("rloo_advantages", 1, B)
        setup.charge("elementwise", 3 * B + mask.size)
        setup.charge("token_logprobs_backward", *logits.shape)
        setup.policy.backward(d_logits)
        progress = setup.progress()
        optimizer.step(scheduled(config.lr_scheduler_type, progress, config.warmup_ratio, floor=0.1))
        yield {
            "objective/kl": sequence_mean(kl),
            "objective/entropy": -sequence_mean(rollout.logprobs),
            "objective/scores": mean(scores),
            "objective/rlhf_reward": mean(rewards),
            "objective/kl_coef": config.beta,
        }
