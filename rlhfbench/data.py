"""Preference pairs from JSON-lines files, plain or gzipped: TRL's preference formats and that of hh-rlhf.

Each line is an object with `chosen` and `rejected`, and perhaps `prompt`. How strong the preference is may stand in
`margin`, or be the difference of `score_chosen` and `score_rejected`; other fields are not looked at.

- strings with `prompt`: taken as they are; an empty prompt is a prompt.
- strings without: what both begin with is the prompt. It ends after the last ``\\n\\nAssistant:`` if that is in
  there (hh-rlhf), else before the last white space, so that no word is torn.
- lists of ``{"role", "content"}``: messages that both begin with are the prompt, unless `prompt` is given, as a
  string or as messages; a repetition of it at the head of both is cut.

Malformed files are refused with a line that says where. Well-formed pairs that say nothing (an empty reply, the
same reply twice) are left out and listed. Blank lines are passed over, wherever they are, and counted as lines.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .errors import InputError
from .json_lines import Line, kind_of, read_lines

TURN = "\n\nAssistant:"


class TextPair(NamedTuple):
    """One comparison, and the line of the file it came from."""

    prompt: str
    chosen: str
    rejected: str
    line: int
    strength: float | None = None
    """0 or more; None where the line does not say."""


@dataclass(frozen=True)
class PairFile:
    """What was read: usable `pairs` in file order, and (line, reason) of those left out.

    `sha256` is that of the file's bytes, as on disk.
    """

    path: str
    sha256: str
    pairs: list[TextPair] = field(repr=False)
    skipped: list[tuple[int, str]] = field(repr=False)

    def skipped_text(self, most: int = 5) -> str:
        """One line on what was left out; empty if nothing was.

        >>> PairFile("f", "", [], [(3, "empty chosen reply")]).skipped_text()
        '1 pair left out: line 3 (empty chosen reply)'
        """
        if not self.skipped:
            return ""
        n = len(self.skipped)
        named = ", ".join(f"line {line} ({reason})" for line, reason in self.skipped[:most])
        more = f" and {n - most} more" if n > most else ""
        return f"{n} pair{'s' if n > 1 else ''} left out: {named}{more}"


def read_pairs(path: str | os.PathLike[str], strict: bool = False) -> PairFile:
    """Read preference pairs.

    Parameters
    ----------
    path : path
        JSON lines in UTF-8, gzipped or not.
    strict : bool
        Refuse the file at the first pair that cannot be used instead of leaving it out.

    Raises
    ------
    InputError
        One line with file, line number and field, what was wrong and what would be right.
    """
    file = read_lines(path, "preference pair")
    pairs: list[TextPair] = []
    skipped: list[tuple[int, str]] = []
    for line, text in file.lines:
        pair = _pair(line, text)
        reason = _unusable(pair)
        if reason is None:
            pairs.append(pair)
        elif strict:
            line.refuse(reason, "pair")
        else:
            skipped.append((line.number, reason))
    if not pairs:
        counted = PairFile(file.name, "", [], skipped).skipped_text(3)
        raise InputError(f"{file.name}: no usable pair; {counted}")
    return PairFile(str(path), file.sha256, pairs, skipped)


def _unusable(pair: TextPair) -> str | None:
    for side in ("chosen", "rejected"):
        if not getattr(pair, side).strip():
            return f"empty {side} reply"
    return "identical replies" if pair.chosen.strip() == pair.rejected.strip() else None


def _pair(line: Line, text: str) -> TextPair:
    record = line.parse(text)
    line.require(record, "chosen", "rejected")
    chosen, rejected, prompt = record["chosen"], record["rejected"], record.get("prompt", "")
    if "prompt" in record and not isinstance(prompt, (str, list)):
        line.fail(f"is {kind_of(prompt)}; a string or a list of messages is needed", "prompt")
    for side, value in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, (str, list)):
            line.fail(f"is {kind_of(value)}; a string or a list of messages is needed", side)
    if isinstance(chosen, list) != isinstance(rejected, list):
        line.fail(
            f"is {kind_of(rejected)}, but chosen is {kind_of(chosen)}; both must be of one kind",
            "rejected",
        )
    if isinstance(chosen, list):
        parts = _conversation(line, record, chosen, rejected)
    elif "prompt" in record:
        text = prompt if isinstance(prompt, str) else _dialogue(_messages(line, prompt, "prompt"))
        parts = (text, chosen, rejected)
    else:
        cut = shared_prompt(chosen, rejected)
        parts = (chosen[:cut], chosen[cut:], rejected[cut:])
    for side, text in zip(("prompt", "chosen", "rejected"), parts, strict=True):
        line.require_characters(text, side)
    return TextPair(*parts, line.number, _strength(record))


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _strength(record: dict[str, Any]) -> float | None:
    """Nobody has to give one, so whatever is no number is none; where scores contradict the preference, it is 0."""
    margin, chosen, rejected = (
        _number(record.get(name)) for name in ("margin", "score_chosen", "score_rejected")
    )
    if margin is None and chosen is not None and rejected is not None:
        margin = chosen - rejected
    return None if margin is None else max(margin, 0.0)


def _messages(line: Line, value: list[Any], field: str) -> list[tuple[str, str]]:
    found = []
    for i, message in enumerate(value):
        if not isinstance(message, dict):
            line.fail(f"is {kind_of(message)}; an object with role and content is needed", f"{field}[{i}]")
        for key in ("role", "content"):
            if key not in message:
                line.fail("missing; a message needs role and content", f"{field}[{i}].{key}")
            if not isinstance(message[key], str):
                line.fail(f"is {kind_of(message[key])}; a string is needed", f"{field}[{i}].{key}")
        found.append((message["role"], message["content"]))
    return found


def _conversation(
    line: Line, record: dict[str, Any], chosen: list[Any], rejected: list[Any]
) -> tuple[str, str, str]:
    a, b = _messages(line, chosen, "chosen"), _messages(line, rejected, "rejected")
    most = min(len(a), len(b)) - 1  # the last message is always reply
    shared = 0
    while shared < most and a[shared] == b[shared]:
        shared += 1
    head = a[:shared]
    prompt = record.get("prompt")
    if prompt is None:
        text = _dialogue(head)
    elif isinstance(prompt, str):
        text = prompt
    else:
        text = _dialogue(_messages(line, prompt, "prompt"))
    return text, _reply(a[shared:]), _reply(b[shared:])


def _dialogue(messages: list[tuple[str, str]]) -> str:
    return "\n\n".join(f"{role}: {content}" for role, content in messages)


def _reply(messages: list[tuple[str, str]]) -> str:
    return messages[0][1] if len(messages) == 1 else _dialogue(messages)


def shared_prompt(chosen: str, rejected: str) -> int:
    """Where the prompt ends that two transcripts begin with.

    >>> shared_prompt("The sky is blue.", "The sky is black.")
    10
    """
    differ = (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    cut = next(differ, min(len(chosen), len(rejected)))
    turn = chosen.rfind(TURN, 0, cut)
    if turn >= 0:
        return turn + len(TURN)
    while cut > 0 and not (
        cut < min(len(chosen), len(rejected)) and chosen[cut].isspace() and rejected[cut].isspace()
    ):
        cut -= 1
    return cut
