"""`Result`: what one algorithm made of one seed, checked field by field, to JSON and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, get_args

import numpy as np

from .types import Status

Check: TypeAlias = Callable[[Any, str], Any]
"""Takes a value and the name of its field, gives the value as it is kept or raises a `FieldError`."""


class FieldError(ValueError):
    """A record lacks the field `name` or holds something else there."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"field '{name}' {problem}")
        self.name = name


def plain(value: Any, finite: bool = False) -> Any:
    """Copy as what JSON holds; NaN and infinity become None, or an error where `finite` is asked for."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if finite and not math.isfinite(value):
            raise ValueError(f"{value} cannot be part of a key")
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError(f"names must be text, got {list(value)}")
        return {name: plain(item, finite) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, finite) for item in value]
    raise TypeError(f"{type(value).__name__} is nothing that JSON holds")


def _number(value: Any, name: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
        return float(value)
    raise FieldError(name, f"must be a number or null, got {value!r:.40}")


def count(value: Any, name: str) -> int:
    """Check that `value` is a whole number of 0 or more."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise FieldError(name, f"must be a whole number, got {value!r:.40}")


def _whole(value: Any, name: str) -> int | None:
    return None if value is None else count(value, name)


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    raise FieldError(name, f"must be text, got {value!r:.40}")


def _message(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _status(value: Any, name: str) -> str:
    if value in get_args(Status):
        return str(value)
    raise FieldError(name, f"must be one of {', '.join(get_args(Status))}, got {value!r:.40}")


def _anything(value: Any, name: str) -> Any:
    return value


def record_of(checks: Mapping[str, Check], others: Check | None = None) -> Check:
    """Check an object that has exactly the fields of `checks`, or more where `others` checks those."""

    def check(value: Any, name: str) -> dict[str, Any]:
        prefix = f"{name}." if name else ""
        if not isinstance(value, dict):
            raise FieldError(name, f"must be an object, got {value!r:.40}")
        for key in checks:
            if key not in value:
                raise FieldError(f"{prefix}{key}", "is missing")
        checked = {}
        for key, item in value.items():
            item_check = checks.get(key, others)
            if item_check is None:
                raise FieldError(f"{prefix}{key}", "is not known")
            checked[key] = item_check(item, f"{prefix}{key}")
        return checked

    return check


def _list(check_item: Check) -> Check:
    def check(value: Any, name: str) -> list[Any]:
        if not isinstance(value, list):
            raise FieldError(name, f"must be a list, got {value!r:.40}")
        return [check_item(item, f"{name}[{index}]") for index, item in enumerate(value)]

    return check


_SCORES = {"rm_score": _number, "gold_score": _number}
SAFETY = ("helpfulness", "harm_rate", "refusal_rate", "over_refusal_rate", "cost")
"""What is told of replies where some prompts should be declined: helpfulness, by gold, on the other prompts; how often
a reply is unsafe, and how often it refuses, on those; how often it refuses on the others; the mean cost on all."""
_safety = record_of(dict.fromkeys(SAFETY, _number))


def _safety_of_run(value: Any, name: str) -> Any:
    checks = {**dict.fromkeys(SAFETY, _number), "reference": _safety}
    return None if value is None else record_of(checks)(value, name)


point = record_of({"update": count, "flops": count, **_SCORES, "kl": _number}, others=_number)
reply = record_of({"prompt": _text, "reference": _text, "reply": _text}, others=_anything)
_COMPUTE_CHECKS: dict[str, Check] = {
    "flops": _whole,
    "transcendentals": _whole,
    "by_phase": record_of({}, others=_whole),
    "flops_per_reply": _whole,
    "tokens_generated": _whole,
    "tokens_trained": _whole,
    "rm_calls": _whole,
    "labels": _whole,
    "optimizer_steps": _whole,
    "cpu_seconds": _number,
    "wall_seconds": _number,
    "jit_seconds": _number,
    "peak_rss_bytes": _whole,
    "label_cost": _number,
}
COUNTERS = tuple(_COMPUTE_CHECKS)
"""Fields of a run's `compute`."""


def _compute(value: Any, name: str) -> Any:
    """The counters; earlier versions had people's labels alone, whose cost is their number."""
    if isinstance(value, dict) and "labels" in value:
        value = {**value, "label_cost": value.get("label_cost", value["labels"])}
    return record_of(_COMPUTE_CHECKS)(value, name)


_RESULT_CHECKS: dict[str, Check] = {
    "seed": count,
    "status": _status,
    **_SCORES,
    "kl": _number,
    "entropy": _number,
    "length": _number,
    "reference": record_of(_SCORES),
    "compute": _compute,
    "curve": _list(point),
    "safety": _safety_of_run,
    "message": _message,
    "replies": _list(reply),
}


@dataclass(frozen=True)
class Result:
    """What one algorithm made of one seed: the run object of the JSON contract, and the replies for `show`.

    What is not known is None, as is everything but seed and status of a run that was lost with its process.
    Every value is checked and made plain on construction (NumPy scalars to Python's, NaN and infinity to None),
    so that a run read back from the store equals the one that was stored.
    """

    seed: int
    status: Status
    rm_score: float | None = None
    gold_score: float | None = None
    kl: float | None = None
    entropy: float | None = None
    length: float | None = None
    reference: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(_SCORES))
    compute: dict[str, Any] = field(default_factory=lambda: {**dict.fromkeys(COUNTERS), "by_phase": {}})
    curve: list[dict[str, Any]] = field(default_factory=list)
    safety: dict[str, Any] | None = None
    """`SAFETY` of what is served, and the same of the reference; None where no prompt is to be declined."""
    message: str | None = None
    """Why the run is not done."""
    replies: list[dict[str, Any]] = field(default_factory=list)
    """prompt, reference and reply as text, and any scores."""

    def __post_init__(self) -> None:
        for name, check in _RESULT_CHECKS.items():
            object.__setattr__(self, name, check(plain(getattr(self, name)), name))

    def to_json(self) -> dict[str, Any]:
        """Give the contract's run object; `message` and `safety` are in it only where there is one."""
        left_out = {"replies", *(name for name in ("message", "safety") if getattr(self, name) is None)}
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in left_out}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], replies: Iterable[Mapping[str, Any]] = ()) -> Result:
        """Read what `to_json` gave; a `FieldError` names what is missing or wrong. Other fields are ignored."""
        if not isinstance(record, Mapping):
            raise FieldError("seed", "is missing: this is not an object")
        values = {"message": None, "safety": None, **record, "replies": list(replies)}
        for name in _RESULT_CHECKS:
            if name not in values:
                raise FieldError(name, "is missing")
        return cls(**{name: values[name] for name in _RESULT_CHECKS})
