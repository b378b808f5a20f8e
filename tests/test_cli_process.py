"""The program as a process: killed, interrupted, losing a worker, started twice; and the same command afterwards."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

SEEDS = 6
SLOW = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from rlhfbench.types import register

@dataclass(frozen=True)
class Config:
    seconds: float = 0.3
    dies: str = ""

@register("slow", Config, needs={"reward_model"})
def slow(setup, config):
    for step in setup.steps(10):
        if config.dies and setup._prepared.task.name == "words" and not Path(config.dies).exists():
            Path(config.dies).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(config.seconds / 10)
        setup.policy.params[:] += 0.01 * setup.rng.normal(size=setup.policy.params.size)
        yield {"loss": 1.0}
"""


class Program:
    """One `rlhfbench compare` in a process group of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        hidden = {"PYTHONPATH", "COLUMNS", "NO_COLOR", "FORCE_COLOR"}
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlhfbench", *arguments],
            cwd=folder,
            env=env,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.runs = folder / "rlhfbench-runs" / "runs"

    def finished(self) -> set[str]:
        with suppress(FileNotFoundError):
            return {p.name for p in self.runs.iterdir() if not p.name.startswith(".")}
        return set()

    def temporary(self) -> bool:
        with suppress(FileNotFoundError):
            return any(name.startswith(".tmp-") for name in os.listdir(self.runs))
        return False

    def workers(self) -> set[int]:
        """Processes of the group, but for the first."""
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(FileNotFoundError, ProcessLookupError):
                state, _, group, *_ = stat.read_text().rpartition(")")[2].split()
                if int(group) == self.process.pid and state not in "ZX":
                    found.add(int(stat.parent.name))
        return found - {self.process.pid}

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return self.process.returncode, out, err


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `rlhfbench compare` with a slow and a quick arm on `words`; whatever still runs at the end is killed."""
    (tmp_path / "slow.py").write_text(SLOW)
    programs = []

    def begin(arm: str = "./slow.py", *more: str, seeds: int = SEEDS, jobs: int = 2) -> Program:
        sizes = ["--seeds", str(seeds), "--jobs", str(jobs), *more]
        programs.append(Program(tmp_path, "compare", arm, "dpo:epochs=1", "--task", "words", *sizes))
        return programs[-1]

    yield begin
    for program in programs:
        with suppress(ProcessLookupError):
            os.killpg(program.process.pid, signal.SIGKILL)
        program.process.communicate()


def until(condition: Callable[[], Any], seconds: float = 60, pause: float = 0.005) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(pause)
    return bool(condition())


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def labels_and_seeds(names: set[str]) -> list[str]:
    return sorted(name.rpartition("-")[0] for name in names)


WHOLE = sorted(f"{label}-s{seed}" for label in ("slow", "dpo") for seed in range(SEEDS))


def complete(program: Program, before: set[str]) -> str:
    """The same command goes on: exit 0, `before` is reused, each run is there once, nothing else lies about."""
    code, out, err = program.end()
    assert code == 0, err
    assert f"({len(before)} of {2 * SEEDS} reused)" in out
    assert before <= program.finished()
    assert labels_and_seeds(program.finished()) == WHOLE
    assert sorted(os.listdir(program.runs)) == sorted(program.finished())
    return out


# --- kill -9 ---------------------------------------------------------------------------------------------------

MOMENTS: dict[str, Callable[[Program], bool]] = {
    "while workers start": lambda p: bool(p.workers()),
    "before the first run is finished": lambda p: len(p.workers()) >= 2 and not p.finished(),
    "once a run is finished": lambda p: len(p.finished()) >= 1,
    "while a run is being written": lambda p: len(p.finished()) >= 2 and p.temporary(),
    "late": lambda p: len(p.finished()) >= 2 * SEEDS - 3,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_and_the_same_command(start: Start, tmp_path: Path, moment: str) -> None:
    program = start()
    assert until(lambda: MOMENTS[moment](program), pause=0.0005)
    os.kill(program.process.pid, signal.SIGKILL)
    program.process.wait()
    assert until(lambda: not program.workers(), 2.0), "a worker outlives its parent"
    before, kept = listing(tmp_path), program.finished()
    time.sleep(0.5)
    assert listing(tmp_path) == before
    assert len(kept) < 2 * SEEDS
    whole = start()
    complete(whole, kept)
    assert len(list((tmp_path / "rlhfbench-runs" / "worlds").iterdir())) == SEEDS
    for name in whole.finished():  # each run has its policy and its world
        read = (
            Program(tmp_path, "samples", str(whole.runs / name), "--prompts", "1") if name[0] == "s" else None
        )
        assert read is None or read.end()[0] == 0
    assert {name: before[name] for name in before if "/.tmp-" not in name}.items() <= listing(
        tmp_path
    ).items()


def test_killed_again_and_again_it_gets_there(start: Start) -> None:
    kept: set[str] = set()
    for _ in range(3):
        program = start()
        had = len(kept)
        assert until(lambda program=program, had=had: len(program.finished()) >= had + 2)  # type: ignore[misc]
        os.killpg(program.process.pid, signal.SIGKILL)
        program.process.wait()
        assert kept <= program.finished()
        kept = program.finished()
    complete(start(), kept)


# --- Ctrl-C ----------------------------------------------------------------------------------------------------


def test_ctrl_c_shows_what_is_finished_and_the_printed_command_goes_on(start: Start, tmp_path: Path) -> None:
    program = start("./slow.py:seconds=0.5", "--json", "partial.json")
    assert until(lambda: len([n for n in program.finished() if n.startswith("dpo")]) >= 2)
    os.killpg(program.process.pid, signal.SIGINT)
    interrupted = time.monotonic()
    code, out, err = program.end()
    assert code == 130, err
    assert time.monotonic() - interrupted < 5
    assert until(lambda: not program.workers(), 2.0)
    kept = program.finished()
    assert 4 <= len(kept) < 2 * SEEDS
    assert "RM score, ref sd" in out
    assert "of 6 paired seeds" in out
    record = json.loads((tmp_path / "partial.json").read_text())
    statuses = [run["status"] for arm in record["algorithms"].values() for run in arm["runs"]]
    assert (statuses.count("done"), statuses.count("interrupted")) == (len(kept), 2 * SEEDS - len(kept))
    how = re.search(r"the same command goes on from there:\n\s*rlhfbench (.*)\n", out)
    assert how is not None, out
    again = Program(tmp_path, *shlex.split(how[1]))
    complete(again, kept)
    record = json.loads((tmp_path / "partial.json").read_text())
    assert {run["status"] for arm in record["algorithms"].values() for run in arm["runs"]} == {"done"}


@pytest.mark.parametrize("jobs", [0, 2])
def test_ctrl_c_before_anything_is_finished(start: Start, jobs: int) -> None:
    program = start("./slow.py:seconds=5", "--json", "-", jobs=jobs)
    assert program.process.stderr is not None
    for line in program.process.stderr:
        if "ready" in line:
            break
    os.killpg(program.process.pid, signal.SIGINT)
    code, out, err = program.end()
    assert code == 130
    assert json.loads(out)["verdict"]["kind"] == "no_claim"
    assert "the same command goes on" in err
    assert not program.finished()


def test_ctrl_c_twice_leaves_nobody_behind(start: Start) -> None:
    program = start("./slow.py:seconds=5")
    assert until(lambda: len(program.workers()) >= 2)
    time.sleep(0.5)
    for _ in range(3):
        os.killpg(program.process.pid, signal.SIGINT)
        time.sleep(0.02)
    code, _, _ = program.end()
    assert code in (130, -signal.SIGINT)
    assert until(lambda: not program.workers(), 2.0)


# --- a worker dies ---------------------------------------------------------------------------------------------


def test_a_killed_worker_costs_one_run_which_is_named_and_made_up_for(start: Start, tmp_path: Path) -> None:
    arm = f"./slow.py:seconds=0.05,dies={tmp_path / 'died'}"
    program = start(arm, "--json", "first.json")
    code, out, err = program.end()
    assert code == 3, err
    lost = re.search(
        r"slow, seed (\d): error \(its worker process was killed by SIGKILL", " ".join(out.split())
    )
    assert lost is not None, out
    runs = json.loads((tmp_path / "first.json").read_text())["algorithms"]
    failed = {(a, r["seed"]) for a in runs for r in runs[a]["runs"] if r["status"] != "done"}
    assert {("slow", int(lost[1]))} <= failed <= {("slow", int(lost[1])), ("dpo", int(lost[1]))}
    assert len(program.finished()) == 2 * SEEDS - len(failed)
    complete(start(arm), program.finished())


# --- two at once -----------------------------------------------------------------------------------------------


def test_two_at_once_in_one_store(start: Start) -> None:
    programs = [start("./slow.py:seconds=0.1", jobs=1) for _ in range(2)]
    tables = []
    for program in programs:
        code, out, err = program.end()
        assert code == 0, err
        tables.append(re.findall(r"^(?:RM|gold) score.*", out, re.MULTILINE))
    assert tables[0] == tables[1] != []
    assert labels_and_seeds(programs[0].finished()) == WHOLE
    assert not programs[0].temporary()
