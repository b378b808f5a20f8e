"""The verdict in words: one or two sentences that a reader may quote, and that claim no more than was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .claims import (
    MARGIN,
    MIN_CLAIM,
    SEED_SHARE,
    SIGNIFICANT,
    Kind,
    MetricVerdict,
    Pair,
    Pairs,
    beats,
    tells_apart,
)
from .statistics import Interval, more_seeds, paired_ratio, summary


@dataclass(frozen=True)
class Words:
    """What gold and the reward are called; `more` and `less` of gold, and what an arm does that games the reward."""

    gold: str
    more: str
    less: str
    reward: str
    games: str

    @classmethod
    def of(cls, gold: str, reward: str) -> Words:
        """For kinds of gold and of reward as in `verdict`."""
        golds = {
            "judge": ("judge score", "a higher judge score", "a lower judge score"),
            "verifier": ("accuracy", "higher accuracy", "lower accuracy"),
        }
        called = golds.get(gold, ("gold", "more gold", "less gold"))
        rewards = {
            "verifier": ("verifier score", "the verifier"),
            "gold": (called[0], "the verifier"),
            "mixed": ("reward", "the reward"),
        }
        score, gamed = rewards.get(reward, ("RM score", "the reward model"))
        return cls(*called, score, gamed)


def finding(
    kind: Kind,
    pair: Pair,
    words: Words,
    labels: Sequence[str],
    golds: Pairs,
    winner: str | None,
    rivals: Sequence[str],
) -> str:
    """What was found."""
    first, second, many = pair.first.label, pair.second.label, len(labels) > 2
    gold, reward = words.gold, words.reward
    won = {a: [b for b in labels if b != a and beats(golds, a, b)] for a in labels}
    claims = "; ".join(f"{a} beats {_list(losers)}" for a, losers in won.items() if losers)
    though = f", though {pair.rm.better} wins on {reward}" if pair.rm.better and not many else ""
    then = ". Leader against runner-up: " if many else ": "
    if kind == "no_claim":
        reason = f"under {MIN_CLAIM} seeds" if pair.first.rm.size < MIN_CLAIM else "without scores"
        return f"No claim is possible {reason}: "
    if kind == "better":
        return f"{winner} is better on {gold}" + (f": {claims}{then}" if many else then)
    disagree = f"{reward[0].upper()}{reward[1:]} and {gold} disagree: "
    if kind == "split" and many:
        verb = "beats" if len(rivals) == 1 else "beat"
        return f"{disagree}{_list(rivals)} {verb} {winner} on {reward}; on {gold} {claims}{then}"
    if kind == "split":
        return f"{disagree}{_list(rivals)} wins on {reward}, {winner} on {gold}. "
    if kind == "equivalent":
        return f"{_list(labels)} are equivalent on {gold}{though}{then}"
    if many:
        return (
            f"Inconclusive on {gold}, no arm beats {f'every other: {claims}' if claims else 'another'}{then}"
        )
    return f"{second} against {first} is inconclusive on {gold}{though}{then}"


def details(pair: Pair, words: Words, rivals: Sequence[str], comparisons: int) -> str:
    """Second against first: reward, compute, gold, n and, where it is open, how many seeds would settle it."""
    n = f"n = {pair.first.rm.size}" + (f"; Holm over {comparisons} pairs" if comparisons > 1 else "")
    alike = pair.first.reward == pair.second.reward
    if (alike and pair.rm.difference is None) or pair.gold.difference is None:
        return f"{pair.second.label} and {pair.first.label} lack scores to compare ({n})."
    flops, wins, n_seeds = pair.flops, pair.gold.better, pair.first.rm.size
    compute = ""
    if flops is not None and flops.estimate is not None:
        compute = f"{_show(flops.estimate, flops.low, flops.high, ' ×')} the FLOPs"
    hacked = f": {_list(rivals)} over-optimise{'s' * (len(rivals) == 1)} {words.games}" if rivals else ""
    difference = _show(pair.gold.difference, pair.gold.low, pair.gold.high, signed=True)
    if wins:
        outcome = f"and {words.more if wins == pair.second.label else words.less} ({difference}"
        outcome += f"){hacked} ({n})" if hacked else f"; {n})"
    else:
        margin = f", within {MARGIN:.0%} of the larger gain".replace("%", " %")
        outcome = (
            f"with {'an' if words.gold[0] in 'aeiou' else 'a'} {words.gold} difference of {difference}"
            + margin * (pair.gold.kind == "equivalent")
            + f" ({n})"
        )
    if alike:
        compared = _rm_clause(pair, words.reward) + (f" with {compute}" if compute else "")
    else:
        compared = f"{pair.second.label}, whose labels or reward are not {pair.first.label}'s, "
        compared += f"has {compute}" if compute else "cannot be compared in RM score"
    return f"{compared}, {outcome}{_power(pair.gold, n_seeds, comparisons)}."


def _rm_clause(pair: Pair, reward: str) -> str:
    """The share of first's gain, or, where a share says nothing, the difference."""
    first, second = pair.first.label, pair.second.label
    ratio = paired_ratio(pair.second.rm_gain, pair.first.rm_gain)
    gained = (summary(pair.first.rm_gain).estimate or 0.0) > 0
    if gained and ratio.estimate is not None and 0 <= ratio.estimate < 10:
        low, high = (None if v is None else 100 * v for v in (ratio.low, ratio.high))
        share = _show(100 * ratio.estimate, low, high, " %")
        return f"{second} reaches {share} of {first}'s {reward.replace(' ', '-')} gain"
    below = (pair.rm.difference or 0.0) < 0
    rm = pair.rm.mirrored() if below else pair.rm
    where = "below" if below else "above"
    return f"{second} ends {_show(rm.difference, rm.low, rm.high)} {where} {first} in {reward}"


def _power(metric: MetricVerdict, n: int, comparisons: int) -> str:
    """What an open question would take, on the assumption that the difference is what it seems.

    No fewer seeds than the sign-flip test needs to reach .05 at all: its least p is 2 / 2^n, Holm's that times the
    number of comparisons.
    """
    if metric.kind != "inconclusive":
        return ""
    if tells_apart(metric.low, metric.high, metric.p):
        return f"; too many seeds disagree for a claim, {100 * SEED_SHARE:.0f} % and the mean have to agree"
    needed = more_seeds(Interval(metric.difference, metric.low, metric.high, n, "", 0.95))
    if needed is None or needed > 1000:
        return "; more than 1,000 more seeds for 80 % power"
    needed = max(needed, math.floor(math.log2(max(comparisons, 1) * 2 / SIGNIFICANT)) + 1 - n)
    about = needed if needed < 100 else round(needed, -1)
    return f"; about {about} more seed{'s' * (about != 1)} for 80 % power"


def failures(failed: Mapping[str, int] | None, n: int) -> str:
    """One sentence per arm with failures."""
    said = ""
    for label, k in (failed or {}).items():
        count = f"{k} of {n} runs" if k <= n else f"{k} run{'s' * (k != 1)}"
        counts = "counts with its starting score" if k == 1 else "count with their starting scores"
        said += f" {count} of {label} diverged or failed and {counts}." if k else ""
    return said


def _list(labels: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(labels[:-1]), labels[-1])))


def _show(
    estimate: float | None, low: float | None, high: float | None, unit: str = "", signed: bool = False
) -> str:
    """`78 % [70, 85]`: as many decimals as the interval's width and the side of 0 that it lies on need."""
    value = estimate or 0.0
    bounds = [v for v in (low, high) if v is not None]
    largest = max(abs(v) for v in (value, *bounds))
    least = 0 if unit == " %" or largest >= 100 else 1 if largest >= 10 else 2
    visible = [abs(v) for v in bounds if min(bounds) * max(bounds) > 0] if bounds else [abs(value)]
    half = (max(bounds) - min(bounds)) / 2 if bounds else 0.0
    if half > 1e-4 * largest:
        visible.append(half)
    needed = [math.ceil(-math.log10(v) - 0.05) for v in visible if v > 0]
    places = min(max(least, *needed, 0), least + 3)
    text = _number(value, places, signed) + unit
    return text + (f" [{', '.join(_number(v, places) for v in bounds)}]" if bounds else "")


def _number(value: float, places: int, signed: bool = False) -> str:
    text = f"{value:{'+' if signed else ''},.{places}f}"
    return text if text.strip("+-0.,") else f"{0:.{places}f}"  # neither -0.00 nor +0.00
