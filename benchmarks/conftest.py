"""What all benchmarks share: the data, how they are timed by default, and baselines that cannot mislead.

pytest-benchmark compiles inside the first round, times microseconds call by call, compares different machines with a
warning, and takes whatever was saved last as the baseline. Here those defaults are others; docs/benchmarking.md lists
them.
"""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.logger import PytestBenchmarkWarning

THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Option: the plugin's default, and what stands in its place unless somebody chose another.
DEFAULTS: dict[str, tuple[Any, Any]] = {
    "benchmark_min_time": ("0.000005", "0.001"),
    "benchmark_min_rounds": (5, 30),
    "benchmark_warmup": (False, True),
    "benchmark_warmup_iterations": (100_000, 1000),
    "benchmark_disable_gc": (False, True),
}
# Each of these is only meaningful with real timings, which `--benchmark-disable` in pyproject.toml would leave out.
NEED_TIMINGS = ("autosave", "save", "json", "compare", "compare_fail", "histogram", "csv", "only", "cprofile")
SAME_MACHINE = ("system", "machine", "cpu", "target", "python_implementation_version", "versions", "threads")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real preference data: RLHFBENCH_DATA, else ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RLHFBENCH_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set RLHFBENCH_DATA)")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Set the defaults before the plugin reads its options, which it does last."""
    # The first run has no baseline yet: the plugin warns, which must not be an error as other warnings are.
    config.addinivalue_line("filterwarnings", "default::pytest_benchmark.logger.PytestBenchmarkWarning")
    warnings.filterwarnings("default", category=PytestBenchmarkWarning)
    option = config.option
    asked = any(getattr(option, f"benchmark_{name}", None) for name in NEED_TIMINGS)
    if asked and "--benchmark-disable" not in config.invocation_params.args:
        option.benchmark_enable = True
    for name, (theirs, ours) in DEFAULTS.items():
        if str(getattr(option, name)) == str(theirs):
            setattr(option, name, type(getattr(option, name))(ours))
    if option.benchmark_compare_fail and option.benchmark_compare is True:
        raise pytest.UsageError(
            "--benchmark-compare-fail needs a named baseline, like --benchmark-compare=0001: "
            "the run that was saved last may be the one that was slow"
        )


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Drop what differs between two runs on one machine; add what changes speed."""
    import llvmlite.binding
    import numba
    import numpy

    machine_info.pop("node", None)
    cpu = machine_info.get("cpu", {})
    for name in [name for name in cpu if name.startswith("hz_")]:
        del cpu[name]
    machine_info["target"] = llvmlite.binding.get_host_cpu_name()
    machine_info["versions"] = {"numba": numba.__version__, "numpy": numpy.__version__}
    machine_info["threads"] = {name: os.environ.get(name) for name in THREADS}


def pytest_benchmark_compare_machine_info(
    machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse a baseline from another machine, or one with other threads or versions, before anything is timed."""
    now, then = machine_info, compared_benchmark["machine_info"]
    other = [name for name in SAME_MACHINE if as_json(now.get(name)) != as_json(then.get(name))]
    if other:
        raise pytest.UsageError(
            f"the baseline is from another machine or setting ({', '.join(other)} differ): save one here "
            "with --benchmark-autosave, or compare revisions with `python -m benchmarks.compare BASE`"
        )


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Say which kernels were timed: the commit alone does not know of edits."""
    from kernels._jit import source_hash

    for row in output_json["benchmarks"]:
        row["extra_info"]["kernels"] = source_hash()


def without_baseline(config: pytest.Config) -> list[str]:
    """Benchmarks that were timed and compared with nothing."""
    timed = config._benchmarksession  # type: ignore[attr-defined]
    known = {name for mapping in (timed.compared_mapping or {}).values() for name in mapping}
    return [row.fullname for row in timed.benchmarks if row.fullname not in known] if timed.compare else []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A benchmark that the baseline lacks must not pass a gate unseen; a new name would be a way around it."""
    if session.config.option.benchmark_compare_fail and without_baseline(session.config):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name what was compared with nothing."""
    names = without_baseline(config)
    if names:
        terminalreporter.section("not in the baseline")
        terminalreporter.write_line("\n".join(names))
