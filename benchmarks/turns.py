"""Round robins across processes: sides that cannot share an interpreter are asked for one call after the other.

A side answers each line of its standard input, "time" or "peak", with one line of JSON. While it waits it does nothing,
so that all sides can stay on one core.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from subprocess import PIPE
from time import perf_counter
from typing import Any

from benchmarks.measure import Call, Timing, peak_extra, settle, summary

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
SETTINGS = dict.fromkeys(THREADS, "1") | {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""Environment of a side: one thread, whatever library it uses; nothing from the network, no progress bars."""

# The side


def requests(about: str) -> Iterator[str]:
    """What is asked for, until nobody asks any more. Says first what the side is."""
    answer(about=about)
    for line in sys.stdin:
        yield line.strip()


def answer(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def serve(call: Call, about: str, held: Callable[[], int] = int) -> None:
    """Time `call`, or tell its peak memory, as often as asked; it was called before, and keeps `held()` bytes."""
    for what in requests(about):
        if what == "peak":
            extra = peak_extra(call)
            answer(peak=None if extra is None else [extra, held()])
            continue
        start = perf_counter()
        call()
        seconds = perf_counter() - start
        settle()
        answer(seconds=seconds)


# Who asks


class Side:
    """A process that answers."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name, self.about = name, ""
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, stderr=self.errors, text=True, env=os.environ | SETTINGS
        )

    def ready(self) -> bool:
        """Waits until it can be asked; where it ended instead, says why."""
        found = self._read()
        if found is None:
            self.errors.seek(0)
            print(f"{self.name}: {self.errors.read().strip().splitlines()[-1:]}", file=sys.stderr)
            return False
        self.about = found["about"]
        return True

    def ask(self, what: str) -> Any:
        self.send(what)
        return self.answered()

    def send(self, what: str) -> None:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)

    def answered(self) -> Any:
        found = self._read()
        if found is None:
            raise RuntimeError(f"{self.name}: ended while it was asked")
        return next(iter(found.values()))

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def _read(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # whatever else a library prints
                found: dict[str, Any] = json.loads(line)
                return found
        return None


def take_turns(sides: Sequence[Side], seconds: float, rounds: int) -> dict[str, Timing]:
    """Ask all for one call at a time, in another order each round, for so many seconds and rounds at least."""
    order, samples = random.Random(0), {side.name: list[float]() for side in sides}
    stop, turn = perf_counter() + seconds, list(sides)
    while min(map(len, samples.values())) < rounds or perf_counter() < stop:
        order.shuffle(turn)
        for side in turn:
            samples[side.name].append(side.ask("time"))
    return {name: summary(taken) for name, taken in samples.items()}
