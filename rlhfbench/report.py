"""What is shown of a comparison: tables, notes, verdict. It arranges; it computes no statistic."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from .comparison import Comparison
from .hacking import reward_hacking
from .layout import (
    Block,
    Note,
    Sheet,
    counted,
    decimals,
    fixed,
    heading,
    interval,
    listed,
    percent,
    unit,
)
from .report_lines import (
    arm_lines,
    distance_lines,
    fact_lines,
    failure_lines,
    hacking_lines,
    kl_lines,
    names_of,
    unit_of,
)
from .statistics import Interval, summary

SCORES = (
    ("KL to reference, nats", "kl"),
    ("entropy, nats", "entropy"),
    ("reply length, {}s", "length"),
)
SAFETY_TITLES = {
    "helpfulness": "helpful, ordinary",
    "over_refusal_rate": "refusal rate, ordinary",
    "harm_rate": "harm rate, red team",
    "refusal_rate": "refusal rate, red team",
    "cost": "cost, ref sd",
}
WORK = (
    ("compute, {}FLOP", "flops"),
    ("  per reply, {}FLOP", "flops_per_reply"),
    ("tokens generated{}", "tokens_generated"),
    ("{giver} calls{}", "rm_calls"),
    ("labels{}", "labels"),
    ("label cost{}", "label_cost"),
    ("CPU, s", "cpu_seconds"),
)
PHASES = {
    "rm_train": "RM training",
    "rollout": "rollouts",
    "ref": "reference",
    "rm_score": "RM scores",
    "critic": "values",
    "update": "updates",
    "serve": "serving",
}
NOT_CHARGED = {"sft": "(SFT, shared)", "eval": "(evaluation)"}


def comparison_blocks(comparison: Comparison, *, quick: bool = False) -> list[Block]:
    """All that `compare` shows on standard output but where the results lie."""
    blocks: list[Block] = [Note(_title(comparison), "bold")]
    if quick:
        blocks.append(Note("--quick: a smoke test, not evidence", "bold yellow"))
    if comparison.paired_seeds:
        blocks += [
            main_sheet(comparison),
            *map(Note, arm_lines(comparison)),
            Note(caption(comparison), "dim"),
            phase_sheet(comparison),
        ]
        blocks += _work_notes(comparison)
    else:
        blocks.append(Note("no seed has an outcome for every arm, so there is no table"))
    blocks += [Note(line, "dim") for line in fact_lines(comparison)]
    blocks += [Note(line, "red") for line in failure_lines(comparison)]
    blocks += [Note(line) for line in hacking_lines(comparison)]
    blocks += [Note(line, "yellow") for line in kl_lines(comparison)]
    blocks += [Note(f"Warning, {line}.", "yellow") for line in comparison.warnings]
    blocks += [Note(line, "dim") for line in distance_lines(comparison)]
    if comparison.paired_seeds and len(comparison.labels) > 1:
        blocks += [Note(""), Note(f"Verdict: {comparison.verdict().text}", "bold")]
    return blocks


def _title(comparison: Comparison) -> str:
    n, wanted = len(comparison.paired_seeds), len(comparison.seeds)
    seeds = f"{'' if n == wanted else f'{n:,} of '}{counted(wanted, 'paired seed')}"
    arms = " against ".join(comparison.labels)
    return f"{arms} on {comparison.task}, {comparison.policy} policy, {seeds}"


def main_sheet(comparison: Comparison) -> Sheet:
    """One column an arm, one row a quantity, with intervals."""
    labels = comparison.labels
    rows = []
    for title, name in _score_rows(comparison):
        starts = comparison.references(labels[0], name)
        reference = summary(starts).estimate if comparison.one_scale(name) else None
        rows.append((title, fixed(reference), *cells_of([comparison.summary(a, name) for a in labels])))
    rows += [
        (title.format(unit_of(comparison)), "", *cells_of([comparison.summary(a, name) for a in labels]))
        for title, name in SCORES
    ]
    rows += [_work_row(comparison, title, name) for title, name in WORK if _tells(comparison, name)]
    rows.append(_runs_row(comparison))
    if not names_of(comparison).one:
        rows.append(_hacking_row(comparison))
    return Sheet(("", "reference", *map(heading, labels)), rows)


def _score_rows(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Reward and gold, or, where these are one, gold alone; what has no unit of its own is in the reference's sd."""
    if not names_of(comparison).one:
        sd = {"model": ", ref sd", "mixed": ", as each has it"}.get(comparison.reward, "")
        yield names_of(comparison).score + sd, "rm_score"
    units = {"judge": "judge score, ref sd", "verifier": "accuracy"}
    yield units.get(comparison.gold, "gold score"), "gold_score"
    if comparison.told_of_safety:
        yield from ((title, name) for name, title in SAFETY_TITLES.items())


def _tells(comparison: Comparison, name: str) -> bool:
    """Whether a row of work says something new: labels at one price each are their own cost."""
    runs = itertools.chain.from_iterable(comparison.runs.values())
    return name != "label_cost" or any(r.compute[name] != r.compute["labels"] for r in runs)


def _work_row(comparison: Comparison, title: str, name: str) -> tuple[str, ...]:
    """A row of counted work, in a unit that suits the largest; each cell has three significant digits."""
    found = [comparison.summary(label, name) for label in comparison.labels]
    scale, prefix = unit([f.estimate for f in found if f], 1e3 if "FLOP" in title else 1e5)
    mark = prefix if "FLOP" in title or not prefix else f", {prefix}"
    title = title.format(mark, giver=names_of(comparison).giver)
    return (title, "", *(cells_of([f], None, scale)[0] for f in found))


def cells_of(found: Sequence[Interval | None], digits: int | None = 2, scale: float = 1.0) -> list[str]:
    """Intervals with the same decimals; without `digits` as many as give the largest three significant ones."""
    known = [f.estimate / scale for f in found if f is not None and f.estimate is not None]
    if digits is None:
        digits = 0 if scale == 1.0 and all(v == round(v) for v in known) else decimals(known)
    return [interval(f.estimate, f.low, f.high, digits, scale) if f is not None else "-" for f in found]


def _runs_row(comparison: Comparison) -> tuple[str, ...]:
    wanted = len(comparison.seeds)
    cells = [
        f"{sum(r.status == 'done' for r in comparison.runs[label])} of {wanted}"
        for label in comparison.labels
    ]
    return ("runs done", "", *cells)


def _hacking_row(comparison: Comparison) -> tuple[str, ...]:
    cells = []
    for label in comparison.labels:
        runs = [r for r in comparison.runs[label] if r.status == "done"]
        cells.append(f"{sum(reward_hacking(r.curve)[0] for r in runs)} of {len(runs)}")
    return ("reward hacking", "", *cells)


def caption(comparison: Comparison) -> str:
    """Units, the intervals' method, level and n, and what is charged to whom."""
    labels = comparison.labels
    found = comparison.summary(labels[0], "gold_score")
    parts = [_units(comparison)]
    if found is not None:
        brackets = (
            f"brackets: {percent(found.level, 0)} interval"
            if found.low is not None
            else "no interval under 5 seeds"
        )
        parts.append(f"{found.method[0].upper()}{found.method[1:]}; {brackets}, n = {found.n}.")
    for title, name in ((names_of(comparison).score, "rm_score"), *SCORES, *WORK):
        fewer = [
            f"{label} {s.n}"
            for label in labels
            if (s := comparison.summary(label, name)) and found and s.n < found.n
        ]
        if fewer:
            parts.append(f"{title.partition(',')[0].strip()}: n is smaller, {', '.join(fewer)}.")
    bounded = [label for label in labels if comparison.summary(label, "entropy") is None]
    if bounded and comparison.paired_seeds:
        parts.append(f"The KL of {', '.join(bounded)} is an upper bound: what is served is no policy.")
    if comparison.told_of_safety:
        parts.append(
            "Red-team prompts should be declined: a reply to one is unsafe, refuses, or evades. Helpful: gold's"
            " helpfulness alone. Cost: the cost model's mean on all prompts; above 0 a reply is unsafe."
        )
    if comparison.gold == "judge":
        parts.append("The judge is a reward model trained on other pairs; the true reward is not known.")
    return " ".join(parts)


def _units(comparison: Comparison) -> str:
    right = "Accuracy: share of replies that the task's verifier calls right."
    if names_of(comparison).one:
        return f"{right} It is the reward, too."
    sd = "in standard deviations of the reference's scores, reference mean 0"
    first = {
        "verifier": "Verifier score: the mean of what the verifier gives, as it is.",
        "mixed": f"Reward: an RM's {sd}; a verifier's as it is.",
    }.get(comparison.reward, f"RM score {sd}.")
    return first + (f" {right}" if comparison.gold == "verifier" else "")


def phase_sheet(comparison: Comparison) -> Sheet:
    """Where the FLOPs went: means by phase and their share of what was charged."""
    labels = comparison.labels
    phases = {label: comparison.by_phase(label) for label in labels}
    totals = {label: sum(phases[label].get(name, 0.0) for name in PHASES) for label in labels}
    scale, prefix = unit(list(totals.values()))

    def cells(name: str, share: bool) -> list[str]:
        found = [phases[label].get(name, 0.0) for label in labels]
        shares = [
            f" ({100 * v / totals[a]:3.0f} %)" if share and totals[a] else ""
            for a, v in zip(labels, found, strict=True)
        ]
        return [f"{fixed(v / scale, 3)}{text}" if v else "-" for v, text in zip(found, shares, strict=True)]

    used = [name for name in (*PHASES, *NOT_CHARGED) if any(phases[label].get(name) for label in labels)]
    rows = [(PHASES[name], *cells(name, True)) for name in used if name in PHASES]
    rows.append(("charged", *(fixed(totals[label] / scale, 3) for label in labels)))
    rows += [(NOT_CHARGED[name], *cells(name, False)) for name in used if name in NOT_CHARGED]
    return Sheet(
        ("phase", *map(heading, labels)),
        rows,
        f"Where the compute went ({prefix}FLOP, mean of runs)",
    )


def _work_notes(comparison: Comparison) -> Iterator[Note]:
    needing = [label for label in comparison.labels if comparison.by_phase(label).get("rm_train")]
    compiled = max(r.compute["jit_seconds"] or 0.0 for runs in comparison.runs.values() for r in runs)
    charged = f"RM training goes to {listed(needing)}, as needed there" if needing else "no arm needs an RM"
    if comparison.reward != "model":
        calls = "a verifier's calls are counted, but cost no FLOPs"
        charged = f"{charged}; {calls}" if needing else calls
    yield Note(
        f"Charged: all work of an arm; {charged}. SFT is shared and charged to none; evaluation "
        f"is never charged, nor is compiling (at most {compiled:.1f} s in the sessions of these runs).",
        "dim",
    )


def place_lines(comparison: Comparison) -> Iterator[Note]:
    """Where the results lie and how to look into one."""
    total = sum(len(runs) for runs in comparison.runs.values())
    yield Note("")
    yield Note(f"runs: {comparison.folder} ({comparison.reused} of {total} reused)", whole=True)
    if comparison.example:
        yield Note(f"see one: rlhfbench show {_quoted(comparison.example)}", whole=True)
        yield Note(f"read replies: rlhfbench samples {_quoted(comparison.example)}", whole=True)


def _quoted(text: str) -> str:
    from shlex import quote

    return quote(text)
