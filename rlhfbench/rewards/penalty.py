"""The strength of the penalty of a linear reward model: chosen by validation, along a warm-started path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kernels import flops

from ..types import Float, Int

GRID = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Inverse strengths of the L2 penalty that are tried, weakest model first."""
FEWEST_PROMPTS = 40
"""From so many distinct prompts on, what is validated on shares no prompt with what is trained on."""
GAIN = 1e-3
"""Nats by which a weaker penalty has to lower the validation loss: about what the solver leaves undone."""
PATIENCE = 2
"""Steps along the grid without a better validation loss before the rest is left out."""


class Fit(Protocol):
    """What a problem's `fit` gives: weights, and whatever else it starts the next one from."""

    @property
    def weights(self) -> Float:
        """(F,) float64."""
        ...


class Problem(Protocol):
    """Comparisons to fit weights to, with an L2 penalty of inverse strength C."""

    def __len__(self) -> int: ...

    def take(self, rows: Int) -> Problem:
        """The same problem with these comparisons."""
        ...

    def fit(self, C: float, order: Int, start: Any) -> tuple[Fit, flops.Work]:
        """Weights at C; `order` is a permutation of the comparisons, `start` a fit at another C, or None."""
        ...

    def predict(self, weights: Float) -> tuple[Float, flops.Work]:
        """(N, ...) what the weights say of the comparisons."""
        ...

    def judge(self, predictions: Float) -> tuple[float, float]:
        """Mean validation loss, and accuracy."""
        ...


@dataclass(frozen=True)
class RewardTraining:
    """How a reward model came about.

    `C` was chosen by `log_loss` among `path`, pairs of C and validation loss (nats); `accuracy` on the same
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


def ranking_accuracy(scores: Float) -> float:
    """Share of pairs, of all in rankings (N, K) with the best first, that the scores order as they are."""
    better, worse = np.triu_indices(scores.shape[1], 1)
    return accuracy((scores[:, better] - scores[:, worse]).ravel())


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


def choose_penalty(
    problem: Problem,
    *,
    rng: np.random.Generator,
    groups: Int | None = None,
    validation: float = 0.2,
    folds: int = 1,
    grid: Sequence[float] = GRID,
) -> tuple[Float, RewardTraining]:
    """Choose the penalty by validation loss, along a warm-started path, then refit on all comparisons.

    Parameters
    ----------
    problem : Problem
        Of N comparisons.
    rng : Generator
        Draws the split and the order in which the solver visits comparisons.
    groups : (N,) int, optional
        Comparisons of one group stay on one side of a split; None: every one is its own.
    validation : float
        Share of them put aside, in (0, 1), if there is one fold.
    folds : int
        From 2 on: cross-validation, in which every comparison is validated on once.
    grid : sequence of float
        Values of C, rising.

    Returns
    -------
    weights : (F,) float64
    training : RewardTraining
        Its work is that of all the fits, counted, not estimated.
    """
    n = len(problem)
    groups = np.arange(n) if groups is None else groups
    if folds > 1:
        fold_of = split_folds(groups, folds, rng)
        splits = [fold_of == k for k in range(folds)]
    else:
        splits = [split_groups(groups, validation, rng)]
    splits = [aside for aside in splits if aside.any() and not aside.all()]
    parts = [(problem.take(np.flatnonzero(~s)), problem.take(np.flatnonzero(s))) for s in splits]
    orders = [rng.permutation(len(train)) for train, _ in parts]
    fits: list[Fit | None] = [None] * len(parts)
    works: list[flops.Work] = []
    path: list[tuple[float, float]] = []
    best, best_loss, best_accuracy = len(grid) // 2, math.inf, None
    for step, C in enumerate(grid if parts else ()):
        predictions = []
        for k, (train, rest) in enumerate(parts):
            fit, work = train.fit(C, orders[k], fits[k])
            found, reading = rest.predict(fit.weights)
            fits[k] = fit
            predictions.append(found)
            works += [work, reading]
        loss, right = problem.judge(np.concatenate(predictions))
        path.append((C, loss))
        if loss < best_loss - GAIN:
            best, best_loss, best_accuracy = step, loss, right
        elif step - best >= PATIENCE:
            break
    final, work = problem.fit(grid[best], rng.permutation(n), None)
    works.append(work)
    log_loss = best_loss if parts else None
    training = RewardTraining(grid[best], log_loss, best_accuracy, tuple(path), n, total(*works))
    return final.weights, training
