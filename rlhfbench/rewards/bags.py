"""Comparisons of replies as bags of features, and the problems of fitting a linear reward to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from kernels import flops
from kernels.bag import Bag, bag_difference, bag_scores, token_bag_jit
from kernels.bag_fit import BagFit, fit_bradley_terry

from ..rankings import Rankings
from ..types import Float, Int, PreferencePairs
from .minimise import minimise
from .objective import Objective
from .penalty import GRID, RewardTraining, accuracy, choose_penalty, log_loss, ranking_accuracy

Features: TypeAlias = Literal["unigrams", "bigrams"]

MAX_BUCKETS = 1 << 16


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

    def difference(self, pairs: PreferencePairs | Rankings) -> tuple[Bag, flops.Work]:
        """Chosen minus rejected, and what it cost to count."""
        both = Rankings.of(pairs)
        chosen, rejected = (self.bag(both.responses[:, k], both.mask[:, k]) for k in range(2))
        work = flops.work("token_bag", 2 * len(both), both.responses.shape[2], self.buckets)
        work += flops.work("bag_difference", len(chosen.data), len(rejected.data))
        return bag_difference(chosen, rejected, self.size), work


def take_rows(bag: Bag, rows: Int) -> Bag:
    """These rows of a bag, in this order."""
    lengths = np.diff(bag.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    where = np.arange(indptr[-1]) + np.repeat(bag.indptr[rows] - indptr[:-1], lengths)
    return Bag(indptr, bag.indices[where], bag.data[where])


@dataclass(frozen=True)
class BradleyTerryBags:
    """Pairs for `penalty.fit_path`: plain Bradley-Terry, by its dual.

    Parameters
    ----------
    difference : Bag
        (N, F) chosen minus rejected.
    n_features : int
        F.
    """

    difference: Bag
    n_features: int

    def __len__(self) -> int:
        return len(self.difference.indptr) - 1

    def take(self, rows: Int) -> BradleyTerryBags:
        return BradleyTerryBags(take_rows(self.difference, rows), self.n_features)

    def fit(self, C: float, order: Int, start: BagFit | None) -> tuple[BagFit, flops.Work]:
        fit = fit_bradley_terry(*self.difference, self.n_features, order, C, start=start)
        return fit, flops.work("fit_bradley_terry", *fit.work)

    def predict(self, weights: Float) -> tuple[Float, flops.Work]:
        """(N,) margins."""
        work = flops.work("bag_scores", len(self.difference.data))
        return bag_scores(weights, *self.difference), work

    def judge(self, predictions: Float) -> tuple[float, float]:
        return log_loss(predictions), accuracy(predictions)


@dataclass(frozen=True)
class RankedFit:
    """Weights (F,)."""

    weights: Float


@dataclass(frozen=True)
class RankedBags:
    """Rankings of K replies for `penalty.fit_path`, under any `Objective`.

    Parameters
    ----------
    replies : Bag
        (N K, F), those of a ranking together, the best first.
    n_features, K : int
    objective : Objective
    strength : (N,), optional
    """

    replies: Bag
    n_features: int
    K: int
    objective: Objective
    strength: Float | None

    def __len__(self) -> int:
        return (len(self.replies.indptr) - 1) // self.K

    def take(self, rows: Int) -> RankedBags:
        of_them = (rows[:, None] * self.K + np.arange(self.K)).ravel()
        strength = None if self.strength is None else self.strength[rows]
        return dataclasses.replace(self, replies=take_rows(self.replies, of_them), strength=strength)

    def fit(self, C: float, order: Int, start: RankedFit | None) -> tuple[RankedFit, flops.Work]:
        """Of mean loss + |w|^2 / (2 C N); all comparisons are read at once, so their order makes no difference."""
        l2, nnz, F = 1.0 / (C * len(self)), len(self.replies.data), self.n_features
        repeats = np.diff(self.replies.indptr)

        def penalised(weights: Float) -> tuple[float, Float, flops.Work]:
            scores, reading = self.predict(weights)
            loss, d_scores, work = self.objective(scores, self.strength)
            spread = np.repeat(d_scores.ravel(), repeats) * self.replies.data
            gradient = np.bincount(self.replies.indices, spread, F) + l2 * weights
            # product and sum of each non-zero, the penalty and its gradient
            extra = flops.Work(2 * nnz + 4 * F + 1, 0)
            value = float(loss + 0.5 * l2 * np.dot(weights, weights))
            return value, gradient, reading.plus(work).plus(extra)

        found = minimise(penalised, np.zeros(F) if start is None else start.weights)
        return RankedFit(found.x), found.work

    def predict(self, weights: Float) -> tuple[Float, flops.Work]:
        """(N, K) scores."""
        scores = bag_scores(weights, *self.replies).reshape(-1, self.K)
        return scores, flops.work("bag_scores", len(self.replies.data))

    def judge(self, predictions: Float) -> tuple[float, float]:
        return self.objective.of_labels()(predictions).loss, ranking_accuracy(predictions)


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
    """Weights (F,) for differences (N, F) of chosen and rejected rows; the rest is as in `penalty.choose_penalty`."""
    problem = BradleyTerryBags(difference, n_features)
    return choose_penalty(problem, rng=rng, groups=groups, validation=validation, folds=folds, grid=grid)
