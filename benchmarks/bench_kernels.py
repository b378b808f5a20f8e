"""Every public kernel at sizes for each level of the memory, one thread, float32; `bench_peers.py` has the others.

    pytest benchmarks/bench_kernels.py --benchmark-enable

Before anything is timed, it has to agree with the float64 twin. `elements` and the bytes that have to be `read` and
`written` stand in `extra_info`. Bags of words have peers of their own here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import numpy as np
import pytest

from benchmarks import cases, exact, inputs
from benchmarks.cases import CASES, Case
from benchmarks.inputs import Arguments
from benchmarks.side_by_side import traffic
from kernels import bag, categorical, optim, policy_gradient, preference, reference
from kernels.bag import Bag

B, FEATURES, PER_ROW = 128, 1 << 15, 60


@lru_cache(maxsize=1)  # arrays of the largest size take hundreds of megabytes
def arguments_of(name: str, size: str) -> Arguments:
    case = CASES[name]
    return case.arguments(*case.sizes[size])


SIZES = [pytest.param(c, size, id=f"{c.name}-{size}") for c in CASES.values() for size in c.sizes]


@pytest.mark.parametrize(("case", "size"), SIZES)
def test_kernel(case: Case, size: str, benchmark: Any) -> None:
    arguments = arguments_of(case.name, size)
    call = case.ours["rlhfbench"](*arguments)
    result = call()
    case.check(arguments, result)
    read, written = traffic(arguments, result)
    benchmark.group = f"{case.name}, {case.sizes[size]}"
    benchmark.extra_info.update(elements=int(arguments[0].size), read=read, written=written)
    benchmark(call)


def random_bag(seed: int) -> Bag:
    """Words of a reply: a few are frequent, most are rare."""
    rng = np.random.default_rng(seed)
    n = B * PER_ROW
    indices = (rng.zipf(1.3, size=n) % FEATURES).astype(np.int32)
    return Bag(np.arange(B + 1) * PER_ROW, indices, np.ones(n, np.float32))


def by_hand_bag_scores(weights: Any, indptr: Any, indices: Any, data: Any) -> Any:
    return np.add.reduceat(weights[indices] * data, indptr[:-1])


def measure(benchmark: Any, call: Callable[..., Any], twin: Callable[..., Any], arguments: Any) -> None:
    """Check against the twin, then time."""
    exact.whole(twin)(arguments, call(*arguments))
    benchmark.extra_info["elements"] = int(np.size(arguments[0]))
    benchmark(call, *arguments)


@pytest.mark.parametrize("side", ["kernel", "scipy", "by hand"])
def test_bag_scores(side: str, benchmark: Any) -> None:
    """The twin makes the matrix dense, which is no baseline: SciPy's CSR product and NumPy's reduceat are."""
    sparse = pytest.importorskip("scipy.sparse")
    rows, weights = random_bag(0), inputs.draw(FEATURES)
    matrix = sparse.csr_array((rows.data, rows.indices, rows.indptr), shape=(B, FEATURES))
    calls: dict[str, Callable[..., Any]] = {
        "kernel": bag.bag_scores,
        "by hand": by_hand_bag_scores,
        "scipy": lambda weights, *rows: matrix @ weights,
    }
    benchmark.group = f"bag_scores, {B} rows of {PER_ROW}"
    measure(benchmark, calls[side], reference.bag_scores, (weights, *rows))


@pytest.mark.parametrize("side", ["kernel", "scipy"])
def test_bag_difference(side: str, benchmark: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    chosen, rejected = random_bag(0), random_bag(1)
    a, b = (sparse.csr_array((x.data, x.indices, x.indptr), shape=(B, FEATURES)) for x in (chosen, rejected))
    ours = bag.bag_difference(chosen, rejected, FEATURES)
    matrix = sparse.csr_array((ours.data, ours.indices, ours.indptr), shape=(B, FEATURES))
    assert abs(matrix - (a - b)).max() == 0
    benchmark.group = f"bag_difference, {B} rows of {PER_ROW}"
    if side == "kernel":
        benchmark(bag.bag_difference, chosen, rejected, FEATURES)
    else:
        benchmark(lambda: a - b)


@pytest.mark.parametrize("side", ["kernel", "scipy"])
def test_bradley_terry_bag(side: str, benchmark: Any) -> None:
    sparse, special = pytest.importorskip("scipy.sparse"), pytest.importorskip("scipy.special")
    rows, weights = bag.bag_difference(random_bag(0), random_bag(1), FEATURES), inputs.draw(FEATURES)
    x = sparse.csr_array((rows.data, rows.indices, rows.indptr), shape=(B, FEATURES))

    def with_scipy(weights: Any, *rows: Any) -> tuple[Any, Any]:
        margins = x @ weights
        return -special.log_expit(margins).mean(), -(x.T @ special.expit(-margins)) / B

    benchmark.group = f"bradley_terry_bag, {B} pairs, {FEATURES} features"
    call = bag.bradley_terry_bag if side == "kernel" else with_scipy
    measure(benchmark, call, reference.bradley_terry_bag, (weights, *rows))


def test_no_kernel_is_without_a_benchmark() -> None:
    modules = [categorical, policy_gradient, preference, optim, *filter(None, [cases.from_logits])]
    public = {name for module in modules for name in module.__all__}
    twins = {name for name in public if isinstance(getattr(reference, name, None), FunctionType)}
    assert twins <= {*CASES}
