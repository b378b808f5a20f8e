"""Preference pairs from JSON-lines files, plain or gzipped: TRL's preference formats and that of hh-rlhf.

Each line is an object with `chosen` and `rejected`, and perhaps `prompt`; other fields are not looked at.

- strings with `prompt`: taken as they are; an empty prompt is a prompt.
- strings without: what both begin with is the prompt. It ends after the last ``\\n\\nAssistant:`` if that is in
  there (hh-rlhf), else before the last white space, so that no word is torn.
- lists of ``{"role", "content"}``: messages that both begin with are the prompt, unless `prompt` is given, as a
  string or as messages; a repetition of it at the head of both is cut.

Malformed files are refused with a line that says where. Well-formed pairs that say nothing (an empty reply, the
same reply twice) are left out and listed. Blank lines are passed over, wherever they are, and counted as lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .errors import InputError
from .text import sanitize

TURN = "\n\nAssistant:"
_GZIP = b"\x1f\x8b"


class TextPair(NamedTuple):
    """One comparison, and the line of the file it came from."""

    prompt: str
    chosen: str
    rejected: str
    line: int


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
    name = _shown(str(path), 200) or "''"
    raw = _read(Path(path), name)
    text = _decode(_unzip(raw, name, str(path).endswith(".gz")), name)
    lines = text.split("\n")
    pairs: list[TextPair] = []
    skipped: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        pair = _Line(name, number, last=number == len(lines)).pair(line)
        reason = _unusable(pair)
        if reason is None:
            pairs.append(pair)
        elif strict:
            raise InputError(f"{name}, line {number}: {reason}; every pair must be usable under --strict")
        else:
            skipped.append((number, reason))
    if not pairs:
        if not skipped:
            raise InputError(f"{name} is empty; one preference pair a line is needed")
        counted = PairFile(name, "", [], skipped).skipped_text(3)
        raise InputError(f"{name}: no usable pair; {counted}")
    return PairFile(str(path), hashlib.sha256(raw).hexdigest(), pairs, skipped)


def _unusable(pair: TextPair) -> str | None:
    for side in ("chosen", "rejected"):
        if not getattr(pair, side).strip():
            return f"empty {side} reply"
    return "identical replies" if pair.chosen.strip() == pair.rejected.strip() else None


def _shown(text: str, most: int = 40) -> str:
    """Foreign text inside a one-line message."""
    text = sanitize(text).replace("\n", "\\n").replace("\t", "\\t")
    return text if len(text) <= most else text[: most - 1] + "…"


def _read(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"{name} is a directory; a .jsonl or .jsonl.gz file is needed")
        if path.is_fifo():  # it could be read once, by one process
            raise InputError(f"{name} is a pipe; a .jsonl or .jsonl.gz file is needed, each worker reads it")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{name} cannot be read: {reason}") from None
    if not raw:
        raise InputError(f"{name} is empty; one preference pair a line is needed")
    return raw


def _unzip(raw: bytes, name: str, said: bool) -> bytes:
    """The content of any gzip members; other bytes as they are."""
    if not raw.startswith(_GZIP):
        if said:
            raise InputError(f"{name} is not gzipped, though its name ends in .gz")
        return raw
    content: list[bytes] = []
    while raw:
        member = zlib.decompressobj(wbits=31)
        try:
            content.append(member.decompress(raw))
        except zlib.error as error:
            line = b"".join(content).count(b"\n") + 1
            raise InputError(f"{name}: damaged gzip data near line {line} ({error})") from None
        if not member.eof:
            line = b"".join(content).count(b"\n") + 1
            raise InputError(f"{name}: truncated gzip data, which ends in line {line}")
        raw = member.unused_data.lstrip(b"\0")  # tapes pad with zeros
    return b"".join(content)


def _decode(raw: bytes, name: str) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name}, line 1: looks like UTF-16; UTF-8 is needed")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)]
        line = before.count(b"\n") + 1
        column = len(before) - before.rfind(b"\n")
        byte = raw[len(before)]
        raise InputError(f"{name}, line {line}: byte {column} (0x{byte:02x}) is not UTF-8") from None


def _kind(value: Any) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a string", list: "a list", dict: "an object"}
    return next((text for kind, text in names.items() if isinstance(value, kind)), "a number")


class _Line:
    """One line of the file, and how to complain about it."""

    def __init__(self, name: str, number: int, last: bool) -> None:
        self.name, self.number, self.last = name, number, last

    def fail(self, wrong: str, field: str = "") -> NoReturn:
        where = f", field '{field}'" if field else ""
        raise InputError(f"{self.name}, line {self.number}{where}: {wrong}")

    def pair(self, line: str) -> TextPair:
        record = self.parse(line)
        for side in ("chosen", "rejected"):
            if side not in record:
                there = ", ".join(_shown(key, 20) for key in list(record)[:6]) or "none"
                self.fail(f"missing; the fields are: {there}", side)
        chosen, rejected, prompt = record["chosen"], record["rejected"], record.get("prompt", "")
        if "prompt" in record and not isinstance(prompt, (str, list)):
            self.fail(f"is {_kind(prompt)}; a string or a list of messages is needed", "prompt")
        for side, value in (("chosen", chosen), ("rejected", rejected)):
            if not isinstance(value, (str, list)):
                self.fail(f"is {_kind(value)}; a string or a list of messages is needed", side)
        if isinstance(chosen, list) != isinstance(rejected, list):
            self.fail(
                f"is {_kind(rejected)}, but chosen is {_kind(chosen)}; both must be of one kind", "rejected"
            )
        if isinstance(chosen, list):
            parts = self.conversation(record, chosen, rejected)
        elif "prompt" in record:
            text = prompt if isinstance(prompt, str) else _dialogue(self.messages(prompt, "prompt"))
            parts = (text, chosen, rejected)
        else:
            cut = shared_prompt(chosen, rejected)
            parts = (chosen[:cut], chosen[cut:], rejected[cut:])
        for side, text in zip(("prompt", "chosen", "rejected"), parts, strict=True):
            half = next((char for char in text if "\ud800" <= char <= "\udfff"), None)
            if half is not None:
                self.fail(f"holds half of a surrogate pair (\\u{ord(half):04x}), which is no character", side)
        return TextPair(*parts, self.number)

    def parse(self, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            at_end = error.pos >= len(line.rstrip()) - 1 or "Unterminated" in error.msg
            if self.last and at_end:
                self.fail("truncated: the file ends inside this JSON object")
            self.fail(f"not JSON at column {error.colno} ({error.msg}); one object a line is needed")
        except RecursionError:
            self.fail("JSON is nested too deeply")
        except ValueError:  # an integer of more digits than Python reads
            self.fail("a number has too many digits")
        if not isinstance(record, dict):
            self.fail(f"is {_kind(record)}; a JSON object a line is needed")
        return record

    def messages(self, value: list[Any], field: str) -> list[tuple[str, str]]:
        found = []
        for i, message in enumerate(value):
            if not isinstance(message, dict):
                self.fail(f"is {_kind(message)}; an object with role and content is needed", f"{field}[{i}]")
            for key in ("role", "content"):
                if key not in message:
                    self.fail("missing; a message needs role and content", f"{field}[{i}].{key}")
                if not isinstance(message[key], str):
                    self.fail(f"is {_kind(message[key])}; a string is needed", f"{field}[{i}].{key}")
            found.append((message["role"], message["content"]))
        return found

    def conversation(
        self, record: dict[str, Any], chosen: list[Any], rejected: list[Any]
    ) -> tuple[str, str, str]:
        a, b = self.messages(chosen, "chosen"), self.messages(rejected, "rejected")
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
            text = _dialogue(self.messages(prompt, "prompt"))
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
