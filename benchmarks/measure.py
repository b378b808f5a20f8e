"""Interleaved timing, peak memory, and one core for one thread.

Sides that are to be compared run in one round robin: whatever else the machine does hits all of them alike.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any, NamedTuple

Call = Callable[[], Any]
SHORTEST = 1e-3
"""Seconds that one timed stretch lasts at least: a call below it is repeated, so that the clock is no part of it."""


class Timing(NamedTuple):
    """Seconds a call, over rounds."""

    best: float
    median: float
    rounds: int


def one_core(which: int = -1) -> None:
    """Keep this process, and every thread that a library starts in it, on one core; where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[which]})


def interleave(calls: Mapping[str, Call], seconds: float = 1.0, rounds: int = 5) -> dict[str, Timing]:
    """Time calls in turn, for at least so many seconds altogether and so many rounds.

    Each round has another order, and each side begins when no thread of the process works any more. In a fixed order,
    whoever came after `jax.jit` ran at half its speed on the same core: JAX goes on after its call has returned.

    Examples
    --------
    >>> sorted(interleave({"a": int, "b": str}, seconds=0.0))
    ['a', 'b']
    """
    loops = {name: _loops(call) for name, call in calls.items()}
    names = list(calls)
    order = random.Random(0)
    samples: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        stop = perf_counter() + seconds
        while len(samples[names[-1]]) < rounds or perf_counter() < stop:
            order.shuffle(names)
            for name in names:
                settle()
                samples[name].append(_stretch(calls[name], loops[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: summary(taken) for name, taken in samples.items()}


def summary(taken: list[float]) -> Timing:
    return Timing(min(taken), statistics.median(taken), len(taken))


def _loops(call: Call) -> int:
    """How often to call for a stretch of `SHORTEST`; the first call, which may compile, says nothing about it.

    The lesser of two stretches counts: after one that another process has cut in two, a side would be timed call by
    call, with cold caches, to the end.
    """
    call()
    loops = 1
    while (once := min(_stretch(call, loops) for _ in range(2))) * loops < SHORTEST:
        loops = max(2 * loops, int(SHORTEST / once) if loops > 8 else 0)
    return loops


def settle() -> None:
    """Wait until this process has used no processor time in two looks, for a fifth of a second at most.

    Two, because on a busy machine a thread that has work to do may be kept waiting for the length of one.
    """
    quiet = 0
    for _ in range(100):
        before = process_time()
        sleep(0.002)
        quiet = quiet + 1 if process_time() - before < 2e-4 else 0
        if quiet == 2:
            return


def _stretch(call: Call, loops: int) -> float:
    start = perf_counter()
    for _ in range(loops):
        call()
    return (perf_counter() - start) / loops


def peak_extra(call: Call) -> int | None:
    """Bytes by which one call, its results included, raises the process's memory; None where it cannot be told.

    What a first call sets up once is part of it, so there should have been one. Of use from some megabytes on: below,
    the C library keeps what it was given back.
    """
    before = peak_reset()
    result = call()
    peak = peak_since(before)
    del result
    return peak


def peak_reset() -> int | None:
    """Begin anew with the high-water mark of memory, at what is in use now; None where it cannot be told."""
    clear = Path("/proc/self/clear_refs")
    if not sys.platform.startswith("linux") or not os.access(clear, os.W_OK):
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    clear.write_text("5")
    return _highest()


def peak_since(before: int | None) -> int | None:
    """Bytes by which memory has been higher since."""
    return None if before is None else _highest() - before


def _highest() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
