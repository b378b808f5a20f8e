"""GRPO and its variants: advantages from a group of replies to one prompt, PPO's clip, KL in the loss, no critic.

Shao et al. 2024 (arXiv:2402.03300), equations 3 and 4. Variants: Dr. GRPO, Liu et al. 2025 (arXiv:2503.20783); DAPO, Yu
et al. 2025 (arXiv:2503.14476), equation 8; GSPO, Zheng et al. 2025 (arXiv:2507.18071), equation 5; "bnpo" is TRL's name
for a mean over all tokens. Where the reward model judges steps, each token has an advantage of its own: process
supervision, section 4.1.3 of Shao et al.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from kernels import categorical, policy_gradient

from ..kl_penalty import KL, cautions, estimates, in_loss
from ..options import require
from ..rollouts import (
    Episodes,
    collect,
    episode_metrics,
    groups,
    logit_gradient,
    penalised_scores,
    token_weights,
)
from ..schedules import Schedule, scheduled
from ..types import Flags, Float, Metrics, Optimizer, Setup, StepRewards, register

POLICY_DEFAULTS = {
    "transformer": {"updates": 40, "learning_rate": 2e-3, "beta": 0.2},
    "transformer/gold": {"updates": 120, "learning_rate": 4e-3, "beta": 0.04},
}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies.

Where gold itself is the reward, chosen for arithmetic: it cannot be over-optimised, so that the paper's beta does.
"""

Name: TypeAlias = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo"]


@dataclass(frozen=True)
class Variant:
    """How tokens are averaged (as `kernels.policy_gradient.grpo` names it), scaled, clipped; on whose ratio."""

    loss_type: str = "grpo"
    scale: bool = True
    low: float = 0.2
    high: float = 0.2
    whole_replies: bool = False


VARIANTS: dict[Name, Variant] = {
    "grpo": Variant(),
    "dr_grpo": Variant("dr_grpo", scale=False),  # neither 1/length nor 1/deviation
    "dapo": Variant("bnpo", high=0.28),
    "bnpo": Variant("bnpo"),
    "gspo": Variant(low=3e-4, high=4e-4, whole_replies=True),
}


@dataclass(frozen=True)
class GRPOConfig:
    """Hyper-parameters of GRPO; names as in TRL.

    Parameters
    ----------
    updates : int
        Rollout batches, each followed by `num_iterations` optimiser steps. Chosen for the default world, as are the
        learning rate and beta, with variant "grpo"; `docs/methods.md` has the figures.
    batch_size : int
        Replies a rollout, `num_generations` to each prompt.
    num_generations : int
        Replies a prompt; divides `batch_size`. Shao et al. 2024: 64; TRL: 8.
    num_iterations : int
        Steps on each rollout, mu; with 1, ratios are 1 and nothing is clipped. Shao et al. 2024, TRL: 1.
    variant : {"grpo", "dr_grpo", "dapo", "bnpo", "gspo"}
        "grpo": mean of each reply's tokens, then of the replies; advantages in standard deviations of the group.
        "bnpo": mean of all tokens. "dapo": that, with `cliprange_high` .28; groups of equal rewards have no gradient,
        and are not drawn anew. "dr_grpo": sum of all tokens over their places, advantages not scaled. "gspo": one
        ratio a reply, the geometric mean of its tokens', clipped to 1 - 3e-4 and 1 + 4e-4; steps are not told apart.
    learning_rate : float
        The highest of AdamW; it falls to a tenth. Chosen for log-linear policies.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    beta : float
        Weight of the KL penalty beside advantages of deviation 1. At 0, TRL's default, the reference is not asked. Shao
        et al. 2024: .04, which over-optimises the default world's reward model.
    kl : {"k1:reward", "k2:reward", "k3:reward", "full:reward", "k1:loss", "k2:loss", "k3:loss", "full:loss"}
        Which estimate of the KL, and where; see `rlhfbench.kl_penalty`. Shao et al. 2024, equation 4: k3:loss, whose
        gradient is that of KL(ref || pi). In the loss it is averaged like the rest of it.
    cliprange, cliprange_high : float or none
        How far below and above 1 a ratio counts; none is the variant's, .2 but for "dapo" and "gspo".
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    updates: int = 160
    batch_size: int = 256
    num_generations: int = 8
    num_iterations: int = 1
    variant: Name = "grpo"
    learning_rate: float = 0.01
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.3
    kl: KL = "k3:loss"
    cliprange: float | None = None
    cliprange_high: float | None = None
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        for name in ("updates", "batch_size", "num_iterations"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.num_generations >= 2, "num_generations", self.num_generations, "at least 2, for a group")
        require(
            self.batch_size % self.num_generations == 0,
            "num_generations",
            self.num_generations,
            f"a divisor of batch_size ({self.batch_size})",
        )
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        for name in ("beta", "max_grad_norm"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("cliprange", "cliprange_high"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "above 0, or none")


@register(
    "grpo",
    GRPOConfig,
    needs={"reward_model"},
    policy_defaults=POLICY_DEFAULTS,
    cautions=cautions,
)
def grpo(setup: Setup, config: GRPOConfig) -> Iterator[Metrics]:
    """Ascend PPO's clipped objective with A = (R - mean R) / deviation of R within each group, less beta times KL."""
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    B, G = config.batch_size, config.num_generations
    for _ in setup.steps(config.updates):
        episodes = collect(setup, groups(setup, B, G), reference=config.beta > 0)
        if episodes.steps is None or VARIANTS[config.variant].whole_replies:
            advantages, dead = outcome_advantages(setup, config, episodes)
        else:
            advantages, dead = process_advantages(setup, config, episodes, episodes.steps)
        for _ in range(config.num_iterations):
            step_metrics = step(setup, config, optimizer, episodes, advantages)
        yield episode_metrics(episodes, config.beta) | step_metrics | {"frac_reward_zero_std": dead}


def outcome_advantages(setup: Setup, config: GRPOConfig, episodes: Episodes) -> tuple[Float, float]:
    """(B,) advantages of whole replies within their groups, and the share of groups that are all alike."""
    G = config.num_generations
    returns = penalised_scores(setup, episodes, config.kl, config.beta)
    advantages = policy_gradient.group_advantages(returns, G, scale=VARIANTS[config.variant].scale)
    setup.charge("group_advantages", len(returns) // G, G)
    by_group = returns.reshape(-1, G)
    return advantages, float((by_group == by_group[:, :1]).all(axis=1).mean())


def process_advantages(
    setup: Setup, config: GRPOConfig, episodes: Episodes, steps: StepRewards
) -> tuple[Float, float]:
    """(B, T) advantages of tokens, and the share of groups that are all alike.

    The rewards of all steps of a group are normalised together; a token's advantage is the sum of those of its own
    step and of later ones. A KL penalty in the reward is taken from the step that its token belongs to.
    """
    G, scale = config.num_generations, VARIANTS[config.variant].scale
    earned, dead = steps.tokens, []
    if config.beta > 0 and not in_loss(config.kl):
        tokens = estimates(setup, config.kl, episodes.replies, episodes.logprobs, episodes.ref_logprobs)
        earned = earned - by_step(config.beta * tokens, steps.ends)
        setup.charge("elementwise", 3 * tokens.size)
    normalised = np.zeros_like(earned)
    for begin in range(0, len(earned), G):
        group = slice(begin, begin + G)
        ends = steps.ends[group]
        pool = earned[group][ends]
        normalised[group][ends] = policy_gradient.group_advantages(pool, len(pool), scale=scale)
        setup.charge("group_advantages", 1, len(pool))
        dead.append((pool == pool[:1]).all())
    setup.charge("sum", *normalised.shape)
    return np.cumsum(normalised[:, ::-1], axis=1)[:, ::-1], float(np.mean(dead))


def by_step(tokens: Float, ends: Flags) -> Float:
    """(B, T) numbers of tokens summed over each step, at its last token."""
    out, so_far = np.zeros_like(tokens), np.zeros_like(tokens[:, 0])
    for t in range(tokens.shape[1]):
        so_far = so_far + tokens[:, t]
        out[:, t] = np.where(ends[:, t], so_far, 0)
        so_far = np.where(ends[:, t], 0, so_far)
    return out


def step(
    setup: Setup, config: GRPOConfig, optimizer: Optimizer, episodes: Episodes, advantages: Float
) -> Metrics:
    """One optimiser step on the clipped loss."""
    logits = setup.policy.logits(*episodes.replies)
    logprobs = categorical.token_logprobs(logits, episodes.responses)
    setup.charge("token_logprobs", *logits.shape)
    loss = clipped_loss(setup, config, episodes, logprobs, advantages)
    kl_weights = None
    if config.beta > 0 and in_loss(config.kl):
        kl_weights = config.beta * token_weights(setup, episodes.mask, VARIANTS[config.variant].loss_type)
        setup.charge("elementwise", kl_weights.size)
    setup.policy.backward(
        logit_gradient(setup, episodes, logits, logprobs, loss.d_logprobs, config.kl, kl_weights)
    )
    progress = setup.progress()
    optimizer.step(scheduled(config.lr_scheduler_type, progress, config.warmup_ratio, floor=0.1))
    return {"loss": float(loss.loss), "clip_ratio/region_mean": float(loss.clipfrac)}


def clipped_loss(
    setup: Setup, config: GRPOConfig, episodes: Episodes, logprobs: Float, advantages: Float
) -> policy_gradient.GRPO:
    """The variant's loss without KL, and its slopes by the log-probabilities (B, T)."""
    variant, mask = VARIANTS[config.variant], episodes.mask
    low = variant.low if config.cliprange is None else config.cliprange
    high = variant.high if config.cliprange_high is None else config.cliprange_high
    if advantages.ndim == 2:
        # As many sequences of one token; what that counts in the variant's mean goes into its advantage.
        weights = token_weights(setup, mask, variant.loss_type) * mask.sum()
        setup.charge("sum", mask.size)
        setup.charge("elementwise", 2 * mask.size)
        setup.charge("grpo_without_kl", mask.size, 1)
        loss = policy_gradient.grpo(
            logprobs.reshape(-1, 1),
            episodes.logprobs.reshape(-1, 1),
            (advantages * weights).ravel(),
            mask.reshape(-1, 1),
            low,
            high,
            loss_type="bnpo",
        )
        return loss._replace(d_logprobs=loss.d_logprobs.reshape(mask.shape))
    if not variant.whole_replies:
        setup.charge("grpo_without_kl", *mask.shape)
        return policy_gradient.grpo(
            logprobs, episodes.logprobs, advantages, mask, low, high, loss_type=variant.loss_type
        )
    # GSPO's ratio: a reply is one token whose log-probability is the mean of its tokens'.
    lengths = mask.sum(axis=1, keepdims=True)
    mean_logprobs = (logprobs * mask).sum(axis=1, keepdims=True) / lengths
    old_means = episodes.logprobs.sum(axis=1, keepdims=True) / lengths
    loss = policy_gradient.grpo(mean_logprobs, old_means, advantages, episodes.whole[:, None], low, high)
    setup.charge("sum", 3, *mask.shape)
    setup.charge("elementwise", 2 * mask.size + 3 * len(mask))
    setup.charge("grpo_without_kl", len(mask), 1)
    return loss._replace(d_logprobs=loss.d_logprobs / lengths * mask)
