"""What there is to choose from, with the first line of each docstring: ``rlhfbench list``."""

from __future__ import annotations

import inspect
from typing import Any

from .errors import InputError
from .registry import algorithm_names, load_algorithm, load_task, task_names
from .sft import POLICIES


def algorithms() -> list[dict[str, Any]]:
    """Name, doc, needs and presets of each; a plug-in that cannot be loaded has its error as doc."""
    found = []
    for name in algorithm_names():
        try:
            spec, _ = load_algorithm(name)
        except InputError as error:
            found.append({"name": name, "doc": f"cannot be loaded: {error}", "needs": [], "presets": {}})
            continue
        entry = {
            "name": name,
            "doc": first_line(spec.function),
            "needs": sorted(spec.needs),
            "presets": spec.presets,
        }
        found.append(entry)
    return found


def tasks() -> list[tuple[str, str, str]]:
    """Name, doc and the policies that fit, of each."""
    found = []
    for name in task_names():
        try:
            task = load_task(name)
        except Exception as error:  # a plug-in may raise anything
            found.append((name, f"cannot be loaded: {error}", "none"))
        else:
            found.append((name, described(type(task), name), " or ".join(task.policies)))
    return found


def policies() -> list[tuple[str, str]]:
    """Name and doc of each."""
    return [(name, described(policy, name)) for name, policy in sorted(POLICIES.items())]


def described(kind: type, name: str) -> str:
    """What the file called `name` says of itself; of anything else in a file, what its class says."""
    module = inspect.getmodule(kind)
    return first_line(module if module is not None and module.__name__.endswith(f".{name}") else kind)


def first_line(thing: object) -> str:
    """The first line of a docstring; empty without one."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]
