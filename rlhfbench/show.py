"""What is shown of one run, of a reward model, of what there is to choose from, and of a conformance check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .hacking import kl_warnings, reward_hacking
from .layout import Block, Names, Note, Sheet, counted, fixed, heading, percent, sparkline, spelled, unit
from .records import Result
from .unheeded import unheeded

if TYPE_CHECKING:
    from .doctor import Diagnosis
    from .reward_report import RewardReport
    from .samples import Samples
    from .step_report import StepReport

EVALUATED = ("update", "flops", "rm_score", "gold_score", "kl", "entropy", "length")
SCORES = ("rm_score", "gold_score")
REPLIES = 20


def run_blocks(manifest: Mapping[str, Any], result: Result) -> list[Block]:
    """One stored run: its inputs, scores and diagnostics over updates, and replies side by side."""
    inputs = manifest["inputs"]
    names = Names.of(str(inputs.get("gold")), inputs.get("reward", "model"))
    label = str(inputs.get("label", "run"))
    message = f" ({result.message})" if result.message else ""
    policy = inputs.get("policy", "?")
    world = manifest.get("facts", {}).get("file") or inputs.get("task", "?")
    title = f"{label} on {world}, {policy} policy, seed {result.seed}: {result.status}{message}"
    blocks: list[Block] = [Note(title, "bold")]
    typed = spelled(label, str(manifest.get("typed", label)))
    blocks += [Note(f"Arm: {label} is {typed}.")] if typed else []
    config = inputs.get("config")
    if isinstance(config, dict):
        blocks.append(Note(", ".join(f"{name}={value}" for name, value in config.items()), "dim"))
    blocks += [Note(f"Note: {line}.", "yellow") for line in manifest.get("cautions", ())]
    if result.curve:
        blocks += [points_sheet(result, names), diagnostics_sheet(result)]
        hacked, reason = reward_hacking(result.curve)
        if not names.one:
            blocks.append(Note(f"Reward hacking: {'yes' if hacked else 'no'}; {names.in_text(reason)}."))
        blocks += [Note(f"KL monitor: {line}.", "yellow") for line in kl_warnings(result.curve)]
        lines = unheeded(inputs.get("config") or {}, manifest.get("facts", {}), [result])
        blocks += [Note(f"Warning: {line}.", "yellow") for line in lines]
    if result.replies:
        blocks.append(replies_sheet(result, label, names))
    return blocks


def points_sheet(result: Result, names: Names) -> Sheet:
    """The evaluations of a run, one row each."""
    scale, prefix = unit([p["flops"] for p in result.curve])
    shown = EVALUATED[2 + names.one :]
    scores = (names.score, names.gold)[names.one :]
    head = ("update", f"{prefix}FLOP", *scores, "KL", "entropy", "length")
    rows = [
        (
            f"{point['update']:,}",
            fixed(point["flops"] / scale, 2),
            *(fixed(point.get(name), 2) for name in shown),
        )
        for point in result.curve
    ]
    unit_of_score = "RM score in reference sd; " if names.giver == "RM" else ""
    return Sheet(head, rows, f"Evaluations ({unit_of_score}KL and entropy in nats)")


def diagnostics_sheet(result: Result) -> Sheet:
    """What the algorithm said of itself, each as a curve over the run; a point is the mean since the one before."""
    evaluated = {*EVALUATED, "gold_se"}
    names = dict.fromkeys(name for point in result.curve for name in point if name not in evaluated)
    rows = []
    for name in names:
        values = [point.get(name) for point in result.curve]
        known = [v for v in values if v is not None]
        ends = (known[-1], min(known), max(known)) if known else ()
        rows.append((name, sparkline(values), *(f"{v:.3g}" for v in ends)))
    head = ("diagnostic", "over the run", "last", "lowest", "highest")
    return Sheet(head, [row for row in rows if len(row) == len(head)], "Diagnostics")


def replies_sheet(result: Result, label: str, names: Names) -> Sheet:
    """Replies of the reference and of the arm to the same prompts, with scores."""

    def cell(row: Mapping[str, Any], name: str) -> str:
        called = list(zip((names.giver, names.gold), SCORES, strict=True))[names.one :] + [("harm", "harm")]
        scores = [(word, row.get(f"{name}_{kind}")) for word, kind in called]
        shown = ", ".join(
            f"{word} {fixed(value)}" for word, value in scores if isinstance(value, int | float)
        )
        return f"{row[name]}\n({shown})" if shown else str(row[name])

    rows = [(row["prompt"], cell(row, "reference"), cell(row, "reply")) for row in result.replies[:REPLIES]]
    return Sheet(("prompt", "reference", label), rows, "Replies", prose=True)


# --- samples -------------------------------------------------------------------------------------------------------


def samples_blocks(samples: Samples) -> list[Block]:
    """Prompt by prompt the replies of reference and arms, one below the other, each behind its scores."""
    called = Names.of(samples.gold, samples.reward)
    told_of_harm = any(reply.harm is not None for reply in samples.reference)
    heads = [f"{name:>6}" for name in ((called.giver, called.gold)[called.one :] + ("harm",) * told_of_harm)]
    title = (
        f"{counted(len(samples.prompts), 'evaluation prompt')} of {samples.task}, {samples.policy} policy, "
        f"seed {samples.seed}: replies of reference and arms, drawn with the same uniforms"
    )
    blocks: list[Block] = [Note(title, "bold"), Note(_units(samples, told_of_harm), "dim")]
    blocks += [Note(f"{name}: {arm.note}.", "yellow") for name, arm in samples.arms.items() if arm.note]
    told = ((name, spelled(name, arm.typed or name)) for name, arm in samples.arms.items())
    typed = [f"{name} is {text}" for name, text in told if text]
    blocks += [Note(f"Arms: {'; '.join(typed)}.", "dim")] if typed else []
    names = ["reference", *map(heading, samples.arms)]
    wide = max(map(len, names))
    for i, prompt in enumerate(samples.prompts):
        blocks += [Note(""), Note(prompt or "(empty)", "bold", lead=f"prompt {i + 1}  ")]
        blocks.append(Note(f"{'':{wide}} {' '.join(heads)}", "dim", whole=True))
        replies = [samples.reference[i], *(arm.replies[i] for arm in samples.arms.values())]
        for name, reply in zip(names, replies, strict=True):
            values = (reply.rm_score, reply.gold_score, reply.harm) if reply else (None,) * 3
            shown = values[called.one :][: len(heads)]
            cells = [f"{fixed(value):>{len(head)}}" for value, head in zip(shown, heads, strict=True)]
            text = "(none kept)" if reply is None else reply.text or "(empty)"
            blocks.append(Note(text, lead=f"{name:{wide}} {' '.join(cells)}  "))
    return blocks


def _units(samples: Samples, told_of_harm: bool) -> str:
    """What the scores beside replies are, and whose."""
    sd = "in standard deviations of the reference's scores, reference mean 0"
    units = {
        "model": f"RM score {sd}",
        "mixed": f"Reward: an RM's {sd}, a verifier's as it is",
    }.get(samples.reward, "A verifier's scores as they are")
    if samples.gold == "judge":
        units += "; so is the judge's" if samples.reward == "model" else f", the judge's {sd}"
    if told_of_harm:
        units += "; harm is the true one, above 0 a reply is unsafe"
    if not samples.one_reward:
        units += ". The arms differ in labels or reward: each is scored by its own, the reference by none"
    return f"{units}."


# --- reward model --------------------------------------------------------------------------------------------------


def reward_blocks(report: RewardReport, source: str) -> list[Block]:
    """Held-out quality of a reward model, and the words that weigh most."""
    rows = [
        ("accuracy", f"{percent(report.accuracy)} [{100 * report.low:.1f}, {100 * report.high:.1f}]"),
        ("'the longer one wins'", f"{percent(report.length_rule_accuracy)}"),
    ]
    if report.matched_length_accuracy is not None:
        n = report.matched_length_pairs
        rows.append(("accuracy, equal lengths", f"{percent(report.matched_length_accuracy)} (n = {n:,})"))
    if report.gold_accuracy is not None:
        rows.append(("order by gold", f"{percent(report.gold_accuracy)}"))
    rows += [
        ("log loss, nats", f"{fixed(report.log_loss, 3)} (chance 0.693)"),
        ("calibration error", fixed(report.ece, 3)),
    ]
    title = f"Reward model on {source}: {report.pairs:,} pairs to train on, {report.held_out:,} held out"
    blocks: list[Block] = [
        Note(title, "bold"),
        Sheet(("held-out pairs", "value"), rows),
        Note(
            f"Held out: {report.split}. Brackets: 95 % Wilson interval, n = {report.held_out:,}. Equal scores count "
            "half. Calibration error: expected, 10 bins of the probability of the preferred reply.",
            "dim",
        ),
    ]
    if report.skipped:
        blocks.append(Note(report.skipped, "yellow"))
    blocks += [Note(note) for note in report.notes]
    return [*blocks, words_sheet(report)] if report.positive or report.negative else blocks


def words_sheet(report: RewardReport) -> Sheet:
    """The words that weigh most for and against a reply."""
    longest = max(len(report.positive), len(report.negative))
    rows = []
    for i in range(longest):
        cells: list[str] = []
        for found in (report.positive, report.negative):
            cells += [_short(found[i][0]), f"{found[i][1]:+.2f}"] if i < len(found) else ["", ""]
        rows.append((str(i + 1), *cells))
    return Sheet(
        ("", "for", "weight", "against", "weight"), rows, "Words that weigh most (log-odds an occurrence)"
    )


def step_blocks(report: StepReport, source: str) -> list[Block]:
    """Held-out quality of a process reward model, beside an outcome reward model."""

    def share(value: float | None, low: float | None = None, high: float | None = None) -> str:
        if value is None:
            return "-"
        return fixed(value, 3) + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")

    rows = [
        ("step AUC", share(report.step_auc, report.step_auc_low, report.step_auc_high)),
        (
            "first error found",
            f"{percent(report.first_error_accuracy)} [{100 * report.first_error_low:.1f},"
            f" {100 * report.first_error_high:.1f}]",
        ),
        ("  by the most frequent answer", percent(report.first_error_baseline)),
        *((f"solution AUC, {name}", share(value)) for name, value in report.chain_auc.items()),
    ]
    chosen = ", chosen on solutions trained on" if report.best_of is None else ""
    title = (
        f"Process reward model on {source}: {report.steps:,} labelled steps of {report.chains:,} solutions to train"
        f" on, {report.held_out_steps:,} of {report.held_out_chains:,} held out"
    )
    return [
        Note(title, "bold"),
        Sheet(("held out", "value"), rows),
        Note(
            f"Held out: {report.split}. Brackets: 95 %, of the AUC by bootstrap over solutions. A step is called wrong"
            f" below a probability of {fixed(report.threshold, 2)}{chosen}. Solutions, right or"
            " not: by the least, the product, the last of their steps' probabilities, and by a reward model that was"
            " trained on whole solutions (outcome).",
            "dim",
        ),
        *_best_of(report),
        *([Note(report.skipped, "yellow")] if report.skipped else []),
    ]


def _best_of(report: StepReport) -> list[Block]:
    """How often the best of so many replies is right, by what chooses it."""
    if report.best_of is None:
        return []
    rows = [(name, *map(percent, shares.values())) for name, shares in report.best_of.items()]
    ns = next(iter(report.best_of.values()))
    return [Sheet(("chosen by", *ns), rows, "Right answers among the best of n replies of the reference")]


def _short(word: str, most: int = 20) -> str:
    return word if len(word) <= most else word[: most - 1] + "…"


# --- doctor --------------------------------------------------------------------------------------------------------


def doctor_blocks(diagnoses: Sequence[Diagnosis]) -> Iterator[Block]:
    """Log by log what was found; what a finding means and what to try stands where it is met first."""
    explained: set[str] = set()
    for diagnosis in diagnoses:
        log = diagnosis.log
        writer = {"trl": ", TRL's names", "openrlhf": ", OpenRLHF's names"}.get(log.writer, "")
        yield Note(f"{log.source}: {counted(len(log.steps), 'point')}{writer}", "bold", whole=True)
        for finding in diagnosis.findings:
            yield Note(finding.saw + ".", "red", lead=f"{finding.rule}  ", indent=2)
            if finding.rule not in explained:
                yield Note(finding.means, lead="means  ", indent=4)
                yield Note(finding.advice, lead="try    ", indent=4)
                yield Note(f"see    {finding.link}", "dim", indent=4, whole=True)
            explained.add(finding.rule)
        found = counted(len(diagnosis.findings), "finding") if diagnosis.findings else "nothing found"
        judged = f"{found}; {counted(len(diagnosis.judged), 'rule')} judged"
        yield Note(f"{judged}.", "" if diagnosis.findings else "green", indent=2)
        if len(diagnoses) == 1 and diagnosis.not_judged:
            missing = (f"{name} ({', '.join(metrics)})" for name, metrics in diagnosis.not_judged.items())
            yield Note(f"Not judged, for want of values: {', '.join(missing)}.", "dim", indent=2)
