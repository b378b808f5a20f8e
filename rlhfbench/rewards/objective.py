"""What a reward model's scores are trained to do on comparisons: Bradley-Terry and what has been made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from kernels import flops
from kernels.preference import bradley_terry, plackett_luce

from ..types import Float


class ScoreLoss(NamedTuple):
    """Mean loss over comparisons, nats; its gradient with respect to the scores (N, K); and the work of both."""

    loss: float
    d_scores: Float
    work: flops.Work


@dataclass(frozen=True)
class Objective:
    """The loss of scores (N, K) whose comparisons are ordered from best to worst; D = difference of two scores.

    Parameters
    ----------
    temperature : float
        Of the annotators, > 0: a pair's likelihood is sigma(D / temperature).
    smoothing : float
        e in -(1-e) log sigma(D) - e log sigma(-D), in [0, .5].
    noise : float
        Share f of labels that were turned, in [0, .5): -log((1-f) sigma(D) + f sigma(-D)). Its gradient vanishes
        where a pair is badly misordered, where that of smoothing stays. Christiano et al. 2017 (1706.03741), section
        2.2.3, have annotators answer at random in a tenth of the cases, which is f = .05.
    centering : float
        c in c (r_chosen + r_rejected)^2: Eisenstein et al. 2023 (2312.09244).
    margin : float
        D has to exceed this times the strength of the preference: Touvron et al. 2023 (2307.09288), eq. 2.
    listwise : bool
        Rankings by their Plackett-Luce likelihood; else by all their pairs, averaged, as in Ouyang et al. 2022
        (2203.02155), eq. 1. For two replies both are Bradley-Terry.
    """

    temperature: float = 1.0
    smoothing: float = 0.0
    noise: float = 0.0
    centering: float = 0.0
    margin: float = 0.0
    listwise: bool = True

    @property
    def plain(self) -> bool:
        """Whether pairs get nothing but Bradley-Terry."""
        return replace(self, listwise=True) == Objective()

    @property
    def text(self) -> str:
        """For a report; empty where it is plain."""
        names = ("temperature", "smoothing", "noise", "centering", "margin")
        default = Objective()
        return ", ".join(
            f"{name} {getattr(self, name):g}"
            for name in names
            if getattr(self, name) != getattr(default, name)
        )

    def of_labels(self) -> Objective:
        """Without what shapes scores and says nothing of how labels come about; to validate by."""
        return replace(self, centering=0.0, margin=0.0)

    def __call__(self, scores: Float, strength: Float | None = None) -> ScoreLoss:
        """Loss and gradient.

        Parameters
        ----------
        scores : (N, K) float32 or float64
            Of the replies of each comparison, the best first; K = 2 for a pair.
        strength : (N,), optional
            How much better the chosen reply is, where there is a margin.
        """
        if scores.shape[1] > 2 and self.listwise:
            return self._whole_rankings(scores)
        return self._pairs(scores, strength)

    def _whole_rankings(self, scores: Float) -> ScoreLoss:
        work = flops.work("plackett_luce", *scores.shape)
        if self.temperature == 1.0:
            return ScoreLoss(*plackett_luce(scores), work)
        heat = scores.dtype.type(1.0 / self.temperature)
        loss, d_scores = plackett_luce(scores * heat)
        return ScoreLoss(loss, d_scores * heat, work + flops.work("elementwise", *scores.shape).times(2))

    def _pairs(self, scores: Float, strength: Float | None) -> ScoreLoss:
        N, K = scores.shape
        pairs = list(combinations(range(K), 2))
        better, worse = (np.array(side) for side in zip(*pairs, strict=True))
        found = bradley_terry(
            scores[:, better],
            scores[:, worse],
            margin=self._margins(scores, strength),
            temperature=self.temperature,
            label_smoothing=self.smoothing,
            noise=2 * self.noise,  # a label made at random is right half the time
            centering=self.centering,
        )
        work = flops.work("noisy_bradley_terry" if self.noise else "bradley_terry", N, len(pairs))
        if self.margin:
            work += flops.work("elementwise", N)
        if K == 2:
            return ScoreLoss(found.loss, np.concatenate([found.d_chosen, found.d_rejected], axis=1), work)
        d_scores = np.zeros_like(scores)
        for p, (i, j) in enumerate(pairs):
            d_scores[:, i] += found.d_chosen[:, p]
            d_scores[:, j] += found.d_rejected[:, p]
        return ScoreLoss(found.loss, d_scores, work + flops.work("elementwise", N, len(pairs)).times(2))

    def _margins(self, scores: Float, strength: Float | None) -> Float | None:
        if not self.margin:
            return None
        if strength is None:
            raise ValueError(
                f"margin: came as {self.margin:g} for comparisons without a strength, 0 is needed for these"
            )
        return np.asarray(strength[:, None] * self.margin, scores.dtype)
