"""Reward models of worked solutions: one that judges each step (process), one that judges the whole (outcome).

Both are logistic regressions on hashed words. The process reward model is trained with cross-entropy at step ends
(Lightman et al. 2023, arXiv:2305.20050); a solution's score is the least, the product or the last of its steps'
probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernels.bag import Bag, bag_difference, bag_scores

from .rewards.bags import fit_path, take_rows
from .rewards.penalty import RewardTraining
from .steps import Chain
from .text import Hasher
from .types import Float, Int

BITS = 16
PLACES = 20
"""Positions that have a weight of their own; later steps share the last."""
FOLDS = 5


@dataclass(frozen=True)
class StepRows:
    """Steps of some solutions, one row each: features, label (1, 0; -1 where there is none), number of the solution."""

    features: Bag
    labels: Int
    chain: Int


class StepFeatures:
    """Words and pairs of words of a step, words of the step before it, its place, and a constant.

    A count enters as its square root, as in the reward model of pairs. Only what was written by then is seen, so that
    the model can judge a solution that is still being written. On the file that this was tried on, leaving out the
    step before lost four points of AUC, words of the prompt gained none.
    """

    def __init__(self) -> None:
        self.own, self.before = Hasher(BITS, bigrams=True), Hasher(BITS)
        self.size = self.own.size + self.before.size + PLACES + 1

    def rows(self, chains: Sequence[Chain]) -> StepRows:
        """Every step of `chains`, labelled or not."""
        steps = [step for chain in chains for step in chain.steps]
        before = [step for chain in chains for step in ("", *chain.steps)[: len(chain.steps)]]
        counts = np.array([len(chain.steps) for chain in chains])
        place = np.concatenate([np.arange(n) for n in counts]).astype(np.int64)
        base = self.own.size + self.before.size
        fixed = np.stack([np.full(len(steps), base), base + 1 + np.minimum(place, PLACES - 1)], axis=1)
        features = beside(
            rooted(self.own.bag(steps), self.own.size),
            shifted(rooted(self.before.bag(before), self.before.size), self.own.size),
            Bag(
                2 * np.arange(len(steps) + 1, dtype=np.int64),
                fixed.ravel().astype(np.int32),
                np.ones(fixed.size, np.float32),
            ),
        )
        labels = np.array([-1 if x is None else x for chain in chains for x in chain.labels], np.int64)
        return StepRows(features, labels, np.repeat(np.arange(len(chains)), counts))


def rooted(bag: Bag, size: int) -> Bag:
    """Each feature of a row once, with the square root of its count."""
    nothing = Bag(np.zeros_like(bag.indptr), bag.indices[:0], bag.data[:0])
    merged = bag_difference(bag, nothing, size)
    return merged._replace(data=np.sqrt(merged.data))


def shifted(bag: Bag, by: int) -> Bag:
    """The same features under higher numbers."""
    return bag._replace(indices=bag.indices + np.int32(by))


def beside(*bags: Bag) -> Bag:
    """Row by row the features of all `bags`, whose numbers do not meet."""
    lengths = [np.diff(bag.indptr) for bag in bags]
    indptr = np.concatenate([[0], np.cumsum(np.sum(lengths, axis=0))]).astype(np.int64)
    indices = np.empty(int(indptr[-1]), np.int32)
    data = np.empty(int(indptr[-1]), np.float32)
    start = indptr[:-1].copy()
    for bag, count in zip(bags, lengths, strict=True):
        to = np.arange(len(bag.indices)) + np.repeat(start - bag.indptr[:-1], count)
        indices[to], data[to] = bag.indices, bag.data
        start += count
    return Bag(indptr, indices, data)


def signed(bag: Bag, labels: Int) -> Bag:
    """Rows as they are where the label is 1, negated where it is 0: a margin above 0 is right for all."""
    sign = np.where(labels == 1, 1.0, -1.0).astype(np.float32)
    return bag._replace(data=bag.data * np.repeat(sign, np.diff(bag.indptr)))


@dataclass(frozen=True)
class ProcessRewardModel:
    """The probability that a step is good, given what was written by then."""

    weights: Float
    features: StepFeatures
    training: RewardTraining

    @classmethod
    def train(cls, chains: Sequence[Chain], rng: np.random.Generator) -> ProcessRewardModel:
        """Fit on the labelled steps of `chains`; the penalty is chosen by cross-validation over whole prompts."""
        features = StepFeatures()
        rows = features.rows(chains)
        known = np.flatnonzero(rows.labels >= 0)
        number: dict[str, int] = {}
        prompt = np.array([number.setdefault(chain.prompt, len(number)) for chain in chains])
        weights, training = fit_path(
            signed(take_rows(rows.features, known), rows.labels[known]),
            features.size,
            rng=rng,
            groups=prompt[rows.chain[known]],
            folds=FOLDS,
        )
        return cls(weights, features, training)

    def logits(self, rows: StepRows) -> Float:
        """(steps,) log-odds of being good."""
        return bag_scores(self.weights, *rows.features)

    def score(self, steps: Sequence[str], prompt: str = "") -> Float:
        """(n,) probabilities that each of the steps of one solution is good."""
        chain = Chain(prompt, tuple(steps), (None,) * len(steps), 0)
        return sigmoid(self.logits(self.features.rows([chain])))


class OutcomeRewardModel:
    """The log-odds that a whole solution has no wrong step, from a bag of all its words."""

    def __init__(self, chains: Sequence[Chain], rng: np.random.Generator) -> None:
        self._hasher = Hasher(BITS, bigrams=True)
        right = np.array([chain.first_error is None for chain in chains], np.int64)
        self.weights, self.training = fit_path(
            signed(self._rows(chains), right), self._hasher.size + 1, rng=rng, folds=FOLDS
        )

    def _rows(self, chains: Sequence[Chain]) -> Bag:
        n = len(chains)
        words = rooted(self._hasher.bag("\n".join(chain.steps) for chain in chains), self._hasher.size)
        constant = np.full(n, self._hasher.size, np.int32)
        return beside(words, Bag(np.arange(n + 1, dtype=np.int64), constant, np.ones(n, np.float32)))

    def score(self, chains: Sequence[Chain]) -> Float:
        """(n,) log-odds."""
        return bag_scores(self.weights, *self._rows(chains))


def sigmoid(x: Float) -> Float:
    """Log-odds to probabilities, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def aggregated(logits: Float, chain: Int) -> Mapping[str, Float]:
    """Scores (solutions,) from the steps' log-odds: `min`, `product` (its logarithm) and `last`."""
    start = np.flatnonzero(np.diff(chain, prepend=-1))
    end = np.append(start[1:], len(chain)) - 1
    return {
        "min": np.minimum.reduceat(logits, start),
        "product": np.add.reduceat(-np.logaddexp(0.0, -logits), start),
        "last": logits[end],
    }
