"""Finding algorithms, tasks and verifiers by name; built-ins are listed from their files, without importing them."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from . import preset_files
from .errors import InputError
from .options import build, nearest, of_the_arm, slip_of, split_overrides
from .types import AlgorithmSpec, RewardKind, Task

ROOT = Path(__file__).parent
TASKS = {
    "words": "words:Words",
    "sentences": "sentences:Sentences",
    "sentences-small": "sentences:SentencesSmall",
    "arithmetic": "arithmetic:Arithmetic",
    "safety": "safety:Safety",
    "safety-small": "safety:SafetySmall",
}
"""Tasks by name."""
FILE_TASKS = {"pairs": "pairs:PairsTask", "problems": "problems:ProblemsTask"}
"""Those of a file, which come with --data."""


@dataclass(frozen=True)
class Arm:
    """One competitor: an algorithm with its configuration, under the label that tables show."""

    label: str
    spec: AlgorithmSpec
    config: Any
    source: str
    """What was typed, so that a worker can build the same arm."""
    file: Path
    """Where the algorithm's code is; its hash is part of a run's key."""
    world: Mapping[str, str] = field(default_factory=dict)
    """Options of the task that the arm chooses for itself: where its labels and its reward come from."""

    @property
    def cautions(self) -> list[str]:
        """What a person should know before it runs with this configuration."""
        return [] if self.spec.cautions is None else self.spec.cautions(self.config)


def builtin_names(folder: str) -> list[str]:
    """Names of the files of `folder`, as people type them."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("_"))


@cache  # every installed package is looked into
def _plugins(kind: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"rlhfbench.{kind}"):
        if point.name in found:
            rivals = f"{found[point.name].value} and {point.value}"
            raise InputError(f"two packages provide {kind[:-1]} '{point.name}': {rivals}; uninstall one")
        found[point.name] = point
    return found


def algorithm_names() -> list[str]:
    """Built-in algorithms and those of installed packages."""
    return sorted({*builtin_names("algorithms"), *_plugins("algorithms")})


def task_names() -> list[str]:
    """Built-in tasks and those of installed packages."""
    return sorted({*TASKS, *_plugins("tasks")})


def check_listed(name: str) -> None:
    """Refuse a name that is neither an algorithm's nor a task's; one may be meant as well as the other."""
    names = {*algorithm_names(), *task_names(), *FILE_TASKS}
    if name not in names and not _in_file(name):
        raise InputError(f"unknown algorithm or task '{name}'{nearest(name, names)}")


def load_algorithm(name: str) -> tuple[AlgorithmSpec, Path]:
    """The algorithm called `name`: a built-in, an entry point, or ``./file.py:function``."""
    file = _in_file(name)
    if file:
        return _from_file(Path(file["file"]), file["function"] or "")
    if name in builtin_names("algorithms"):
        module = importlib.import_module(f"rlhfbench.algorithms.{name}")
        given = {key: preset.fields for key, preset in preset_files.built_in(name).items()}
        return replace(_spec_in(module, name), presets=given), Path(str(module.__file__))
    plugins = _plugins("algorithms")
    if name not in plugins:
        raise InputError(f"unknown algorithm '{name}'{nearest(name, algorithm_names())}")
    try:
        function = plugins[name].load()
    except Exception as error:
        raise InputError(
            f"algorithm '{name}' of package entry point {plugins[name].value}: {error}"
        ) from error
    if not hasattr(function, "spec"):
        raise InputError(
            f"{plugins[name].value} is not an algorithm: decorate it with rlhfbench.types.register"
        )
    return function.spec, Path(inspect.getfile(function))


def _spec_in(module: ModuleType, name: str) -> AlgorithmSpec:
    specs: list[AlgorithmSpec] = [v.spec for v in vars(module).values() if hasattr(v, "spec")]
    for spec in specs:
        if isinstance(spec, AlgorithmSpec) and spec.name == name:
            return spec
    raise InputError(f"{module.__file__}: no algorithm registered as '{name}'")


_IN_FILE = re.compile(r"(?P<file>.+?\.py)(:(?P<function>[^:@=]+)(?=[:@]|$))?(?P<rest>([:@].*)?)", re.DOTALL)
_NAMED = re.compile(r"[\w-]+(@[\w./@-]*)?:\w+=")


def _in_file(text: str) -> re.Match[str] | None:
    """The parts of ``./file.py[:function]`` and what follows them; None where `text` begins with a plain name."""
    return None if _NAMED.match(text) else _IN_FILE.fullmatch(text)


def _from_file(path: Path, function: str) -> tuple[AlgorithmSpec, Path]:
    """The algorithm `function` of a file, or the only one that it registers."""
    module = _executed(path)
    specs: dict[str, AlgorithmSpec] = {
        key: value.spec
        for key, value in vars(module).items()
        if isinstance(getattr(value, "spec", None), AlgorithmSpec) and value.__module__ == module.__name__
    }
    if function and function not in specs:
        raise InputError(f"{path}: no registered algorithm '{function}'{nearest(function, specs)}")
    if not function and len(specs) != 1:
        raise InputError(f"{path}: registers {len(specs)} algorithms; write {path}:name")
    return specs[function or next(iter(specs))], path.resolve()


def _executed(path: Path) -> ModuleType:
    """The module that a file of the user's makes."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected ./file.py:function")
    module = ModuleType(f"rlhfbench_user_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        # Not through the import system: its bytecode cache misses an edit of the same second and size.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        line = getattr(error, "lineno", None) or _line_in(error, path)
        raise InputError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    return module


def load_verifier(text: str) -> tuple[Callable[..., Any], Path]:
    """The function that ``module:function`` or ``./file.py:function`` names, and its file."""
    where, _, name = text.rpartition(":")
    if not where or not name.isidentifier():
        raise InputError(
            f"--verifier: {text or 'nothing'} came, module:function or ./file.py:function is needed"
        )
    if where.endswith(".py"):
        module = _executed(Path(where))
    else:
        try:
            module = importlib.import_module(where)
        except (Exception, SystemExit) as error:
            raise InputError(f"--verifier {text}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(f"--verifier {text}: no function '{name}'{nearest(name, known)}")
    file = getattr(module, "__file__", None)
    if file is None:
        raise InputError(f"--verifier {text}: '{where}' is in no file, a module of Python source is needed")
    return function, Path(file).resolve()


def _line_in(error: BaseException, path: Path) -> int | str:
    trace, line = error.__traceback__, "?"
    while trace is not None:
        if Path(
            trace.tb_frame.f_code.co_filename
        ) == path.resolve() or trace.tb_frame.f_code.co_filename == str(path):
            line = str(trace.tb_lineno)
        trace = trace.tb_next
    return line


def split_arm(text: str) -> tuple[str, str | None, dict[str, str]]:
    """Name, preset and overrides of ``name[@preset][:field=value,...]``; the name may be ``./file.py:function``.

    The preset may be ``FILE.toml`` or ``FILE.toml@preset``.
    """
    file = _in_file(text)
    name, rest = (text[: file.start("rest")], file["rest"]) if file else ("", text)
    head, overrides = split_overrides(rest)
    first, at, preset = head.partition("@")
    return name + first, preset if at else None, overrides


def parse_arm(
    text: str, label: str | None = None, policy: str = "linear", reward: RewardKind = "model"
) -> Arm:
    """Build the arm that ``name[@preset][:field=value,...]`` describes, with the defaults that suit policy and reward.

    Fields that are the task's and say where labels and reward come from, such as ``rm``, are the arm's `world`.
    """
    name, preset, overrides = split_arm(text)
    spec, file = load_algorithm(name)
    if not is_dataclass(spec.config):
        raise InputError(f"{spec.name}: its configuration has to be a dataclass, got {spec.config!r}")
    kind = split_overrides(policy)[0]
    values: dict[str, Any] = dict(spec.policy_defaults.get(kind, {}))
    values.update(spec.policy_defaults.get(f"{kind}/{reward}", {}))
    if preset is not None:
        values.update(_with_beta(_preset_fields(spec, preset), spec, text))
    fields = spec.config.__dataclass_fields__
    world = {name: overrides.pop(name) for name in [*overrides] if name not in fields and of_the_arm(name)}
    own = _with_beta(overrides, spec, text)
    values.update(own)
    _refuse_tasks_fields(own, fields, spec.name)
    try:
        config = build(spec.config, values, spec.name)
    except InputError as error:
        wrong = str(error).removeprefix(f"{spec.name}: ")
        of_file = preset is not None and preset not in spec.presets
        raise InputError((of_file and preset_files.placed(wrong, str(preset), own)) or str(error)) from None
    shown = spec.name + (f"@{preset_files.short_name(preset)}" if preset else "")
    return Arm(label or shown, spec, config, text, file, world)


def _with_beta(values: Mapping[str, Any], spec: AlgorithmSpec, text: str) -> dict[str, Any]:
    """The same with `beta` for its alias `kl_coef`."""
    found = dict(values)
    if "kl_coef" in found and "beta" in spec.config.__dataclass_fields__:
        if "beta" in found:
            raise InputError(f"'{text}': field 'beta' is given twice, once as kl_coef")
        found["beta"] = found.pop("kl_coef")
    return found


def _refuse_tasks_fields(given: Iterable[str], fields: Collection[str], where: str) -> None:
    """Refuse a field that is no slip of one of `fields`, but one that tasks have, with their names."""
    for name in given:
        if name in fields or slip_of(name, fields) is not None:
            continue
        having = [task for task in TASKS if name in task_class(task).__dataclass_fields__]
        if having:
            example = "sentences" if "sentences" in having else having[0]
            tasks = f"task{'s' * (len(having) > 1)} {', '.join(having)}"
            raise InputError(f"{where}: no field '{name}'; it is one of {tasks}: --task {example}:{name}=...")


def task_class(name: str) -> Any:
    """The class of a task, built in, of a file or of an installed package."""
    if name not in TASKS and name not in FILE_TASKS:
        return _plugins("tasks")[name].load()
    module, attribute = (TASKS | FILE_TASKS)[name].split(":")
    return getattr(importlib.import_module(f"rlhfbench.tasks.{module}"), attribute)


def _preset_fields(spec: AlgorithmSpec, preset: str) -> Mapping[str, Any]:
    """What ``@preset`` sets: one of the algorithm's own, or of a file."""
    if preset in spec.presets:
        return spec.presets[preset]
    if preset_files.names_file(preset):
        return preset_files.from_file(preset).fields
    raise InputError(f"{spec.name} has no preset '{preset}'{nearest(preset, spec.presets)}")


def parse_arms(texts: list[str], parse: Callable[[str], Arm] = parse_arm) -> list[Arm]:
    """The arms of a comparison, each as `parse` makes it; a repeated label gets #2, #3, …

    >>> [arm.label for arm in parse_arms(["dpo", "dpo:beta=0.2"])]
    ['dpo', 'dpo#2']
    """
    arms: list[Arm] = []
    for text in texts:
        arm = parse(text)
        numbered = itertools.chain([arm.label], (f"{arm.label}#{i}" for i in itertools.count(2)))
        label = next(label for label in numbered if label not in {a.label for a in arms})
        arms.append(replace(arm, label=label))
    return arms


def load_task(text: str) -> Task:
    """Build the task that ``name[:field=value,...]`` describes."""
    name, overrides = split_overrides(text)
    if name not in task_names():
        hint = "; for a file use --data FILE" if name in FILE_TASKS else nearest(name, task_names())
        raise InputError(f"unknown task '{name}'{hint}")
    kind = task_class(name)
    _refuse_tasks_fields(overrides, getattr(kind, "__dataclass_fields__", {}), f"task {name}")
    task: Task = build(kind, overrides, f"task {name}")
    return task
