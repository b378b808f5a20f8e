"""The run store when a process is killed at any instant: whole runs or none."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from stored_runs import FILES, commit, kept, make_result

import rlhfbench
from rlhfbench.errors import InputError
from rlhfbench.results import RunStore, load_run

PACKAGES = str(Path(rlhfbench.__file__).parents[1])  # of the code under test, wherever it is installed


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "deep" / "out")


KILLED_AT_EVERY_LINE = """
    import os, signal, sys
    from pathlib import Path
    sys.path[:0] = [{tests!r}]
    import stored_runs as t
    from rlhfbench import results, run_folder

    root = Path({root!r})
    t.RunStore(root)
    lines = 0
    while True:
        lines += 1
        child = os.fork()
        if child == 0:
            left = lines
            def trace(frame, event, argument):
                global left
                if frame.f_code.co_filename not in (results.__file__, run_folder.__file__):
                    return None
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return trace
            store = t.RunStore(root)
            sys.settrace(trace)
            t.commit(store, files=t.FILES, seed=lines)
            store.commit_world({{"seed": lines}}, lambda: t.FILES)
            sys.settrace(None)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
    print(lines)
"""

KILLED_AT_RANDOM = """
    import itertools, os, sys
    from pathlib import Path
    sys.path[:0] = [{tests!r}]
    import stored_runs as t
    store = t.RunStore(Path({root!r}))
    print("now", flush=True)
    for n in itertools.count():
        t.commit(store, files=t.FILES, seed=n, pid=os.getpid())
        store.commit_world({{"seed": n, "pid": os.getpid()}}, lambda: t.FILES)
"""


def start(source: str, root: Path) -> subprocess.Popen[str]:
    source = textwrap.dedent(source.format(tests=str(Path(__file__).parent), root=str(root)))
    env = {**os.environ, "PYTHONPATH": PACKAGES, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", source], env=env, stdout=subprocess.PIPE, text=True
    )


def whole_runs(root: Path) -> int:
    visible = [path for path in (root / "runs").iterdir() if not path.name.startswith(".")]
    for folder in visible:
        manifest, result = load_run(folder)
        assert RunStore.key(manifest["inputs"]) == manifest["key"]
        assert result == make_result(seed=manifest["inputs"]["seed"])
        assert kept(folder) == FILES
    for world in (root / "worlds").iterdir():
        assert (world / "manifest.json").is_file()
        assert kept(world) == FILES
    return len(visible)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_before_each_line_of_a_commit(tmp_path: Path) -> None:
    process = start(KILLED_AT_EVERY_LINE, tmp_path)
    output, _ = process.communicate(timeout=60)
    lines = int(output)
    assert lines > 40
    assert 1 <= whole_runs(tmp_path) < lines  # the last, and those killed after their rename
    RunStore(tmp_path)
    assert not list((tmp_path / "runs").glob(".*"))


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_killed_at_random_instants(tmp_path: Path) -> None:
    rng = random.Random(1)
    before = 0
    for _ in range(8):
        process = start(KILLED_AT_RANDOM, tmp_path)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        after = whole_runs(tmp_path)
        assert after >= before
        before = after
    RunStore(tmp_path)
    assert whole_runs(tmp_path) == before > 0


def test_an_error_in_a_commit_leaves_nothing(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"out: cannot keep runs there \(No space left.*--out DIR"):
        commit(store)
    assert list(store.runs.iterdir()) == []


def test_abandoned_folders_are_removed_and_those_of_the_living_are_not(store: RunStore) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead, living, foreign = (f".tmp-{child.pid}-00", f".tmp-{os.getpid()}-00", ".tmp-notes")
    for name in (dead, living, foreign):
        (store.runs / name).mkdir()
        (store.runs / name / "result.json").write_text("{")
    RunStore(store.root)
    assert sorted(p.name for p in store.runs.iterdir()) == sorted([living, foreign])
