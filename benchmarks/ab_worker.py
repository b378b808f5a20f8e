"""One launch of one side: a process that loads one revision's kernels and times what it is asked to.

`benchmarks.compare` starts it with `-P` and a PYTHONPATH on which `kernels` and `ab_workload` lie. It reads JSON lines
and answers each with one: first the names to prepare, answered with what became of each; then
[name, calls, chunks], answered with the seconds a call took in each chunk.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

Call = tuple[Callable[..., Any], tuple[Any, ...]]
LINE = 64


def find(function: str) -> Callable[..., Any] | None:
    """`module.name` below `kernels`, None where this revision lacks it."""
    module, _, name = function.rpartition(".")
    try:
        found: Callable[..., Any] | None = getattr(importlib.import_module(f"kernels.{module}"), name, None)
    except ModuleNotFoundError as error:
        if error.name != f"kernels.{module}":
            raise
        return None
    return found


def aligned(value: Any) -> Any:
    """Arrays, also inside tuples, moved to whole cache lines: where an allocation falls is not what is compared."""
    if isinstance(value, tuple):
        return tuple(map(aligned, value))
    if not isinstance(value, np.ndarray) or not value.size:
        return value
    room = np.empty(value.nbytes + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    copy = room[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def prepare(names: set[str]) -> tuple[dict[str, Call], dict[str, str]]:
    """Make arguments and call once, which compiles or loads. Gives the calls and "ok", "missing" or an error."""
    import ab_workload  # type: ignore[import-not-found]  # the side's, from PYTHONPATH

    calls: dict[str, Call] = {}
    states = {}
    for workload in ab_workload.workloads():
        if names and workload.name not in names:
            continue
        function = find(workload.function)
        if function is None:
            states[workload.name] = "missing"
            continue
        arguments = aligned(workload.arguments())
        try:
            function(*arguments)
        except Exception as error:  # whatever another revision's kernel may raise on these arguments
            states[workload.name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            calls[workload.name], states[workload.name] = (function, arguments), "ok"
    return calls, states


def seconds(call: Call, calls: int) -> float:
    function, arguments = call
    turns = repeat(None, calls)
    start = time.perf_counter()
    for _ in turns:
        function(*arguments)
    return (time.perf_counter() - start) / calls


def time_call(call: Call, calls: int, chunks: int) -> list[float]:
    """Seconds a call in each chunk, after one call that brings code and data back into the caches."""
    seconds(call, 1)
    return [seconds(call, calls) for _ in range(chunks)]


def main(side: str, core: str) -> None:
    """Serve until standard input ends."""
    if core != "any":
        os.sched_setaffinity(0, {int(core)})
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever else prints must not be taken for a reply
    import kernels

    if not Path(kernels.__file__ or "").resolve().is_relative_to(Path(side).resolve()):
        sys.exit(f"kernels were imported from {kernels.__file__}, not from {side}")
    calls: dict[str, Call] = {}
    gc.disable()
    for line in sys.stdin:
        request = json.loads(line)
        reply: Any
        if "prepare" in request:
            calls, reply = prepare(set(request["prepare"]))
        else:
            name, count, chunks = request["time"]
            reply = time_call(calls[name], count, chunks)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
