"""What is shown of a constitution held against the labels of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .layout import Block, Note, Sheet, counted, percent

if TYPE_CHECKING:
    from .constitution_report import ConstitutionReport


def constitution_blocks(report: ConstitutionReport, source: str) -> list[Block]:
    """How far a constitution agrees with a file's labels, whole and rule by rule."""
    brackets = f" [{100 * report.low:.1f}, {100 * report.high:.1f}]"
    matched = report.matched_length_accuracy
    rows = [
        ("agrees with the labels", percent(report.accuracy) + brackets),
        ("  at matched length", "-" if matched is None else percent(matched)),
        ("the longer one wins", percent(report.length_rule_accuracy)),
    ]
    rules = [
        (
            rule.name,
            rule.kind,
            f"{rule.weight:g}",
            percent(rule.told / report.pairs),
            "-" if rule.accuracy is None else percent(rule.accuracy),
        )
        for rule in report.rules
    ]
    return [
        Note(f"Constitution {report.constitution} on {counted(report.pairs, 'pair')} of {source}", "bold"),
        Sheet(("of all pairs", "value"), rows),
        Sheet(("rule", "kind", "weight", "tells apart", "agrees there"), rules),
        Note(
            f"Brackets: 95 %. Equal scores, here {report.ties:,}, count half. At matched length: the "
            f"{counted(report.matched_length_pairs, 'pair')} whose lengths differ by at most a tenth.",
            "dim",
        ),
        *([Note(report.skipped, "yellow")] if report.skipped else []),
    ]
