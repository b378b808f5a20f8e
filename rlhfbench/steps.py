"""Worked solutions whose steps are labelled: the data of a process reward model.

Each line of a JSON-lines file is an object with `prompt`, `steps` and `labels`, as many of the one as of the other. A
label is 1 (or true) for a good step, 0 (or false) for a wrong one, null where nobody has judged. TRL's stepwise format,
`completions` in place of `steps`, is read too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .errors import InputError
from .json_lines import Line, kind_of, read_lines


class Chain(NamedTuple):
    """One solution; labels are 1, 0 or None. `line` is where it came from."""

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[int | None, ...]
    line: int

    @property
    def first_error(self) -> int | None:
        """Index of the first wrong step; None where there is none."""
        return next((i for i, label in enumerate(self.labels) if label == 0), None)


@dataclass(frozen=True)
class StepFile:
    """What was read: usable `chains` in file order, and (line, reason) of those left out."""

    path: str
    chains: list[Chain] = field(repr=False)
    skipped: list[tuple[int, str]] = field(repr=False)


def read_steps(path: str | os.PathLike[str], strict: bool = False) -> StepFile:
    """Read labelled steps.

    Parameters
    ----------
    path : path
        JSON lines in UTF-8, gzipped or not.
    strict : bool
        Refuse the file at the first solution that cannot be used instead of leaving it out.

    Raises
    ------
    InputError
        One line with file, line number and field, what was wrong and what would be right.
    """
    file = read_lines(path, "solution with labelled steps")
    chains, skipped = [], []
    for line, text in file.lines:
        chain = _chain(line, line.parse(text))
        reason = _unusable(chain)
        if reason is None:
            chains.append(chain)
        elif strict:
            line.refuse(reason, "solution")
        else:
            skipped.append((line.number, reason))
    if not chains:
        raise InputError(f"{file.name}: no usable solution; line {skipped[0][0]}: {skipped[0][1]}")
    return StepFile(file.name, chains, skipped)


def _unusable(chain: Chain) -> str | None:
    return None if any(label is not None for label in chain.labels) else "no labelled step"


def _chain(line: Line, record: dict[str, Any]) -> Chain:
    name = "completions" if "completions" in record and "steps" not in record else "steps"
    line.require(record, name, "labels")
    prompt, steps, labels = record.get("prompt", ""), record[name], record["labels"]
    if not isinstance(prompt, str):
        line.fail(f"is {kind_of(prompt)}; a string is needed", "prompt")
    for field_name, value in ((name, steps), ("labels", labels)):
        if not isinstance(value, list):
            line.fail(f"is {kind_of(value)}; a list is needed", field_name)
    for i, step in enumerate(steps):
        if not isinstance(step, str):
            line.fail(f"is {kind_of(step)}; a string is needed", f"{name}[{i}]")
        line.require_characters(step, f"{name}[{i}]")
    if len(labels) != len(steps):
        line.fail(f"holds {len(labels)} for {len(steps)} steps; as many are needed", "labels")
    for i, label in enumerate(labels):
        if label is not None and label not in (0, 1):
            line.fail(f"is {_shown_label(label)}; 1, 0 or null is needed", f"labels[{i}]")
    return Chain(prompt, tuple(steps), tuple(None if x is None else int(x) for x in labels), line.number)


def _shown_label(label: Any) -> str:
    return f"{label!r:.20}" if isinstance(label, int | float) else kind_of(label)
