"""What is paid beside the work: a call on tiny arrays, a jitted call, compilation, loading from the cache.

    python -m benchmarks.overheads

Prints one JSON object; times in seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import cases
from benchmarks.measure import interleave, one_core
from kernels._jit import jit
from kernels.categorical import entropy_jit, token_logprobs_jit
from kernels.policy_gradient import k1_jit, ppo_clip_jit

TINY = {"logits": (2, 2, 4), "tokens": (4, 2), "parameters": (8,)}
LOOPS = 10_000

# What a comparison of PPO and DPO compiles, in a process that has done it once already: the difference is compiling,
# or loading, and all that Numba sets up for it.
STARTUP = """
from time import perf_counter
from rlhfbench.jobs import warm_up, warm_up_job
from rlhfbench.registry import parse_arm
job = warm_up_job([parse_arm("ppo"), parse_arm("dpo")])
start = perf_counter()
warm_up(job)
middle = perf_counter()
warm_up(job)
print(2 * middle - start - perf_counter())
"""


def public_calls() -> dict[str, float]:
    """Each public function on arrays of a few numbers, as users call it: without `out=`."""
    calls = {}
    for name, case in cases.CASES.items():
        if "+" in name:
            continue
        kind = "logits" if case.over_vocabulary else "tokens" if case.sizes is cases.TOKENS else "parameters"
        prepare = case.ours.get("rlhfbench, new array", case.ours["rlhfbench"])
        calls[name] = prepare(*case.arguments(*TINY[kind]))
    return {name: timing.best for name, timing in interleave(calls, seconds=3.0).items()}


def jitted_from_python() -> dict[str, tuple[int, float]]:
    """Jitted forms on arrays of two numbers: how many arrays they take, and seconds a call."""
    x, y, z, mask, out = (np.ones((1, 2), np.float32) for _ in range(5))
    tokens, one = np.zeros(1, np.int64), np.empty(1, np.float32)
    a, b, c = x[0], y[0], out[0]
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "entropy_jit": (2, lambda: entropy_jit(x, one)),
        "token_logprobs_jit": (3, lambda: token_logprobs_jit(x, tokens, one)),
        "k1_jit": (3, lambda: k1_jit(a, b, c)),
        "ppo_clip_jit": (5, lambda: ppo_clip_jit(x, y, z, mask, 0.2, out)),
    }
    timings = interleave({name: call for name, (_, call) in calls.items()}, seconds=1.0)
    return {name: (arrays, timings[name].best) for name, (arrays, _) in calls.items()}


@jit
def _k1_loop(loops: int, x: Any, y: Any, out: Any) -> Any:
    """Each call's input depends on the one before, so that none can be left out."""
    for _ in range(loops):
        k1_jit(x, y, out)
        x[0] = out[0]
    return x[0]


@jit
def _token_logprobs_loop(loops: int, x: Any, tokens: Any, out: Any) -> Any:
    for _ in range(loops):
        token_logprobs_jit(x, tokens, out)
        x[0, 0] = out[0]
    return x[0, 0]


@jit
def _ppo_clip_loop(loops: int, x: Any, y: Any, z: Any, mask: Any, out: Any) -> Any:
    for _ in range(loops):
        ppo_clip_jit(x, y, z, mask, 0.2, out)
        x[0, 0] = out[0, 0]
    return x[0, 0]


def jitted_from_jitted() -> dict[str, float]:
    """The same in a loop of somebody's own jitted function; the work on one or two numbers is part of it."""
    x, y, z, mask, out = (np.ones((1, 2), np.float32) for _ in range(5))
    tokens, one = np.zeros(1, np.int64), np.empty(1, np.float32)
    a, b, c = (np.ones(1, np.float32) for _ in range(3))
    calls: dict[str, Callable[[], Any]] = {
        "k1_jit": lambda: _k1_loop(LOOPS, a, b, c),
        "token_logprobs_jit": lambda: _token_logprobs_loop(LOOPS, x, tokens, one),
        "ppo_clip_jit": lambda: _ppo_clip_loop(LOOPS, x, y, z, mask, out),
    }
    return {name: timing.best / LOOPS for name, timing in interleave(calls, seconds=1.0).items()}


def startup() -> dict[str, float]:
    """Compiling everything that `compare ppo dpo` uses, and loading it from the cache; best of three processes."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}

        def seconds() -> float:
            command = [sys.executable, "-c", STARTUP]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            return float(done.stdout.splitlines()[-1])

        return {"compile": seconds(), "load": min(seconds() for _ in range(3))}


def main() -> None:
    one_core()
    found = {
        "public": public_calls(),
        "from Python": jitted_from_python(),
        "from jitted": jitted_from_jitted(),
        "startup": startup(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
