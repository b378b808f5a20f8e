"""Presets: fields that make an algorithm somebody else's, with their source, read from TOML.

Those of the built-in algorithms lie in `rlhfbench/presets`, one file an algorithm; `name@FILE.toml` reads one of yours.
docs/presets.md has the format, and what a preset sets and leaves.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .errors import InputError
from .file_places import line_in_toml
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
    path, name = _parts(text)
    presets = read(path)
    if name and name not in presets:
        raise InputError(f"{path}: no preset '{name}'{nearest(name, presets)}")
    if not name and len(presets) != 1:
        raise InputError(f"{path}: holds {len(presets)} presets; write {path}@name")
    return presets[name or next(iter(presets))]


def placed(wrong: str, text: str, others: Collection[str]) -> str | None:
    """A message about a field that a file's preset sets, with where it stands; None of one of `others`."""
    path, name = _parts(text)
    presets = read(path)
    name = name or next(iter(presets))
    for key in presets[name].fields:
        called = "beta" if key == "kl_coef" else key
        if called not in others and wrong.startswith((f"{called} ", f"no field '{key}'")):
            return f"{_place(path, path.read_text('utf-8'), name, 'fields', key)}: {wrong}"
    return None


def _parts(text: str) -> tuple[Path, str]:
    """File and name of a preset; the name may be empty."""
    path, _, name = (text, "", "") if text.endswith(".toml") else text.rpartition("@")
    return Path(path), name


def _place(path: Path, text: str, name: str, key: str, field: str = "") -> str:
    line = line_in_toml(text, f"{name}.{key}", field) if field else None
    line = line or line_in_toml(text, name, key)
    return f"{path}{f', line {line}' if line else ''}, preset '{name}'"


def read(path: Path) -> dict[str, Preset]:
    """The presets of a file, by name."""
    raw = b""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8")
        tables = tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of presets") from None
    except UnicodeDecodeError as error:
        line = 1 + raw[: error.start].count(b"\n")
        raise InputError(f"{path}, line {line}: {error}") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return {name: _preset(partial(_place, path, text, name), table) for name, table in tables.items()}


def _preset(where: Callable[[str], str], table: Any) -> Preset:
    if not isinstance(table, dict):
        raise InputError(f"{where('')}: {table!r} came, a table with source and fields is needed")
    for key, value in table.items():
        if key not in KINDS:
            raise InputError(f"{where(key)}: no key '{key}'{nearest(key, KINDS)}")
        if not isinstance(value, KINDS[key]):
            raise InputError(f"{where(key)}: {key}: {value!r} came, {_needed(key)} is needed")
    for key in ("source", "fields"):
        if not table.get(key):
            raise InputError(f"{where(key)}: {key}: nothing came, {_needed(key)} is needed")
    return Preset(**{**table, "note": " ".join(table.get("note", "").split())})


def _needed(key: str) -> str:
    return {"fields": "a table of fields", "checked": "true or false"}.get(key, "text")
