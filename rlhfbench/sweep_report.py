"""What is shown of a sweep: one column a beta, and which runs exploited their reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .comparison import Comparison
from .layout import Block, Names, Note, Sheet, counted, spelled
from .report import caption, cells_of
from .report_lines import failure_lines, kl_lines, names_of, unit_of
from .statistics import summary

if TYPE_CHECKING:
    from .sweeps import Sweep


def sweep_blocks(sweep: Sweep) -> list[Block]:
    """All that `sweep` shows on standard output but where the results lie."""
    comparison = sweep.comparison
    world = f"{comparison.task}, {comparison.policy} policy"
    shape = f"{counted(len(sweep.betas), 'beta')}, {counted(len(comparison.seeds), 'seed')}"
    first = comparison.labels[0]
    typed = spelled(first, comparison.typed.get(first, first))
    title = f"{sweep.algorithm} on {world}, {shape}"
    blocks: list[Block] = [Note(title, "bold")]
    if comparison.paired_seeds:
        blocks += [
            sweep_sheet(sweep),
            *([Note(f"Arms: {first} is {typed}; the others differ in beta.")] if typed else []),
        ]
        blocks += [Note(caption(comparison), "dim")]
    blocks += [Note(line, "red") for line in failure_lines(comparison)]
    if not names_of(comparison).one:
        blocks += [Note(line) for line in _hacked_runs(sweep.runs, names_of(comparison))]
    blocks += [Note(line, "yellow") for line in kl_lines(comparison)]
    blocks += [Note(f"Warning, {line}.", "yellow") for line in comparison.warnings]
    return blocks


def sweep_sheet(sweep: Sweep) -> Sheet:
    """One column a beta."""
    comparison = sweep.comparison
    labels = dict(zip(sweep.betas, comparison.labels, strict=True))
    names = names_of(comparison)
    gold, unit = names.gold, ", ref sd" if comparison.reward == "model" else ""
    arms = list(labels.values())
    rows = [
        (f"{gold} at the end", *cells_of([comparison.summary(a, "gold_score") for a in arms])),
        (f"{gold} at its peak", *cells_of([summary(_peaks(comparison, a)) for a in arms])),
        (
            f"{gold} of the reference",
            *cells_of([summary(comparison.references(a, "gold_score")) for a in arms]),
        ),
        ("KL to reference, nats", *cells_of([comparison.summary(a, "kl") for a in arms])),
        (f"reply length, {unit_of(comparison)}s", *cells_of([comparison.summary(a, "length") for a in arms])),
    ]
    if not names.one:
        scores = cells_of([comparison.summary(a, "rm_score") for a in arms])
        hacked = [[r["reward_hacking"] for r in sweep.runs if r["beta"] == beta] for beta in labels]
        rows.insert(0, (f"{names.score} at the end{unit}", *scores))
        rows.append(("reward hacking", *(f"{sum(found)} of {len(found)}" for found in hacked)))
    return Sheet(("beta", *(f"{beta:g}" for beta in labels)), rows)


def _peaks(comparison: Comparison, label: str) -> list[float]:
    runs = (r for r in comparison.runs[label] if r.seed in comparison.paired_seeds)
    found = ([p["gold_score"] for p in run.curve if p["gold_score"] is not None] for run in runs)
    return [max(values) for values in found if values]


def _hacked_runs(records: Sequence[Mapping[str, Any]], names: Names) -> Iterator[str]:
    for run in records:
        if run["reward_hacking"]:
            reason = names.in_text(run["reason"])
            yield f"beta {run['beta']:g}, seed {run['seed']} reward-hacks: {reason}."
    clean = [run for run in records if run["status"] == "done" and not run["reward_hacking"]]
    for beta in dict.fromkeys(run["beta"] for run in clean):
        mine = [run for run in clean if run["beta"] == beta]
        reason = names.in_text(mine[0]["reason"])
        runs = f"{counted(len(mine), 'run')} {'does' if len(mine) == 1 else 'do'} not reward-hack"
        yield f"beta {beta:g}: {runs}, e.g. seed {mine[0]['seed']}: {reason}."
