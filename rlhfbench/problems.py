"""Problems with one right answer from JSON-lines files, plain or gzipped.

Each line is an object with `prompt`, a string, and `answer`, a number or a string that spells one; other fields are
not looked at. Malformed files are refused with a line that says where. Problems that cannot be used are left out and
listed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .data import PairFile
from .errors import InputError
from .json_lines import Line, kind_of, read_lines

LONGEST_ANSWER = 16
"""Characters."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)


class Problem(NamedTuple):
    """One problem, its answer as the file spells it, and the line it came from."""

    prompt: str
    answer: str
    line: int


@dataclass(frozen=True)
class ProblemFile:
    """What was read: usable `problems` in file order, and a text on those left out, empty if none was."""

    sha256: str
    problems: list[Problem] = field(repr=False)
    skipped: str


def read_problems(path: str | os.PathLike[str], strict: bool = False) -> ProblemFile:
    """Read problems.

    Parameters
    ----------
    path : path
        JSON lines in UTF-8, gzipped or not.
    strict : bool
        Refuse the file at the first problem that cannot be used instead of leaving it out.

    Raises
    ------
    InputError
        One line with file, line number and field, what was wrong and what would be right.
    """
    file = read_lines(path, "problem")
    problems: list[Problem] = []
    skipped: list[tuple[int, str]] = []
    seen: set[str] = set()
    for line, text in file.lines:
        problem = _problem(line, line.parse(text))
        reason = _unusable(problem, seen)
        if reason is None:
            seen.add(problem.prompt)
            problems.append(problem)
        elif strict:
            line.refuse(reason, "problem")
        else:
            skipped.append((line.number, reason))
    left_out = PairFile(file.name, "", [], skipped).skipped_text().replace("pair", "problem", 1)
    if not problems:
        raise InputError(f"{file.name}: no usable problem; {left_out}")
    return ProblemFile(file.sha256, problems, left_out)


def _problem(line: Line, record: dict[str, Any]) -> Problem:
    line.require(record, "prompt", "answer")
    prompt, answer = record["prompt"], record["answer"]
    if not isinstance(prompt, str):
        line.fail(f"is {kind_of(prompt)}; a string is needed", "prompt")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        line.fail(f"is {kind_of(answer)}; a number or a string is needed", "answer")
    for text, name in ((prompt, "prompt"), (str(answer), "answer")):
        line.require_characters(text, name)
    return Problem(prompt, str(answer).strip(), line.number)


def _unusable(problem: Problem, seen: set[str]) -> str | None:
    if not problem.prompt.strip():
        return "empty prompt"
    if not _NUMBER.fullmatch(problem.answer):
        return "the answer is no number"
    if len(problem.answer) > LONGEST_ANSWER:
        return f"an answer of more than {LONGEST_ANSWER} characters"
    return "the prompt of an earlier line" if problem.prompt in seen else None
