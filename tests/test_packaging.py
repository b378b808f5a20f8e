"""What is installed, and how: the wheel's files, the commands, the doctests, life beside Hugging Face's `kernels`."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import os
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

import rlhfbench

CHECKOUT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    {
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("kernels", "rlhfbench")
        for path in (CHECKOUT / package).rglob("*.py")
    }
    - {"kernels", "rlhfbench", "rlhfbench.__main__"}
)
# Modules that need what is not among the dependencies.
OPTIONAL = {"kernels.torch": "torch"}
PUBLIC_KERNELS = [m for m in MODULES if m.startswith("kernels.") and "._" not in m]

installed = pytest.mark.skipif(
    "RLHFBENCH_TEST_INSTALLED" not in os.environ, reason="needs the installed wheel: run tox"
)
beside_hugging_face = pytest.mark.skipif(
    "RLHFBENCH_TEST_BESIDE_HF_KERNELS" not in os.environ, reason="installs from PyPI: run tox -e wheel"
)


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints, run as a user would: from any folder, with no say in what Python finds."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def skip_without_dependencies(module: str) -> None:
    for package, needed in OPTIONAL.items():
        if f"{module}.".startswith(f"{package}."):
            pytest.importorskip(needed)


def test_versions_agree() -> None:
    tree = ast.parse((CHECKOUT / "kernels" / "__init__.py").read_text(encoding="utf-8"))
    (given,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    assert given == rlhfbench.__version__ == version("rlhfbench")


def test_kernels_init_holds_a_docstring_and_a_version_only() -> None:
    """The wheel leaves this file out, so nothing may rely on it."""
    tree = ast.parse((CHECKOUT / "kernels" / "__init__.py").read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.Expr, ast.Assign]


def test_ci_runs_the_command_of_the_readme() -> None:
    script = CHECKOUT / ".ci" / "run"
    if not script.exists():
        pytest.skip("an unpacked sdist has no .ci")
    command = script.read_text(encoding="utf-8").splitlines()[-1]
    assert f"    {command}\n" in (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)


def test_optional_dependencies_of_the_developer_hold_those_of_tests_and_lint() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "rlhfbench[test,lint]" in project["optional-dependencies"]["dev"]


@installed
def test_it_is_the_wheel_that_is_tested() -> None:
    kernels = importlib.import_module("kernels")
    assert kernels.__spec__ is not None and kernels.__spec__.origin is None  # noqa: PT018
    for folder in (*kernels.__path__, *rlhfbench.__path__):
        assert "site-packages" in Path(folder).parts
        assert not Path(folder).is_relative_to(CHECKOUT / Path(folder).name)


@installed
def test_the_wheel_holds_every_module_and_no_init_of_kernels() -> None:
    files = {str(path) for path in distribution("rlhfbench").files or []}
    assert "kernels/__init__.py" not in files
    for package in ("kernels", "rlhfbench"):
        kinds = ("*.py", "*.toml")
        wanted = {
            p.relative_to(CHECKOUT).as_posix() for kind in kinds for p in (CHECKOUT / package).rglob(kind)
        }
        assert wanted - files <= {"kernels/__init__.py"}
        assert f"{package}/py.typed" in files
    assert any(name.endswith("licenses/LICENSE") for name in files)
    assert {name.split("/")[0] for name in files if name.endswith(".py")} == {"kernels", "rlhfbench"}


@pytest.mark.parametrize("module", PUBLIC_KERNELS)
def test_kernels_import_alone_from_any_folder(module: str, tmp_path: Path) -> None:
    skip_without_dependencies(module)
    name = module.partition(".")[2]
    code = f"from kernels import {name}; import sys; print('rlhfbench' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=tmp_path) == "False\n"


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "rlhfbench"], [Path(sys.executable).with_name("rlhfbench")]]
)
def test_both_commands_say_their_version(command: list[str | Path], tmp_path: Path) -> None:
    if importlib.util.find_spec("rlhfbench.cli") is None:
        pytest.skip("rlhfbench/cli.py does not exist yet")
    assert rlhfbench.__version__ in run(*command, "--version", cwd=tmp_path)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    skip_without_dependencies(module)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(module), optionflags=flags).failed == 0


# --- beside Hugging Face's package -------------------------------------------------------------------------------

CHECK_FILES = """
import base64, hashlib, sys
from importlib.metadata import distribution
names = sys.argv[1:]
files = {name: {str(f): f for f in distribution(name).files} for name in names}
for name in names:
    for path, file in files[name].items():
        if file.hash is None:  # RECORD itself and what pip compiles
            continue
        digest = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, f"{name}: {path} is damaged"
if len(names) == 2:
    ours, theirs = ({p for p in files[n] if "__pycache__" not in p} for n in names)
    assert not ours & theirs, f"both install {ours & theirs}"
    def modules(paths):
        return {p.split("/")[1].split(".")[0] for p in paths if p.startswith("kernels/")}
    assert not modules(ours) & modules(theirs), f"both have {modules(ours) & modules(theirs)}"
print("intact")
"""
IMPORT_OURS = """
import importlib, sys
import kernels
for name in sys.argv[1:]:
    assert not hasattr(kernels, name), f"kernels.{name} is somebody else's"
for name in sys.argv[1:]:  # one of ours may import another
    importlib.import_module(f"kernels.{name}")
from kernels import categorical
print(categorical.log_softmax([[0.0, 0.0]])[0])
"""
IMPORT_THEIRS = "import kernels; from kernels import get_kernel, layer; print(kernels.__version__)"
KERNEL_NAMES = [m.partition(".")[2] for m in PUBLIC_KERNELS if m not in OPTIONAL]


@pytest.fixture
def empty_python(tmp_path: Path) -> Path:
    """The interpreter of a fresh virtual environment."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    return tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"


@beside_hugging_face
@pytest.mark.parametrize("order", [("ours", "theirs"), ("theirs", "ours")], ids="-then-".join)
def test_beside_hugging_face(order: tuple[str, str], empty_python: Path, tmp_path: Path) -> None:
    """Both wheels stay whole and importable, in either order; the later one also without the earlier."""

    def pip(*arguments: str) -> None:
        run(empty_python, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=tmp_path)

    source = {"ours": os.environ["TOX_PACKAGE"], "theirs": "kernels"}
    name = {"ours": "rlhfbench", "theirs": "kernels"}
    for which in order:
        pip("install", "--quiet", source[which])
    assert "intact" in run(empty_python, "-c", CHECK_FILES, "rlhfbench", "kernels", cwd=tmp_path)
    assert "-0.69" in run(empty_python, "-c", IMPORT_OURS, *KERNEL_NAMES, cwd=tmp_path)
    run(empty_python, "-c", IMPORT_THEIRS, cwd=tmp_path)

    earlier, later = order
    pip("uninstall", "--quiet", "--yes", name[earlier])
    assert "intact" in run(empty_python, "-c", CHECK_FILES, name[later], cwd=tmp_path)
    if later == "ours":
        assert "-0.69" in run(empty_python, "-c", IMPORT_OURS, *KERNEL_NAMES, cwd=tmp_path)
    else:
        run(empty_python, "-c", IMPORT_THEIRS, cwd=tmp_path)
