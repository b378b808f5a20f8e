"""The layers of the code, read from its syntax: who imports whom, who prints, who spells a Numba option.

A new file needs one line in LAYERS (or lies in a folder that has one); the test names the file otherwise.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

# Layer -> the layers that it may import. A layer is a module or a pattern; the longest that fits a module is its own.
# What a line does not name is forbidden: algorithms know neither each other nor tasks nor the harness, nobody
# imports `kernels.torch` (optional wrappers for autograd, for users), and few see the gold reward.
# `~name`: under `if TYPE_CHECKING` only, to annotate what is handed in.
KERNELS = "kernels.* kernels.flops"
OUTCOME = "comparison errors hacking records results run_folder statistics types verdict"
LAYERS = {
    "kernels": "",
    "kernels.*": "kernels.*",
    "kernels.flops": "",
    "kernels.reference*": "kernels.* kernels.reference*",  # of the kernels, the types of their results alone
    "kernels.torch": "kernels.torch.*",
    "kernels.torch.*": "kernels.* kernels.torch.*",
    "rlhfbench.errors": "",
    "rlhfbench.hacking": "",
    "rlhfbench.kl_control": "",
    "rlhfbench.seeding": "",
    "rlhfbench.room": "",
    "rlhfbench.types": "~room",
    "rlhfbench.environment": "",
    "rlhfbench.options": "errors",
    "rlhfbench.metrics": "types",
    "rlhfbench.records": "types",
    "rlhfbench.run_folder": "errors records",
    "rlhfbench.results": "errors records run_folder types",
    "rlhfbench.checkpoints": "errors types",
    "rlhfbench.statistics": "types",
    "rlhfbench.claims": "statistics",
    "rlhfbench.verdict_text": "claims statistics",
    "rlhfbench.verdict": "claims statistics verdict_text",
    "rlhfbench.unheeded": "records",
    "rlhfbench.comparison": "records results statistics types unheeded verdict",
    "rlhfbench.text": "kernels.*",
    "rlhfbench.json_lines": "errors text",
    "rlhfbench.data": "errors json_lines",
    "rlhfbench.problems": "data errors json_lines",
    "rlhfbench.tokenizer": "errors text",
    "rlhfbench.constitution": "text",
    "rlhfbench.file_places": "",
    "rlhfbench.constitution_file": "constitution errors file_places json_lines options text",
    "rlhfbench.revision": "constitution",
    "rlhfbench.labeller": "constitution revision text types",
    "rlhfbench.compute": "kernels.flops",
    "rlhfbench.optimizer": f"{KERNELS} types",
    "rlhfbench.algorithms": "",
    "rlhfbench.schedules": "",
    "rlhfbench.pair_training": "kernels.* metrics options schedules types",
    "rlhfbench.kl_penalty": "kernels.* types",
    "rlhfbench.rollouts": "kernels.* kl_penalty metrics room types",
    "rlhfbench.lagrange": "",
    "rlhfbench.ppo_step": "kernels.* kl_control kl_penalty metrics options rollouts schedules types",
    "rlhfbench.selection": "options types",
    "rlhfbench.algorithms.*": (
        "kernels.* errors kl_control kl_penalty lagrange metrics options pair_training ppo_step rollouts schedules"
        " selection types"
    ),
    "rlhfbench.policies": "",
    "rlhfbench.policies.*": f"{KERNELS} policies.* types",
    "rlhfbench.rankings": "types",
    "rlhfbench.rewards": "",
    "rlhfbench.rewards.*": f"{KERNELS} rankings rewards.* types",
    "rlhfbench.rewards.composed": f"{KERNELS} rewards.* rewards.transformer types",
    "rlhfbench.rewards.gold": "types",
    "rlhfbench.verifiers": "errors registry rewards.* seeding types",
    "rlhfbench.rewards.transformer": f"{KERNELS} policies.* rewards.* room types",
    "rlhfbench.rewards.words": f"{KERNELS} policies.* rewards.transformer types",
    "rlhfbench.rewards.transformer_training": (
        f"{KERNELS} optimizer options policies.* rankings rewards.* rewards.transformer rewards.words schedules"
        " types"
    ),
    "rlhfbench.rewards.cost": f"{KERNELS} policies.* rewards.* rewards.transformer rewards.transformer_training types",
    "rlhfbench.cost_models": (
        "compute policies.* policy_choice reward_models rewards.* rewards.composed rewards.cost"
        " rewards.transformer_training seeding sft types"
    ),
    "rlhfbench.rewards.process": f"{KERNELS} policies.* rewards.* rewards.transformer types",
    "rlhfbench.rewards.process_training": (
        f"{KERNELS} optimizer options policies.* rewards.* rewards.process rewards.transformer_training schedules types"
    ),
    "rlhfbench.tasks": "",
    "rlhfbench.tasks.*": (
        "constitution constitution_file data errors labeller options problems rankings seeding tasks.* text tokenizer"
        " types"
    ),
    "rlhfbench.preset_files": "errors file_places options",
    "rlhfbench.registry": "errors options preset_files types",
    "rlhfbench.policy_choice": "errors options types",
    "rlhfbench.sft": f"{KERNELS} compute optimizer policies.* policy_choice schedules types",
    "rlhfbench.reward_models": (
        "compute options policies.* policy_choice rankings rewards.* rewards.composed rewards.process "
        "rewards.process_training rewards.transformer_training seeding sft tasks.* types"
    ),
    "rlhfbench.rewards.distilled": (
        f"{KERNELS} policies.* rewards.* rewards.transformer rewards.transformer_training types"
    ),
    "rlhfbench.reward_student": f"{KERNELS} compute reward_models rewards.distilled sft tasks.* types",
    "rlhfbench.prepare": (
        "kernels.flops compute cost_models errors policy_choice reward_models reward_student rewards.* rewards.gold"
        " seeding sft tasks.* types verifiers"
    ),
    "rlhfbench.oracle": "errors types",
    "rlhfbench.worlds": (
        "checkpoints errors policy_choice prepare reward_models rewards.* rewards.composed rewards.gold rewards.process"
        " rewards.transformer seeding sft tasks.* types verifiers"
    ),
    "rlhfbench.evaluation": f"{KERNELS} compute prepare records rewards.gold types",
    "rlhfbench.run_setup": (
        f"{KERNELS} compute cost_models errors optimizer prepare registry room seeding tasks.* types"
    ),
    "rlhfbench.run": (
        f"{KERNELS} compute cost_models environment errors evaluation prepare records registry results run_setup types"
    ),
    "rlhfbench.worker": "environment errors",
    "rlhfbench.pool": "errors worker",
    "rlhfbench.shares": "kernels.* optimizer policy_choice registry rewards.* seeding sft types",
    "rlhfbench.jobs": (
        "environment errors options policy_choice pool prepare registry results reward_models run shares tasks.*"
        " types verifiers worlds"
    ),
    "rlhfbench.gates": "errors options",
    "rlhfbench.comparison_gates": "gates jobs policy_choice registry reward_models",
    "rlhfbench.plan": (
        f"{KERNELS} {OUTCOME} comparison_gates cost_models jobs options policy_choice registry reward_models tasks.*"
        " verifiers"
    ),
    "rlhfbench.harness": f"{OUTCOME} comparison_gates jobs options plan pool registry",
    "rlhfbench.samples": "errors evaluation jobs options results run_folder types verifiers worlds",
    "rlhfbench.training_log": "errors run_folder types",
    "rlhfbench.doctor_rules": "hacking training_log types",
    "rlhfbench.doctor": "doctor_rules errors training_log",
    "rlhfbench.extrapolation": "kernels.flops options",
    "rlhfbench.architect_knowledge": "",
    "rlhfbench.architect": "architect_knowledge errors extrapolation gates options",
    "rlhfbench.architect_report": "architect architect_knowledge gates layout",
    "rlhfbench.sweeps": f"{OUTCOME} comparison_gates harness options plan registry",
    "rlhfbench.reward_report": "kernels.* data errors rewards.* seeding text types",
    "rlhfbench.steps": "errors json_lines",
    "rlhfbench.step_models": "kernels.* rewards.* steps text types",
    "rlhfbench.step_report": "errors options reward_report statistics step_models steps types",
    "rlhfbench.constitution_report": "constitution_file data reward_report text types",
    "rlhfbench.reward_task": (
        "compute options policy_choice prepare registry reward_models reward_report reward_student rewards.*"
        " rewards.composed seeding tasks.* types"
    ),
    "rlhfbench.step_task": (
        "compute options policy_choice prepare registry reward_models rewards.process rewards.process_training seeding"
        " selection sft step_report tasks.* types"
    ),
    "rlhfbench.conformance": "compute errors evaluation policy_choice prepare records registry rewards.gold run types",
    "rlhfbench.catalogue": "errors preset_files registry sft types",
    "rlhfbench.layout": "text",
    "rlhfbench.progress": "hacking layout text",
    "rlhfbench.plots": f"{OUTCOME} layout text ~sweeps",
    "rlhfbench.report_lines": f"{OUTCOME} layout text",
    "rlhfbench.report": f"{OUTCOME} layout report_lines text",
    "rlhfbench.sweep_report": f"{OUTCOME} layout report report_lines ~sweeps",
    "rlhfbench.catalogue_report": "layout ~conformance ~preset_files",
    "rlhfbench.show": f"{OUTCOME} layout text unheeded ~doctor ~reward_report ~samples ~step_report",
    "rlhfbench.show_constitution": "layout ~constitution_report",
    "rlhfbench": "harness sweeps",
    "rlhfbench.arguments": "rlhfbench errors options",
    "rlhfbench.cli": (
        f"{OUTCOME} architect architect_report arguments catalogue catalogue_report conformance constitution_file"
        " constitution_report doctor harness layout plots progress report reward_report reward_task samples show"
        " show_constitution step_report step_task sweep_report sweeps text"
    ),
    "rlhfbench.__main__": "cli",
}

# Package from elsewhere -> the lines of LAYERS that may import it. NumPy and the standard library are everybody's.
THIRD_PARTY = {
    "llvmlite": {"kernels.*"},
    "numba": {"kernels.*", "rlhfbench.jobs"},  # the warm-up times the compilation
    "torch": {"kernels.torch.*"},
    "scipy": {"rlhfbench.rewards.distilled", "rlhfbench.statistics"},
    "rich": {"rlhfbench.cli", "rlhfbench.layout", "rlhfbench.progress"},
    "matplotlib": {"rlhfbench.plots"},
    "tokenizers": {"rlhfbench.tokenizer"},
}
PRINTS_OR_EXITS = {"rlhfbench.cli"}
IMPORTS_BY_NAME = {"rlhfbench", "rlhfbench.registry", "rlhfbench.environment"}
JIT = "kernels._jit"
SPEAKS = {"print", "input", "exit", "quit", "sys.exit", "sys.stdout.write", "sys.stderr.write"}
NUMBA_DECORATORS = {"njit", "vectorize", "guvectorize", "cfunc", "jitclass", "generated_jit", "stencil"}


def layer(module: str) -> str | None:
    """The key of LAYERS that holds for `module`."""
    return max((key for key in LAYERS if fnmatchcase(module, key)), key=len, default=None)


def allowed(key: str) -> set[str]:
    """The layers that layer `key` may import."""
    return {full_name(name) for name in LAYERS[key].split() if not name.startswith("~")}


def allowed_for_annotations(key: str) -> set[str]:
    """The layers that layer `key` may import under `if TYPE_CHECKING`."""
    return {full_name(name.removeprefix("~")) for name in LAYERS[key].split()}


def full_name(name: str) -> str:
    return name if name.startswith(("kernels", "rlhfbench")) else f"rlhfbench.{name}"


class Import(NamedTuple):
    line: int
    name: str
    relative: bool
    annotations_only: bool


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import with its full name, also those inside functions and under `if TYPE_CHECKING`."""
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and dotted(n.test).endswith("TYPE_CHECKING")]
    guarded = {id(node) for guard in guards for statement in guard.body for node in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, False, id(node) in guarded)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") + ([""] if is_package else [])
                base = ".".join([*parts[: -node.level], *([base] if base else [])])
            for alias in node.names:
                # `from kernels import optim` imports a module, `from .types import Float` a name of one
                full = f"{base}.{alias.name}"
                name = full if base == "kernels" or is_module(full) else base
                yield Import(node.lineno, name, bool(node.level), id(node) in guarded)


def is_module(name: str) -> bool:
    path = CHECKOUT.joinpath(*name.split("."))
    return name in LAYERS or path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What `source`, as `module`, does that its layer forbids."""
    key = layer(module)
    if key is None:
        return [f"{module} has no line in LAYERS"]
    tree = ast.parse(source)
    found = [
        f"{module}:{found.line}: {problem}"
        for found in imports(tree, module, is_package)
        for problem in import_problems(module, key, found)
    ]
    more = [*call_problems(tree, module), *(shared_code(tree) if key == "kernels.reference*" else ())]
    found += [f"{module}:{line}: {problem}" for line, problem in more]
    return found


def import_problems(module: str, key: str, found: Import) -> Iterator[str]:
    name, top = found.name, found.name.split(".")[0]
    if top in {"kernels", "rlhfbench"}:
        known = allowed_for_annotations(key) if found.annotations_only else allowed(key)
        if name != module and layer(name) not in known:
            yield f"imports {name}, which its layer does not know"
        if top == module.split(".")[0] == "kernels" and not found.relative:
            yield f"imports {name} absolutely; beside another package called kernels only relative imports are safe"
    elif top in THIRD_PARTY:
        if key not in THIRD_PARTY[top]:
            yield f"imports {top}; only {', '.join(sorted(THIRD_PARTY[top]))} may"
    elif top not in sys.stdlib_module_names and top != "numpy":
        yield f"imports {top}, which THIRD_PARTY does not list"


def shared_code(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """A reference shares no code with what it checks; its result types (in CamelCase) it may."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.level
            and not (node.module or "").startswith("reference")
        ):
            for alias in node.names:
                if not (alias.name[0].isupper() or alias.name.startswith("reference")):
                    yield node.lineno, f"shares {alias.name} with what it checks"


def call_problems(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        name = dotted(node)
        last = name.rpartition(".")[2]
        speaks = name in SPEAKS
        if isinstance(node, ast.Raise) and node.exc is not None:  # to catch it is no exit
            raised = dotted(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            name, speaks = raised or name, raised == "SystemExit"
        if (speaks or (last in {"print", "print_json"} and name != last)) and module not in PRINTS_OR_EXITS:
            yield node.lineno, f"uses {name}; only {', '.join(PRINTS_OR_EXITS)} prints or exits"
        if (last in NUMBA_DECORATORS or name == "numba.jit") and module != JIT:
            yield node.lineno, f"spells {name}; {JIT} has `jit`"
        if last in {"import_module", "__import__"} and module not in IMPORTS_BY_NAME:
            yield node.lineno, "imports by a computed name"
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] == "numba"
            and module != JIT
        ):
            for alias in node.names:
                if alias.name in NUMBA_DECORATORS | {"jit"}:
                    yield node.lineno, f"imports numba's {alias.name}; {JIT} has `jit`"


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute (`?.c` if it hangs on an expression), else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or '?'}.{node.attr}"
    return ""


def sources() -> dict[str, Path]:
    """Module name -> file of everything in the two packages."""
    files = [f for package in ("kernels", "rlhfbench") for f in sorted((CHECKOUT / package).rglob("*.py"))]
    return {
        ".".join(f.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): f for f in files
    }


SOURCES = sources()


@pytest.mark.parametrize("module", SOURCES)
def test_module_keeps_to_its_layer(module: str) -> None:
    path = SOURCES[module]
    found = violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_every_name_in_the_table_is_a_layer() -> None:
    assert {name for key in LAYERS for name in allowed_for_annotations(key)} <= set(LAYERS)


def test_layers_form_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(LAYERS):
        ready = {key for key in LAYERS if key not in done and allowed(key) <= done | {key}}
        assert ready, f"a cycle among {sorted(set(LAYERS) - done)}"
        done |= ready


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("rlhfbench.algorithms.mine", "from .ppo import ppo", "imports rlhfbench.algorithms.ppo"),
        ("rlhfbench.algorithms.mine", "from ..harness import compare", "imports rlhfbench.harness"),
        ("rlhfbench.algorithms.mine", "from ..tasks import words", "imports rlhfbench.tasks"),
        ("rlhfbench.algorithms.mine", "from ..rewards.gold import Gold", "imports rlhfbench.rewards.gold"),
        ("rlhfbench.algorithms.mine", "import rich.table", "imports rich"),
        (
            "rlhfbench.algorithms.mine",
            "def f():\n    from rlhfbench import harness",
            "imports rlhfbench.harness",
        ),
        ("rlhfbench.algorithms.mine", "print('done')", "prints"),
        (
            "rlhfbench.rewards.mine",
            "from ..policies.linear import LinearPolicy",
            "imports rlhfbench.policies.linear",
        ),
        (
            "rlhfbench.policies.mine",
            "if TYPE_CHECKING:\n    from ..tasks.words import Words",
            "rlhfbench.tasks.words",
        ),
        ("rlhfbench.harness", "from .report import table", "imports rlhfbench.report"),
        ("rlhfbench.harness", "import sys\nsys.exit(1)", "exits"),
        ("rlhfbench.harness", "raise SystemExit", "exits"),
        ("rlhfbench.harness", "raise SystemExit(2)", "exits"),
        ("rlhfbench.report", "console.print(table)", "prints"),
        ("rlhfbench.report", "import sys\nsys.stdout.write('x')", "prints"),
        ("rlhfbench.types", "import importlib\nimportlib.import_module('rlhfbench.cli')", "computed name"),
        ("rlhfbench.types", "import pandas", "does not list"),
        ("rlhfbench.prepare", "import kernels.torch", "imports kernels.torch"),
        ("kernels.mine", "from rlhfbench.types import Float", "imports rlhfbench.types"),
        ("kernels.mine", "from kernels._jit import jit", "absolutely"),
        ("kernels.mine", "from .torch._tensors import share", "imports kernels.torch._tensors"),
        ("kernels.mine", "import scipy.special", "imports scipy"),
        ("kernels.mine", "from numba import njit", "numba's njit"),
        ("kernels.mine", "@nb.njit(cache=True)\ndef f(): ...", "spells nb.njit"),
        ("kernels.reference", "from .flops import work", "imports kernels.flops"),
        ("kernels.reference", "from .optim import adamw", "shares adamw"),
        ("kernels.reference_bag", "from . import bag", "shares bag"),
        ("kernels.reference", "import numba", "imports numba"),
        ("kernels.mine", "from . import reference", "imports kernels.reference"),
        ("rlhfbench.nowhere", "", "has no line in LAYERS"),
    ],
)
def test_a_violation_is_seen(module: str, source: str, says: str) -> None:
    assert says in "\n".join(violations(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rlhfbench.algorithms.mine", "from kernels import optim\nfrom ..types import Setup"),
        ("rlhfbench.policies.mine", "from .linear import LinearPolicy\nimport numpy as np"),
        ("rlhfbench.cli", "import rich\nprint('done')"),
        ("rlhfbench.sweep_report", "if TYPE_CHECKING:\n    from .sweeps import Sweep"),
        ("rlhfbench.harness", "try:\n    f()\nexcept SystemExit:\n    raise"),
        ("kernels.torch._mine", "import torch\nfrom .. import optim\nfrom . import _tensors"),
        ("kernels.reference", "from .preference import DPO\nfrom .reference_bag import bag_scores"),
        ("kernels.mine", '"""Not like numba.njit()."""\nfrom ._jit import jit'),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(source, module) == []


# --- what a bare start imports -----------------------------------------------------------------------------------

HEAVY = {"numpy", "numba", "scipy", "rich", "matplotlib"}
STARTS = {
    "import rlhfbench": "import rlhfbench",
    "rlhfbench --help": "from rlhfbench.cli import main\nrun(main, ['--help'])",
    "rlhfbench --version": "from rlhfbench.cli import main\nrun(main, ['--version'])",
    "rlhfbench compare --help": "from rlhfbench.cli import main\nrun(main, ['compare', '--help'])",
}
PROBE = """
import sys
def run(main, arguments):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    assert not code, code
{start}
print("LOADED", *sorted({{name.split(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize("start", STARTS)
def test_a_bare_start_loads_nothing_heavy(start: str, tmp_path: Path) -> None:
    if "cli" in STARTS[start] and importlib.util.find_spec("rlhfbench.cli") is None:
        pytest.skip("rlhfbench/cli.py does not exist yet")
    command = [sys.executable, "-c", PROBE.format(start=STARTS[start])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=bare_environment())
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.rpartition("LOADED")[2].split())


def bare_environment() -> dict[str, str]:
    """This environment without what would change which copy of the code is imported."""
    return {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONSTARTUP"}}


# --- docstrings --------------------------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def docstring_problems(source: str, public: bool = True) -> list[str]:
    """Public functions without a docstring, and `Parameters` sections that do not name the parameters."""
    found = []
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            if public and ast.get_docstring(node) is None:
                found.append(f"{node.name}:{node.lineno}: no docstring")
            found += parameter_problems(node, signature(node), node.name)
        elif isinstance(node, ast.ClassDef):
            methods = {item.name: item for item in node.body if isinstance(item, Function)}
            for name, method in methods.items():
                found += parameter_problems(method, signature(method)[1:], f"{node.name}.{name}")
            if "__init__" in methods:
                names = signature(methods["__init__"])[1:]
            else:
                names = fields(node)
            found += parameter_problems(node, names, node.name)
    return found


def fields(node: ast.ClassDef) -> list[str]:
    """The public fields of a dataclass, named tuple or protocol; class variables are none."""
    annotated = [
        item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    public = [item for item in annotated if not item.target.id.startswith("_")]
    return [item.target.id for item in public if not ast.unparse(item.annotation).startswith("ClassVar")]


def parameter_problems(node: Function | ast.ClassDef, names: Iterable[str], where: str) -> list[str]:
    documented = documented_parameters(ast.get_docstring(node) or "")
    if documented is None or set(documented) == set(names):
        return []
    missing, extra = sorted(set(names) - set(documented)), sorted(set(documented) - set(names))
    return [f"{where}:{node.lineno}: Parameters leaves out {missing} and adds {extra}"]


def documented_parameters(docstring: str) -> list[str] | None:
    """The names of a numpydoc `Parameters` section; None where there is none."""
    section = re.search(r"^Parameters\n-{10}\n(.*?)(?=^\S[^\n]*\n-{3,}\n|\Z)", docstring, re.M | re.S)
    if section is None:
        return None
    lines = [line for line in section[1].splitlines() if re.match(r"\*{0,2}[A-Za-z_]", line)]
    return [name.strip().lstrip("*") for line in lines for name in line.partition(" :")[0].split(",")]


def signature(node: Function) -> list[str]:
    a = node.args
    names = [
        *a.posonlyargs,
        *a.args,
        *([a.vararg] if a.vararg else []),
        *a.kwonlyargs,
        *([a.kwarg] if a.kwarg else []),
    ]
    return [argument.arg for argument in names]


@pytest.mark.parametrize("module", SOURCES)
def test_public_functions_say_what_they_do(module: str) -> None:
    public = not module.rpartition(".")[2].startswith("_")
    found = docstring_problems(SOURCES[module].read_text(encoding="utf-8"), public)
    assert not found, "\n".join(found)


def test_a_wrong_docstring_is_seen() -> None:
    section = "Parameters\n    ----------\n    a, b : (N,)\n        X.\n    c : int"
    right = f'def f(a, b, *, c=0):\n    """Do.\n\n    {section}\n    """'
    assert docstring_problems(right) == []
    assert docstring_problems(right.replace("int", "int\n\n    Returns\n    -------\n    d : int")) == []
    assert "leaves out ['c'] and adds ['d']" in docstring_problems(right.replace("    c :", "    d :"))[0]
    assert docstring_problems("def f(): ...") == ["f:1: no docstring"]
    assert docstring_problems("def _f(): ...") == []
