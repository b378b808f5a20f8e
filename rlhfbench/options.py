"""`field=value` overrides on frozen dataclasses, with the nearest valid name when one is wrong."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar

from .errors import InputError

T = TypeVar("T")


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise an `InputError` that names the field, what came and what is needed."""
    if not condition:
        raise InputError(f"{name} must be {expected}, got {value}")


def require_left_out(made: Any, unless: str, *names: str) -> None:
    """Refuse fields of a dataclass that are not as they are by default, where they do nothing."""
    for name in names:
        value = getattr(made, name)
        require(value == made.__dataclass_fields__[name].default, name, value, f"left out unless {unless}")


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a valid name that a slip or two are away, else the list of them."""
    valid = sorted(valid)
    meant = slip_of(name, valid)
    return f"; choose from {', '.join(valid) or 'nothing'}" if meant is None else f"; did you mean '{meant}'?"


def slip_of(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that may be meant: one slip away, or two where `name` is longer than four letters.

    >>> slip_of("wieght", ["width", "weight"]), slip_of("labels", ["largest"])
    ('weight', None)
    """
    most = min(2 if len(name) > 4 else 1, len(name) - 1)
    near = [(n, other) for other in valid if (n := _slips(name.lower(), other.lower())) <= most]
    return min(near)[1] if near else None


def _slips(a: str, b: str) -> int:
    """Letters to be left out, put in, replaced or exchanged with their neighbour to make `b` of `a`.

    The share of equal letters, which `difflib` has, takes `label_smoothing` for a slip of `rm_smoothing`.
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            least = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, a[i - 2]) == (b[j - 2], other):
                least = min(least, earlier[j - 2] + 1)
            row.append(least)
    return row[-1]


def split_overrides(text: str) -> tuple[str, dict[str, str]]:
    """Split ``name:a=1,b=2`` into the name and its overrides.

    >>> split_overrides("ppo:beta=0.1,cliprange=0.2")
    ('ppo', {'beta': '0.1', 'cliprange': '0.2'})
    """
    name, colon, rest = text.partition(":")
    overrides: dict[str, str] = {}
    for item in rest.split(",") if colon else ():
        field, equals, value = item.partition("=")
        if not equals or not field or not value:
            raise InputError(f"'{text}': expected name:field=value,field=value, got '{item}'")
        if field in overrides:
            raise InputError(f"'{text}': field '{field}' is given twice")
        overrides[field] = value
    return name, overrides


def with_overrides(name: str, overrides: Mapping[str, str]) -> str:
    """What `split_overrides` splits.

    >>> with_overrides("ppo", {"beta": "0.1"}), with_overrides("ppo", {})
    ('ppo:beta=0.1', 'ppo')
    """
    merged = ",".join(f"{field}={value}" for field, value in overrides.items())
    return f"{name}:{merged}" if merged else name


def of_the_arm(name: str) -> bool:
    """Whether a task's option says where labels and reward come from, so that an arm may choose it for itself."""
    return name in ("rm", "labels") or name.startswith(("rm_", "label_"))


def converted(
    cls: type[Any], overrides: Mapping[str, Any], where: str, without: Iterable[str] = ()
) -> dict[str, Any]:
    """The values of `overrides` in the types of the dataclass `cls`, whose fields `without` cannot be set."""
    fields = {f.name for f in dataclasses.fields(cls) if f.init} - {*without}
    hints = typing.get_type_hints(cls) if overrides else {}
    values = {}
    for name, value in overrides.items():
        if name not in fields:
            raise InputError(f"{where}: no field '{name}'{nearest(name, fields)}")
        values[name] = _convert(value, hints[name], f"{where}: {name}")
    return values


def build(cls: type[T], overrides: Mapping[str, Any], where: str) -> T:
    """Make the frozen dataclass `cls` with string or typed `overrides`; `where` begins every error."""
    values = converted(cls, overrides, where)
    try:
        made = cls(**values)
    except (
        InputError,
        ValueError,
        TypeError,
    ) as error:  # what a `__post_init__` refuses, or a field without value
        raise InputError(f"{where}: {error}") from None
    for name in sorted(f.name for f in dataclasses.fields(cls) if f.init):  # type: ignore[arg-type]
        value = getattr(made, name)
        if not _plain(value):
            raise InputError(
                f"{where}: {name} must be a finite number, text or a list of these, got {value!r}"
            )
    return made


def _plain(value: Any) -> bool:
    """Whether JSON can hold it, which a run's key and manifest need."""
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    return value is None or isinstance(value, str) or (isinstance(value, Real) and math.isfinite(value))


def _convert(value: Any, hint: Any, where: str) -> Any:
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        (hint,) = (a for a in arguments if a is not type(None))
        arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        if value not in arguments:
            raise InputError(f"{where}: '{value}' is not valid{nearest(str(value), map(str, arguments))}")
        return value
    if hint is bool:
        return _boolean(value, where)
    if hint is int:
        return _integer(value, where)
    if hint is float:
        return _number(value, where)
    return str(value)


def _boolean(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).lower() not in words:
        raise InputError(f"{where} must be true or false, got '{value}'")
    return words[str(value).lower()]


def _integer(value: Any, where: str) -> int:
    try:
        if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where} must be a whole number, got '{value}'") from None


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where} must be a number, got '{value}'") from None
    if not math.isfinite(number):
        raise InputError(f"{where} must be a finite number, got '{value}'")
    return number
