"""Critique and revision: the policy answers, its answers are mended by a constitution, it learns what came of that.

The supervised phase of constitutional AI, Bai et al. 2022 (arXiv:2212.08073), section 3: their language model
criticises and revises its own replies; here the labeller does, by the rules of the task's constitution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..options import require
from ..rollouts import imitate
from ..schedules import Schedule, scheduled
from ..types import Metrics, Setup, register

POLICY_DEFAULTS = {"transformer": {"learning_rate": 2e-3}}
"""Chosen for the default world, where a transformer needs other step sizes than log-linear policies."""


@dataclass(frozen=True)
class ReviseConfig:
    """Hyper-parameters of critique and revision.

    Parameters
    ----------
    replies : int
        Replies that are drawn, once, and revised: as many as there are demonstrations in the default world.
    rounds : int
        Of critique and revision, each of which mends one violated rule. Bai et al. 2022: 4.
    epochs : int
        Passes over the revised replies. Chosen for the default world.
    batch_size : int
        Replies an update.
    learning_rate : float
        The highest of AdamW; it falls to a tenth. Chosen for log-linear policies.
    lr_scheduler_type : {"linear", "cosine"}
        How the learning rate falls.
    warmup_ratio : float
        Share of the updates over which it rises first.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    """

    replies: int = 2000
    rounds: int = 4
    epochs: int = 4
    batch_size: int = 64
    learning_rate: float = 0.03
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        for name in ("replies", "rounds", "epochs", "batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "at least 0")


@register("revise", ReviseConfig, needs={"labeller"}, policy_defaults=POLICY_DEFAULTS)
def revise(setup: Setup, config: ReviseConfig) -> Iterator[Metrics]:
    """Raise the likelihood of the policy's own replies as they are after some rounds of revision."""
    n, labeller = config.replies, setup.labeller
    prompts = setup.prompts(n)
    rollout = setup.policy.sample(prompts, setup.rng.random((n, setup.policy.max_length)))
    responses, mask = rollout.responses.copy(), rollout.mask.copy()
    at_fault, violated = np.arange(n), list[float]()
    for _ in range(config.rounds):  # what was found without fault is not asked about again
        revision = labeller.revise(prompts[at_fault], responses[at_fault], mask[at_fault])
        responses[at_fault], mask[at_fault] = revision.responses, revision.mask
        violated.append(float(revision.violated.sum() / n))
        at_fault = at_fault[revision.violated > 0]
    yield {"revision/violated": violated[0], "revision/violated_last": violated[-1]}

    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    batches = -(-n // config.batch_size)
    for step in setup.steps(config.epochs * batches):
        if step % batches == 0:
            order = setup.rng.permutation(n)
        part = order[step % batches * config.batch_size :][: config.batch_size]
        imitate(setup, prompts[part], responses[part], mask[part])
        progress = setup.progress()
        optimizer.step(scheduled(config.lr_scheduler_type, progress, config.warmup_ratio, floor=0.1))
        yield {}
