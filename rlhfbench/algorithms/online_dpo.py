"""Online DPO: pairs are drawn from the policy as it is, the reward model labels them, DPO's loss learns from them.

Guo et al. 2024 (arXiv:2402.04792), Algorithm 1, with a reward model where they ask a language model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernels import categorical, preference

from ..metrics import accuracy, mean
from ..options import require
from ..rollouts import Episodes, collect, episode_metrics, groups
from ..schedules import Schedule, scheduled
from ..types import Metrics, Optimizer, Setup, register

POLICY_DEFAULTS = {
    "transformer": {"updates": 40, "learning_rate": 2e-3, "beta": 0.3},
    "transformer/gold": {"updates": 120, "learning_rate": 2e-3, "beta": 0.1},
}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies.

Where gold itself is the reward, chosen for arithmetic: there is more to learn.
"""


@dataclass(frozen=True)
class OnlineDPOConfig:
    """Hyper-parameters of online DPO; names as in TRL.

    Parameters
    ----------
    updates : int
        Batches of pairs, one optimiser step each. Chosen for the default world, as are the learning rate and beta;
        `docs/methods.md` has the figures.
    batch_size : int
        Replies an update, two to each prompt.
    learning_rate : float
        The highest of AdamW; it falls to a tenth. Chosen for log-linear policies.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    beta : float
        Inverse temperature of the implicit reward, as DPO's. Guo et al. 2024, TRL: .1; with that and .3 the default
        world's reward model is over-optimised.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    updates: int = 80
    batch_size: int = 256
    learning_rate: float = 0.06
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 2.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        require(self.updates >= 1, "updates", self.updates, "at least 1")
        even = self.batch_size >= 2 and self.batch_size % 2 == 0
        require(even, "batch_size", self.batch_size, "even, two replies a prompt")
        for name in ("learning_rate", "beta"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "at least 0")


@register("online_dpo", OnlineDPOConfig, needs={"reward_model"}, policy_defaults=POLICY_DEFAULTS)
def online_dpo(setup: Setup, config: OnlineDPOConfig) -> Iterator[Metrics]:
    """Raise the odds of the better over the worse of two replies of the policy, relative to the reference."""
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    for _ in setup.steps(config.updates):
        episodes = collect(setup, groups(setup, config.batch_size, 2))
        pairs = episodes.scores.reshape(-1, 2)
        first_wins = pairs[:, 0] >= pairs[:, 1]  # of equal scores the first, which is as good as any
        chosen = np.arange(0, config.batch_size, 2) + ~first_wins
        labelled = episodes.take(np.concatenate([chosen, chosen ^ 1]), setup.room)
        yield episode_metrics(episodes, config.beta) | pair_step(setup, config, optimizer, labelled)


def pair_step(setup: Setup, config: OnlineDPOConfig, optimizer: Optimizer, pairs: Episodes) -> Metrics:
    """One optimiser step on DPO's loss; all chosen replies come before all rejected ones."""
    n, mask = len(pairs.scores) // 2, pairs.mask
    logits = setup.policy.logits(*pairs.replies)
    logps = (categorical.token_logprobs(logits, pairs.responses) * mask).sum(axis=1)
    ref_logps = pairs.ref_logprobs.sum(axis=1)
    loss = preference.dpo(logps[:n], logps[n:], ref_logps[:n], ref_logps[n:], config.beta)
    d_logprobs = np.concatenate([loss.d_chosen, loss.d_rejected])[:, None] * mask
    d_logits = categorical.token_logprobs_backward(logits, pairs.responses, d_logprobs, out=logits)
    setup.charge("token_logprobs", *logits.shape)
    setup.charge("elementwise", 2 * mask.size)
    setup.charge("sum", 2, *mask.shape)
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
    }
