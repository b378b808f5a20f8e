"""pytest-benchmark with the defaults of benchmarks/conftest.py, on a benchmark that takes no time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
BENCHMARK = """
import time

def test_{name}(benchmark):
    calls = []
    benchmark(lambda: calls.append(time.sleep(0.05 if not calls else 0)))
"""


@pytest.fixture
def run(tmp_path):
    """Runs pytest on a folder with our conftest and one benchmark, whose first call is slow as if it compiled."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    shutil.copy(CHECKOUT / "benchmarks" / "conftest.py", folder)
    (folder / "bench_one.py").write_text(BENCHMARK.format(name="one"))
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}

    def pytest_in(*arguments, **more):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            str(CHECKOUT / "pyproject.toml"),
            "--rootdir",
            str(tmp_path),
        ]
        command += [
            "-p",
            "no:cacheprovider",
            "-o",
            "pythonpath=",
            "--benchmark-max-time=0.1",
            str(folder),
            *arguments,
        ]
        return subprocess.run(
            command, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True, check=False
        )

    return pytest_in


def saved(tmp_path):
    return sorted(tmp_path.glob(".benchmarks/*/*.json"))


def test_plain_run_checks_and_saves_nothing(run, tmp_path):
    done = run()
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    assert not saved(tmp_path)


def test_autosave_and_compare(run, tmp_path):
    first = run("--benchmark-autosave", "--benchmark-compare")
    assert first.returncode == 0, first.stdout + first.stderr
    second = run("--benchmark-autosave", "--benchmark-compare")
    assert second.returncode == 0
    assert "(NOW)" in second.stdout
    assert len(saved(tmp_path)) == 2
    (row,) = json.loads(saved(tmp_path)[0].read_text())["benchmarks"]
    assert row["stats"]["max"] < 0.05, "the first call was among the rounds"
    assert row["stats"]["rounds"] >= 30
    assert row["stats"]["iterations"] > 1
    assert len(row["extra_info"]["kernels"]) == 64


def test_misleading_baselines_are_refused(run, tmp_path):
    assert run("--benchmark-autosave").returncode == 0
    gate = ("--benchmark-compare-fail=min:900%",)
    unnamed = run("--benchmark-compare", *gate)
    assert unnamed.returncode == 4
    assert "--benchmark-compare=0001" in unnamed.stderr
    threads = run("--benchmark-compare", OMP_NUM_THREADS="7")
    assert threads.returncode == 4
    assert "threads differ" in threads.stderr
    assert run("--benchmark-compare=0001", *gate).returncode == 0
    (tmp_path / "benchmarks" / "bench_one.py").write_text(BENCHMARK.format(name="renamed"))
    renamed = run("--benchmark-compare=0001", *gate)
    assert renamed.returncode == 1
    assert "not in the baseline" in renamed.stdout
    assert "test_renamed" in renamed.stdout.partition("not in the baseline")[2]
