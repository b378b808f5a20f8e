"""A Bradley-Terry reward model that is linear in a bag of tokens, and its training.

Bradley and Terry (1952), Biometrika 39. The bag extrapolates linearly: the fifth repetition of a good word earns as
much as the first, which is what lets a policy fool it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np

from kernels import flops
from kernels.bag import token_scores_jit

from ..rankings import Rankings
from ..types import Float, Int, PreferencePairs
from .bags import BagFeatures, BradleyTerryBags, Features, RankedBags
from .objective import Objective
from .penalty import FEWEST_PROMPTS, GRID, Problem, RewardTraining, choose_penalty, total

Charge: TypeAlias = Callable[[flops.Work, int], None]


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


def train_reward_model(
    comparisons: PreferencePairs | Rankings,
    *,
    vocab_size: int,
    features: Features = "unigrams",
    objective: Objective | None = None,
    groups: Int | None = None,
    validation: float = 0.2,
    rng: np.random.Generator,
    grid: Sequence[float] = GRID,
) -> tuple[LinearRewardModel, RewardTraining]:
    """Fit a `LinearRewardModel` to comparisons; its scores are not yet normalised.

    Parameters
    ----------
    comparisons : PreferencePairs or Rankings
        At least one.
    vocab_size : int
        V; tokens are in [0, V).
    features : {"unigrams", "bigrams"}
        What it sees; bigrams in addition to unigrams.
    objective : Objective, optional
        None: plain Bradley-Terry, which has a solver of its own.
    groups : (N,) int, optional
        Comparisons of one group are trained on or validated on together; None: those of one prompt where there are 40
        prompts or more, else each is its own.
    validation : float
        Share of the comparisons on which the penalty is chosen.
    rng : Generator
    grid : sequence of float
        Inverse strengths of the penalty to try.
    """
    if not len(comparisons):
        raise ValueError("no preference pairs to train on")
    ranked, bag = Rankings.of(comparisons), BagFeatures.of(features, vocab_size)
    if groups is None:
        prompts = np.unique(ranked.prompts, axis=0, return_inverse=True)[1].ravel()
        groups = prompts if len(np.unique(prompts)) >= FEWEST_PROMPTS else None
    problem, work = _problem(bag, ranked, objective or Objective())
    weights, training = choose_penalty(problem, rng=rng, groups=groups, validation=validation, grid=grid)
    return LinearRewardModel(weights, bag), dataclasses.replace(training, work=total(training.work, work))


def _problem(
    features: BagFeatures, comparisons: Rankings, objective: Objective
) -> tuple[Problem, flops.Work]:
    """What is to be solved, and the work of counting features."""
    N, K, T = comparisons.responses.shape
    if K == 2 and objective.plain:
        difference, work = features.difference(comparisons)
        return BradleyTerryBags(difference, features.size), work
    replies = features.bag(comparisons.responses.reshape(N * K, T), comparisons.mask.reshape(N * K, T))
    problem = RankedBags(replies, features.size, K, objective, comparisons.strength)
    return problem, flops.work("token_bag", N * K, T, features.buckets)
