"""The same cases in NumPy, SciPy, PyTorch and JAX, each in its best idiom (`peers/`); one thread, float32.

    pytest benchmarks/bench_peers.py --benchmark-enable -k "entropy and L2"

Needs what the extra `peers` installs; a library that is not there has no benchmarks. Each side has to agree with the
float64 twin first. For ratios take `python -m benchmarks.table`, which runs all sides in turn; here one comes after
the other. Our own side stands in `bench_kernels.py`, in groups of the same name.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from benchmarks.bench_kernels import arguments_of
from benchmarks.cases import CASES, Case
from benchmarks.peers import Idiom, idioms

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other people's deprecations
    SIDES = [
        pytest.param(case, size, idiom, id=f"{case.name}-{size}-{name}")
        for case in CASES.values()
        for size in case.sizes
        for name, idiom in idioms(case.name).items()
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "size", "idiom"), SIDES)
def test_peer(case: Case, size: str, idiom: Idiom, benchmark: Any) -> None:
    arguments = arguments_of(case.name, size)
    call = idiom(*arguments)
    case.check(arguments, call())
    benchmark.group = f"{case.name}, {case.sizes[size]}"
    benchmark.extra_info["elements"] = int(arguments[0].size)
    benchmark(call)
