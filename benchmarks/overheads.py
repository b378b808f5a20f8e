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
from functools import partial
from typing import Any

import numpy as np

from benchmarks import cases, limits
from benchmarks.measure import interleave, one_core
from kernels._jit import jit
from kernels.categorical import entropy_jit, token_logprobs_jit
from kernels.policy_gradient import k1_jit, ppo_clip_jit

TINY = {"logits": (2, 2, 4), "tokens": (4, 2), "parameters": (8,)}
LOOPS = 10_000

# What a comparison of PPO and DPO compiles, in a process, or in workers, that have done it once already: the difference
# is compiling, or loading, and all that Numba sets up for it.
STARTUP = """
import sys
from time import perf_counter
from rlhfbench.jobs import share_jobs, warm_up, warm_up_job, work_on
from rlhfbench.plan import make_world
from rlhfbench.pool import run_jobs
from rlhfbench.registry import parse_arm
world, workers = make_world(None, None, False, sys.argv[1], None), int(sys.argv[2])
arms = [parse_arm("ppo"), parse_arm("dpo")]
job, shares = warm_up_job(arms, world), [(share,) for share in share_jobs(arms, world)]
def ready():
    if workers:
        run_jobs(work_on, [(job,)] * workers, workers=workers, warm_up=(job,), shares=shares)
    else:
        warm_up(job)
start = perf_counter()
ready()
middle = perf_counter()
ready()
print(2 * middle - start - perf_counter())
"""


def public_calls() -> dict[str, tuple[float, float]]:
    """Each public function on arrays of a few numbers, as users call it: without `out=`. Seconds a call, and the floor.

    That is one look at each array which comes, one new array for each which is returned, and a jitted call which is
    handed them all and does nothing.
    """
    calls, arrays = {}, {}
    for name, case in cases.CASES.items():
        if "+" in name:
            continue
        kind = "logits" if case.over_vocabulary else "tokens" if case.sizes is cases.TOKENS else "parameters"
        prepare = case.ours.get("rlhfbench, new array", case.ours["rlhfbench"])
        arguments = case.arguments(*TINY[kind])
        calls[name] = prepare(*arguments)
        arrays[name] = _arrays(arguments), _arrays(calls[name]())
    costs = limits.array_costs() | {str(n): call for n, call in limits.empty_calls().items()}
    best = {name: timing.best for name, timing in interleave(calls | costs, seconds=4.0).items()}
    look, new, few, many = (best[name] - best["call"] for name in ("look", "new", "2", "10"))

    def floor(read: int, made: int) -> float:
        return read * look + made * new + few + (read + made - 2) * (many - few) / 8 + best["call"]

    return {name: (best[name], floor(*arrays[name])) for name in calls}


def _arrays(values: Any) -> int:
    """How many arrays there are in a result, or among arguments."""
    if isinstance(values, tuple | list):
        return sum(map(_arrays, values))
    return int(isinstance(values, np.ndarray) and values.ndim > 0)


def jitted_from_python() -> dict[str, tuple[int, float, float]]:
    """Jitted forms on arrays of two numbers: how many arrays they take, seconds a call, and of a call of nothing."""
    x, y, z, mask, out = (np.ones((1, 2), np.float32) for _ in range(5))
    tokens, one = np.zeros(1, np.int64), np.empty(1, np.float32)
    a, b, c = x[0], y[0], out[0]
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "entropy_jit": (2, lambda: entropy_jit(x, one)),
        "token_logprobs_jit": (3, lambda: token_logprobs_jit(x, tokens, one)),
        "k1_jit": (3, lambda: k1_jit(a, b, c)),
        "ppo_clip_jit": (5, lambda: ppo_clip_jit(x, y, z, mask, 0.2, out)),
    }
    empty = limits.empty_calls()
    both = {name: call for name, (_, call) in calls.items()} | {str(n): call for n, call in empty.items()}
    best = {name: timing.best for name, timing in interleave(both, seconds=1.0).items()}
    return {name: (arrays, best[name], best[str(arrays)]) for name, (arrays, _) in calls.items()}


# What comes back from one call goes into the next, so that none can be left out; nor can one on no row, of which the
# compiler does not know.


@jit
def _k1_loop(loops: int, rows: int, x: Any, y: Any, out: Any) -> Any:
    for _ in range(loops):
        k1_jit(x[:rows], y[:rows], out[:rows])
        x[0] = out[0]


@jit
def _token_logprobs_loop(loops: int, rows: int, x: Any, tokens: Any, out: Any) -> Any:
    for _ in range(loops):
        token_logprobs_jit(x, tokens, out)
        if rows > 0:
            x[0, 0] = out[0]


@jit
def _ppo_clip_loop(loops: int, rows: int, x: Any, y: Any, z: Any, mask: Any, out: Any) -> Any:
    for _ in range(loops):
        ppo_clip_jit(x, y, z, mask, 0.2, out)
        if rows > 0:
            x[0, 0] = out[0, 0]


def jitted_from_jitted() -> dict[str, tuple[float, float]]:
    """Jitted forms in a loop of somebody's own: seconds a call on no row, and on one of one or two numbers."""
    x, y, z, mask, out = (np.ones((1, 2), np.float32) for _ in range(5))
    tokens, one = np.zeros(1, np.int64), np.zeros(1, np.float32)
    a, b, c = (np.ones(1, np.float32) for _ in range(3))
    loops: dict[str, tuple[Any, ...]] = {
        "token_logprobs_jit": (_token_logprobs_loop, x, tokens, one),
        "ppo_clip_jit": (_ppo_clip_loop, x, y, z, mask, out),
    }
    calls = {
        f"{name} {rows}": partial(loop, LOOPS, rows, *[array[:rows] for array in arrays])
        for name, (loop, *arrays) in loops.items()
        for rows in (0, 1)
    }
    calls |= {f"k1_jit {rows}": partial(_k1_loop, LOOPS, rows, a, b, c) for rows in (0, 1)}
    best = {name: timing.best / LOOPS for name, timing in interleave(calls, seconds=1.0).items()}
    return {name: (best[f"{name} 0"], best[f"{name} 1"]) for name in ("k1_jit", *loops)}


def startup(policy: str) -> dict[str, float]:
    """Compiling what `compare ppo dpo` uses with this policy, and loading it from the cache, the best of three.

    `compile` is what one process takes, `wait` what somebody waits for whose comparison has two workers.
    """

    def seconds(cache: str, workers: int = 0) -> float:
        command = [sys.executable, "-c", STARTUP, policy, str(workers)]
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return float(done.stdout.splitlines()[-1])

    with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as shared:
        found = {"compile": seconds(alone), "load": min(seconds(alone) for _ in range(3))}
        return found | {"wait": seconds(shared, workers=2)}


def main() -> None:
    found: dict[str, Any] = {"startup": {policy: startup(policy) for policy in ("linear", "transformer")}}
    one_core()  # only now: of that the two workers would have had one
    found |= {
        "public": public_calls(),
        "from Python": jitted_from_python(),
        "from jitted": jitted_from_jitted(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
