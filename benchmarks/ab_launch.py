"""Build the sides of an A/B comparison and run their launches: files and processes, no statistics.

One launch is one process a side, all started together. They are asked in turn, in random order, so that only one
works at a time and all sides of a benchmark are timed within milliseconds of one another: what else the machine does
hits them alike, while memory layout and everything else that a process draws once differs from launch to launch.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKLOAD = "benchmarks/ab_workload.py"
CHUNK_SECONDS = 4e-4  # long enough for the clock, short enough that many escape every interruption
CHUNKS = 3
PREPARE_LIMIT = 900.0  # a cold compile of everything takes well under a minute
TIMING_LIMIT = 120.0
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


class CouldNotMeasure(Exception):
    """A side that does not build, run or answer; the message is for people."""


class UnknownRevision(ValueError):
    """Neither a revision that git knows nor a folder with kernels."""


@dataclass(frozen=True)
class Side:
    """A revision's kernels in a folder of their own, with a cache of their own."""

    name: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """One thread, a fixed hash seed, and none of the caller's Numba settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "PYTHON"))}
        own = {"PYTHONPATH": str(self.folder), "NUMBA_CACHE_DIR": str(self.folder / "cache")}
        return {**kept, **own, **ONE_THREAD, "PYTHONHASHSEED": "0"}


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise UnknownRevision(done.stderr.decode(errors="replace").strip())
    return done.stdout


def is_folder(revision: str) -> bool:
    return revision == "." or (os.sep in revision and Path(revision).is_dir())


def describe(revision: str) -> str:
    """What `revision` names, for people: a short hash, or the folder."""
    if is_folder(revision):
        return "the working tree" if revision == "." else str(Path(revision))
    try:
        return git("rev-parse", "--short", "--verify", f"{revision}^{{commit}}").decode().strip()
    except UnknownRevision:
        raise UnknownRevision(
            f"{revision!r} is no revision here; give a commit, a branch, a tag, or a folder such as . or ../other"
        ) from None


def extract(revision: str, folder: Path) -> None:
    """Put the revision's `kernels` below `folder`."""
    if is_folder(revision):
        source = ROOT if revision == "." else Path(revision)
        if not (source / "kernels").is_dir():
            raise UnknownRevision(f"{source} holds no folder `kernels`; give the root of a checkout")
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / "kernels", folder / "kernels", ignore=ignore)
        return
    try:
        archive = git("archive", "--format=tar", revision, "kernels")
    except UnknownRevision as error:
        raise CouldNotMeasure(f"{revision}: {error}") from None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


def workload_of(revision: str) -> bytes | None:
    """The revision's own table of workloads, None where it has none."""
    if is_folder(revision):
        file = (ROOT if revision == "." else Path(revision)) / WORKLOAD
        return file.read_bytes() if file.is_file() else None
    try:
        return git("show", f"{revision}:{WORKLOAD}")
    except UnknownRevision:
        return None


def names_in(table: bytes, folder: Path) -> list[str]:
    """The benchmarks that a table of workloads lists, read by a process of its own."""
    folder.mkdir(parents=True)
    (folder / "ab_workload.py").write_bytes(table)
    program = "import json, ab_workload as table; print(json.dumps([row.name for row in table.workloads()]))"
    side = Side("table", folder)
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(
        command, cwd=folder, env=side.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CouldNotMeasure(f"the table of workloads: {done.stderr.strip().splitlines()[-1]}")
    names: list[str] = json.loads(done.stdout)
    return names


def build(name: str, revision: str, table: bytes, folder: Path) -> Side:
    """Kernels of `revision` and the given table of workloads, in `folder / name`."""
    side = Side(name, folder / name)
    side.folder.mkdir(parents=True)
    extract(revision, side.folder)
    (side.folder / "ab_workload.py").write_bytes(table)
    return side


class Worker:
    """A process that serves timings of one side; see ab_worker.py."""

    def __init__(self, side: Side, core: str) -> None:
        self.side = side
        command = [
            sys.executable,
            "-P",
            str(Path(__file__).with_name("ab_worker.py")),
            str(side.folder),
            core,
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=side.folder,
            env=side.environment,
            text=True,
        )

    def send(self, **request: Any) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:  # it has died; receive() says of what
            pass

    def receive(self, limit: float) -> Any:
        assert self.process.stdout
        watchdog = threading.Timer(limit, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            _, errors = self.process.communicate()
            last = (errors.strip().splitlines() or [f"no answer within {limit:g} s, or killed"])[-1]
            raise CouldNotMeasure(f"{self.side.name}: {last}")
        return json.loads(line)

    def time(self, name: str, calls: int) -> list[float]:
        self.send(time=[name, calls, CHUNKS])
        seconds: list[float] = self.receive(TIMING_LIMIT)
        return seconds

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


States = dict[str, dict[str, str]]  # side -> benchmark -> "ok", "missing", or what it raised


@contextmanager
def workers(sides: Sequence[Side], names: Sequence[str], core: str) -> Iterator[tuple[list[Worker], States]]:
    """One process a side with everything prepared, all started together; ended on the way out."""
    with ExitStack() as stack:
        started = []
        for side in sides:
            started.append(Worker(side, core))
            stack.callback(started[-1].close)
        for worker in started:
            worker.send(prepare=list(names))
        yield started, {worker.side.name: worker.receive(PREPARE_LIMIT) for worker in started}


def copied(side: Side, name: str) -> Side:
    """The same revision once more, with its compiled code: the other half of the A/A arm."""
    twin = Side(name, side.folder.with_name(name))
    shutil.copytree(side.folder, twin.folder)
    return twin


def prepare(sides: Sequence[Side], names: Sequence[str] = ()) -> States:
    """Compile every side, so that launches load from the cache; all at once, on any core."""
    with workers(sides, names, "any") as (_, states):
        return states


def cores() -> list[str]:
    """The cores a launch may be bound to; "any" where the system cannot bind."""
    if not hasattr(os, "sched_setaffinity"):
        return ["any"]
    return [str(core) for core in sorted(os.sched_getaffinity(0))]


def calibrate(worker: Worker, name: str) -> int:
    """Calls that fill a chunk. Settled once, on the base, and the same on all sides."""
    calls = 1
    while (chunk := min(worker.time(name, calls)) * calls) < CHUNK_SECONDS:
        calls = max(calls + 1, round(calls * min(1.1 * CHUNK_SECONDS / chunk, 10.0)))
    return calls


Timings = dict[str, list[list[list[float]]]]  # benchmark -> launch -> side -> round -> seconds a call


def launch(
    sides: Sequence[Side],
    names: Sequence[str],
    calls: dict[str, int],
    rounds: int,
    core: str,
    order: random.Random,
) -> dict[str, list[list[float]]]:
    """One launch of every side: benchmark -> side -> round -> seconds a call, the fastest chunk of each round."""
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in sides] for name in names}
    with workers(sides, names, core) as (started, _):
        for name in names:
            if name not in calls:
                calls[name] = calibrate(started[0], name)
        for _ in range(rounds):
            for name in order.sample(list(names), len(names)):
                for i in order.sample(range(len(sides)), len(sides)):
                    seconds[name][i].append(min(started[i].time(name, calls[name])))
    return seconds


def measure(
    sides: Sequence[Side],
    names: Sequence[str],
    launches: int,
    rounds: int,
    seed: int,
    progress: Callable[[int], None],
) -> Timings:
    """Time `names` in so many launches of every side, turning through the cores. The first side is the base."""
    order = random.Random(seed)
    available = cores()
    calls: dict[str, int] = {}
    timings: Timings = {name: [] for name in names}
    for number in range(launches):
        progress(number)
        core = available[number % len(available)]
        for name, seconds in launch(sides, names, calls, rounds, core, order).items():
            timings[name].append(seconds)
    return timings
