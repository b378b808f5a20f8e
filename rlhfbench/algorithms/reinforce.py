"""REINFORCE with the batch mean as baseline: the simplest policy gradient on the KL-penalised score.

Williams 1992; for language models Ahmadian et al. 2024 (arXiv:2402.14740). With whitened advantages it is what
REINFORCE++ (Hu et al. 2025, arXiv:2501.03262) does on policy, where its clip never binds, for a reward a reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernels import policy_gradient

from ..kl_penalty import KL, cautions, in_loss
from ..options import require
from ..rollouts import collect, episode_metrics, logit_gradient, penalised_scores
from ..schedules import Schedule, scheduled
from ..types import Metrics, Setup, register

POLICY_DEFAULTS = {
    "transformer": {"learning_rate": 2e-3},
    "transformer/gold": {"learning_rate": 2e-3, "beta": 0.04},
}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies.

Where gold itself is the reward, chosen for arithmetic: it cannot be over-optimised, so that GRPO's published beta does.
"""


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
        Weight of the KL penalty, in RM-score units per nat; as PPO's. At 0 the reference is not asked.
    kl : {"k1:reward", "k2:reward", "k3:reward", "full:reward", "k1:loss", "k2:loss", "k3:loss", "full:loss"}
        Which estimate of the KL, and where; see `rlhfbench.kl_penalty`. Ahmadian et al. 2024: k1:reward.
    normalize_advantages : bool
        Whiten the rewards of the batch instead of taking the others' mean from each; REINFORCE++. TRL's RLOO: off.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    updates: int = 160
    batch_size: int = 256
    learning_rate: float = 0.03
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.3
    kl: KL = "k1:reward"
    normalize_advantages: bool = False
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        require(self.updates >= 1, "updates", self.updates, "at least 1")
        require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2, for a baseline")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.beta >= 0, "beta", self.beta, "at least 0")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "at least 0")


@register(
    "reinforce",
    ReinforceConfig,
    needs={"reward_model"},
    policy_defaults=POLICY_DEFAULTS,
    cautions=cautions,
)
def reinforce(setup: Setup, config: ReinforceConfig) -> Iterator[Metrics]:
    """Ascend E[(R - mean R) grad log pi(y|x)], R = score - beta * log(pi/ref)."""
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    B = config.batch_size
    for _ in setup.steps(config.updates):
        episodes = collect(setup, setup.prompts(B), reference=config.beta > 0)
        returns = penalised_scores(setup, episodes, config.kl, config.beta)
        if config.normalize_advantages:
            advantages = policy_gradient.whiten(returns, episodes.whole)
            setup.charge("whiten", B)
        else:
            # The others' mean as baseline: leaving the sample itself out keeps the gradient unbiased.
            advantages = policy_gradient.rloo_advantages(returns, B)
            setup.charge("rloo_advantages", 1, B)

        mask = episodes.mask
        d_logprobs = (advantages / -B)[:, None] * mask
        setup.charge("elementwise", B + mask.size)
        kl_weights = None
        if config.beta > 0 and in_loss(config.kl):
            kl_weights = config.beta / B * mask
            setup.charge("elementwise", mask.size)
        logits = setup.policy.logits(*episodes.replies)
        # One step on policy: the log-probabilities are those that the replies were drawn with.
        setup.policy.backward(
            logit_gradient(setup, episodes, logits, episodes.logprobs, d_logprobs, config.kl, kl_weights)
        )
        progress = setup.progress()
        optimizer.step(scheduled(config.lr_scheduler_type, progress, config.warmup_ratio, floor=0.1))
        yield episode_metrics(episodes, config.beta)
