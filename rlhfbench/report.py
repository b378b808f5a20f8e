"""What is shown of a comparison: tables, notes, verdict. It arranges; it computes no statistic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .comparison import Comparison
from .hacking import kl_warnings, reward_hacking
from .layout import (
    Block,
    Names,
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
from .statistics import Interval, summary

SCORES = (
    ("KL to reference, nats", "kl"),
    ("entropy, nats", "entropy"),
    ("reply length, {}s", "length"),
)
WORK = (
    ("compute, {}FLOP", "flops"),
    ("  per reply, {}FLOP", "flops_per_reply"),
    ("tokens generated{}", "tokens_generated"),
    ("{giver} calls{}", "rm_calls"),
    ("labels{}", "labels"),
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
        blocks += [main_sheet(comparison), Note(caption(comparison), "dim"), phase_sheet(comparison)]
        blocks += _work_notes(comparison)
    else:
        blocks.append(Note("no seed has an outcome for every arm, so there is no table"))
    blocks += [Note(line, "dim") for line in fact_lines(comparison)]
    blocks += [Note(line, "red") for line in failure_lines(comparison)]
    blocks += [Note(line) for line in hacking_lines(comparison)]
    blocks += [Note(line, "yellow") for line in kl_lines(comparison)]
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
        reference = fixed(summary(comparison.references(labels[0], name)).estimate)
        rows.append((title, reference, *cells_of([comparison.summary(a, name) for a in labels])))
    rows += [
        (title.format(unit_of(comparison)), "", *cells_of([comparison.summary(a, name) for a in labels]))
        for title, name in SCORES
    ]
    rows += [_work_row(comparison, title, name) for title, name in WORK]
    rows.append(_runs_row(comparison))
    if not names_of(comparison).one:
        rows.append(_hacking_row(comparison))
    return Sheet(("", "reference", *map(heading, labels)), rows)


def names_of(comparison: Comparison) -> Names:
    """What gold and reward are called here."""
    return Names.of(comparison.gold, comparison.reward)


def _score_rows(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Reward and gold, or, where these are one, gold alone; what has no unit of its own is in the reference's sd."""
    if not names_of(comparison).one:
        sd = {"model": ", ref sd", "mixed": ", as each has it"}.get(comparison.reward, "")
        yield names_of(comparison).score + sd, "rm_score"
    units = {"judge": "judge score, ref sd", "verifier": "accuracy"}
    yield units.get(comparison.gold, "gold score"), "gold_score"


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
    found = comparison.summary(labels[0], "rm_score")
    parts = [_units(comparison)]
    if found is not None:
        brackets = (
            f"brackets: {percent(found.level, 0)} interval"
            if found.low is not None
            else "no interval under 5 seeds"
        )
        parts.append(f"{found.method[0].upper()}{found.method[1:]}; {brackets}, n = {found.n}.")
    for title, name in (*SCORES, *WORK):
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
    if comparison.gold == "judge":
        parts.append("The judge is a reward model trained on other pairs; the true reward is not known.")
    return " ".join(parts)


def _units(comparison: Comparison) -> str:
    right = "Accuracy: share of replies that the task's verifier calls right."
    if names_of(comparison).one:
        return f"{right} It is the reward, too."
    first = "RM score in standard deviations of the reference's scores, reference mean 0."
    if comparison.reward == "verifier":
        first = "Verifier score: the mean of what the verifier gives, as it is."
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


def fact_lines(comparison: Comparison) -> Iterator[str]:
    """What a reader has to know of the data, the first seed standing for the splits."""
    facts = comparison.facts
    if "pairs" in facts:
        skipped = f"; {facts['skipped_lines']}" if facts.get("skipped_lines") else ""
        yield f"Data: {facts['pairs']:,} usable pairs, {facts['prompts']:,} distinct prompts{skipped}."
        word = unit_of(comparison)
        share = facts.get("prompt_cut_share")  # not in what earlier versions stored
        prompts = "" if share is None else f"prompts cut from the left {percent(share)}, "
        if word != "word":
            yield f"Tokenizer: {facts['tokenizer']}."
        yield (
            f"Unknown {word}s {percent(facts['unknown_share'])} of reply {word}s, "
            f"replies cut {percent(facts['cut_share'])}, {prompts}"
            f"identical once cut {facts['identical_after_cut']:,} pairs."
        )
    if "problems" in facts:
        yield from _problem_lines(facts)
    if "pairs_per_part" in facts:
        parts = ", ".join(f"{_part(name)} {n:,}" for name, n in facts["pairs_per_part"].items())
        yield f"Split by {facts['split_by']}, anew for each seed; pairs: {parts}."
    if comparison.one_reward:
        yield from _reward_lines(comparison, facts)
    else:
        yield "The arms differ in labels or reward, so that their RM scores are not compared."
        for label in comparison.labels:
            own = ", ".join(f"{name}={value}" for name, value in comparison.chosen(label).items())
            facts_of_arm = comparison.arm_facts.get(label, {})
            yield f"{label}{f' ({own})' if own else ''}: {' '.join(_reward_lines(comparison, facts_of_arm))}"
    yield from comparison.gates["notes"]
    for name in comparison.gates["lifted"]:
        yield f"Gate {name} was lifted (--i-know {name}): without that the comparison would have been refused."


def _reward_lines(comparison: Comparison, facts: Mapping[str, Any]) -> Iterator[str]:
    """What the reward is, how good a model was while it was tuned, and how far it agrees with gold."""
    learnt = "rm_accuracy" in facts
    if "reward_model" in facts:  # not in what earlier versions stored
        accuracy = facts.get("rm_accuracy")
        told = f"; right on {percent(accuracy or 0)} of pairs put aside while it was tuned (first seed)"
        right = "" if accuracy is None else told
        yield f"{'RM' if learnt else 'Reward'}: {facts['reward_model']}{right}."
    if "rm_student" in facts:
        yield _student_line(facts["rm_student"])
    if "rm_filter" in facts:
        yield _filter_line(facts["rm_filter"])
    if facts.get("rm_gold_correlation") is not None:
        giver = "RM" if learnt else "Verifier"
        gold = names_of(comparison).gold
        yield (
            f"{giver} and {gold} correlate at {facts['rm_gold_correlation']:.2f} on replies of the reference "
            "(first seed)."
        )


def _student_line(found: Mapping[str, float]) -> str:
    return (
        f"Student: R2 {found['r2']:.2f} on replies of the reference put aside, orders {percent(found['agreement'])} "
        f"of pairs as its teacher; {found['flops_per_reply']:,.0f} FLOPs a reply for "
        f"{found['teacher_flops_per_reply']:,.0f} (first seed)."
    )


def _filter_line(found: Mapping[str, int]) -> str:
    kept = f"Filter: {found['kept']:,} of {found['pairs']:,} pairs kept, which cross-fitted models agree with"
    if "wrong" not in found:
        return f"{kept} (first seed)."
    left = found["wrong"] - found["wrong_kept"]
    return f"{kept}; of {found['wrong']:,} that gold contradicts, {left:,} were left out (first seed)."


def _problem_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    skipped = f"; {facts['skipped_lines']}" if facts["skipped_lines"] else ""
    alike = (
        f"; {facts['alike']:,} left out that the policy cannot tell from another" if facts["alike"] else ""
    )
    yield f"Data: {facts['problems']:,} usable problems{skipped}{alike}."
    yield (
        f"Unknown words {percent(facts['unknown_share'])} of prompt words, "
        f"prompts cut from the left {percent(facts['prompt_cut_share'])}."
    )
    parts = ", ".join(f"{_part(name)} {n:,}" for name, n in facts["problems_per_part"].items())
    yield f"Split anew for each seed; problems: {parts}."


def unit_of(comparison: Comparison) -> str:
    """What replies are made of: words, or a tokenizer's pieces."""
    return str(comparison.facts.get("unit", "word"))


def _part(name: str) -> str:
    return {"sft": "SFT", "rm": "RM and direct alignment", "rl": "RL"}.get(name, name)


def failure_lines(comparison: Comparison) -> Iterator[str]:
    """The runs that failed or could not begin, with their reasons; those of one arm with one reason share a line."""
    for label in comparison.labels:
        reasons: dict[str, list[int]] = {}
        for run in comparison.runs[label]:
            if run.status in ("done", "interrupted") and not run.message:
                continue
            reason = f"{run.status}{f' ({run.message})' if run.message else ''}"
            reasons.setdefault(reason, []).append(run.seed)
        for reason, seeds in reasons.items():
            yield f"{label}, seed{'s' * (len(seeds) > 1)} {listed([str(seed) for seed in seeds])}: {reason}"


def hacking_lines(comparison: Comparison) -> Iterator[str]:
    """For each arm that hacked its reward model the reason in the first run that did."""
    names = names_of(comparison)
    for label in [] if names.one else comparison.labels:
        for run in comparison.runs[label]:
            hacked, reason = reward_hacking(run.curve)
            if hacked:
                yield f"Reward hacking, {label}, e.g. seed {run.seed}: {names.in_text(reason)}."
                break


def kl_lines(comparison: Comparison) -> Iterator[str]:
    """How many runs of each arm passed the KL lines, and the first warning in full."""
    for label in comparison.labels:
        runs = [(run.seed, kl_warnings(run.curve)) for run in comparison.runs[label]]
        for index in range(2):
            passed = [(seed, lines[index]) for seed, lines in runs if len(lines) > index]
            if passed:
                seed, line = passed[0]
                yield f"KL monitor, {label}: {line} in seed {seed}; {len(passed)} of {len(runs)} runs."


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
