"""How a reward model on the SFT policy's backbone is trained: Bradley-Terry on preference pairs, all parameters.

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5 and appendix C.2; what was tried stands in docs/adr/0012.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels import flops
from kernels.preference import bradley_terry

from ..optimizer import AdamW
from ..options import require
from ..policies._weights import views
from ..policies.transformer import TransformerPolicy
from ..schedules import warmup_cosine
from ..types import Float, Int, PreferencePairs
from .bradley_terry import FEWEST_PROMPTS, accuracy, split_groups, total
from .transformer import CHUNK, TransformerRewardModel, at, blank, read_scores

Gradients: TypeAlias = Callable[[TransformerPolicy, Any], flops.Work]


@dataclass(frozen=True)
class RewardModelConfig:
    """How the backbone is trained on preference pairs; the defaults were chosen on `sentences` at width 32.

    Parameters
    ----------
    epochs : int
        Passes over the pairs; with `validation` at most so many.
    batch_size : int
        Pairs an update.
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
    validation: float = 0.0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "at least 0 and below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "at least 0")
        require(self.head >= 0, "head", self.head, "at least 0")
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
    pairs: PreferencePairs,
    sft: TransformerPolicy,
    rng: np.random.Generator,
    config: RewardModelConfig | None = None,
    gradients: Gradients | None = None,
) -> tuple[TransformerRewardModel, TransformerTraining]:
    """Train a scalar head and a copy of the backbone under it; its scores are not yet normalised.

    Parameters
    ----------
    pairs : PreferencePairs
        At least one.
    sft : TransformerPolicy
        Where the backbone starts from; it is only read. It may be another than the policy that is to be aligned,
        larger or smaller, if it knows the same tokens.
    rng : Generator
        Draws the split, the head and the order of the pairs.
    config : RewardModelConfig, optional
    gradients : callable (backbone, pairs) -> Work, optional
        Accumulates those of another loss than Bradley-Terry's on a batch; validation looks at the order alone.
    """
    if not len(pairs):
        raise ValueError("no preference pairs to train on")
    config = config or RewardModelConfig()
    aside = _put_aside(pairs, config.validation, rng)
    works: list[flops.Work] = []
    path: list[tuple[int, float]] = []
    epochs, least, right = config.epochs, None, None
    if aside.any():
        train, rest = pairs.take(np.flatnonzero(~aside)), pairs.take(np.flatnonzero(aside))
        for epoch, backbone in enumerate(_epochs(train, sft, rng, config, works, gradients), 1):
            loss, share, work = _validate(backbone, rest)
            works.append(work)
            path.append((epoch, loss))
            if least is None or loss < least:
                epochs, least, right = epoch, loss, share
    backbone = next(islice(_epochs(pairs, sft, rng, config, works, gradients), epochs - 1, None))
    training = TransformerTraining(epochs, least, right, tuple(path), len(pairs), total(*works))
    return TransformerRewardModel(backbone), training


def _epochs(
    pairs: PreferencePairs,
    sft: TransformerPolicy,
    rng: np.random.Generator,
    config: RewardModelConfig,
    works: list[flops.Work],
    gradients: Gradients | None,
) -> Iterator[TransformerPolicy]:
    """The backbone after each pass over the pairs, always the same one; its work is appended to `works`."""
    backbone = _start(sft, config.head, rng)
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
        for share, batch in _batches(pairs, config.batch_size, rng):
            works.append((gradients or _gradients)(backbone, batch))
            optimizer.step(warmup_cosine((epoch + share) / config.epochs, config.warmup))
        yield backbone


def both(pairs: PreferencePairs) -> tuple[Int, Int, Float]:
    """Chosen replies, then rejected ones; their prompts, which are the same, pass once."""
    return (
        np.concatenate([pairs.prompts, pairs.prompts]),
        np.concatenate([pairs.chosen, pairs.rejected]),
        np.concatenate([pairs.chosen_mask, pairs.rejected_mask]),
    )


def _gradients(backbone: TransformerPolicy, pairs: PreferencePairs) -> flops.Work:
    """Accumulates those of the loss on one batch; returns the work of the loss alone."""
    n = len(pairs)
    scores, lengths = read_scores(backbone, *both(pairs))
    loss = bradley_terry(scores[:n], scores[n:])
    d_scores = np.concatenate([loss.d_chosen, loss.d_rejected])
    backbone.backward(None, at(lengths, d_scores, pairs.chosen.shape[1] + 1))
    return flops.work("bradley_terry", n)


def _validate(backbone: TransformerPolicy, pairs: PreferencePairs) -> tuple[float, float, flops.Work]:
    """Log loss (nats) and accuracy, and the work of the loss alone."""
    n = len(pairs)
    scores = np.empty((2, n), backbone.params.dtype)
    for begin in range(0, n, CHUNK // 2):
        some = np.arange(begin, min(begin + CHUNK // 2, n))
        scores[:, some] = read_scores(backbone, *both(pairs.take(some)), keep=False)[0].reshape(2, -1)
    return (
        float(bradley_terry(*scores).loss),
        accuracy(scores[0] - scores[1]),
        flops.work("bradley_terry", n).plus(flops.work("elementwise", n)),
    )


def _batches(
    pairs: PreferencePairs, size: int, rng: np.random.Generator
) -> Iterator[tuple[float, PreferencePairs]]:
    """All pairs once, in random order: what share of them came before, and the batch."""
    order = rng.permutation(len(pairs))
    for begin in range(0, len(pairs), size):
        yield begin / len(pairs), pairs.take(order[begin : begin + size])


def _put_aside(pairs: PreferencePairs, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(N,) True on the pairs to validate on: none, where all would be."""
    prompts = np.unique(pairs.prompts, axis=0, return_inverse=True)[1].ravel()
    whole = prompts.max() + 1 >= FEWEST_PROMPTS
    aside = split_groups(prompts if whole else np.arange(len(pairs)), share, rng)
    return np.asarray(aside & ~aside.all())


def _start(sft: TransformerPolicy, head: float, rng: np.random.Generator) -> TransformerPolicy:
    """The backbone before its first update.

    With a head of 0 the first batches alone decide which way the backbone is turned, at a learning rate this high.
    A random one, as in Stiennon et al. 2020 (arXiv 2009.01325), turns every number of it from the first batch on.
    """
    backbone = _with_one_more_place(sft)
    value = views(backbone.params, backbone.sizes).value
    value[:] = rng.normal(scale=head, size=len(value))
    return backbone


def _with_one_more_place(sft: TransformerPolicy) -> TransformerPolicy:
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
