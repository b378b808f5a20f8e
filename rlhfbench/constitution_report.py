"""How far a constitution agrees with the labels of a file of pairs: ``rlhfbench rm --data FILE --constitution C``."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .constitution_file import read_constitution
from .data import read_pairs
from .reward_report import wilson
from .text import words
from .types import Float


@dataclass(frozen=True)
class RuleReport:
    """One rule: how many pairs it tells apart, and in what share of these it prefers the chosen reply."""

    name: str
    kind: str
    weight: float
    told: int
    accuracy: float | None


@dataclass(frozen=True)
class ConstitutionReport:
    """A constitution against a file's labels. Equal scores count half in every accuracy.

    Attributes
    ----------
    constitution : str
    pairs : int
    accuracy, low, high : float
        With its 95 % Wilson interval.
    ties : int
        Pairs whose replies have the same score.
    length_rule_accuracy : float
        Of "the longer one wins", in characters.
    matched_length_accuracy : float or None
        Among the `matched_length_pairs` whose lengths differ by at most a tenth of the longer.
    rules : tuple of RuleReport
        In the order of the file.
    skipped : str
    """

    constitution: str
    pairs: int
    accuracy: float
    low: float
    high: float
    ties: int
    length_rule_accuracy: float
    matched_length_accuracy: float | None
    matched_length_pairs: int
    rules: tuple[RuleReport, ...]
    skipped: str

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` holds."""
        return asdict(self)


def constitution_report(
    path: str | os.PathLike[str], constitution: str, strict: bool = False
) -> ConstitutionReport:
    """Score all usable pairs of a file by a constitution, rule by rule; nothing is trained.

    Parameters
    ----------
    path : path
        See `rlhfbench.data.read_pairs`.
    constitution : str
        A file, or the name of a constitution that is shipped.
    strict : bool
        Refuse a file with pairs that cannot be used.
    """
    rules, file = read_constitution(constitution), read_pairs(path, strict=strict)
    texts = [(words(p.prompt), words(p.chosen), words(p.rejected)) for p in file.pairs]
    margins = np.array([[r.merit(q, a) - r.merit(q, b) for r in rules.rules] for q, a, b in texts])
    total = margins.sum(axis=1)
    total[np.abs(total) < 1e-9] = 0.0  # sums of the same weights in another order are equal
    lengths = np.array([(len(p.chosen), len(p.rejected)) for p in file.pairs])
    longer = lengths[:, 0] - lengths[:, 1]
    matched = np.abs(longer) <= 0.1 * lengths.max(axis=1)
    right = agreement(total)
    low, high = wilson(right, len(total))
    return ConstitutionReport(
        rules.name,
        len(total),
        right,
        low,
        high,
        int((total == 0).sum()),
        agreement(longer),
        agreement(total[matched]) if matched.any() else None,
        int(matched.sum()),
        tuple(
            RuleReport(
                rule.name,
                rule.kind,
                rule.weight,
                int((margin != 0).sum()),
                agreement(margin[margin != 0]) if margin.any() else None,
            )
            for rule, margin in zip(rules.rules, margins.T, strict=True)
        ),
        file.skipped_text(),
    )


def agreement(margins: Float) -> float:
    """Share of pairs whose chosen reply is preferred; a tie counts half."""
    return float(np.mean((margins > 0) + 0.5 * (margins == 0)))
