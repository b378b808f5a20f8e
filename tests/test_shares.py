"""What workers compile side by side is what the warm-up needs: no less, and of the usual arms no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from kernels import _jit
from rlhfbench.registry import builtin_names
from rlhfbench.shares import LOSSES, compile_share, share_names

# In a process of its own, so that only what its jobs needed is there.
NEEDED = """
import json, sys
from numba.core.dispatcher import Dispatcher
from rlhfbench.jobs import share_jobs, warm_up_job, work_on
from rlhfbench.plan import make_world
from kernels import _jit
from rlhfbench.registry import parse_arm

which, task, policy, *names = sys.argv[1:]
world = make_world(task, None, False, policy, None)
arms = [parse_arm(name, policy=policy) for name in names]
for job in share_jobs(arms, world) if which == "shares" else [warm_up_job(arms, world)]:
    work_on(job)
modules = [module for name, module in sys.modules.items() if name.startswith("kernels.")]
found = {f for module in modules for f in vars(module).values() if isinstance(f, Dispatcher)}
entries = [f for f in found if f.py_func.__name__.endswith("_jit")]
print(json.dumps([f"{f.py_func.__name__}{s}" for f in entries for s in f.signatures]))
"""
compiled = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")


def needed(which: str, *arguments: str) -> set[str]:
    """The signatures of what the shares, or the warm-up alone, have compiled or loaded."""
    command = [sys.executable, "-c", NEEDED, which, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@compiled
@pytest.mark.parametrize("policy", ["transformer", "linear"])
def test_the_shares_of_ppo_and_dpo_are_what_the_warm_up_needs(policy: str) -> None:
    arguments = ("sentences", policy, "ppo", "dpo")
    assert needed("shares", *arguments) == needed("warm-up", *arguments)


@compiled
def test_of_other_arms_nothing_is_left_to_the_warm_up() -> None:
    arguments = ("words", "tabular", "reinforce", "best_of_n")
    assert needed("warm-up", *arguments) <= needed("shares", *arguments)


def test_without_a_cache_no_share_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody else can load would be work for nothing."""
    done: list[str] = []
    monkeypatch.setitem(LOSSES, "dpo", lambda: done.append("dpo"))
    for folder in (None, Path()):
        monkeypatch.setattr(_jit, "cache_folder", lambda folder=folder: folder)
        compile_share("dpo", "linear", list)
        assert len(done) == (folder is not None)


def test_names_are_unique_and_those_of_strangers_have_no_share() -> None:
    assert set(LOSSES) < set(builtin_names("algorithms"))
    names = share_names(["ppo", "theirs", "ppo", "dpo"])
    assert names.count("ppo") == 1
    assert "theirs" not in names
    assert names[0] == "policy"
