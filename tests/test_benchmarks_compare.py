"""The A/B tool of benchmarks/: its answers on synthetic timings, its command line, and one run with real processes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT))  # behind everything: of the checkout only `benchmarks` is meant

from benchmarks import ab_changes, ab_launch, ab_statistics, ab_worker, ab_workload, compare  # noqa: E402
from benchmarks.ab_statistics import Answer  # noqa: E402

LAUNCHES, ROUNDS = 10, 10


def suite(rng, benchmarks=20, spread=0.01, slower=1.0, launches=LAUNCHES):
    """Timings with what a shared machine does to them. The head of the first benchmark is `slower`.

    Each process has a level of its own (memory layout), the machine drifts from round to round, and one timing in
    twenty was interrupted.
    """
    timings = {}
    for i in range(benchmarks):
        level = spread * rng.standard_normal((launches, 3, 1))
        drift = 0.1 * rng.standard_normal((launches, 1, ROUNDS))
        noise = 0.03 * rng.standard_normal((launches, 3, ROUNDS))
        noise += (rng.random(noise.shape) < 0.05) * rng.exponential(0.5, noise.shape)
        seconds = 1e-4 * np.exp(level + drift + noise)
        seconds[:, 2] *= slower if i == 0 else 1.0
        timings[str(i)] = seconds
    return timings


def answers(timings):
    return [finding.answer for finding in ab_statistics.findings(timings)]


def test_equal_code_raises_no_alarm():
    rng = np.random.default_rng(0)
    found = [answer for _ in range(15) for answer in answers(suite(rng))]
    assert not {Answer.REGRESSED, Answer.IMPROVED} & set(found)
    assert found.count(Answer.UNCHANGED) >= 0.97 * len(found)


@pytest.mark.parametrize(("slower", "expected"), [(1.15, Answer.REGRESSED), (1 / 1.15, Answer.IMPROVED)])
@pytest.mark.parametrize("spread", [0.003, 0.01])
def test_a_difference_of_15_percent_is_found(slower, expected, spread):
    rng = np.random.default_rng(1)
    first = [answers(suite(rng, 5, spread, slower))[0] for _ in range(20)]
    assert first.count(expected) >= 19


def test_a_difference_below_the_tier_is_left_alone():
    rng = np.random.default_rng(2)
    assert answers(suite(rng, 5, 0.001, 1.03))[0] is Answer.UNCHANGED


def test_noise_that_could_hide_15_percent_is_no_pass():
    rng = np.random.default_rng(3)
    found = answers(suite(rng, 20, spread=0.08))
    assert found.count(Answer.UNMEASURED) >= 15
    assert Answer.REGRESSED not in found


def test_a_large_slowdown_shows_through_noise():
    rng = np.random.default_rng(4)
    assert answers(suite(rng, 5, 0.05, 3.0))[0] is Answer.REGRESSED


def test_rounds_inside_a_launch_are_no_evidence():
    """One slow process of ten, however long it was timed, is chance."""
    timings = suite(np.random.default_rng(5), 1, 0.003)
    timings["0"][0, 2] *= 2
    assert answers(timings) == [Answer.UNCHANGED]


@pytest.mark.parametrize(("benchmarks", "launches"), [(1, 8), (60, 8), (80, 9), (2000, 11)])
def test_fewest_launches(benchmarks, launches):
    assert ab_statistics.fewest_launches(benchmarks) == launches
    apart = {
        str(i): np.exp(0.3 * (np.arange(3) == 2))[None, :, None]
        * np.exp(1e-3 * np.random.default_rng(i).standard_normal((launches, 3, 4)))
        for i in range(min(benchmarks, 80))
    }
    assert set(answers(apart)) == {Answer.REGRESSED}


def test_findings_are_plain_numbers_in_json():
    (finding,) = ab_statistics.findings(suite(np.random.default_rng(6), 1))
    row = json.loads(json.dumps(finding.as_dict(), allow_nan=False))
    assert row["answer"] == "unchanged"
    assert row["low"] <= row["ratio"] <= row["high"]


def test_what_came_and_went():
    base = {
        "same": "ok",
        "new_name[call]": "missing",
        "later": "missing",
        "changed": "TypeError: no",
        "out": "ok",
    }
    head = {"same": "ok", "new_name[call]": "ok", "later": "missing", "changed": "ok", "out": "missing"}
    found = ab_changes.changes(base, head, ["same", "old_name[call]"])
    assert found.removed == ["out", "old_name[call]"]
    assert found.new == ["new_name[call]"]
    assert found.renamed == {"old_name[call]": "new_name[call]"}
    assert found.nowhere == ["later"]
    assert found.failed == {"changed": "base: TypeError: no"}


class FakeLaunches:
    """Stands in for `ab_launch.measure`: names the benchmarks it was asked for, slow ones as often as told."""

    def __init__(self, *slow):
        self.slow, self.asked = list(slow), []

    def __call__(self, sides, names, launches, rounds, seed, progress):
        self.asked.append(list(names))
        progress(0)
        slow = self.slow.pop(0)
        rng = np.random.default_rng(seed)
        return {
            name: np.exp(0.005 * rng.standard_normal((launches, 3, rounds)))
            * np.array([1, 1, 1.2 if name in slow else 1])[:, None]
            for name in names
        }


@pytest.mark.parametrize(
    ("slow", "regressed", "asked"),
    [
        ([{"a", "b"}, {"b"}], ["b"], [["a", "b", "c"], ["a", "b"]]),
        ([set()], [], [["a", "b", "c"]]),
    ],
)
def test_what_fails_is_measured_once_more(slow, regressed, asked, monkeypatch):
    launches = FakeLaunches(*slow)
    monkeypatch.setattr(ab_launch, "measure", launches)
    arguments = compare.parser().parse_args(["main"])
    found = compare.measured([], ["a", "b", "c"], arguments)
    assert [row.name for row in found if row.answer is Answer.REGRESSED] == regressed
    assert launches.asked == asked


@pytest.mark.parametrize(
    ("slow", "changed", "allow", "code"),
    [
        (1.0, {}, False, 0),
        (1.3, {}, False, 3),
        (0.7, {}, False, 0),
        (1.0, {"removed": ["x"]}, False, 3),
        (1.0, {"removed": ["x"]}, True, 0),
        (1.0, {"new": ["x"]}, False, 0),
        (1.0, {"failed": {"x": "head: ValueError"}}, False, 4),
    ],
)
def test_exit_codes(slow, changed, allow, code):
    found = ab_statistics.findings(suite(np.random.default_rng(7), 2, 0.003, slow))
    nothing = {"removed": [], "new": [], "renamed": {}, "nowhere": [], "failed": {}}
    assert compare.exit_code(found, ab_changes.Changes(**{**nothing, **changed}), allow) == code


def tool(*arguments, cwd=CHECKOUT):
    command = [sys.executable, "-m", "benchmarks.compare", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-revision"], "no revision here"),
        (["./docs"], "holds no folder `kernels`"),
        ([".", "-k", "log_sofmax"], "log_softmax"),
        ([".", "--launches", "7"], "8 or more"),
        ([".", "--launches", "8"], "need 9"),
        ([".", "--tier", "50"], "at most 12%"),
        ([".", "--json", "nowhere/x.json"], "folder does not exist"),
        ([], "BASE"),
    ],
)
def test_bad_usage_is_one_line(arguments, says):
    done = tool(*arguments)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not done.stdout


KERNEL = """
import numpy as np
__all__ = ["entropy"]
def entropy(logits):
    for _ in range({turns}):
        np.exp(logits)
"""


def checkout_with(folder, source):
    """The least that the tool takes for a checkout: one kernel."""
    (folder / "kernels").mkdir(parents=True)
    (folder / "kernels" / "__init__.py").write_text('"""Kernels."""\n')
    (folder / "kernels" / "categorical.py").write_text(source)
    return folder


def test_slower_kernel_is_found_in_real_processes(tmp_path):
    base = checkout_with(tmp_path / "base", KERNEL.format(turns=10))
    head = checkout_with(tmp_path / "head", KERNEL.format(turns=15))
    file = tmp_path / "out.json"
    done = tool(base, head, "-k", "entropy[64x512]", "--launches", 8, "--rounds", 4, "--json", file)
    assert done.returncode == 3, done.stderr
    assert done.stdout.rstrip().endswith("slower: entropy[64x512]. 1 regressed")
    assert max(map(len, done.stdout.splitlines())) <= 80
    (row,) = json.loads(file.read_text())["benchmarks"]
    assert 1.3 < row["ratio"] < 1.7


def test_side_that_does_not_build_is_not_a_pass(tmp_path):
    base = checkout_with(tmp_path / "base", KERNEL.format(turns=1))
    head = checkout_with(tmp_path / "head", "import nothing_of_this_name\n")
    done = tool(base, head, "-k", "entropy[call]")
    assert done.returncode == 4
    assert "could not measure: head: ModuleNotFoundError" in done.stderr


def test_worker_that_dies_or_hangs_is_not_waited_for(tmp_path):
    side = ab_launch.Side("base", checkout_with(tmp_path / "base", "import os\nos._exit(1)\n"))
    shutil.copy(CHECKOUT / ab_launch.WORKLOAD, side.folder)
    with pytest.raises(ab_launch.CouldNotMeasure, match="base: "):
        ab_launch.prepare([side], ["entropy[call]"])
    (side.folder / "kernels" / "categorical.py").write_text("import time\ntime.sleep(60)\n")
    worker = ab_launch.Worker(side, "any")
    worker.send(prepare=["entropy[call]"])
    with pytest.raises(ab_launch.CouldNotMeasure, match="no answer within 1 s"):
        worker.receive(limit=1.0)


def public_functions():
    """module.name of every kernel that is called with logits, scores or parameters."""
    for module in ("categorical", "from_logits", "preference", "policy_gradient", "optim"):
        if importlib.util.find_spec(f"kernels.{module}"):
            names = importlib.import_module(f"kernels.{module}").__all__
            yield from (f"{module}.{name}" for name in names if name.islower() and not name.endswith("_jit"))


def test_every_kernel_has_a_workload():
    """A kernel that nobody times can become slow unseen."""
    timed = {row.function for row in ab_workload.workloads()}
    assert set(public_functions()) <= timed, "add a row to TABLE in benchmarks/ab_workload.py"


CALLS = [row for row in ab_workload.workloads() if row.name.endswith("[call]")]


@pytest.mark.parametrize("row", CALLS, ids=lambda row: row.name)
def test_workload_runs(row):
    function = ab_worker.find(row.function)
    if function is None:
        pytest.skip("this checkout does not have it")
    function(*ab_worker.aligned(row.arguments()))


def test_arguments_start_on_a_cache_line():
    first, (second, rest) = ab_worker.aligned((np.arange(5.0)[1:], (np.ones((3, 2), np.float32), 7)))
    np.testing.assert_array_equal(first, [1, 2, 3, 4])
    assert (second.shape, second.dtype, rest) == ((3, 2), np.float32, 7)
    assert first.ctypes.data % ab_worker.LINE == second.ctypes.data % ab_worker.LINE == 0
