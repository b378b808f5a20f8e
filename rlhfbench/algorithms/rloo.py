"""RLOO: several replies a prompt, each with the mean of the others as its baseline, and no critic.

Ahmadian et al. 2024 (arXiv:2402.14740) for language models; the estimator is that of Kool et al. 2019 ("Buy 4 REINFORCE
samples, get a baseline for free!").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernels import categorical, policy_gradient

from ..kl_penalty import KL, cautions, in_loss
from ..options import require
from ..rollouts import Episodes, collect, episode_metrics, groups, logit_gradient, penalised_scores
from ..schedules import Schedule, scheduled
from ..types import Float, Metrics, Optimizer, Setup, register

POLICY_DEFAULTS = {
    "transformer": {"updates": 40, "learning_rate": 4e-3, "beta": 0.2},
    "transformer/gold": {"updates": 120, "learning_rate": 4e-3, "beta": 0.04},
}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies.

Where gold itself is the reward, chosen for arithmetic: it cannot be over-optimised, so that GRPO's published beta does.
"""


@dataclass(frozen=True)
class RLOOConfig:
    """Hyper-parameters of RLOO; names as in TRL.

    Parameters
    ----------
    updates : int
        Rollout batches, each followed by `num_iterations` optimiser steps. Chosen for the default world, as are the
        learning rate and beta: of 3 x 3 x 3 settings with groups, on three seeds; `docs/methods.md` has the figures.
    batch_size : int
        Replies a rollout, `num_generations` to each prompt.
    num_generations : int
        Replies a prompt; divides `batch_size`. Ahmadian et al. 2024: 2 and 4; TRL: 2. In the default world 2, 4 and 8
        do alike.
    num_iterations : int
        Steps on each rollout; beyond the first the policy is no longer the one that was sampled. TRL: 1.
    learning_rate : float
        The highest of AdamW; it falls to a tenth. Chosen for log-linear policies.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    beta : float
        Weight of the KL penalty, in RM-score units per nat; as PPO's. At 0 the reference is not asked.
    kl : {"k1:reward", "k2:reward", "k3:reward", "full:reward", "k1:loss", "k2:loss", "k3:loss", "full:loss"}
        Which estimate of the KL, and where; see `rlhfbench.kl_penalty`. Ahmadian et al. 2024 and TRL: k1:reward.
    cliprange : float
        Clipping of the ratio of a whole reply's probabilities. TRL: .2.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    updates: int = 160
    batch_size: int = 256
    num_generations: int = 4
    num_iterations: int = 1
    learning_rate: float = 0.03
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.3
    kl: KL = "k1:reward"
    cliprange: float = 0.2
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        for name in ("updates", "batch_size", "num_iterations"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(
            self.num_generations >= 2, "num_generations", self.num_generations, "at least 2, for a baseline"
        )
        require(
            self.batch_size % self.num_generations == 0,
            "num_generations",
            self.num_generations,
            f"a divisor of batch_size ({self.batch_size})",
        )
        for name in ("learning_rate", "cliprange"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("beta", "max_grad_norm"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


@register("rloo", RLOOConfig, needs={"reward_model"}, policy_defaults=POLICY_DEFAULTS, cautions=cautions)
def rloo(setup: Setup, config: RLOOConfig) -> Iterator[Metrics]:
    """Ascend the mean of (R_i - mean of the others' R) grad log pi(y_i|x), R = score - beta * log(pi/ref)."""
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    B, G = config.batch_size, config.num_generations
    for _ in setup.steps(config.updates):
        episodes = collect(setup, groups(setup, B, G), reference=config.beta > 0)
        returns = penalised_scores(setup, episodes, config.kl, config.beta)
        advantages = policy_gradient.rloo_advantages(returns, G)
        setup.charge("rloo_advantages", B // G, G)
        for _ in range(config.num_iterations):
            step_metrics = step(setup, config, optimizer, episodes, advantages)
        yield episode_metrics(episodes, config.beta) | step_metrics


def step(
    setup: Setup, config: RLOOConfig, optimizer: Optimizer, episodes: Episodes, advantages: Float
) -> Metrics:
    """One optimiser step on the clipped ratio of whole replies, whose gradient at ratio 1 is REINFORCE's."""
    mask = episodes.mask
    logits = setup.policy.logits(*episodes.replies)
    logprobs = categorical.token_logprobs(logits, episodes.responses)
    setup.charge("token_logprobs", *logits.shape)
    logps, old_logps = (logprobs * mask).sum(axis=1), episodes.logprobs.sum(axis=1)
    clip = policy_gradient.ppo_clip(logps, old_logps, advantages, episodes.whole, config.cliprange)
    d_logprobs = clip.d_logprobs[:, None] * mask
    setup.charge("elementwise", 2 * mask.size)
    setup.charge("sum", 2, *mask.shape)
    setup.charge("ppo_clip", len(mask))

    kl_weights = None
    if config.beta > 0 and in_loss(config.kl):
        kl_weights = config.beta / len(mask) * mask
        setup.charge("elementwise", mask.size)
    setup.policy.backward(
        logit_gradient(setup, episodes, logits, logprobs, d_logprobs, config.kl, kl_weights)
    )
    progress = setup.progress()
    optimizer.step(scheduled(config.lr_scheduler_type, progress, config.warmup_ratio, floor=0.1))
    return {"loss": float(clip.loss), "clip_ratio/region_mean": float(clip.clipfrac)}
