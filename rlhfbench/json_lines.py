"""Files of JSON lines, plain or gzipped: what one holds, and how to complain about a line of it."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .errors import InputError
from .text import sanitize

_GZIP = b"\x1f\x8b"


class LineFile(NamedTuple):
    """A file of JSON lines: its name for messages, its hash, and the lines that are not blank."""

    name: str
    sha256: str
    lines: list[tuple[Line, str]]


def read_lines(path: str | os.PathLike[str], what: str) -> LineFile:
    """The lines of a file, gzipped or not; `what` says in messages of what there has to be one a line."""
    name = shown(str(path), 200) or "''"
    raw = _read(Path(path), name, what)
    lines = _decode(_unzip(raw, name, str(path).endswith(".gz")), name).split("\n")
    found = [
        (Line(name, number, last=number == len(lines)), line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise InputError(f"{name} is empty; one {what} a line is needed")
    return LineFile(name, hashlib.sha256(raw).hexdigest(), found)


class Line:
    """One line of a file, and how to complain about it."""

    def __init__(self, name: str, number: int, last: bool) -> None:
        self.name, self.number, self.last = name, number, last

    def fail(self, wrong: str, field: str = "") -> NoReturn:
        where = f", field '{field}'" if field else ""
        raise InputError(f"{self.name}, line {self.number}{where}: {wrong}")

    def refuse(self, reason: str, what: str) -> NoReturn:
        """Under ``--strict``, what would otherwise be left out."""
        raise InputError(
            f"{self.name}, line {self.number}: {reason}; every {what} must be usable under --strict"
        )

    def require(self, record: dict[str, Any], *fields: str) -> None:
        """Refuse a record that lacks one of `fields`."""
        for name in fields:
            if name not in record:
                there = ", ".join(shown(key, 20) for key in list(record)[:6]) or "none"
                self.fail(f"missing; the fields are: {there}", name)

    def require_characters(self, text: str, field: str) -> None:
        """Refuse half of a surrogate pair."""
        half = next((char for char in text if "\ud800" <= char <= "\udfff"), None)
        if half is not None:
            self.fail(f"holds half of a surrogate pair (\\u{ord(half):04x}), which is no character", field)

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
            self.fail(f"is {kind_of(record)}; a JSON object a line is needed")
        return record


def shown(text: str, most: int = 40) -> str:
    """Foreign text inside a one-line message."""
    text = sanitize(text).replace("\n", "\\n").replace("\t", "\\t")
    return text if len(text) <= most else text[: most - 1] + "…"


def _read(path: Path, name: str, what: str) -> bytes:
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
        raise InputError(f"{name} is empty; one {what} a line is needed")
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


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a string", list: "a list", dict: "an object"}
    return next((text for kind, text in names.items() if isinstance(value, kind)), "a number")
