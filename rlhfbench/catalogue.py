"""What there is to choose from, with the first line of each docstring: ``rlhfbench list``."""

from __future__ import annotations

import inspect
from typing import Any

from .errors import InputError
from .preset_files import Preset, built_in
from .registry import algorithm_names, load_algorithm, load_task, task_names
from .sft import POLICIES
from .types import AlgorithmSpec


def presets(spec: AlgorithmSpec) -> dict[str, Preset]:
    """Those of the files, and those that an algorithm of somebody else's registered."""
    registered = {name: Preset("its author", fields) for name, fields in spec.presets.items()}
    return registered | built_in(spec.name)


def algorithms(only: str | None = None) -> list[dict[str, Any]]:
    """Name, doc, needs, presets, policy defaults of each; a plug-in that cannot be loaded has its error as doc.

    Parameters
    ----------
    only : str, optional
        Of this one alone, which may be ``./file.py:function``; then what is wrong with it is raised.
    """
    if only is not None:
        return [entry(load_algorithm(only)[0])]
    found = []
    for name in algorithm_names():
        try:
            found.append(entry(load_algorithm(name)[0]))
        except InputError as error:
            none: dict[str, Any] = {"needs": [], "presets": {}, "policy_defaults": {}}
            found.append({"name": name, "doc": f"cannot be loaded: {error}", **none})
    return found


def entry(spec: AlgorithmSpec) -> dict[str, Any]:
    """What is said of one algorithm."""
    return {
        "name": spec.name,
        "doc": first_line(spec.function),
        "needs": sorted(spec.needs),
        "presets": presets(spec),
        "policy_defaults": spec.policy_defaults,
    }


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
