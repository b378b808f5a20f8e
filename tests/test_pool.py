"""Workers end with their parent, and one that dies takes nothing with it but its own job."""

from __future__ import annotations

import functools
import getpass
import importlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rlhfbench
from rlhfbench.environment import (
    THREAD_VARIABLES,
    fingerprint,
    peak_rss_bytes,
    reset_peak_rss,
    set_single_thread_env,
)
from rlhfbench.errors import InputError
from rlhfbench.pool import Outcome, emit, run_jobs
from rlhfbench.worker import Worker

PACKAGES = str(Path(rlhfbench.__file__).parents[1])  # of the code under test, wherever it is installed
IMPORTS = "from rlhfbench.pool import run_jobs\nimport pool_test_jobs as jobs\n"
posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

# Spawned workers import this by name, as they would a package of the user's.
JOBS = """
    import ctypes, os, signal, sys, time
    from pathlib import Path
    from rlhfbench.errors import InputError
    from rlhfbench.pool import emit

    def run(kind, value=None):
        return globals()["job_" + kind](value)

    def job_echo(value): return value
    def job_pid(value): return os.getpid()
    def job_threads(names): return [os.environ.get(n) for n in names]
    def job_raise(value): raise ValueError(value)
    def job_exit(value): sys.exit(value)
    def job_input(value): raise InputError(value)
    def job_vanish(value): os._exit(value)
    def job_kill(value): os.kill(os.getpid(), value)
    def job_unpicklable(value): return lambda: value
    def job_print(value): print(value)
    def job_interrupt(value): os.kill(os.getpid(), signal.SIGINT); return value
    def job_sleep(value): time.sleep(value)
    def job_main(value): return sys.modules["__main__"].__dict__.get("__file__")

    def job_odd(value):
        class Odd(Exception):
            def __init__(self, one, two): super().__init__(f"{one} {two}")
        raise Odd(1, 2)

    def job_count(value):
        for step in range(value):
            emit({"step": step, "of": value})
        return value

    def job_say(value):
        emit({"said": value})
        return value

    def job_meet(folder):
        (Path(folder) / str(os.getpid())).touch()
        deadline = time.monotonic() + 20
        while len(list(Path(folder).iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)

    def job_hold(value):  # machine code that never lets go of the interpreter
        emit({"holding": os.getpid()})
        ctypes.PyDLL(None).sleep(value)

    def job_beat(folder):
        with open(Path(folder) / f"{os.getpid()}.beat", "a") as file:
            while True:
                file.write(".")
                file.flush()
                time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "pool_test_jobs.py").write_text(textwrap.dedent(JOBS))
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.syspath_prepend(str(folder))
    module: ModuleType = importlib.import_module("pool_test_jobs")
    return module.run  # type: ignore[no-any-return]


@pytest.fixture
def script(folder: Path, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a script, without `if __name__ == "__main__"`, in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str) -> subprocess.Popen[str]:
        path = tmp_path / "a_script.py"
        path.write_text(IMPORTS + textwrap.dedent(source))
        process = subprocess.Popen(
            [sys.executable, path],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), PACKAGES])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):  # what a failing test left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # a zombie has ended, only nobody has asked how
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] in "ZX")


def group_is_empty(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state not in "ZX":
                return False
    return True


def until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def beating(folder: Path) -> list[int]:
    return [int(file.stem) for file in folder.glob("*.beat") if file.stat().st_size]


BEAT = "run_jobs(jobs.run, [('beat', {folder!r})] * 3, workers=2)"


# --- outcomes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_outcomes_come_in_the_order_of_jobs(run: Any, workers: int) -> None:
    order: list[int] = []
    outcomes = run_jobs(
        run, [("echo", n) for n in range(5)], workers=workers, on_done=lambda o: order.append(o.index)
    )
    assert outcomes == [Outcome(n, n) for n in range(5)]
    assert sorted(order) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_jobs(run: Any, workers: int) -> None:
    assert run_jobs(run, [], workers=workers) == []


def test_negative_workers(run: Any) -> None:
    with pytest.raises(InputError, match="got -1"):
        run_jobs(run, [("echo", 1)], workers=-1)


def test_done_is_called_in_the_order_of_completion(run: Any) -> None:
    order: list[int] = []
    jobs = [("sleep", 0.3), ("sleep", 0), ("sleep", 0)]
    run_jobs(run, jobs, workers=2, on_done=lambda o: order.append(o.index))
    assert order == [1, 2, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_is_an_outcome_with_its_traceback(run: Any, workers: int) -> None:
    jobs = [("raise", "too\nbad"), ("input", "mend it"), ("exit", 3), ("odd",), ("echo", 7)]
    raised, bad_input, left, odd, fine = run_jobs(run, jobs, workers=workers)
    assert raised.error == "ValueError: too"
    assert "job_raise" in raised.traceback
    assert not raised.bad_input
    assert (bad_input.error, bad_input.bad_input) == ("mend it", True)
    assert left.error == "SystemExit: 3"
    assert odd.error == "Odd: 1 2"
    assert fine == Outcome(4, 7)


@pytest.mark.parametrize("workers", [1, 3])
@posix
def test_the_others_finish_when_a_worker_is_killed(run: Any, workers: int) -> None:
    jobs = [
        ("echo", 0),
        ("kill", signal.SIGKILL),
        ("echo", 2),
        ("vanish", 5),
        ("kill", signal.SIGSEGV),
        ("echo", 5),
    ]
    outcomes = run_jobs(run, jobs, workers=workers)
    assert [o.value for o in outcomes] == [0, None, 2, None, None, 5]
    errors = [o.error for o in outcomes]
    assert errors[1] == "its worker process was killed by SIGKILL (out of memory?)"
    assert errors[3] == "its worker process ended with exit code 5"
    assert errors[4] == "its worker process was killed by SIGSEGV"


@posix
def test_a_worker_that_dies_between_jobs_costs_no_job(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, number = Worker.submit, itertools.count()

    def submit_to_the_dead(self: Worker, payload: bytes) -> None:
        if next(number) == 2:
            assert self._context.process is not None
            self._context.process.kill()
            until(lambda: bool(self._executor._broken), 5)
        submit(self, payload)

    monkeypatch.setattr(Worker, "submit", submit_to_the_dead)
    assert [o.value for o in run_jobs(run, [("echo", n) for n in range(5)], workers=1)] == [0, 1, 2, 3, 4]
    assert next(number) == 6


def test_no_process_to_be_had(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Worker) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(Worker, "start", refuse)
    with pytest.raises(InputError, match=r"cannot start a worker process \(Resource .*--jobs N"):
        run_jobs(run, [("echo", 1)], workers=1)


def test_what_cannot_be_pickled_fails_alone(run: Any) -> None:
    jobs = [("unpicklable",), ("echo", lambda: 0), ("echo", 1)]
    returned, given, fine = run_jobs(run, jobs, workers=1)
    assert "pickle" in str(returned.error)
    assert "pickle" in str(given.error)
    assert fine.value == 1
    assert all(o.error for o in run_jobs(lambda: 0, [(), ()], workers=2, warm_up=()))


def test_large_arguments_and_values(run: Any) -> None:
    text = "x" * 3_000_000
    assert [o.value for o in run_jobs(run, [("echo", text)] * 3, workers=2)] == [text] * 3


def test_an_exception_of_a_callback_ends_the_workers(run: Any) -> None:
    pids: list[int] = []

    def stop(message: dict[str, Any]) -> None:
        pids.append(message["holding"])
        raise RuntimeError("enough")

    start = time.monotonic()
    with pytest.raises(RuntimeError, match="enough"):
        run_jobs(run, [("hold", 60)] * 2, workers=2, on_message=stop)
    assert time.monotonic() - start < 5
    assert not any(alive(pid) for pid in pids)


# --- messages and warm-up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_messages_come_in_order_and_before_done(run: Any, workers: int) -> None:
    events: list[tuple[int, int]] = []
    run_jobs(
        run,
        [("count", n) for n in (200, 300, 100)],
        workers=workers,
        on_message=lambda m: events.append((m["of"], m["step"])),
        on_done=lambda o: events.append((o.value, -1)),
    )
    for size in (200, 300, 100):
        assert [step for of, step in events if of == size] == [*range(size), -1]


def test_emit_outside_a_job_does_nothing() -> None:
    emit({"anything": object()})


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_worker_warms_up_once(run: Any, workers: int) -> None:
    steps: list[int] = []
    outcomes = run_jobs(
        run,
        [("sleep", 0.1)] * 6,
        workers=workers,
        warm_up=("count", 50),
        on_message=lambda m: steps.append(m["step"]),
    )
    assert [o.error for o in outcomes] == [None] * 6
    assert sorted(steps) == sorted([*range(50)] * max(workers, 1))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shares_are_taken_once_each_and_end_before_any_warm_up(run: Any, workers: int) -> None:
    said: list[str] = []
    shares = [("say", f"share {n}") for n in range(5)]
    jobs = [("say", f"job {n}") for n in range(4)]
    outcomes = run_jobs(
        run,
        jobs,
        workers=workers,
        warm_up=("say", "warm"),
        shares=shares,
        on_message=lambda m: said.append(m["said"]),
    )
    assert sorted(said[:5]) == [share for _, share in shares]
    assert 1 <= said.count("warm") <= workers  # the jobs may be over before the last one is warm
    assert said.index("warm") == 5
    assert [o.value for o in outcomes] == [job for _, job in jobs]


def test_workers_have_their_shares_side_by_side(run: Any, tmp_path: Path) -> None:
    """Each waits for the other: one after the other they would wait for ever."""
    meet = ("meet", str(tmp_path))
    outcomes = run_jobs(run, [("echo", 1), ("echo", 2)], workers=2, warm_up=("echo", 0), shares=[meet, meet])
    assert [o.value for o in outcomes] == [1, 2]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("share", [("raise", "no"), ("vanish", 1), ("echo", lambda: 0)])
def test_a_failed_share_leaves_the_rest(run: Any, share: Any) -> None:
    shares = [("echo", 1), share, ("echo", 2)]
    outcomes = run_jobs(run, [("echo", n) for n in range(4)], workers=2, warm_up=("echo", 0), shares=shares)
    assert [o.value for o in outcomes] == [0, 1, 2, 3]


@pytest.mark.parametrize("warm_up", [("raise", "no"), ("vanish", 1), ("echo", lambda: 0)])
def test_a_failed_warm_up_is_left_to_the_jobs_to_show(run: Any, warm_up: Any) -> None:
    outcomes = run_jobs(run, [("echo", n) for n in range(4)], workers=2, warm_up=warm_up)
    assert [o.value for o in outcomes] == [0, 1, 2, 3]


# --- what a worker is ------------------------------------------------------------------------------------------


def test_workers_have_one_numerical_thread_and_the_parent_keeps_its_own(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    assert run_jobs(run, [("threads", THREAD_VARIABLES)], workers=1)[0].value == ["1"] * 4
    assert dict(os.environ) == before
    assert set_single_thread_env({"A": "b"}) == {"A": "b", **dict.fromkeys(THREAD_VARIABLES, "1")}


def test_workers_are_used_again(run: Any) -> None:
    pids = {o.value for o in run_jobs(run, [("pid",)] * 8, workers=2)}
    assert len(pids) <= 2
    assert os.getpid() not in pids
    assert not any(alive(pid) for pid in pids)


def test_workers_leave_the_running_script_alone(run: Any) -> None:
    main = sys.modules["__main__"]
    assert run_jobs(run, [("main",)], workers=1)[0].value is None
    assert sys.modules["__main__"] is main


def test_standard_output_belongs_to_the_parent(script: Any) -> None:
    process = script("run_jobs(jobs.run, [('print', 'chatter')], workers=1)\nprint('result')")
    output, errors = process.communicate(timeout=20)
    assert (output, errors, process.returncode) == ("result\n", "chatter\n", 0)


def test_a_function_of_the_running_script_is_refused_with_advice(script: Any) -> None:
    source = """
        def mine(): return 1
        print([o.value for o in run_jobs(mine, [()], workers=0)])
        print(run_jobs(jobs.run, [("echo", mine)], workers=1)[0].error)
        run_jobs(mine, [()], workers=2)
    """
    process = script(source)
    output, errors = process.communicate(timeout=20)
    assert output.splitlines()[0] == "[1]"
    assert "define it in a module, not in the running script" in output.splitlines()[1]
    assert "'mine' is defined in the running script; move it to a module" in errors.splitlines()[-1]
    assert errors.count("Traceback") == 1


@pytest.mark.parametrize("arguments", [["-"], ["-m", "pool_test_script"], ["-c", "import pool_test_script"]])
def test_every_way_to_start_python_can_start_workers(folder: Path, arguments: list[str]) -> None:
    source = IMPORTS + "print([o.value for o in run_jobs(jobs.run, [('echo', 1)], workers=1)])\n"
    (folder / "pool_test_script.py").write_text(source)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), PACKAGES])}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, input=source, env=env, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("[1]\n", "")


# --- ends ------------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("cause", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_and_write_nothing_after(
    script: Any, tmp_path: Path, cause: int
) -> None:
    process = script(BEAT.format(folder=str(tmp_path)))
    assert until(lambda: len(beating(tmp_path)) == 2, 20)
    pids = beating(tmp_path)
    os.kill(process.pid, cause)
    assert until(lambda: not any(alive(pid) for pid in pids), 1.0)
    sizes = {file: file.stat().st_size for file in tmp_path.glob("*.beat")}
    time.sleep(0.1)
    assert {file: file.stat().st_size for file in tmp_path.glob("*.beat")} == sizes


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_parent_killed_while_workers_start_leaves_none(script: Any, tmp_path: Path) -> None:
    for delay in (0.0, 0.01, 0.03, 0.06):
        process = script("print('now', flush=True)\n" + BEAT.format(folder=str(tmp_path)))
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert until(functools.partial(group_is_empty, process.pid), 1.0)


@posix
def test_interrupt_ends_the_workers_cleanly(script: Any, tmp_path: Path) -> None:
    source = f"""
        import sys
        try:
            {BEAT.format(folder=str(tmp_path))}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(130)
    """
    process = script(source)
    assert until(lambda: len(beating(tmp_path)) == 2, 20)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=5)
    assert (output, errors, process.returncode) == ("interrupted\n", "", 130)
    assert not any(alive(pid) for pid in beating(tmp_path))


@posix
def test_workers_themselves_never_heed_an_interrupt(script: Any) -> None:
    source = """
        import signal
        signal.signal(signal.SIGINT, lambda *_: None)
        print("now", flush=True)
        print([o.value for o in run_jobs(jobs.run, [("interrupt", 1), ("sleep", 0.1)], workers=2)])
    """
    for delay in (0.0, 0.02, 0.03, 0.05):
        process = script(source)
        process.stdout.readline()
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=10)
        assert (output, errors, process.returncode) == ("[1, None]\n", "", 0)


@posix
def test_interrupt_while_workers_start(script: Any, tmp_path: Path) -> None:
    source = f"""
        import sys
        try:
            print("now", flush=True)
            {BEAT.format(folder=str(tmp_path))}
        except KeyboardInterrupt:
            sys.exit(130)
    """
    for delay in (0.0, 0.005, 0.01, 0.02, 0.04, 0.08):
        process = script(source)
        process.stdout.readline()
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=5)
        assert (errors, process.returncode) == ("", 130)
        assert not any(alive(pid) for pid in beating(tmp_path))


@posix
def test_interrupt_does_not_wait_for_machine_code(script: Any) -> None:
    source = """
        import sys
        try:
            run_jobs(jobs.run, [("hold", 60)], workers=1, on_message=lambda m: print(m["holding"], flush=True))
        except KeyboardInterrupt:
            sys.exit(130)
    """
    process = script(source)
    pid = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert (errors, process.returncode) == ("", 130)
    assert not alive(pid)


# --- environment -----------------------------------------------------------------------------------------------


def test_fingerprint_tells_versions_and_nobodys_name() -> None:
    found = fingerprint()
    assert found["packages"]["numpy"]
    assert found["cores"] >= found["affinity"] >= 1
    assert set(found["threads"]) == set(THREAD_VARIABLES)
    text = json.dumps(found)
    words = set(re.findall(r"[^\s\"/,:{}]+", text))
    assert words.isdisjoint({socket.gethostname(), getpass.getuser()})
    assert "/" not in text.replace("w/", "")


def test_the_fingerprint_does_not_import_numba() -> None:
    source = "import sys, rlhfbench.environment as e, rlhfbench.pool; e.fingerprint(); print('numba' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": PACKAGES}
    assert (
        subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True).stdout
        == "False\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_peak_memory_starts_anew() -> None:
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    high = peak_rss_bytes()
    del block
    if not reset_peak_rss():
        pytest.skip("this system lets nobody reset it")
    low = peak_rss_bytes()
    assert high is not None
    assert low is not None
    assert high - low > 150_000_000


def test_peak_memory_is_unknown_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rlhfbench.environment._STATUS", tmp_path / "no" / "status")
    monkeypatch.setattr("rlhfbench.environment._CLEAR_REFS", tmp_path / "no" / "clear_refs")
    assert peak_rss_bytes() is None
    assert reset_peak_rss() is False
