"""One case, all sides, all sizes, in a process of its own: records in JSON, one a line.

    python -m benchmarks.side_by_side token_logprobs [--quick] [--threads]

One thread and one core. `read` and `copy` are the machine's bandwidth on the same bytes in the same round robin. With
`--threads` it is our kernel with one and with two threads instead, beside the same two for reading.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks import bandwidth, cases, exact, limits
from benchmarks.inputs import Arguments
from benchmarks.measure import interleave, one_core, peak_extra
from benchmarks.peers import idioms
from kernels._jit import source_hash

LARGE = 64 << 20
"""Bytes from which on arrays count as out of cache, and peak memory is told."""
LIMITS = {"token log-probs, forward + backward": "exponentials", "ppo_clip": "exponentials", "adamw": "roots"}
"""Cases whose arithmetic is held against what the processor can do: functions of `limits`."""
Record = dict[str, Any]


def records(case: cases.Case, quick: bool) -> Iterator[Record]:
    """All sides at each size; each is held against the float64 twin first."""
    for size, shape in case.sizes.items():
        if quick and case.over_vocabulary and size not in cases.QUICK_LOGITS:
            continue
        arguments = case.arguments(*shape)
        calls = {name: prepare(*arguments) for name, prepare in sides(case).items()}
        results = {name: call() for name, call in calls.items()}
        for result in results.values():
            case.check(arguments, result)
        read, written = traffic(arguments, results["rlhfbench"])
        results.clear()
        large = read >= LARGE
        peaks = {name: peak_extra(call) for name, call in calls.items()} if large else {}
        timings = interleave(calls | _machine(case, arguments, large), seconds=0.5 if quick else 1.0)
        yield {
            "case": case.name,
            "kernels": (source_hash() or "")[:12],
            "size": size,
            "shape": shape,
            "elements": arguments[0].size,
            "read": read,
            "written": written,
            "bytes": arguments[0].nbytes,
            "sides": {name: timing._asdict() | {"peak": peaks.get(name)} for name, timing in timings.items()},
        }


def _machine(case: cases.Case, arguments: Arguments, large: bool) -> dict[str, Callable[[], Any]]:
    """What memory and processor take for the same amount, where that is the limit."""
    first = arguments[0]
    calls = {"read": bandwidth.read(first), "copy": bandwidth.copy(first)} if large else {}
    limit = LIMITS.get(case.name)
    return calls if limit is None else calls | {limit: getattr(limits, limit)(first.size)}


def sides(case: cases.Case) -> dict[str, Callable[..., Any]]:
    return case.ours | idioms(case.name)


def traffic(arguments: Arguments, result: Any) -> tuple[int, int]:
    """Bytes that a kernel has to read and to write, each once; a forward + backward pair could read once as well."""
    read = sum(a.nbytes for a in arguments if isinstance(a, np.ndarray))
    return read, sum(a.nbytes for a in exact.fields(result) if isinstance(a, np.ndarray))


def with_threads(case: cases.Case) -> Iterator[Record]:
    """One thread against two, out of cache; and what reading alone, and arithmetic alone, gain from a second thread."""
    arguments = case.arguments(*cases.LOGITS["memory, V = 50,257"])
    calls = {f"{n} thread{'s'[: n - 1]}": case.ours["rlhfbench"](*arguments, threads=n) for n in (1, 2)}
    logits = arguments[0].reshape(-1)
    whole = {"read": bandwidth.read(logits), "exponentials": limits.exponentials(logits.size)}
    halves = {
        "read": [bandwidth.read(half) for half in np.array_split(logits, 2)],
        "exponentials": [limits.exponentials(logits.size // 2) for _ in range(2)],
    }
    with ThreadPoolExecutor(2) as pool:
        for name, pair in halves.items():
            calls[name] = whole[name]
            calls[f"{name}, 2 threads"] = partial(_together, pool, pair)
        timings = interleave(calls, seconds=3.0)
    yield {"case": case.name, "threads": {name: timing._asdict() for name, timing in timings.items()}}


def _together(pool: ThreadPoolExecutor, calls: list[Callable[[], Any]]) -> None:
    list(pool.map(lambda call: call(), calls))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=cases.CASES)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, shorter")
    parser.add_argument("--threads", action="store_true", help="one thread against two")
    options = parser.parse_args(argv)
    case = cases.CASES[options.case]
    if options.threads:
        found = with_threads(case)
    else:
        one_core()
        found = records(case, options.quick)
    for record in found:
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
