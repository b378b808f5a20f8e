"""One update of PPO: GAE on the KL-penalised reward, clipped policy and value losses. Whatever scores the replies.

Ziegler et al. 2019 (arXiv:1909.08593), Ouyang et al. 2022 (arXiv:2203.02155); PPO is Schulman et al. 2017
(arXiv:1707.06347), GAE Schulman et al. 2016 (arXiv:1506.02438).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kernels import categorical, policy_gradient

from .kl_control import Controller, KLControl, controller
from .kl_penalty import KL, estimates, in_loss
from .metrics import mean
from .options import require, require_left_out
from .rollouts import Episodes, episode_metrics, logit_gradient, pay, token_weights
from .schedules import Schedule, scheduled
from .types import Float, Int, Metrics, Optimizer, Setup

POLICY_DEFAULTS = {
    "transformer": {"updates": 40, "learning_rate": 2e-3, "beta": 0.2},
    "transformer/gold": {"updates": 40, "learning_rate": 2e-3, "beta": 0.04},
}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies.

Where gold itself is the reward, chosen for arithmetic: it cannot be over-optimised, so that GRPO's published beta does.
"""


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of PPO; names as in TRL.

    Parameters
    ----------
    updates : int
        Rollout batches, each followed by `num_ppo_epochs` passes over it. Chosen for the default world.
    batch_size : int
        Episodes a rollout.
    num_mini_batches : int
        Minibatches an epoch; each is one optimiser step. TRL: 1.
    num_ppo_epochs : int
        Passes over a rollout. TRL, lm-human-preferences: 4.
    learning_rate : float
        The highest of AdamW; it falls to a half. Chosen for log-linear policies.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    beta : float
        Weight of the KL penalty, in RM-score units (reference standard deviations) per nat. Chosen for the default
        world, where .1 and below over-optimise.
    kl : {"k1:reward", "k2:reward", "k3:reward", "full:reward", "k1:loss", "k2:loss", "k3:loss", "full:loss"}
        Which estimate of the KL, and where; see `rlhfbench.kl_penalty`. Ziegler et al. 2019 and TRL: k1:reward. In the
        loss it is a mean over tokens, as the rest of it.
    kl_controller : {"fixed", "ziegler", "doubling", "schulman17", "dual"}
        What becomes of beta between updates; see `rlhfbench.kl_control`.
    kl_target : float
        Sequence KL in nats that an adaptive controller aims at. TRL 0.11: 6.
    kl_horizon : float
        Episodes over which `ziegler` and `dual` adapt. TRL 0.11: 10,000.
    beta_min, beta_max : float
        Bounds of an adaptive beta.
    kl_early_stop : float
        Leave the epochs of an update once `policy/approxkl_avg` passes 1.5 times this; 0 never does. TRL 0.11: off.
    cliprange, cliprange_value : float
        Clipping of the probability ratio and of the value. TRL: .2 and .2.
    vf_coef : float
        Weight of the value loss. TRL: .1; a log-linear policy shares nothing with its value head, whose speed alone it
        sets there.
    gamma, lam : float
        Discount and GAE's lambda. TRL: 1 and .95.
    score_clip : float
        Scores beyond this are cut to it, on both sides, before the KL penalty; 0 never. OpenRLHF: 10; TRL 0.11: off.
    whiten_rewards : bool
        Divide rewards by their deviation. TRL: off.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    updates: int = 80
    batch_size: int = 256
    num_mini_batches: int = 2
    num_ppo_epochs: int = 4
    learning_rate: float = 0.0065
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.3
    kl: KL = "k1:reward"
    kl_controller: Controller = "fixed"
    kl_target: float = 6.0
    kl_horizon: float = 10_000.0
    beta_min: float = 1e-3
    beta_max: float = 10.0
    kl_early_stop: float = 0.0
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    score_clip: float = 0.0
    whiten_rewards: bool = False
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        for name in ("updates", "batch_size", "num_mini_batches", "num_ppo_epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(
            self.num_mini_batches <= self.batch_size,
            "num_mini_batches",
            self.num_mini_batches,
            f"at most batch_size ({self.batch_size})",
        )
        for name in ("learning_rate", "kl_target", "kl_horizon", "cliprange", "cliprange_value", "beta_min"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("beta", "kl_early_stop", "vf_coef", "score_clip", "max_grad_norm"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(
            self.beta_max >= self.beta_min, "beta_max", self.beta_max, f"at least beta_min ({self.beta_min})"
        )
        if self.kl_controller == "fixed":
            adaptive = "kl_controller adapts beta"
            require_left_out(self, adaptive, "kl_target", "kl_horizon", "beta_min", "beta_max")
        elif self.kl_controller not in ("ziegler", "dual"):
            require_left_out(self, "kl_controller is ziegler or dual", "kl_horizon")
        for name in ("gamma", "lam"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")


@dataclass(frozen=True)
class Targets:
    """What PPO's losses hold fixed beside the episodes; arrays (B, T), in the run's room until the next ones."""

    values: Float
    advantages: Float
    returns: Float


def kl_control(config: PPOConfig) -> KLControl:
    """The controller of beta that a configuration asks for."""
    return controller(
        config.kl_controller,
        config.beta,
        target=config.kl_target,
        horizon=config.kl_horizon,
        low=config.beta_min,
        high=config.beta_max,
    )


def ppo_update(
    setup: Setup, config: PPOConfig, optimizer: Optimizer, control: KLControl, episodes: Episodes
) -> Metrics:
    """All epochs on one batch of rollouts, then a move of the KL controller."""
    targets = advantages_and_returns(setup, config, episodes, control.beta)
    metrics = episode_metrics(episodes, control.beta)
    if not in_loss(config.kl):
        episodes = episodes.without_reference()
    steps = epochs(setup, config, optimizer, control.beta, episodes, targets)
    control.update(metrics["objective/kl"], config.batch_size)
    return metrics | {name: mean(np.array([s[name] for s in steps])) for name in steps[0]}


def advantages_and_returns(setup: Setup, config: PPOConfig, episodes: Episodes, beta: float) -> Targets:
    """Generalised advantages of the score at the last token, or at each step's, less the KL penalty of every token."""
    mask, room = episodes.mask, setup.room
    values = setup.policy.values(*episodes.replies, keep=False, out=room.like("PPO values", mask))
    if in_loss(config.kl):
        rewards = room.like("PPO rewards", mask)
        rewards[...] = 0
    else:
        # What the score of a reply loses is spread over its tokens; `kl_penalty` says what that descends.
        rewards = estimates(setup, config.kl, episodes.replies, episodes.logprobs, episodes.ref_logprobs)
        rewards *= -beta
        setup.charge("elementwise", mask.size)
    if config.score_clip:
        episodes = episodes.clipped(config.score_clip)
    pay(setup, rewards, episodes)
    if config.whiten_rewards:
        out = room.like("whitened rewards", rewards)
        rewards = policy_gradient.whiten(rewards, mask, out, shift_mean=False)
        setup.charge("whiten", *rewards.shape)

    outs = room.like("unscaled advantages", values), room.like("PPO returns", values)
    unscaled, returns = policy_gradient.gae(rewards, values, mask, config.gamma, config.lam, outs)
    setup.charge("gae", *rewards.shape)
    advantages = policy_gradient.whiten(unscaled, mask, room.like("PPO advantages", values))
    setup.charge("whiten", *rewards.shape)
    return Targets(values, advantages, returns)


def minibatches(setup: Setup, config: PPOConfig) -> Iterator[Int]:
    """Indices of the episodes of each optimiser step: every episode once an epoch, in random order."""
    each, longer = divmod(config.batch_size, config.num_mini_batches)
    ends = [i * each + min(i, longer) for i in range(config.num_mini_batches + 1)]
    for _ in range(config.num_ppo_epochs):
        order = setup.rng.permutation(config.batch_size)
        yield from (order[begin:end] for begin, end in pairwise(ends))


def epochs(
    setup: Setup, config: PPOConfig, optimizer: Optimizer, beta: float, episodes: Episodes, targets: Targets
) -> list[Metrics]:
    """Of each optimiser step, of which an early stop may leave some out."""
    steps = []
    for index in minibatches(setup, config):
        steps.append(minibatch_step(setup, config, optimizer, beta, episodes, targets, index))
        if config.kl_early_stop and steps[-1]["policy/approxkl_avg"] > 1.5 * config.kl_early_stop:
            break
    return steps


def minibatch_step(
    setup: Setup,
    config: PPOConfig,
    optimizer: Optimizer,
    beta: float,
    episodes: Episodes,
    targets: Targets,
    index: Int,
) -> Metrics:
    """One optimiser step on the clipped losses of the episodes at `index`."""
    room, batch = setup.room, episodes.take(index, setup.room)
    advantages, old_values, returns = room.take(
        index, advantages=targets.advantages, values=targets.values, returns=targets.returns
    )
    d_logits, metrics = policy_gradients(setup, config, beta, batch, advantages)
    values = setup.policy.values(*batch.replies, out=room.like("new values", batch.mask))
    d_values = room.like("PPO d_values", values)
    value = policy_gradient.value_clip(
        values, old_values, returns, batch.mask, config.cliprange_value, d_values
    )
    setup.charge("value_clip", *values.shape)
    setup.charge("elementwise", values.size)
    d_values *= config.vf_coef
    setup.policy.backward(d_logits, d_values)
    progress = setup.progress()
    optimizer.step(scheduled(config.lr_scheduler_type, progress, config.warmup_ratio, floor=0.5))
    return metrics | {"loss/value_avg": float(value.loss), "val/clipfrac_avg": float(value.clipfrac)}


def policy_gradients(
    setup: Setup, config: PPOConfig, beta: float, batch: Episodes, advantages: Float
) -> tuple[Float, Metrics]:
    """Gradient (B, T, V) of the policy's loss by the logits; `advantages` (B, T)."""
    logits, room = setup.policy.logits(*batch.replies), setup.room
    logprobs = room("new logprobs", batch.mask.shape, logits.dtype)
    categorical.token_logprobs(logits, batch.responses, out=logprobs)
    d_logprobs = room.like("PPO d_logprobs", logprobs)
    policy = policy_gradient.ppo_clip(
        logprobs, batch.logprobs, advantages, batch.mask, config.cliprange, d_logprobs
    )
    setup.charge("token_logprobs", *logits.shape)
    setup.charge("ppo_clip", *logprobs.shape)
    kl_weights = None
    if in_loss(config.kl) and beta > 0:
        kl_weights = beta * token_weights(setup, batch.mask, "bnpo")
        setup.charge("elementwise", logprobs.size)
    d_logits = logit_gradient(setup, batch, logits, logprobs, d_logprobs, config.kl, kl_weights)
    return d_logits, {
        "policy/approxkl_avg": float(policy.approxkl),
        "policy/clipfrac_avg": float(policy.clipfrac),
        "loss/policy_avg": float(policy.loss),
    }
