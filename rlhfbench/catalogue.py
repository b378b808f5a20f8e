"""What there is to choose from, with the first line of each docstring: ``rlhfbench list``."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from .errors import InputError
from .preset_files import Preset, built_in
from .registry import (
    FILE_TASKS,
    algorithm_names,
    check_listed,
    load_algorithm,
    load_task,
    task_class,
    task_names,
)
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
        check_listed(only)
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


def task_entry(name: str) -> tuple[str, str, list[tuple[str, Any, str]]] | None:
    """Name, doc and fields of a task, those of a file too; None where `name` is none."""
    if name not in (*task_names(), *FILE_TASKS):
        return None
    return name, described(task_class(name), name), fields_of(name)


def fields_of(name: str) -> list[tuple[str, Any, str]]:
    """Name, default and meaning of each field of a task that can be set."""
    kind = task_class(name)
    given = {"path", "strict"} if name in FILE_TASKS else set()  # by --data and --strict
    told: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        told |= parameters(inspect.cleandoc(vars(cls).get("__doc__") or ""))
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    found = [(f.name, f.default, told.get(f.name, "")) for f in fields if f.init and f.name not in given]
    return sorted(
        found, key=lambda field: field[0].startswith(("rm_", "label_"))
    )  # what is its own comes first


def parameters(doc: str) -> dict[str, str]:
    """What a numpydoc docstring says of each parameter.

    >>> parameters("x\\n\\nParameters\\n----------\\na, b : int\\n    What they\\n    are.")
    {'a': 'What they are.', 'b': 'What they are.'}
    """
    section = doc.partition("Parameters\n----------\n")[2]
    told: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line[:1] not in ("", " "):
            names = line.partition(" : ")[0].split(", ") if " : " in line else []
        for name in names if line[:1] == " " else ():
            told[name] = f"{told.get(name, '')} {line.strip()}".strip()
    return told


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
