"""What a run was made on, and the memory it took. Nothing here names the host, the user or a path."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PACKAGES = ("rlhfbench", "numpy", "numba", "llvmlite", "scipy", "tokenizers")
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_CPU_INFO = Path("/proc/cpuinfo")


def fingerprint() -> dict[str, Any]:
    """Describe processor, platform, library versions and thread settings, as plain JSON values.

    Seconds of two runs compare only where their fingerprints are equal; counted work compares anywhere.
    """
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "affinity": _affinity(),
        "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "threads": {name: os.environ.get(name) for name in THREAD_VARIABLES},
    }


def set_single_thread_env(env: Mapping[str, str]) -> dict[str, str]:
    """Copy `env` with one numerical thread for Numba, OpenMP and BLAS; read when those libraries load."""
    return {**env, **dict.fromkeys(THREAD_VARIABLES, "1")}


def peak_rss_bytes() -> int | None:
    """Most resident memory of this process since its start or the last `reset_peak_rss`; None if unknown."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def reset_peak_rss() -> bool:
    """Let `peak_rss_bytes` count anew from here; False where the system cannot."""
    try:
        _CLEAR_REFS.write_text("5")  # Linux: sets the high-water mark to what is resident now
    except OSError:
        return False
    return True


@cache
def _cpu_model() -> str:
    try:
        for line in _CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    except (OSError, UnicodeDecodeError):
        pass
    return platform.machine()


def _affinity() -> int | None:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


@cache
def _version(package: str) -> str | None:
    from importlib import metadata  # 50 ms that `--help` need not pay

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
