"""A Bradley-Terry reward model that is linear in a bag of tokens, and its training.

Bradley and Terry (1952), Biometrika 39. The bag extrapolates linearly: the fifth repetition of a good word earns as
much as the first, which is what lets a policy fool it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from kernels import flops
from kernels.bag import Bag, bag_difference, bag_scores, token_bag_jit, token_scores_jit
from kernels.bag_fit import BagFit, fit_bradley_terry

from ..types import Float, Int, PreferencePairs

Features: TypeAlias = Literal["unigrams", "bigrams"]
Charge: TypeAlias = Callable[[flops.Work, int], None]

GRID = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Inverse strengths of the L2 penalty that are tried, weakest model first."""
FEWEST_PROMPTS = 40
"""From so many distinct prompts on, validation pairs share no prompt with those trained on."""
MAX_BUCKETS = 1 << 16
GAIN = 1e-3
"""Nats by which a weaker penalty has to lower the validation loss: about what the solver leaves undone."""
PATIENCE = 2
"""Steps along the grid without a better validation loss before the rest is left out."""


@dataclass(frozen=True)
class BagFeatures:
    """Which features a token array has: one a token and, with `buckets`, one a hashed pair of neighbours."""

    vocab_size: int
    buckets: int
    factor: int

    @classmethod
    def of(cls, kind: Features, vocab_size: int) -> BagFeatures:
        """Pairs of neighbours get a bucket each where there are at most 65,536, else they are hashed into these."""
        if kind not in ("unigrams", "bigrams"):
            raise ValueError(f"features must be 'unigrams' or 'bigrams', got {kind!r}")
        if kind == "unigrams":
            return cls(vocab_size, 0, 0)
        exact = vocab_size**2 <= MAX_BUCKETS
        return cls(vocab_size, vocab_size**2 if exact else MAX_BUCKETS, vocab_size if exact else 7919)

    @property
    def size(self) -> int:
        """F."""
        return self.vocab_size + self.buckets

    def bag(self, tokens: Int, mask: Float) -> Bag:
        """One row a reply; a feature that occurs twice stands there twice, one with mask 0 holds 0."""
        B, T = tokens.shape
        width = 2 * T - 1 if self.buckets and T else T
        indices, data = np.empty((B, width), np.int32), np.empty((B, width), np.float32)
        tokens, mask = np.ascontiguousarray(tokens, np.int64), np.ascontiguousarray(mask, np.float32)
        token_bag_jit(self.vocab_size, self.buckets, self.factor, tokens, mask, indices, data)
        return Bag(np.arange(B + 1, dtype=np.int64) * width, indices.ravel(), data.ravel())

    def difference(self, pairs: PreferencePairs) -> tuple[Bag, flops.Work]:
        """Chosen minus rejected, and what it cost to count."""
        chosen = self.bag(pairs.chosen, pairs.chosen_mask)
        rejected = self.bag(pairs.rejected, pairs.rejected_mask)
        work = total(
            flops.work("token_bag", *pairs.chosen.shape, self.buckets),
            flops.work("token_bag", *pairs.rejected.shape, self.buckets),
            flops.work("bag_difference", len(chosen.data), len(rejected.data)),
        )
        return bag_difference(chosen, rejected, self.size), work


class LinearRewardModel:
    """score = (w . bag(response) - mean) / sd; prompts are not looked at.

    Parameters
    ----------
    weights : (F,)
        One a token, then one a bucket of neighbouring tokens.
    features : BagFeatures
    mean, sd : float
        Of the raw scores of the reference policy's replies; 0 and 1 until `normalised`.

    Attributes
    ----------
    charge : callable ``(Work, sequences)`` or None
        Where the work of `score` goes.
    """

    kind: ClassVar[str] = "bag"

    def __init__(self, weights: Float, features: BagFeatures, mean: float = 0.0, sd: float = 1.0) -> None:
        if weights.shape != (features.size,):
            raise ValueError(f"weights must have shape ({features.size},), got {weights.shape}")
        self.weights, self.features, self.mean, self.sd = weights, features, mean, sd
        self.charge: Charge | None = None
        self._bias = -mean / sd
        # score and standardise in one pass: the standard deviation goes into the table
        self._tables = {np.dtype(t): (weights / sd).astype(t) for t in (np.float32, np.float64)}

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) scores of responses (B, T) in the mask's dtype, float32 or float64."""
        table = self._tables[mask.dtype]
        out = np.empty(len(responses), mask.dtype)
        f = self.features
        responses, mask = np.ascontiguousarray(responses, np.int64), np.ascontiguousarray(mask)
        token_scores_jit(table, self._bias, f.vocab_size, f.buckets, f.factor, responses, mask, out)
        if self.charge is not None:
            self.charge(flops.work("token_scores", *responses.shape, f.buckets), len(responses))
        return out

    def normalised(self, reference_scores: Float) -> LinearRewardModel:
        """A copy whose scores have mean 0 and standard deviation 1 where this one gave `reference_scores`.

        Where they are all equal, only the mean is taken off.
        """
        scores = np.asarray(reference_scores, np.float64)
        sd = float(scores.std())
        if not sd > 1e-12 * max(1.0, float(np.abs(scores).max())):
            sd = 1.0
        copy = LinearRewardModel(
            self.weights, self.features, self.mean + self.sd * float(scores.mean()), self.sd * sd
        )
        copy.charge = self.charge
        return copy

    def state(self) -> tuple[dict[str, Any], dict[str, Float]]:
        """All that `from_state` needs: fields that JSON holds, and arrays."""
        fields = dataclasses.asdict(self.features) | {"mean": self.mean, "sd": self.sd}
        return fields, {"weights": self.weights}

    @classmethod
    def from_state(cls, fields: Mapping[str, Any], arrays: Mapping[str, Float]) -> LinearRewardModel:
        """The model that gave this `state`: it scores the same bits."""
        features = BagFeatures(*(fields[name] for name in ("vocab_size", "buckets", "factor")))
        return cls(arrays["weights"], features, fields["mean"], fields["sd"])


@dataclass(frozen=True)
class RewardTraining:
    """How a reward model came about.

    `C` was chosen by `log_loss` among `path`, pairs of C and validation log loss (nats); `accuracy` on the same
    validation pairs, equal scores counting half; None where there were too few pairs to put some aside.
    """

    C: float
    log_loss: float | None
    accuracy: float | None
    path: tuple[tuple[float, float], ...]
    pairs: int
    work: flops.Work

    def record(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: getattr(self, name) for name in ("C", "log_loss", "accuracy", "pairs")}
        return {**fields, "path": [list(step) for step in self.path], "flops": self.work.flops}


def total(*works: flops.Work) -> flops.Work:
    """The sum of some work."""
    return sum(works, flops.Work(0, 0))


def log_loss(margins: Float) -> float:
    """Mean of -log sigmoid(margin), nats."""
    return float(np.logaddexp(0.0, -margins).mean())


def accuracy(margins: Float) -> float:
    """Share of pairs whose chosen reply scores higher; equal scores count half."""
    return float((margins > 0).mean() + 0.5 * (margins == 0).mean())


def take_rows(bag: Bag, rows: Int) -> Bag:
    """These rows of a bag, in this order."""
    lengths = np.diff(bag.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    where = np.arange(indptr[-1]) + np.repeat(bag.indptr[rows] - indptr[:-1], lengths)
    return Bag(indptr, bag.indices[where], bag.data[where])


def split_groups(groups: Int, share: float, rng: np.random.Generator) -> Int:
    """(N,) True on about `share` of the rows: random whole groups, until they make up the share."""
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(sizes))
    before = np.cumsum(sizes[order]) - sizes[order]
    aside = np.zeros(len(sizes), bool)
    aside[order[before < share * len(groups)]] = True
    return np.asarray(aside[inverse])


def split_folds(groups: Int, folds: int, rng: np.random.Generator) -> Int:
    """(N,) number of each row's fold: random whole groups, each to the smallest fold so far."""
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    fold_of = np.zeros(len(sizes), np.int64)
    filled = np.zeros(folds, np.int64)
    for group in rng.permutation(len(sizes)):
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return np.asarray(fold_of[inverse])


def fit_path(
    difference: Bag,
    n_features: int,
    *,
    rng: np.random.Generator,
    groups: Int | None = None,
    validation: float = 0.2,
    folds: int = 1,
    grid: Sequence[float] = GRID,
) -> tuple[Float, RewardTraining]:
    """Choose the penalty by validation log loss, along a warm-started path, then refit on all pairs.

    Parameters
    ----------
    difference : Bag
        (N, F) chosen minus rejected.
    n_features : int
        F.
    rng : Generator
        Draws the split and the order in which the solver visits pairs.
    groups : (N,) int, optional
        Pairs of one group stay on one side of a split; None: every pair is its own.
    validation : float
        Share of the pairs put aside, in (0, 1), if there is one fold.
    folds : int
        From 2 on: cross-validation, in which every pair is validated on once.
    grid : sequence of float
        Values of C, rising.

    Returns
    -------
    weights : (F,) float64
    training : RewardTraining
        Its work is that of all the fits, counted, not estimated.
    """
    n = len(difference.indptr) - 1
    groups = np.arange(n) if groups is None else groups
    if folds > 1:
        fold_of = split_folds(groups, folds, rng)
        splits = [fold_of == k for k in range(folds)]
    else:
        splits = [split_groups(groups, validation, rng)]
    splits = [aside for aside in splits if aside.any() and not aside.all()]
    parts = [
        (take_rows(difference, np.flatnonzero(~s)), take_rows(difference, np.flatnonzero(s))) for s in splits
    ]
    orders = [rng.permutation(len(train.indptr) - 1) for train, _ in parts]
    fits: list[BagFit | None] = [None] * len(parts)
    works: list[flops.Work] = []
    path: list[tuple[float, float]] = []
    best, best_loss, best_accuracy = len(grid) // 2, math.inf, None
    for step, C in enumerate(grid if parts else ()):
        margins = []
        for k, (train, rest) in enumerate(parts):
            fit = fits[k] = fit_bradley_terry(*train, n_features, orders[k], C, start=fits[k])
            margins.append(bag_scores(fit.weights, *rest))
            works += [flops.work("fit_bradley_terry", *fit.work), flops.work("bag_scores", len(rest.data))]
        together = np.concatenate(margins)
        path.append((C, log_loss(together)))
        if path[-1][1] < best_loss - GAIN:
            best, best_loss, best_accuracy = step, path[-1][1], accuracy(together)
        elif step - best >= PATIENCE:
            break
    final = fit_bradley_terry(*difference, n_features, rng.permutation(n), grid[best])
    works.append(flops.work("fit_bradley_terry", *final.work))
    loss = best_loss if parts else None
    return final.weights, RewardTraining(grid[best], loss, best_accuracy, tuple(path), n, total(*works))


def train_reward_model(
    pairs: PreferencePairs,
    *,
    vocab_size: int,
    features: Features = "unigrams",
    validation: float = 0.2,
    rng: np.random.Generator,
    grid: Sequence[float] = GRID,
) -> tuple[LinearRewardModel, RewardTraining]:
    """Fit a `LinearRewardModel` to preference pairs (N, T); its scores are not yet normalised.

    Parameters
    ----------
    pairs : PreferencePairs
        At least one.
    vocab_size : int
        V; tokens are in [0, V).
    features : {"unigrams", "bigrams"}
        What it sees; bigrams in addition to unigrams.
    validation : float
        Share of the pairs on which the penalty is chosen; of whole prompts where there are 40 or more.
    rng : Generator
    grid : sequence of float
        Inverse strengths of the penalty to try.
    """
    if not len(pairs):
        raise ValueError("no preference pairs to train on")
    bag = BagFeatures.of(features, vocab_size)
    difference, work = bag.difference(pairs)
    prompts = np.unique(pairs.prompts, axis=0, return_inverse=True)[1].ravel()
    groups = prompts if len(np.unique(prompts)) >= FEWEST_PROMPTS else None
    weights, training = fit_path(
        difference, bag.size, rng=rng, groups=groups, validation=validation, grid=grid
    )
    return LinearRewardModel(weights, bag), dataclasses.replace(training, work=total(training.work, work))
