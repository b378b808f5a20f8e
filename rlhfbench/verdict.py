"""Who is better: for each metric of two arms a claim, an equivalence or neither; for all arms a kind and a sentence.

Everything reads "second arm against the first": `difference` is second minus first in the order given, the ratio of
FLOPs is second over first, the text has the second arm as its subject. With more than two arms the leader stands for
the second and the runner-up for the first. `better` always names the winner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .claims import (
    ArmScores,
    Contender,
    Kind,
    MetricVerdict,
    Pair,
    Pairs,
    all_pairs,
    beats,
    metric_verdict,
    oriented,
)
from .statistics import Interval, summary
from .verdict_text import Words, details, failures, finding

__all__ = ["ArmScores", "MetricVerdict", "Verdict", "metric_verdict", "verdict"]


NOT_COMPARED = MetricVerdict("no_claim")
"""RM scores of arms whose reward models differ."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on all arms; `better` is None unless `kind` is "better". `flops` is the ratio of FLOPs."""

    kind: Kind
    better: str | None
    text: str
    rm_score: MetricVerdict
    gold_score: MetricVerdict
    flops: Interval | None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: numbers, strings and None."""
        f = self.flops
        return {
            "kind": self.kind,
            "better": self.better,
            "text": self.text,
            "rm_score": self.rm_score.as_dict(),
            "gold_score": self.gold_score.as_dict(),
            "flops": {
                "ratio": f and f.estimate,
                "low": f and f.low,
                "high": f and f.high,
            },
        }


def verdict(
    arms: Mapping[str, ArmScores],
    *,
    gold: str = "exact",
    reward: str = "model",
    failed: Mapping[str, int] | None = None,
) -> Verdict:
    """Compare arms that ran on the same seeds.

    Parameters
    ----------
    arms : mapping label -> ArmScores
        All of the same n.
    gold : {"exact", "judge", "verifier"}
        What `gold_score` is: the known reward, a judge's score, or the accuracy (named so in the text).
    reward : {"model", "verifier", "gold", "mixed"}
        What `rm_score` is: a trained model's score, a verifier's, gold itself, or one or the other (named so too).
    failed : mapping label -> int, optional
        Runs that diverged or failed and count with their starting score; the text names them.

    Returns
    -------
    Verdict
        Two arms: `better` where gold has a winner and RM score does not name the other, `split` where it does, else as
        gold says. More arms: all pairs with Holm's correction, `better` beats every other arm on gold, `split` if
        one of those beats it on RM score, `equivalent` if all pairs are; the metrics then describe the leader against
        the runner-up, which is the best arm that the leader was not told apart from, if there is one.
    """
    table = {label: Contender.of(label, scores) for label, scores in arms.items()}
    sizes = {arm.rm.size for arm in table.values()}
    if len(sizes) > 1:
        raise ValueError(f"arms have to be paired by seed, got {sorted(sizes)} seeds")
    n = sizes.pop() if sizes else 0
    words = Words.of(gold, reward)
    if len(table) < 2:
        ran = f"only {next(iter(table))} was run" if table else "nothing was run"
        text = f"No claim is possible: {ran}, there is nothing to compare (n = {n}).{failures(failed, n)}"
        return Verdict("no_claim", None, text, MetricVerdict("no_claim"), MetricVerdict("no_claim"), None)

    rm = all_pairs({label: (arm.rm, arm.rm_gain) for label, arm in table.items()})
    rm |= {pair: NOT_COMPARED for pair in rm if table[pair[0]].reward != table[pair[1]].reward}
    golds = all_pairs({label: (arm.gold, arm.gold_gain) for label, arm in table.items()})
    winner = next((a for a in table if all(beats(golds, a, b) for b in table if b != a)), None)
    rivals = [b for b in table if winner and b != winner and beats(rm, b, winner)]
    kinds = {metric.kind for metric in golds.values()}
    kind: Kind = "inconclusive"
    if winner:
        kind = "split" if rivals else "better"
    elif len(kinds) == 1 and "better" not in kinds:
        kind = kinds.pop()
    first, second = table if len(table) == 2 else _runner_up_and_leader(table, golds, winner)
    pair = Pair(table[first], table[second], oriented(rm, first, second), oriented(golds, first, second))
    head = finding(kind, pair, words, list(table), golds, winner, rivals)
    text = head + details(pair, words, rivals, len(golds)) + failures(failed, n)
    return Verdict(kind, winner if kind == "better" else None, text, pair.rm, pair.gold, pair.flops)


def _runner_up_and_leader(
    table: Mapping[str, Contender], golds: Pairs, winner: str | None
) -> tuple[str, str]:
    """The leader has won, or else the highest IQM of gold; see `verdict` for the runner-up."""
    level = {label: summary(arm.gold).estimate or 0.0 for label, arm in table.items()}
    leader = winner or max(table, key=lambda label: level[label])
    others = [label for label in table if label != leader]
    return max(others, key=lambda label: (not beats(golds, leader, label), level[label])), leader
