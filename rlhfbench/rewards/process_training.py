"""How reward models of steps are trained: cross-entropy at step ends, all parameters of a copy of the SFT policy.

Lightman et al. 2023 (arXiv:2305.20050); what was tried stands in docs/process-rewards.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels import flops
from kernels.preference import bradley_terry

from ..optimizer import AdamW
from ..options import require
from ..policies._weights import views
from ..policies.transformer import TransformerPolicy
from ..schedules import warmup_cosine
from ..types import Flags, Float, LabelledSteps, StepAggregate
from .penalty import total
from .process import StepRewardModel, after, read_steps
from .transformer_training import start_from


@dataclass(frozen=True)
class StepTrainingConfig:
    """How the backbone is trained on labelled steps; the defaults were chosen on `arithmetic` at width 32.

    Parameters
    ----------
    epochs : int
        Passes over the solutions.
    batch_size : int
        Solutions an update.
    learning_rate : float
        Of AdamW at its peak; it falls along half a cosine to 0.
    warmup : float
        Share of the updates over which the learning rate rises, in [0, 1).
    weight_decay : float
        Of AdamW, as a share of the learning rate; token embeddings do not decay.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    head : float
        Standard deviation of what the head starts with.
    """

    epochs: int = 16
    batch_size: int = 32
    learning_rate: float = 4e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    head: float = 0.3

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "at least 0 and below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "at least 0")
        require(self.head >= 0, "head", self.head, "at least 0")


@dataclass(frozen=True)
class StepTraining:
    """How a reward model of steps came about: from so many labels, of so many solutions, with this work."""

    labels: int
    solutions: int
    work: flops.Work


def train_step_reward_model(
    solutions: LabelledSteps,
    sft: TransformerPolicy,
    step_tokens: Flags,
    rng: np.random.Generator,
    aggregate: StepAggregate = "sum",
    config: StepTrainingConfig | None = None,
) -> tuple[StepRewardModel, StepTraining]:
    """Train a head and a copy of the backbone under it on labelled steps; its scores are not yet normalised.

    Parameters
    ----------
    solutions : LabelledSteps
        With at least one label.
    sft : TransformerPolicy
        Where the backbone starts from; it is only read.
    step_tokens : (V,) bool
        Which tokens end a step; none for an outcome reward model.
    rng : Generator
        Draws the head and the order of the solutions.
    aggregate : {"sum", "product", "min", "last"}
        What the model's score is; it does not change the training.
    config : StepTrainingConfig, optional
    """
    labels = int(np.count_nonzero(solutions.ends))
    require(labels >= 1, "solutions", f"{len(solutions)} with {labels} labels", "at least one label")
    config = config or StepTrainingConfig()
    works: list[flops.Work] = []
    backbone = start_from(sft, config.head, rng)
    backbone.charge = lambda kind, work, tokens: works.append(work)
    optimizer = AdamW(
        backbone.params,
        backbone.grads,
        config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        weight_decay=config.weight_decay,
        charge=works.append,
    )
    optimizer.spared = views(backbone.params, backbone.sizes).table.size
    for done, batch in _batches(solutions, config, rng):
        _, work = gradients(backbone, batch)
        works.append(work)
        optimizer.step(warmup_cosine(done, config.warmup))
    training = StepTraining(labels, len(solutions), total(*works))
    return StepRewardModel(backbone, step_tokens, aggregate), training


def gradients(backbone: TransformerPolicy, solutions: LabelledSteps) -> tuple[float, flops.Work]:
    """Accumulate those of the mean cross-entropy of the labelled steps; the loss (nats), and its own work.

    The log-odds z of a step cost log(1 + exp(-z)) where it is right, log(1 + exp(z)) where not: Bradley and Terry's
    loss of a comparison with a score of 0.
    """
    ends = solutions.ends
    log_odds = read_steps(backbone, solutions.prompts, solutions.responses, ends)
    sign = np.where(solutions.labels[ends], 1, -1).astype(log_odds.dtype)
    found = bradley_terry(log_odds[ends] * sign, np.zeros_like(sign))
    slopes: Any = np.zeros_like(log_odds)
    slopes[ends] = found.d_chosen * sign
    backbone.backward(None, after(slopes, log_odds.dtype))
    work = flops.work("bradley_terry", sign.size).plus(flops.work("elementwise", 2 * sign.size))
    return float(found.loss), work


def _batches(
    solutions: LabelledSteps, config: StepTrainingConfig, rng: np.random.Generator
) -> Iterator[tuple[float, LabelledSteps]]:
    """All solutions once an epoch, in random order: what share of the training came before, and the batch."""
    n = len(solutions)
    for epoch in range(config.epochs):
        order = rng.permutation(n)
        for begin in range(0, n, config.batch_size):
            index = order[begin : begin + config.batch_size]
            yield (epoch + begin / n) / config.epochs, solutions.take(index)


def cross_entropy(log_odds: Float, labels: Flags) -> float:
    """Mean nats of labels (n,) under log-odds (n,)."""
    return float(np.logaddexp(0.0, np.where(labels, -log_odds, log_odds)).mean())
