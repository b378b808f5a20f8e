"""RAFT: sample several replies a prompt, keep the one the reward model likes best, fine-tune on what was kept; repeat.

Dong et al. 2023 (arXiv:2304.06767), Algorithm 1; with many rounds it is expert iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..metrics import mean
from ..options import require
from ..rollouts import Episodes, collect, episode_metrics, groups, imitate, penalised_scores
from ..schedules import Schedule, scheduled
from ..types import Metrics, Optimizer, Setup, register

POLICY_DEFAULTS = {
    "transformer": {"updates": 20, "learning_rate": 2e-3},
    "transformer/gold": {"updates": 120, "learning_rate": 4e-3},
}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies.

Where gold itself is the reward, chosen for arithmetic: there is more to learn.
"""


@dataclass(frozen=True)
class RAFTConfig:
    """Hyper-parameters of RAFT.

    Parameters
    ----------
    updates : int
        Rounds of sampling, ranking and fine-tuning. Chosen for the default world, as is the learning rate: nothing
        holds RAFT near the reference but that it stops; `docs/methods.md` has the figures.
    batch_size : int
        Replies a round, `num_generations` to each prompt; one of each is kept.
    num_generations : int
        Replies a prompt, K; divides `batch_size`. Dong et al. 2023: 8 to 32. In the default world 4, 8 and 16 do alike.
    num_epochs : int
        Optimiser steps on what a round kept, each on all of it.
    learning_rate : float
        The highest of AdamW; it falls to a tenth. Chosen for log-linear policies.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    beta : float
        What replies are ranked by is the score less beta times log(pi/ref), in RM-score units per nat. Dong et al.
        2023: 0 unless said; then the reference is not asked.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    updates: int = 40
    batch_size: int = 256
    num_generations: int = 4
    num_epochs: int = 1
    learning_rate: float = 0.03
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    beta: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        for name in ("updates", "batch_size", "num_generations", "num_epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(
            self.batch_size % self.num_generations == 0,
            "num_generations",
            self.num_generations,
            f"a divisor of batch_size ({self.batch_size})",
        )
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        for name in ("beta", "max_grad_norm"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


@register("raft", RAFTConfig, needs={"reward_model"}, policy_defaults=POLICY_DEFAULTS)
def raft(setup: Setup, config: RAFTConfig) -> Iterator[Metrics]:
    """Raise the likelihood of the best of the policy's own replies to each prompt."""
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    B, K = config.batch_size, config.num_generations
    for _ in setup.steps(config.updates):
        episodes = collect(setup, groups(setup, B, K), reference=config.beta > 0)
        ranked_by = penalised_scores(setup, episodes, "k1:reward", config.beta)
        best = np.arange(0, B, K) + ranked_by.reshape(-1, K).argmax(axis=1)
        kept = episodes.take(best, setup.room)
        for _ in range(config.num_epochs):
            fine_tune(setup, config, optimizer, kept)
        yield episode_metrics(episodes, config.beta) | {"reward/kept": mean(kept.scores)}


def fine_tune(setup: Setup, config: RAFTConfig, optimizer: Optimizer, kept: Episodes) -> None:
    """One optimiser step on the mean negative log-likelihood of the kept tokens."""
    imitate(setup, *kept.replies)
    progress = setup.progress()
    optimizer.step(scheduled(config.lr_scheduler_type, progress, config.warmup_ratio, floor=0.1))
