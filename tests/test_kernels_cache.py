"""Machine code on disk: reused while the sources stay, never after any of them changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from kernels import _inlaid, _jit

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")

HELPER = """
from ._jit import jit

@jit
def factor(x):
    return 2.0 * x
"""
CALLER = """
from ._helper import factor
from ._jit import jit

@jit
def caller_jit(x):
    return factor(x) + 1.0
"""
PROGRAM = """
import warnings
warnings.simplefilter("error")
from cached.caller import caller_jit
value = caller_jit(3.0)
hits = sum(caller_jit.stats.cache_hits.values())
print(value, hits, caller_jit.stats.cache_path)
"""


@pytest.fixture
def package(tmp_path):
    """A small package around copies of `_jit.py` and what it imports: a caller, and its helper in another file."""
    folder = tmp_path / "cached"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for file in (_jit.__file__, _inlaid.__file__):
        shutil.copy(file, folder)
    (folder / "_helper.py").write_text(HELPER)
    (folder / "caller.py").write_text(CALLER)
    return folder


def run(package, program=PROGRAM, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=package.parent,
        env={**kept, "PYTHONPATH": str(package.parent), "HOME": str(package.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(maxsplit=2)


def test_a_changed_helper_reaches_its_callers(package):
    assert run(package)[:2] == ["7.0", "0"]
    value, hits, first = run(package)
    assert (value, hits) == ("7.0", "1"), "unchanged sources have to hit the cache"
    helper = package / "_helper.py"
    before = helper.stat()
    helper.write_text(HELPER.replace("2.0", "5.0"))
    os.utime(helper, ns=(before.st_atime_ns, before.st_mtime_ns))  # an upgrade may keep times and sizes
    value, hits, second = run(package)
    assert (value, hits) == ("16.0", "0")
    assert first != second
    helper.write_text(HELPER)
    assert run(package)[:2] == ["7.0", "1"], "the code of the old sources is still right for them"


def test_a_new_file_is_a_new_state(package):
    run(package)
    (package / "another.py").write_text("X = 1\n")
    assert run(package)[:2] == ["7.0", "0"]


def test_cache_dir_is_respected(package, tmp_path):
    folder = tmp_path / "elsewhere"
    path = run(package, NUMBA_CACHE_DIR=str(folder))[2].strip()
    assert Path(path).is_relative_to(folder)
    assert not (package / "__pycache__").exists()
    assert run(package, NUMBA_CACHE_DIR=str(folder))[1] == "1"


def test_other_locators_get_our_stamp(package):
    """Numba lets the environment choose the folder; the stamp has to stay ours."""
    choice = {"NUMBA_CACHE_LOCATOR_CLASSES": "InTreeCacheLocator"}
    run(package, **choice)
    (package / "_helper.py").write_text(HELPER.replace("2.0", "5.0"))
    assert run(package, **choice)[:2] == ["16.0", "0"]


def test_old_states_are_pruned(tmp_path):
    folders = [tmp_path / f"preference-kernels-{n}" for n in range(8)]
    for age, folder in enumerate(folders):
        folder.mkdir()
        (folder / "caller.nbi").touch()
        os.utime(folder, (1e9 + age, 1e9 + age))
    (tmp_path / "another tool").mkdir()
    _jit._prune(folders[0])
    assert {path.name[-1] for path in tmp_path.iterdir()} == {"0", "4", "5", "6", "7", "l"}


def test_without_a_writable_folder_it_warns_once_and_works(package):
    """Files stand where the folders would be: not even root can write there."""
    (package / "__pycache__").touch()
    blocked = package.parent / "blocked"
    blocked.touch()
    program = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from cached.caller import caller_jit
    print(caller_jit(3.0), len(caught), caught[0].category.__name__, caught[0].message)
"""
    environment = {"HOME": str(blocked), "XDG_CACHE_HOME": str(blocked), "NUMBA_CACHE_DIR": str(blocked)}
    value, count, rest = run(package, program, **environment)
    assert (value, count) == ("7.0", "1")
    assert rest.startswith("RuntimeWarning")
    assert "NUMBA_CACHE_DIR" in rest


def test_functions_of_other_packages_are_not_cached():
    """The stamp knows only our sources."""

    @_jit.jit
    def theirs(x):
        return x

    assert theirs(1.0) == 1.0
    assert theirs.stats.cache_path is None
