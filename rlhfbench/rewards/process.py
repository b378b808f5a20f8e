"""A reward model that judges each step of a solution, and one that judges the whole as its only step.

The process reward model gives every step the probability that it is right, read at the state after the step's last
token (Lightman et al. 2023, arXiv:2305.20050). The outcome reward model (Cobbe et al. 2021, arXiv:2110.14168) is the
same network with one step, the whole reply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias, get_args

import numpy as np

from kernels import flops

from ..policies.transformer import TransformerPolicy
from ..types import Flags, Float, Int, StepAggregate, StepRewards
from .penalty import total
from .transformer import CHUNK, TransformerRewardModel

Charge: TypeAlias = Callable[[flops.Work, int], None]
AGGREGATES: tuple[StepAggregate, ...] = get_args(StepAggregate)
NOTHING_SAID: dict[StepAggregate, float] = {"product": 1.0, "min": 1.0, "last": 0.0, "sum": 0.0}
"""The aggregate of no step."""


class StepRewardModel:
    """Scores replies by the product, the least, the last or the sum of their steps' probabilities of being right.

    What a step earns is what it adds to the aggregate of the steps so far, so that a reply's rewards add up to its
    score. With "sum" that is its probability, with the others a difference of potentials (Ng et al. 1999).

    Parameters
    ----------
    backbone : TransformerPolicy
        Its value head is a step's log-odds of being right; replies may have one token less than its `max_length`.
    step_tokens : (V,) bool
        Which tokens end a step; the last of a reply always does. None but that: an outcome reward model.
    aggregate : {"sum", "product", "min", "last"}
    mean, sd : float
        Of the reference's scores; 0 and 1 until `normalised`.

    Attributes
    ----------
    charge : callable ``(Work, sequences)`` or None
        Where the work of scoring goes.
    """

    kind: ClassVar[str] = "steps"

    def __init__(
        self,
        backbone: TransformerPolicy,
        step_tokens: Flags,
        aggregate: StepAggregate = "sum",
        mean: float = 0.0,
        sd: float = 1.0,
    ) -> None:
        self.backbone, self.step_tokens, self.aggregate = backbone, step_tokens, aggregate
        self.mean, self.sd = mean, sd
        self.charge: Charge | None = None

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) scores of responses (B, T) in the mask's dtype."""
        scores = self.rewards(prompts, responses, mask).tokens.sum(axis=1)
        if self.charge is not None:
            self.charge(flops.work("sum", *mask.shape), 0)
        return np.asarray(scores)

    def rewards(self, prompts: Int, responses: Int, mask: Float) -> StepRewards:
        """What each step earns, at its last token.

        The first step also carries the origin of the scores, a constant that favours no reply.
        """
        log_odds, ends = self.log_odds(prompts, responses, mask)
        start = NOTHING_SAID[self.aggregate]
        earned = increments(probabilities(log_odds), ends, self.aggregate) / self.sd
        earned[np.arange(len(ends)), ends.argmax(axis=1)] += (start - self.mean) / self.sd
        if self.charge is not None:
            self.charge(_work(self.aggregate, *mask.shape), 0)
        return StepRewards(earned, ends)

    def log_odds(self, prompts: Int, responses: Int, mask: Float) -> tuple[Float, Flags]:
        """(B, T) log-odds that the step which ends with a token is right, 0 where none ends; and where one does."""
        works: list[flops.Work] = []
        self.backbone.charge = lambda kind, work, tokens: works.append(work)
        out, ends = np.empty(mask.shape, mask.dtype), step_ends(self.step_tokens, responses, mask)
        for begin in range(0, len(responses), CHUNK):
            some = slice(begin, begin + CHUNK)
            out[some] = read_steps(self.backbone, prompts[some], responses[some], ends[some], keep=False)
        if self.charge is not None:
            self.charge(total(*works), len(responses))
        return out, ends

    def normalised(self, reference_scores: Float) -> StepRewardModel:
        """A copy whose scores have mean 0 and standard deviation 1 where this one gave `reference_scores`.

        Where they are all equal, only the mean is taken off.
        """
        given = np.asarray(reference_scores, np.float64)
        mean, sd = float(given.mean()), float(given.std())
        if not sd > 1e-6 * max(1.0, float(np.abs(given).max())):  # what rounding leaves of equal scores
            sd = 1.0
        return self._copy(mean=self.mean + self.sd * mean, sd=self.sd * sd)

    def aggregating(self, aggregate: StepAggregate) -> StepRewardModel:
        """The same model with another aggregate, its scores not normalised."""
        copy = self._copy(mean=0.0, sd=1.0)
        copy.aggregate = aggregate
        return copy

    def _copy(self, mean: float, sd: float) -> StepRewardModel:
        # The backbone's tensors have to stay views of its parameters.
        copy = StepRewardModel(self.backbone.clone(), self.step_tokens.copy(), self.aggregate, mean, sd)
        copy.charge = self.charge
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> StepRewardModel:
        return self._copy(self.mean, self.sd)

    def state(self) -> tuple[dict[str, Any], dict[str, Float]]:
        """All that `from_state` needs: fields that JSON holds, and arrays."""
        fields, arrays = TransformerRewardModel(self.backbone).state()
        own = {"aggregate": self.aggregate, "mean": self.mean, "sd": self.sd}
        return fields | own, arrays | {"step_tokens": self.step_tokens.astype(np.uint8)}

    @classmethod
    def from_state(cls, fields: Mapping[str, Any], arrays: Mapping[str, Any]) -> StepRewardModel:
        """The model that gave this `state`: it scores the same bits."""
        aggregate, mean, sd = fields["aggregate"], fields["mean"], fields["sd"]
        if aggregate not in AGGREGATES:
            raise ValueError(f"aggregate: came as {aggregate!r}, one of {', '.join(AGGREGATES)} is needed")
        if not (isinstance(mean, float) and isinstance(sd, float) and sd > 0):
            raise ValueError(f"mean, sd: came as {mean!r}, {sd!r}, numbers with sd above 0 are needed")
        backbone = TransformerRewardModel.from_state(fields, arrays).backbone
        tokens = arrays["step_tokens"]
        if tokens.shape != (backbone.vocab_size,):
            raise ValueError(
                f"step_tokens: came with shape {tokens.shape}, ({backbone.vocab_size},) is needed"
            )
        return cls(backbone, tokens > 0, aggregate, mean, sd)


def step_ends(step_tokens: Flags, responses: Int, mask: Float) -> Flags:
    """(B, T) where a step ends: at `step_tokens` (V,), and at the last token of a reply."""
    counted = mask > 0
    later = np.cumsum(counted[:, ::-1], axis=1)[:, ::-1] > 1
    return np.asarray(counted & (step_tokens[responses] | ~later))


def read_steps(
    backbone: TransformerPolicy, prompts: Int, responses: Int, ends: Flags, *, keep: bool = True
) -> Float:
    """(B, T) values at the states after the tokens where `ends` (B, T), 0 elsewhere."""
    B, T = responses.shape
    if backbone.max_length <= T:
        raise ValueError(f"responses: came with {T} tokens, at most {backbone.max_length - 1} are needed")
    longer = np.zeros((B, T + 1), np.int64)
    longer[:, :T] = responses
    return np.asarray(backbone.values(prompts, longer, after(ends, backbone.params.dtype), keep=keep)[:, 1:])


def after(numbers: Any, dtype: Any) -> Float:
    """(B, T + 1) with `numbers` (B, T) of each token at the state after it."""
    out = np.zeros((len(numbers), numbers.shape[1] + 1), dtype)
    out[:, 1:] = numbers
    return out


def probabilities(log_odds: Float) -> Float:
    """Log-odds to probabilities, without overflow."""
    half = log_odds.dtype.type(0.5)
    return np.asarray(half * (np.tanh(half * log_odds) + 1))


def increments(right: Float, ends: Flags, aggregate: StepAggregate) -> Float:
    """(B, T) what each step adds to the aggregate of the steps before it; 0 where no step ends.

    Parameters
    ----------
    right : (B, T)
        Probabilities that steps are right.
    ends : (B, T) bool
    aggregate : {"sum", "product", "min", "last"}
    """
    if aggregate == "sum":
        return right * ends
    one = right.dtype.type(1)
    if aggregate == "product":
        so_far = np.cumprod(np.where(ends, right, one), axis=1)
    elif aggregate == "min":
        so_far = np.minimum.accumulate(np.where(ends, right, one), axis=1)
    else:
        latest = np.maximum.accumulate(np.where(ends, np.arange(ends.shape[1]), -1), axis=1)
        so_far = np.where(latest >= 0, np.take_along_axis(right, np.maximum(latest, 0), axis=1), 0 * one)
    before = np.full_like(so_far, NOTHING_SAID[aggregate])
    before[:, 1:] = so_far[:, :-1]
    return np.asarray(so_far - before)


def _work(aggregate: StepAggregate, B: int, T: int) -> flops.Work:
    """Of `rewards` beyond the backbone's: probabilities, increments, and the scale of the scores."""
    size = B * T
    found = flops.Work(4 * size, size).plus(flops.Work(2 * size + B + 2, 0))
    return found.plus(flops.Work(B * (T - 1), 0)) if aggregate == "product" else found
