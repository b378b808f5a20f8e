"""Is HEAD slower than BASE? Builds both revisions' kernels, times them side by side, and says what can be said.

    python -m benchmarks.compare main                  # the working tree against main
    python -m benchmarks.compare v0.1 HEAD -k entropy
    python -m benchmarks.compare main . --json out.json

Exit codes: 0 unchanged or improved, 3 regressed or removed, 4 could not measure, 2 usage. docs/benchmarking.md says how
it measures and what the answers mean.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from . import ab_launch, ab_report, ab_statistics
from .ab_changes import Changes, changes
from .ab_launch import CouldNotMeasure, Side
from .ab_statistics import Answer, Finding

OK, USAGE, REGRESSED, COULD_NOT_MEASURE = 0, 2, 3, 4
AGAIN = (Answer.REGRESSED, Answer.UNMEASURED)


class Parser(argparse.ArgumentParser):
    """Says what was wrong in one line; --help has the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}\n")


def note(message: str) -> None:
    """Progress goes to standard error."""
    print(message, file=sys.stderr, flush=True)


def parser() -> Parser:
    """The command line."""
    result = Parser(
        prog="python -m benchmarks.compare",
        description="Compare the speed of two revisions' kernels.",
        epilog="exit codes: 0 unchanged or improved, 2 usage, 3 regressed, 4 could not measure",
    )
    result.add_argument("base", metavar="BASE", help="a git revision, or the root of another checkout")
    result.add_argument(
        "head", metavar="HEAD", nargs="?", default=".", help="the same; default: the working tree"
    )
    result.add_argument("-k", metavar="PATTERN", default="", help="only benchmarks whose name contains this")
    result.add_argument(
        "--launches", type=int, default=10, help="processes a side, at least 8 (default: %(default)s)"
    )
    result.add_argument("--rounds", type=int, default=10, help="timings a launch (default: %(default)s)")
    result.add_argument(
        "--tier",
        type=float,
        default=100 * ab_statistics.TIER,
        help="lowest gate in %% (default: %(default)g)",
    )
    result.add_argument("--seed", type=int, default=0, help="of the order of timings (default: %(default)s)")
    result.add_argument("--allow-removed", action="store_true", help="a benchmark may be gone from HEAD")
    result.add_argument("--json", metavar="FILE", type=Path, help="also write everything to FILE")
    return result


def checked(arguments: argparse.Namespace) -> None:
    """Refuse what argparse cannot know to be wrong; ValueError says what would be right."""
    if arguments.launches < 8:
        raise ValueError(
            f"--launches {arguments.launches}: 8 or more are needed, or no difference can be significant"
        )
    if arguments.rounds < 1:
        raise ValueError(f"--rounds {arguments.rounds}: 1 or more are needed")
    if not 0 < arguments.tier <= 100 * ab_statistics.MAX_GATE:
        raise ValueError(
            f"--tier {arguments.tier:g}: above 0 and at most {ab_statistics.MAX_GATE:.0%} is needed"
        )
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        raise ValueError(f"--json {arguments.json}: its folder does not exist")


def measured(sides: Sequence[Side], names: Sequence[str], arguments: argparse.Namespace) -> list[Finding]:
    """All `names`; those that fail once more, twice as long, and the second answer counts."""
    first = run(sides, names, arguments)
    doubtful = [row.name for row in first if row.answer in AGAIN]
    if not doubtful:
        return first
    note(f"once more: {', '.join(doubtful)}")
    again = argparse.Namespace(
        **{**vars(arguments), "rounds": 2 * arguments.rounds, "seed": arguments.seed + 1}
    )
    second = {row.name: row for row in run(sides, doubtful, again)}
    return [second.get(row.name, row) for row in first]


def run(sides: Sequence[Side], names: Sequence[str], arguments: argparse.Namespace) -> list[Finding]:
    start = time.monotonic()

    def progress(done: int) -> None:
        left = (
            f", {(time.monotonic() - start) / done * (arguments.launches - done):.0f} s left" if done else ""
        )
        note(f"launch {done + 1} of {arguments.launches}{left}")

    timings = ab_launch.measure(sides, names, arguments.launches, arguments.rounds, arguments.seed, progress)
    return ab_statistics.findings(timings, arguments.tier / 100)


def selected(names: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """Those that `-k` leaves; ValueError if none, or if so many need more launches."""
    chosen = [name for name in names if arguments.k in name]
    if not chosen:
        near = ", ".join(difflib.get_close_matches(arguments.k, names, 3, 0.2) or names[:3])
        raise ValueError(f"-k {arguments.k}: no benchmark's name contains it; there are {near} and others")
    needed = ab_statistics.fewest_launches(len(chosen))
    if arguments.launches < needed:
        raise ValueError(
            f"--launches {arguments.launches}: {len(chosen)} benchmarks need {needed}, or nothing can be significant"
        )
    return chosen


def compare(arguments: argparse.Namespace, folder: Path) -> tuple[list[Finding], Changes]:
    """Build, measure, decide; everything on disk is below `folder`."""
    own = ab_launch.workload_of(arguments.base)
    table = ab_launch.workload_of(arguments.head) or ab_launch.workload_of(".") or b""
    names = selected(ab_launch.names_in(table, folder / "table"), arguments)
    listed = [name for name in ab_launch.names_in(own, folder / "own") if arguments.k in name] if own else []
    base = ab_launch.build("base", arguments.base, table, folder)
    head = ab_launch.build("head", arguments.head, table, folder)
    note(f"compiling {len(names)} benchmarks on both sides")
    states = ab_launch.prepare([base, head], names)
    found = changes(states["base"], states["head"], listed)
    both = [name for name in names if states["base"][name] == states["head"][name] == "ok"]
    sides = [base, ab_launch.copied(base, "copy"), head]
    return (measured(sides, both, arguments) if both else []), found


def exit_code(findings: Sequence[Finding], found: Changes, allow_removed: bool) -> int:
    """The worst that can be said."""
    answers = {row.answer for row in findings}
    if Answer.REGRESSED in answers or (found.removed and not allow_removed):
        return REGRESSED
    if Answer.UNMEASURED in answers or found.failed or not findings:
        return COULD_NOT_MEASURE
    return OK


def as_dict(
    arguments: argparse.Namespace, code: int, findings: Sequence[Finding], found: Changes
) -> dict[str, Any]:
    """What --json writes."""
    return {
        "schema": 1,
        "base": arguments.base,
        "head": arguments.head,
        "launches": arguments.launches,
        "rounds": arguments.rounds,
        "seed": arguments.seed,
        "exit_code": code,
        "benchmarks": [row.as_dict() for row in findings],
        **asdict(found),
    }


def report(findings: Sequence[Finding], found: Changes) -> None:
    """The table and the answer, to standard output."""
    console = Console(highlight=False)
    if findings:
        console.print(ab_report.table(findings))
    for line in (*ab_report.came_and_went(found), ab_report.sentence(findings, found)):
        console.print(line, markup=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command = parser()
    arguments = command.parse_args(argv)
    try:
        checked(arguments)
        note(f"base: {ab_launch.describe(arguments.base)}; head: {ab_launch.describe(arguments.head)}")
        with tempfile.TemporaryDirectory(prefix="kernels-ab-") as folder:
            findings, found = compare(arguments, Path(folder))
    except ValueError as error:
        command.error(str(error))
    except CouldNotMeasure as error:
        note(f"could not measure: {error}")
        return COULD_NOT_MEASURE
    code = exit_code(findings, found, arguments.allow_removed)
    report(findings, found)
    if arguments.json:
        content = as_dict(arguments, code, findings, found)
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
