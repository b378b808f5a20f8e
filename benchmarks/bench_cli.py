"""Whole processes as people start them: help, the default comparison, --quick, a cold start, real data.

    pytest benchmarks/bench_cli.py --benchmark-enable

Minutes, and meaningful only on a machine that does nothing else; two workers where there are two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def rlhfbench(folder: Path, *arguments: str, cache: Path | None = None) -> None:
    env = {**os.environ} | ({} if cache is None else {"NUMBA_CACHE_DIR": str(cache)})
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        env.pop(name, None)
    command = [sys.executable, "-m", "rlhfbench", *arguments]
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("name", "arguments", "rounds"),
    [
        ("--help", ("--help",), 10),
        ("compare ppo dpo", ("compare", "ppo", "dpo"), 3),
        ("compare ppo dpo --policy linear", ("compare", "ppo", "dpo", "--policy", "linear"), 3),
        ("compare ppo dpo --quick", ("compare", "ppo", "dpo", "--quick"), 3),
    ],
    ids=["help", "default", "linear", "quick"],
)
def test_warm(name: str, arguments: tuple[str, ...], rounds: int, tmp_path: Path, benchmark: Any) -> None:
    for policy in ("transformer", "linear"):  # fills the cache
        rlhfbench(tmp_path, "compare", "ppo", "dpo", "--policy", policy, "--seeds", "1", "--out", "first")
    count = iter(range(1000))

    def fresh() -> None:
        out = () if name == "--help" else ("--out", f"runs{next(count)}")
        rlhfbench(tmp_path, *arguments, *out)

    benchmark.group = name
    benchmark.pedantic(fresh, rounds=rounds, warmup_rounds=1 if name == "--help" else 0)


def test_cold(tmp_path: Path, benchmark: Any) -> None:
    """The first `--quick` of an installation: all kernels are compiled."""
    count = iter(range(1000))

    def first() -> None:
        n = next(count)
        rlhfbench(
            tmp_path, "compare", "ppo", "dpo", "--quick", "--out", f"runs{n}", cache=tmp_path / f"cache{n}"
        )

    benchmark.group = "compare ppo dpo --quick, nothing compiled"
    benchmark.pedantic(first, rounds=2)


def test_data(tmp_path: Path, data_dir: Path, benchmark: Any) -> None:
    file = str(data_dir / "hh_harmless.train.jsonl")
    benchmark.group = "compare ppo dpo --data, 1,819 pairs"
    benchmark.pedantic(rlhfbench, args=(tmp_path, "compare", "ppo", "dpo", "--data", file), rounds=1)
