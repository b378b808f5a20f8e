"""What `benchmarks.compare` shows: one table, what has come and gone, and one sentence. It computes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from .ab_changes import Changes
from .ab_statistics import CONFIDENCE, Answer, Finding

STYLES = {Answer.REGRESSED: "bold red", Answer.IMPROVED: "green", Answer.UNMEASURED: "yellow"}


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def table(findings: Sequence[Finding]) -> Table:
    """One line a benchmark; fits 80 columns."""
    result = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    result.add_column("benchmark", overflow="fold")
    for column in ("base", "head/base", f"{CONFIDENCE:.0%} interval", "gate"):
        result.add_column(column, justify="right", no_wrap=True)
    result.add_column("answer", no_wrap=True)
    for row in findings:
        answer = Text(str(row.answer), style=STYLES.get(row.answer, ""))
        interval = f"{row.low:.3f} {row.high:.3f}"
        gate = f"{row.gate:.0%}"
        result.add_row(Text(row.name), duration(row.base), f"{row.ratio:.3f}", interval, gate, answer)
    return result


def came_and_went(changes: Changes) -> Iterator[str]:
    """Benchmarks that could not be timed on both sides, one line each."""
    for old in changes.removed:
        yield f"removed: {old}" + (f" (now {changes.renamed[old]}?)" if old in changes.renamed else "")
    for new in changes.new:
        yield f"new: {new}"
    for name in changes.nowhere:
        yield f"on neither side: {name}"
    for name, why in changes.failed.items():
        yield f"does not run: {name}: {why}"


def sentence(findings: Sequence[Finding], changes: Changes) -> str:
    """The answer in one line, the names that matter first."""
    regressed = ", ".join(row.name for row in findings if row.answer is Answer.REGRESSED)
    counts = Counter(row.answer for row in findings)
    parts = [f"{counts[answer]} {answer}" for answer in Answer if counts[answer]]
    parts += [f"{len(names)} {what}" for what, names in changes.untimed() if names]
    return (f"slower: {regressed}. " if regressed else "") + ", ".join(parts)
