"""What came to nothing: a constitution without effect, a budget not spent, a limit that limited nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .records import Result


def unheeded(config: Mapping[str, Any], facts: Mapping[str, Any], runs: Sequence[Result]) -> Iterator[str]:
    """One line for each such thing in the runs of one arm.

    Parameters
    ----------
    config : mapping
        The arm's hyper-parameters.
    facts : mapping
        What is known of its world.
    runs : sequence of Result
    """
    yield from _labels(facts.get("labels", {}))
    violated = [values for run in runs if (values := _values(run, "revision/violated"))]
    if violated and not any(map(any, violated)):
        yield "no reply violates a rule of the constitution, so that nothing was revised"
    if config.get("cost_limit") is not None:
        yield from _limit(config["cost_limit"], runs)


def _labels(labels: Mapping[str, Any]) -> Iterator[str]:
    if not labels.get("told_apart", True):  # not in what earlier versions stored
        yield (
            f"no rule of constitution {labels['constitution']} tells the replies of any pair apart, so that AI labels"
            " are chance (first seed)"
        )
    budget = labels.get("budget")
    if budget is not None and budget - labels["cost"] >= labels["cost"] / labels["pairs"] * (1 + 1e-9):
        yield (
            f"label_budget {budget:g} was not spent: there are {labels['pairs']:,} pairs, at {labels['cost']:g}"
            " (first seed)"
        )


def _limit(limit: float, runs: Sequence[Result]) -> Iterator[str]:
    """Whether the mean cost of training replies stayed on one side of its limit."""
    found = [costs for run in runs if (costs := _values(run, "objective/cost"))]
    above = [min(costs) for costs in found if min(costs) > limit]
    if above:
        share = f"in {len(above)} of {len(found)} runs"
        yield f"mean cost never came down to cost_limit {limit:g} {share}: the lowest there is {min(above):.3g}"
    below = [max(costs) for costs in found if max(costs) < limit]
    if below:
        share = f"in {len(below)} of {len(found)} runs"
        yield f"mean cost stayed below cost_limit {limit:g} {share}: the highest there is {max(below):.3g}"


def _values(run: Result, name: str) -> list[float]:
    return [point[name] for point in run.curve if point.get(name) is not None]
