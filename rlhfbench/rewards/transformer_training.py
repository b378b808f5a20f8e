"""How a reward model on the SFT policy's backbone is trained: Bradley-Terry on preference pairs, all parameters.

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5 and appendix C.2; what was tried stands in docs/adr/0012.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels import flops

from ..optimizer import AdamW
from ..options import require
from ..policies._weights import views
from ..policies.transformer import TransformerPolicy
from ..rankings import Rankings
from ..schedules import warmup_cosine
from ..types import Float, Int, PreferencePairs
from .objective import Objective
from .penalty import FEWEST_PROMPTS, ranking_accuracy, split_groups, total
from .transformer import CHUNK, TransformerRewardModel, at, blank, read_scores
from .words import recall

Comparisons: TypeAlias = PreferencePairs | Rankings
Gradients: TypeAlias = Callable[[TransformerPolicy, Any], flops.Work]


@dataclass(frozen=True)
class RewardModelConfig:
    """How the backbone is trained on preference pairs; the defaults were chosen on `sentences` at width 32.

    Parameters
    ----------
    epochs : int
        Passes over the pairs; with `validation` at most so many.
    batch_size : int
        Pairs an update; of longer rankings as many as have as many replies.
    learning_rate : float
        Of AdamW at its peak; it falls along half a cosine to 0.
    warmup : float
        Share of the updates over which the learning rate rises, in [0, 1).
    weight_decay : float
        Of AdamW, as a share of the learning rate; token embeddings do not decay.
    max_grad_norm : float
        Gradient clipping; 0 is off.
    head : float
        Standard deviation of what the head starts with; at 0 the backbone learns nothing until the head has.
    words : float
        Weight of a second loss, by which the state that is scored tells the reply's words (`words.recall`); 0 is off.
        It has no part in a loss of costs.
    validation : float
        Share of the pairs put aside to choose the number of passes by, in [0, 1), of whole prompts where there are 40
        or more; then all are trained on.
    """

    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 4e-3
    warmup: float = 0.1
    weight_decay: float = 3.0
    max_grad_norm: float = 1.0
    head: float = 0.3
    words: float = 0.5
    validation: float = 0.0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "at least 0 and below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "at least 0")
        require(self.head >= 0, "head", self.head, "at least 0")
        require(self.words >= 0, "words", self.words, "at least 0")
        require(0 <= self.validation < 1, "validation", self.validation, "at least 0 and below 1")


@dataclass(frozen=True)
class TransformerTraining:
    """How a reward model on a backbone came about.

    `epoch` was chosen by `log_loss` among `path`, pairs of epoch and validation log loss (nats); `accuracy` on the same
    validation pairs, equal scores counting half; None where no pairs were put aside, and all epochs count. What was
    put aside is trained on, too, once the epoch has been chosen.
    """

    epoch: int
    log_loss: float | None
    accuracy: float | None
    path: tuple[tuple[int, float], ...]
    pairs: int
    work: flops.Work

    def record(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: getattr(self, name) for name in ("epoch", "log_loss", "accuracy", "pairs")}
        return {**fields, "path": [list(step) for step in self.path], "flops": self.work.flops}


def train_transformer_reward_model(
    comparisons: Comparisons,
    sft: TransformerPolicy,
    rng: np.random.Generator,
    config: RewardModelConfig | None = None,
    objective: Objective | None = None,
    gradients: Gradients | None = None,
) -> tuple[TransformerRewardModel, TransformerTraining]:
    """Train a scalar head and a copy of the backbone under it; its scores are not yet normalised.

    Parameters
    ----------
    comparisons : PreferencePairs or Rankings
        At least one.
    sft : TransformerPolicy
        Where the backbone starts from; it is only read. It may be another than the policy that is to be aligned,
        larger or smaller, if it knows the same tokens.
    rng : Generator
        Draws the split, the head and the order of the comparisons.
    config : RewardModelConfig, optional
    objective : Objective, optional
        None: plain Bradley-Terry.
    gradients : callable (backbone, batch of `comparisons`) -> Work, optional
        Accumulates those of a loss of its own on a batch, in place of the objective's; part of the training alone.
    """
    if not len(comparisons):
        raise ValueError("no preference pairs to train on")
    config, objective = config or RewardModelConfig(), objective or Objective()
    ranked: Any = comparisons if gradients else Rankings.of(comparisons)
    step = gradients or partial(_gradients, objective, config.words)
    aside = _put_aside(ranked, config.validation, rng)
    works: list[flops.Work] = []
    path: list[tuple[int, float]] = []
    epochs, least, right = config.epochs, None, None
    if aside.any():
        train, rest = ranked.take(np.flatnonzero(~aside)), ranked.take(np.flatnonzero(aside))
        for epoch, backbone in enumerate(_epochs(train, sft, rng, config, step, works), 1):
            loss, share, work = _validate(backbone, Rankings.of(rest), objective)
            works.append(work)
            path.append((epoch, loss))
            if least is None or loss < least:
                epochs, least, right = epoch, loss, share
    backbone = next(islice(_epochs(ranked, sft, rng, config, step, works), epochs - 1, None))
    training = TransformerTraining(epochs, least, right, tuple(path), len(ranked), total(*works))
    return TransformerRewardModel(backbone), training


def _epochs(
    comparisons: Comparisons,
    sft: TransformerPolicy,
    rng: np.random.Generator,
    config: RewardModelConfig,
    gradients: Gradients,
    works: list[flops.Work],
) -> Iterator[TransformerPolicy]:
    """The backbone after each pass over the comparisons, always the same one; its work is appended to `works`."""
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
    for epoch in range(config.epochs):
        for share, batch in _batches(comparisons, max(2 * config.batch_size // comparisons.replies, 1), rng):
            works.append(gradients(backbone, batch))
            optimizer.step(warmup_cosine((epoch + share) / config.epochs, config.warmup))
        yield backbone


def _in_turn(ranked: Rankings) -> tuple[Int, Int, Float]:
    """The best replies, then the second ones, and so on; their prompts, which are the same, pass once."""
    N, K, T = ranked.responses.shape
    return (
        np.tile(ranked.prompts, (K, 1)),
        ranked.responses.swapaxes(0, 1).reshape(K * N, T),
        ranked.mask.swapaxes(0, 1).reshape(K * N, T),
    )


def _gradients(
    objective: Objective, words: float, backbone: TransformerPolicy, ranked: Rankings
) -> flops.Work:
    """Accumulates those of the losses on one batch; returns the work of the losses alone."""
    replies = _in_turn(ranked)
    scores, lengths = read_scores(backbone, *replies)
    loss = objective(scores.reshape(ranked.replies, -1).T, ranked.strength)
    d_logits, work = recall(backbone, *replies, words) if words else (None, flops.Work(0, 0))
    backbone.backward(d_logits, at(lengths, loss.d_scores.T.ravel(), ranked.responses.shape[2] + 1))
    return loss.work.plus(work)


def _validate(
    backbone: TransformerPolicy, ranked: Rankings, objective: Objective
) -> tuple[float, float, flops.Work]:
    """Log loss (nats) and accuracy, and the work of the loss alone."""
    n, K = len(ranked), ranked.replies
    scores = np.empty((n, K), backbone.params.dtype)
    size = max(CHUNK // K, 1)
    for begin in range(0, n, size):
        some = np.arange(begin, min(begin + size, n))
        scores[some] = read_scores(backbone, *_in_turn(ranked.take(some)), keep=False)[0].reshape(K, -1).T
    found = objective.of_labels()(scores)
    differences = flops.work("elementwise", n * K * (K - 1) // 2)
    return float(found.loss), ranking_accuracy(scores), found.work.plus(differences)


def _batches(
    comparisons: Comparisons, size: int, rng: np.random.Generator
) -> Iterator[tuple[float, Comparisons]]:
    """All comparisons once, in random order: what share of them came before, and the batch."""
    order = rng.permutation(len(comparisons))
    for begin in range(0, len(comparisons), size):
        yield begin / len(comparisons), comparisons.take(order[begin : begin + size])


def _put_aside(ranked: Comparisons, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(N,) True on the comparisons to validate on: none, where all would be."""
    prompts = np.unique(ranked.prompts, axis=0, return_inverse=True)[1].ravel()
    whole = prompts.max() + 1 >= FEWEST_PROMPTS
    aside = split_groups(prompts if whole else np.arange(len(ranked)), share, rng)
    return np.asarray(aside & ~aside.all())


def start_from(sft: TransformerPolicy, head: float, rng: np.random.Generator) -> TransformerPolicy:
    """The backbone before its first update.

    With a head of 0 the first batches alone decide which way the backbone is turned, at a learning rate this high.
    A random one, as in Stiennon et al. 2020 (arXiv 2009.01325), turns every number of it from the first batch on.
    """
    backbone = with_one_more_place(sft)
    value = views(backbone.params, backbone.sizes).value
    value[:] = rng.normal(scale=head, size=len(value))
    return backbone


def with_one_more_place(sft: TransformerPolicy) -> TransformerPolicy:
    """A copy with a place for the state after T tokens, which begins as that before; its value head is 0."""
    dtype = sft.params.dtype.type
    more = blank(sft.sizes, sft.vocab_size, sft.max_length + 1, sft.prompt_length, dtype)
    new, old = views(more.params, more.sizes), views(sft.params, sft.sizes)
    new.places[:-1], new.places[-1] = old.places, old.places[-1]
    for name in ("table", "gain", "shift"):
        getattr(new, name)[...] = getattr(old, name)
    for into, out_of in zip(new.layers, old.layers, strict=True):
        for tensor, values in zip(into, out_of, strict=True):
            tensor[...] = values
    return more
