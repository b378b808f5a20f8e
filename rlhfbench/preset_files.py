"""Presets: fields that make an algorithm somebody else's, with their source, read from TOML.

Those of the built-in algorithms lie in `rlhfbench/presets`, one file an algorithm; `name@FILE.toml` reads one of yours.
docs/presets.md has the format, and what a preset sets and leaves.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import InputError
from .options import nearest

FOLDER = Path(__file__).parent / "presets"
KINDS = {"source": str, "note": str, "checked": bool, "fields": dict}
"""What a preset may hold; `source` and `fields` it must."""


@dataclass(frozen=True)
class Preset:
    """Fields of a configuration, whose they are, and what of the original they leave out.

    `checked` says that the numbers were read at the source; else they are quoted from memory of the paper.
    """

    source: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    checked: bool = False


def built_in(algorithm: str) -> dict[str, Preset]:
    """The presets of a built-in algorithm, in the order of its file; none where it has no file."""
    path = FOLDER / f"{algorithm}.toml"
    return read(path) if path.is_file() else {}


def names_file(text: str) -> bool:
    """Whether it is ``FILE.toml`` or ``FILE.toml@preset``."""
    return text.endswith(".toml") or ".toml@" in text


def short_name(text: str) -> str:
    """What tables call the preset: its name, or that of its file where it has none."""
    return Path(text).stem if text.endswith(".toml") else text.rpartition("@")[2]


def from_file(text: str) -> Preset:
    """The preset that ``FILE.toml`` or ``FILE.toml@preset`` names; without a name the only one of the file."""
    path, _, name = (text, "", "") if text.endswith(".toml") else text.rpartition("@")
    presets = read(Path(path))
    if name and name not in presets:
        raise InputError(f"{path}: no preset '{name}'{nearest(name, presets)}")
    if not name and len(presets) != 1:
        raise InputError(f"{path}: holds {len(presets)} presets; write {path}@name")
    return presets[name or next(iter(presets))]


def read(path: Path) -> dict[str, Preset]:
    """The presets of a file, by name."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of presets") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return {name: _preset(f"{path}: preset '{name}'", table) for name, table in tables.items()}


def _preset(where: str, table: Any) -> Preset:
    if not isinstance(table, dict):
        raise InputError(f"{where}: {table!r} came, a table with source and fields is needed")
    for key, value in table.items():
        if key not in KINDS:
            raise InputError(f"{where}: no key '{key}'{nearest(key, KINDS)}")
        if not isinstance(value, KINDS[key]):
            raise InputError(f"{where}: {key}: {value!r} came, {_needed(key)} is needed")
    for key in ("source", "fields"):
        if not table.get(key):
            raise InputError(f"{where}: {key}: nothing came, {_needed(key)} is needed")
    return Preset(**{**table, "note": " ".join(table.get("note", "").split())})


def _needed(key: str) -> str:
    return {"fields": "a table of fields", "checked": "true or false"}.get(key, "text")
