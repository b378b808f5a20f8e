"""Which policy a comparison trains, as people type it: ``name[:field=value,...]``. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import InputError
from .options import build, nearest, require, split_overrides
from .types import Task


@dataclass(frozen=True)
class Plain:
    """A policy whose size the task determines."""


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes of the transformer, ``--policy transformer:layers=2,width=32,heads=4``.

    Parameters
    ----------
    layers : int
        Blocks of attention and perceptron.
    width : int
        Numbers a token, C.
    heads : int
        Attention heads; they divide the width among them.
    """

    layers: int = 2
    width: int = 32
    heads: int = 4

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width ({self.width})")
        require(self.layers <= 48, "layers", self.layers, "at most 48")
        require(self.width <= 4096, "width", self.width, "at most 4,096")


OPTIONS: dict[str, type[Any]] = {"linear": Plain, "tabular": Plain, "transformer": TransformerSizes}
"""The policies there are, with what can be chosen about each."""


@dataclass(frozen=True)
class PolicyChoice:
    """A policy by name, with its options."""

    name: str
    options: Any

    @property
    def text(self) -> str:
        """The shortest way to type it.

        >>> choose_policy("transformer:heads=4,width=64").text
        'transformer:width=64'
        """
        given = asdict(self.options)
        changed = [f"{f.name}={given[f.name]}" for f in fields(self.options) if given[f.name] != f.default]
        return self.name + (f":{','.join(changed)}" if changed else "")


def choose_policy(text: str) -> PolicyChoice:
    """The policy that ``name[:field=value,...]`` describes.

    Raises
    ------
    InputError
        For an unknown name or option, with the nearest valid one.
    """
    name, overrides = split_overrides(text)
    if name not in OPTIONS:
        raise InputError(f"unknown policy '{name}'{nearest(name, OPTIONS)}")
    if overrides and OPTIONS[name] is Plain:
        raise InputError(f"policy '{name}' has no options, got '{text}'")
    return PolicyChoice(name, build(OPTIONS[name], overrides, f"policy {name}"))


def check_policy(task: Task, text: str | None) -> str:
    """The policy to use, in its shortest form: the one asked for if it fits the task, else the task's default."""
    if text is None:
        return task.policies[0]
    choice = choose_policy(text)
    if choice.name not in task.policies:
        fits = " or ".join(task.policies)
        raise InputError(f"policy '{choice.name}' does not fit task '{task.name}'; what fits is {fits}")
    return choice.text
