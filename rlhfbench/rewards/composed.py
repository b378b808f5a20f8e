"""A reward made of trained models: an ensemble's aggregate, with what a reply's length earns taken out.

Ensembles: Coste et al. 2023 (arXiv 2310.02743). Length: Singhal et al. 2023 (2310.03716) on why it is hacked first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from kernels import flops

from ..types import Float, Int
from .bradley_terry import LinearRewardModel
from .transformer import TransformerRewardModel

Charge: TypeAlias = Callable[[flops.Work, int], None]
Member: TypeAlias = LinearRewardModel | TransformerRewardModel
Aggregate: TypeAlias = Literal["mean", "min", "uwo"]
LengthControl: TypeAlias = Literal["none", "normalised", "penalised", "residual"]

MEMBERS: dict[str, type[Member]] = {
    model.kind: model for model in (LinearRewardModel, TransformerRewardModel)
}


@dataclass(frozen=True)
class Scheme:
    """How members' scores become one; each is first brought to mean 0 and deviation 1 on replies of the reference.

    Parameters
    ----------
    aggregate : {"mean", "min", "uwo"}
        The members' mean, the worst of them, or their mean less `uncertainty` times their (population) variance.
    uncertainty : float
    length : {"none", "normalised", "penalised", "residual"}
        `normalised`: members' scores are divided by the number of tokens; `penalised`: `penalty` a token is taken off
        the aggregate; `residual`: as much as the line through score and length on replies of the reference rises.
    penalty : float
        Deviations of the reference's scores a token.
    """

    aggregate: Aggregate = "mean"
    uncertainty: float = 0.5
    length: LengthControl = "none"
    penalty: float = 0.0

    def __post_init__(self) -> None:
        for name, kinds in (("aggregate", Aggregate), ("length", LengthControl)):
            if getattr(self, name) not in get_args(kinds):
                valid = ", ".join(get_args(kinds))
                raise ValueError(f"{name}: came as {getattr(self, name)!r}, one of {valid} is needed")


@dataclass(frozen=True)
class Scale:
    """What replies of the reference decide: `means` and `sds` (M,) of the members, then of the whole, and its `slope`.

    `slope` is what a token costs, in deviations of the aggregate.
    """

    means: tuple[float, ...]
    sds: tuple[float, ...]
    slope: float = 0.0
    mean: float = 0.0
    sd: float = 1.0


class ComposedRewardModel:
    """score = (aggregate of the members - slope x length - mean) / sd.

    Parameters
    ----------
    members : sequence of reward models
        As they were trained.
    scheme : Scheme
    scale : Scale

    Attributes
    ----------
    charge : callable ``(Work, sequences)`` or None
        Where the work of `score` goes; each member counts its calls.
    """

    kind: ClassVar[str] = "composed"

    def __init__(self, members: Sequence[Member], scheme: Scheme, scale: Scale) -> None:
        if not len(members) == len(scale.means) == len(scale.sds) > 0:
            came = f"{len(scale.means)} and {len(scale.sds)} for {len(members)} members"
            raise ValueError(f"means, sds: came as {came}, one of each a member is needed")
        self.members, self.scheme, self.scale = tuple(members), scheme, scale
        self.charge = None

    @property
    def unit(self) -> float:
        """What a score of 1 is worth in log-odds, as a member gives them on average."""
        return self.scale.sd * float(np.mean(self.scale.sds))

    @property
    def charge(self) -> Charge | None:
        return self._charge

    @charge.setter
    def charge(self, charge: Charge | None) -> None:
        self._charge = charge
        for member in self.members:
            member.charge = charge

    @classmethod
    def fitted(
        cls, members: Sequence[Member], scheme: Scheme, inputs: tuple[Int, Int, Float], charge: Charge | None
    ) -> ComposedRewardModel:
        """The model whose scores of `inputs`, replies of the reference, have mean 0 and deviation 1.

        Parameters
        ----------
        members : sequence of reward models
        scheme : Scheme
        inputs : prompts (N, P), responses (N, T), mask (N, T)
        charge : callable
            Where the members' work on these replies goes.
        """
        raw = cls(members, scheme, Scale((0.0,) * len(members), (1.0,) * len(members)))
        raw.charge = charge
        scores, lengths = raw._raw(*inputs)
        means, sds = scores.mean(axis=1), np.array([_deviation(row) for row in scores])
        value = raw._aggregated((scores - means[:, None]) / sds[:, None])
        slope = _slope(value, lengths) if scheme.length == "residual" else 0.0
        slope = scheme.penalty if scheme.length == "penalised" else slope
        value = value - slope * lengths
        raw.charge = None
        scale = Scale(
            tuple(means.tolist()), tuple(sds.tolist()), slope, float(value.mean()), _deviation(value)
        )
        return cls(members, scheme, scale)

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) scores of responses (B, T) in the mask's dtype."""
        scores, lengths = self._raw(prompts, responses, mask)
        s = self.scale
        each = (scores - np.array(s.means)[:, None]) / np.array(s.sds)[:, None]
        value = self._aggregated(each)
        if s.slope:
            value = value - s.slope * lengths
        if self.charge is not None:
            self.charge(self._work(mask.shape), 0)
        return ((value - s.mean) / s.sd).astype(mask.dtype)

    def _raw(self, prompts: Int, responses: Int, mask: Float) -> tuple[Float, Float]:
        """The members' scores (M, B), per token if need be, and the replies' lengths (B,)."""
        scores = np.stack([member.score(prompts, responses, mask) for member in self.members])
        lengths = mask.sum(axis=1)
        if self.scheme.length == "normalised":
            scores = scores / np.maximum(lengths, 1)
        return scores.astype(float), lengths.astype(float)

    def _aggregated(self, each: Float) -> Float:
        """(B,) of (M, B)."""
        if self.scheme.aggregate == "min":
            return np.asarray(each.min(axis=0))
        mean = each.mean(axis=0)
        if self.scheme.aggregate == "mean":
            return np.asarray(mean)
        away = each - mean
        return np.asarray(mean - self.scheme.uncertainty * (away * away).mean(axis=0))

    def _work(self, shape: tuple[int, ...]) -> flops.Work:
        """Of one call, beside the members'."""
        B, T = shape
        M = len(self.members)
        each = 2 * M + {"min": 0, "mean": M, "uwo": 4 * M + 2}[self.scheme.aggregate] + 2
        each += T - 1 + M * (self.scheme.length == "normalised") + 2 * (self.scale.slope != 0)
        return flops.work("elementwise", B, each)

    def state(self) -> tuple[dict[str, Any], dict[str, Float]]:
        """All that `from_state` needs: fields that JSON holds, and arrays."""
        fields: list[dict[str, Any]] = []
        arrays: dict[str, Float] = {}
        for i, member in enumerate(self.members):
            own, theirs = member.state()
            fields.append({"model": member.kind, **own})
            arrays |= {f"{i}.{name}": array for name, array in theirs.items()}
        return {
            "scheme": dataclasses.asdict(self.scheme),
            "scale": dataclasses.asdict(self.scale),
            "members": fields,
        }, arrays

    @classmethod
    def from_state(cls, fields: Mapping[str, Any], arrays: Mapping[str, Float]) -> ComposedRewardModel:
        """The model that gave this `state`: it scores the same bits."""
        members: list[Member] = []
        for i, own in enumerate(fields["members"]):
            if own["model"] not in MEMBERS:
                raise ValueError(f"members: a '{own['model']}' came, {' or '.join(MEMBERS)} is needed")
            theirs = {name.removeprefix(f"{i}."): a for name, a in arrays.items() if name.startswith(f"{i}.")}
            members.append(MEMBERS[own["model"]].from_state(own, theirs))
        scale = fields["scale"]
        means, sds = (tuple(map(float, scale[name])) for name in ("means", "sds"))
        slope, mean, sd = (float(scale[name]) for name in ("slope", "mean", "sd"))
        return cls(members, Scheme(**fields["scheme"]), Scale(means, sds, slope, mean, sd))


def _deviation(scores: Float) -> float:
    """Standard deviation; 1 where the scores are all equal, but for rounding."""
    sd = float(scores.std())
    return sd if sd > 1e-6 * max(1.0, float(np.abs(scores).max())) else 1.0


def _slope(value: Float, lengths: Float) -> float:
    """Of the least-squares line of `value` on `lengths`; 0 where these are all equal."""
    away = lengths - lengths.mean()
    spread = float(away @ away)
    return float(away @ (value - value.mean())) / spread if spread else 0.0
