"""On which line of a TOML or JSON file something stands, for messages; rare ways of writing have none."""

from __future__ import annotations

import json
import re

_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(#.*)?")
_PIECE = re.compile(
    r"""(?P<block>\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5})|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|\#[^\n]*""",
    re.DOTALL,
)
"""Strings and comments of TOML, so that what looks like one inside another is not taken for it."""


def line_in_toml(text: str, table: str, key: str = "", nth: int = 1) -> int | None:
    """The line of `key` in the `nth` table of that name, else of the table's head; the table "" is that of the file.

    >>> line_in_toml("a = 1\\n[b]\\nc = 2\\n[[d]]\\n[[d]]\\nc = 3", "d", "c", nth=2)
    6
    """
    place, seen, here = None, 0, table == ""
    for number, line in enumerate(_without_blocks(text).split("\n"), 1):
        head = _HEADER.fullmatch(line)
        if head is None:
            if here and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
                return number
            continue
        name = re.sub(r"[\s\"']", "", head[1])
        seen += name == table
        here = name == table and seen == nth
        if place is None and (here or (nth == 1 and name.startswith(f"{table}."))):
            place = number
        if seen == nth and key and name == f"{table}.{key}":
            return number
    return place


def _without_blocks(toml: str) -> str:
    """The text with as many lines, but nothing of what its strings of several lines hold."""

    def emptied(piece: re.Match[str]) -> str:
        return piece[0] if piece["block"] is None else '""' + "\n" * piece[0].count("\n")

    return _PIECE.sub(emptied, toml)


def line_in_json(text: str, items: str, key: str = "", nth: int = 1) -> int | None:
    """The line of `key` in the `nth` object of the list called `items`, else of the object; the 0th is the file's own.

    >>> line_in_json('{"a": [{"b": 1},\\n {"b": 2}]}', "a", "b", nth=2)
    2
    """
    found = re.search(rf'"{re.escape(items)}"\s*:\s*\[', text)
    start, end = 0, len(text)
    for number in range(nth):
        if found is None:
            return None
        start = re.compile(r"[\s,]*").match(text, found.end() if number == 0 else end).end()  # type: ignore[union-attr]
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except ValueError:  # of two lists of that name a reader takes the last
            return None
    field = re.compile(rf'"{re.escape(key)}"\s*:').search(text, start, end)
    if field is None and nth == 0:
        return None
    return 1 + text.count("\n", 0, start if field is None else field.start())
