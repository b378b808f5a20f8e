"""A design as blocks for the terminal, and all that the architect knows as a skill file."""

from __future__ import annotations

from collections.abc import Iterator

from .architect import Design
from .architect_knowledge import DIAGNOSTICS, KL, SAFETY, SOURCES, STAGES, TARGETS
from .gates import GATES
from .layout import Block, Note, Sheet, fixed, percent, unit

EXTRAPOLATED = "Extrapolated: what the ledger counts for its own transformer, at your sizes; nothing was run."


def design_blocks(design: Design) -> Iterator[Block]:
    """The five parts, the price of each option, and the gates."""
    request = design.request
    work = request.workload
    yield Note(
        f"{request.target} ({TARGETS[request.target]}) with {size_text(work.parameters)} parameters,"
        f" {work.pairs:,} {'pairs' if request.learnt else 'problems'}",
        "bold",
    )
    parts = (
        ("1 stage", design.stage),
        ("2 source", f"{design.source}."),
        ("3 KL strategy", design.kl),
    )
    for name, text in parts:
        yield Note(text, lead=f"{name:16}")
    for number, (metric, order, rule) in enumerate(design.diagnostics):
        lead = f"{'4 diagnostics' if not number else '':16}"
        yield Note(f"{metric}: {order} (doctor: {rule}).", lead=lead)
    for number, line in enumerate(design.safety):
        yield Note(line, lead=f"{'5 safety gate' if not number else '':16}")
    scale, prefix = unit([option.flops for option in design.options])
    reply_scale, reply_prefix = unit([option.flops_per_reply for option in design.options])
    yield Sheet(
        ("option", f"{prefix}FLOP", "of the budget", f"{reply_prefix}FLOP a reply"),
        [
            (
                option.method + (" (chosen)" if option.method == design.method else ""),
                fixed(option.flops / scale, 1),
                percent(option.of_budget),
                fixed(option.flops_per_reply / reply_scale, 1),
            )
            for option in design.options
        ],
        "What each option costs to train and to serve",
    )
    yield Note(EXTRAPOLATED, "dim")
    if not design.fits:
        yield Note(f"No option fits the budget; {design.method} comes nearest.", "yellow")
    for gate in design.flags:
        yield Note(f"{gate.what}: {gate.why}. Do: {gate.instead}.", "yellow", lead=f"flagged {gate.name}  ")
    for gate in design.lifted:
        yield Note(f"{gate.what}: {gate.why}.", "red", lead=f"lifted {gate.name}  ")


def size_text(parameters: float) -> str:
    """As people write it.

    >>> size_text(7e9), size_text(1.5e9), size_text(350e6)
    ('7B', '1.5B', '350M')
    """
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if parameters >= scale:
            return f"{parameters / scale:g}{letter}"
    return f"{parameters:g}"


def skill() -> str:
    """The skill file: front matter, the questions, the five parts, the gates."""
    stages = [
        f"| {target} | {source} | {', '.join(stage.methods)} | {stage.why} |"
        for (target, source), stage in STAGES.items()
    ]
    watched = [
        f"| {kind} | {metric} | {order} | `{rule}` |"
        for kind, rows in DIAGNOSTICS.items()
        for metric, order, rule in rows
    ]
    gates = [
        f"- **{gate.kind}: {gate.what}** (`{gate.name}`). Because {gate.why}. Instead: {gate.instead}."
        for gate in GATES
    ]
    safety = [
        f"- {'' if kind == 'all' else f'{kind}: '}{line}" for kind, lines in SAFETY.items() for line in lines
    ]
    return "\n".join(
        [
            "---",
            "name: rlhf-architect",
            "description: Designs an RLHF pipeline from model size, target behaviour, source of judgement and"
            " budget, and"
            " refuses unsafe ones.",
            "version: 1.0.0",
            "phase: 9",
            "lesson: 9",
            "tags: [rl, rlhf, alignment, llm]",
            "---",
            "",
            "# RLHF architect",
            "",
            "Ask for four things: the size of the base model, the target, the source of judgement, the budget.",
            "",
            *(f"- target **{name}**: {text}" for name, text in TARGETS.items()),
            *(f"- source **{name}**: {text}" for name, text in SOURCES.items()),
            "",
            "Answer in five parts. `rlhfbench architect --size 7B --target alignment --source human --budget"
            " 1e21` does the"
            " same and prices every option.",
            "",
            "## 1 Stage",
            "",
            "Supervised fine-tuning, then the first of these that the budget allows:",
            "",
            "| target | source | methods | why |",
            "|---|---|---|---|",
            *stages,
            "",
            "## 2 Source",
            "",
            "Name who judges, how labels are checked (share of wrong ones, length bias), and which part is"
            " held out.",
            "",
            "## 3 KL strategy",
            "",
            *(f"- {kind}: {text}" for kind, text in KL.items()),
            "",
            "## 4 Diagnostics",
            "",
            "| method | watch | in order | rule of `rlhfbench doctor` |",
            "|---|---|---|---|",
            *watched,
            "",
            "## 5 Safety gate",
            "",
            *safety,
            "",
            "## Gates",
            "",
            "A refused plan is not designed; `--i-know GATE` lifts one gate and is recorded.",
            "",
            *gates,
            "",
        ]
    )
