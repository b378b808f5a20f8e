"""Reading a constitution: TOML or JSON, and a line that says where and why it cannot be.

    name = "manners"
    about = "For whom it is, and what it is for."

    [[rules]]
    name = "polite"
    principle = "Do not insult anybody."
    weight = 1.0
    kind = "avoid"
    words = ["stupid", "shut up"]

`docs/rlaif.md` describes the kinds. In JSON, `rules` is a list of objects with the same fields.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tomllib
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, cast

from .constitution import KINDS, Constitution, Phrase, Rule, RuleKind
from .errors import InputError
from .file_places import line_in_json, line_in_toml
from .json_lines import kind_of, shown
from .options import nearest
from .text import words

SHIPPED = Path(__file__).parent / "constitutions"
COMMON = ("name", "principle", "weight", "kind")
FIELDS: dict[RuleKind, tuple[str, ...]] = {
    "use": ("words",),
    "topic": ("topics",),
    "echo": ("ignore",),
    "avoid": ("words",),
    "repetition": ("ignore",),
    "length": ("least", "most"),
}
"""Fields of a rule of each kind, beside the common ones."""
OPTIONAL = {"ignore", "least", "most"}
LONGEST = 10_000_000
"""Words that `least` and `most` may ask for."""


def shipped() -> list[str]:
    """Names of the constitutions that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def shipped_text(name: str) -> str:
    """The file of a constitution that comes with the package, for somebody to copy and edit."""
    if name not in shipped():
        raise InputError(f"no constitution '{shown(name)}' is shipped{nearest(name, shipped())}")
    return (SHIPPED / f"{name}.toml").read_text(encoding="utf-8")


def read_constitution(text: str | os.PathLike[str]) -> Constitution:
    """The constitution that a path, or the name of one that is shipped, stands for.

    Raises
    ------
    InputError
        One line with file, rule and field, what was wrong and what would be right.
    """
    given = os.fspath(text)
    return _shipped(given) if given in shipped() else _read(Path(given), given)


@cache
def _shipped(name: str) -> Constitution:
    return _read(SHIPPED / f"{name}.toml", name)


def _read(path: Path, given: str) -> Constitution:
    file = _File(shown(given, 200) or "''")
    raw = file.read(path)
    return file.constitution(file.parse(raw, path.suffix.lower()), hashlib.sha256(raw).hexdigest())


class _File:
    """A file while it is read, and how to complain about it."""

    def __init__(self, name: str) -> None:
        self.name, self.content, self.is_json = name, "", False

    def fail(self, wrong: str, field: str = "", rule: str = "") -> NoReturn:
        line = self.line(field, int(rule.split()[0]) if rule else 0) if self.content else None
        of_rule = (f", line {line}" if line else "") + (f", rule {rule}" if rule else "")
        of_field = f", field '{field}'" if field else ""
        raise InputError(f"{self.name}{of_rule}{of_field}: {wrong}")

    def line(self, field: str, number: int) -> int | None:
        """Where a field of a rule stands, or, with number 0, one of the constitution's own."""
        key = field.partition(".")[0].partition("[")[0]
        if self.is_json:
            return line_in_json(self.content, "rules", key, number)
        return line_in_toml(self.content, "rules" if number else "", key, max(number, 1))

    def read(self, path: Path) -> bytes:
        try:
            if path.is_dir() or path.is_fifo():
                self.fail("is no regular file; a .toml or .json file is needed")
            return path.read_bytes()
        except FileNotFoundError:
            self.fail(f"no such file; a .toml or .json file is needed, or one of {', '.join(shipped())}")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.fail(f"cannot be read: {reason}")

    def parse(self, raw: bytes, suffix: str) -> dict[str, Any]:
        if suffix not in (".toml", ".json"):
            self.fail(f"the name ends in {shown(suffix) or 'nothing'}; .toml or .json is needed")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            self.fail(f"line {line} is not UTF-8")
        try:
            record = tomllib.loads(text) if suffix == ".toml" else json.loads(text)
        except (ValueError, RecursionError) as error:  # both decoders' errors are a ValueError
            self.fail(f"not {suffix[1:].upper()}: {shown(str(error), 200)}")
        if not isinstance(record, dict):
            self.fail(f"is {kind_of(record)}; an object with name and rules is needed")
        self.content, self.is_json = text, suffix == ".json"
        return record

    def constitution(self, record: dict[str, Any], digest: str) -> Constitution:
        self.fields(record, ("name", "about", "rules"), needed=("name", "rules"))
        about = self.text(record.get("about", "-"), "about")
        rules = record["rules"]
        if not isinstance(rules, list) or not rules:
            came = "empty" if isinstance(rules, list) else kind_of(rules)
            self.fail(f"is {came}; a list with one rule at least is needed", "rules")
        made: dict[str, Rule] = {}
        for number, item in enumerate(rules, 1):
            rule = self.rule(item, number)
            if rule.name in made:
                self.fail("is the name of an earlier rule; each needs its own", "name", _where(item, number))
            made[rule.name] = rule
        return Constitution(self.text(record["name"], "name"), about, tuple(made.values()), digest)

    def rule(self, record: Any, number: int) -> Rule:
        where = _where(record, number)
        if not isinstance(record, dict):
            self.fail(f"is {kind_of(record)}; an object is needed", rule=where)
        kind = record.get("kind")
        if "kind" in record and kind not in KINDS:
            came = f"'{shown(kind)}'" if isinstance(kind, str) else kind_of(kind)
            self.fail(f"is {came}{nearest(str(kind), KINDS)}", "kind", where)
        own = FIELDS.get(cast(RuleKind, kind), ())
        needed = (*COMMON, *(name for name in own if name not in OPTIONAL))
        self.fields(record, (*COMMON, *own), needed, where)
        rule = Rule(
            self.text(record["name"], "name", where),
            self.text(record["principle"], "principle", where),
            self.weight(record["weight"], where),
            cast(RuleKind, kind),
            self.phrases(record.get("words", []), "words", where),
            self.topics(record.get("topics", {}), where),
            frozenset(
                word for phrase in self.phrases(record.get("ignore", []), "ignore", where) for word in phrase
            ),
            *(self.count(record.get(name), name, where) for name in ("least", "most")),
        )
        if kind == "length" and rule.least is None and rule.most is None:
            self.fail("has neither least nor most; one of them is needed", rule=where)
        if rule.least is not None and rule.most is not None and rule.least > rule.most:
            self.fail(f"is {rule.most}; at least {rule.least}, as least says, is needed", "most", where)
        for name in ("words", "topics"):
            if name in own and not record[name]:
                self.fail("is empty; one entry at least is needed", name, where)
        return rule

    def fields(
        self, record: Mapping[str, Any], known: Collection[str], needed: Collection[str], rule: str = ""
    ) -> None:
        """Refuse a field that nobody knows, which may be a slip of the pen, and the lack of one."""
        for name in needed:
            if name not in record:
                self.fail(f"missing; needed are {', '.join(needed)}", name, rule)
        for name in record:
            if name not in known:
                self.fail(f"is not known{nearest(str(name), known)}", shown(str(name)), rule)

    def text(self, value: Any, field: str, rule: str = "") -> str:
        if not isinstance(value, str) or not value.strip():
            came = "empty" if isinstance(value, str) else kind_of(value)
            self.fail(f"is {came}; text is needed", field, rule)
        return shown(value.strip(), 500)

    def weight(self, value: Any, rule: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(f"is {kind_of(value)}; a number above 0 is needed", "weight", rule)
        if not (0 < value < 1e9 and math.isfinite(value)):
            self.fail(f"is {value}; a number above 0 (and below 1e9) is needed", "weight", rule)
        return float(value)

    def count(self, value: Any, field: str, rule: str) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LONGEST:
            came = value if isinstance(value, int | float) else kind_of(value)
            self.fail(f"is {came}; a whole number of words, 0 or more, is needed", field, rule)
        return value

    def phrases(self, value: Any, field: str, rule: str) -> tuple[Phrase, ...]:
        if not isinstance(value, list):
            self.fail(f"is {kind_of(value)}; a list of words is needed", field, rule)
        found = []
        for index, item in enumerate(value):
            phrase = tuple(words(item)) if isinstance(item, str) else ()
            if not phrase:
                came = "without a word" if isinstance(item, str) else kind_of(item)
                self.fail(f"is {came}; a word, or some in a row, is needed", f"{field}[{index}]", rule)
            found.append(phrase)
        return tuple(dict.fromkeys(found))

    def topics(self, value: Any, rule: str) -> tuple[tuple[str, tuple[Phrase, ...]], ...]:
        if not isinstance(value, dict):
            self.fail(
                f"is {kind_of(value)}; word of the prompt = [words of the reply] is needed", "topics", rule
            )
        found = []
        for name, listed in value.items():
            field = f"topics.{shown(str(name))}"
            if len(words(name)) != 1:
                self.fail("is not one word, which is what prompts are looked through for", field, rule)
            phrases = self.phrases(listed, field, rule)
            if not phrases:
                self.fail("is empty; one word at least is needed", field, rule)
            found.append((words(name)[0], phrases))
        return tuple(found)


def _where(record: Any, number: int) -> str:
    """The number of a rule, and its name where it has one."""
    name = record.get("name") if isinstance(record, dict) else None
    return f"{number} '{shown(name)}'" if isinstance(name, str) and name else str(number)
