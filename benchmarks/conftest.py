"""What all benchmarks share: the data, and a description of the machine that names a machine, not a moment."""

import os
from pathlib import Path
from typing import Any

import pytest

THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real preference data: RLHFBENCH_DATA, else ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RLHFBENCH_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set RLHFBENCH_DATA)")
    return folder


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
