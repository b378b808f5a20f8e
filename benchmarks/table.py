"""The tables of docs/performance.md: measure everything, judge it against the goals, print it or write it there.

    python -m benchmarks.table [--quick] [-k PATTERN] [--json FILE] [--write]
    python -m benchmarks.table --from FILE [--write]

Each case runs in a process of its own, so that no library's threads or memory are another's. Some ten minutes; a
machine that does nothing else gives the best numbers, though all sides of a comparison are hit alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, threaded
from benchmarks.goals import OURS, Found, Record, judge, peers, ratio, seconds, share

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks.table: begin -->", "<!-- benchmarks.table: end -->"
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
NEW = f"{OURS}, new array"
LIBRARIES = ("numba", "numpy", "scipy", "torch", "jax")


def launch(module: str, *arguments: str, threads: int = 1) -> list[Any]:
    """Run a module of this folder in a process of its own; its JSON lines. What fails says so and is left out."""
    environment = os.environ | ONE_THREAD | {"NUMBA_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    print(module, *arguments, file=sys.stderr, flush=True)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command[2:])}: ended with {done.returncode}", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure(found: Found, pattern: str, quick: bool) -> Iterator[str]:
    """Replace what `found` holds on the cases that match; yields after each, so that it can be kept."""
    for name in (name for name in CASES if pattern in name):
        _replace(found.records, name, launch("side_by_side", name, *["--quick"] * quick))
        yield name
    for name in (name for name in threaded() if pattern in name):
        _replace(found.threads, name, launch("side_by_side", name, "--threads", threads=2))
        yield name
    if pattern in "overheads":
        found.overheads.update(*launch("overheads"))
        yield "overheads"


def _replace(records: list[Record], case: str, new: list[Record]) -> None:
    records[:] = [r for r in records if r["case"] != case] + new


def load(file: Path | None) -> Found:
    """What an earlier run kept, or nothing."""
    if file is None or not file.exists():
        return Found([], [], {}, machine())
    found = Found(**json.loads(file.read_text(encoding="utf-8")))
    if found.machine != machine():
        print(f"{file}: was measured on {found.machine}", file=sys.stderr)
    return found


def machine() -> str:
    """Processor and versions, in a line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(_versions())}"


def _versions() -> Iterator[str]:
    for library in LIBRARIES:
        try:
            yield f"{library} {version(library)}"
        except PackageNotFoundError:
            continue


# Markdown


def markdown(found: Found) -> str:
    states = sorted({record["kernels"] for record in found.records})
    where = f"{found.machine}; source of the kernels {', '.join(states)}."
    parts = [where, *_goals(found), *_over_vocabulary(found), *_arrays(found)]
    return "\n\n".join(parts)


def grid(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _goals(found: Found) -> Iterator[str]:
    goals = judge(found)
    if goals:
        rows = ([g.kernel, g.goal, g.reached, "yes" if g.met else "**no**"] for g in goals)
        yield "### Goals\n\n" + grid(("kernel", "goal", "reached", "met"), rows)


def _over_vocabulary(found: Found) -> Iterator[str]:
    named = {name: found.of(name) for name, case in CASES.items() if case.over_vocabulary}
    measured = {name: records for name, records in named.items() if records}
    if measured:
        yield "### Over the vocabulary"
    for name, records in measured.items():
        yield f"`{name}`\n\n{_case(records)}"


def _case(records: list[Record]) -> str:
    others = peers(records[0])
    new = [NEW] if NEW in records[0]["sides"] else []
    header = ["rows × V", "time", "GB/s", "Gelements/s", "of bandwidth", "extra memory"]
    header += [*["new array"] * len(new), *others]
    return grid(header, ([*_ours(r), *[_times(r, side) for side in (*new, *others)]] for r in records))


def _ours(record: Record) -> list[str]:
    V, time = record["shape"][-1], seconds(record)
    speed = (record["read"] + record["written"]) / time / 1e9
    side = record["sides"].get(NEW, record["sides"][OURS])
    return [
        f"{record['elements'] // V:,} × {V:,}",
        duration(time),
        f"{speed:.1f}",
        f"{record['elements'] / time / 1e9:.2f}",
        f"{share(record):.0%}" if "read" in record["sides"] else "",
        "" if side["peak"] is None else f"{side['peak'] / 2**20:.0f} MiB",
    ]


def _times(record: Record, side: str) -> str:
    """Time as a multiple of ours, and extra memory where it was told."""
    if side not in record["sides"]:
        return ""
    peak = record["sides"][side]["peak"]
    return f"{ratio(record, side):.1f} ×" + (f", {peak / 2**20:.0f} MiB" if peak is not None else "")


def _arrays(found: Found) -> Iterator[str]:
    records = [r for name, case in CASES.items() if not case.over_vocabulary for r in found.of(name)]
    if not records:
        return
    yield "### Arrays of one entry a token, a pair or a parameter"
    rows = []
    for r in records:
        time = seconds(r)
        shape = " × ".join(f"{n:,}" for n in r["shape"])
        speed = [f"{(r['read'] + r['written']) / time / 1e9:.1f}", f"{r['elements'] / time / 1e9:.2f}"]
        bandwidth = f"{share(r):.0%}" if "read" in r["sides"] else ""
        others = ", ".join(f"{peer} {ratio(r, peer):.1f} ×" for peer in peers(r))
        rows.append([f"`{r['case']}`", shape, duration(time), *speed, bandwidth, others])
    yield grid(("kernel", "shape", "time", "GB/s", "Gelements/s", "of bandwidth", "peers"), rows)


def duration(time: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if time >= size:
            return f"{time / size:.3g} {unit}"
    return f"{time / 1e-9:.3g} ns"


def write(text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between the two comments of the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(begin)
    _, after = rest.split(end)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes, shorter")
    parser.add_argument("-k", dest="pattern", default="", help="only the cases whose name contains this")
    parser.add_argument(
        "--json", type=Path, help="keep everything measured in this file; what it has on other kernels stays"
    )
    parser.add_argument("--from", dest="given", type=Path, help="take the numbers of such a file")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md instead of printing")
    options = parser.parse_args(argv)
    found = load(options.given or options.json)
    if not options.given:
        for _ in measure(found, options.pattern, options.quick):
            if options.json:
                options.json.write_text(json.dumps(found._asdict()), encoding="utf-8")
    text = markdown(found)
    if options.write:
        write(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
