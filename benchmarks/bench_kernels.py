"""Every public kernel beside its NumPy twin, and SciPy where it has the function; one thread, float32.

    pytest benchmarks/bench_kernels.py --benchmark-enable

Before anything is timed, each side has to agree with the twin. The twins are readable float64 NumPy, not the fastest
there is: their ratio says what a plain implementation costs. `elements` stands in `extra_info`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from kernels import bag, categorical, optim, policy_gradient, preference, reference
from kernels.bag import Bag

B, T = 128, 24
VOCABULARIES = (40, 1024)
PAIRS, GROUP, ITEMS = 4096, 8, 4
PARAMETERS = 1 << 21
FEATURES, PER_ROW = 1 << 15, 60
SIDES = ("kernel", "numpy")

Arguments = tuple[Any, ...]


class Peer(NamedTuple):
    """The same function from elsewhere."""

    name: str
    call: Callable[..., Any]


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fields(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple) else (result,)


@cache
def vocabulary_cases(V: int) -> dict[str, Arguments]:
    rng = np.random.default_rng(V)
    logits, other, d = draw(B, T, V), draw(B, T, V, seed=1), draw(B, T, seed=2)
    tokens, uniforms = rng.integers(V, size=(B, T)), rng.random((B, T))
    return {
        "log_softmax": (logits,),
        "token_logprobs": (logits, tokens),
        "token_logprobs_backward": (logits, tokens, d),
        "entropy": (logits,),
        "kl_divergence": (logits, other),
        "kl_divergence_backward": (logits, other, d),
        "sample": (logits, uniforms),
    }


@cache
def array_cases() -> dict[str, tuple[ModuleType, Arguments]]:
    mask = (np.arange(T) < np.random.default_rng(1).integers(1, T + 1, size=(B, 1))).astype(np.float32)
    a, b, c = (draw(B, T, seed=seed) for seed in range(3))
    pairs = tuple(draw(PAIRS, seed=seed) for seed in range(4))
    rewards = draw(PAIRS)
    return {
        "kl_estimate": (policy_gradient, (a, b)),
        "k1": (policy_gradient, (a, b)),
        "k2": (policy_gradient, (a, b)),
        "k3": (policy_gradient, (a, b)),
        "gae": (policy_gradient, (a, b, mask, 1.0, 0.95)),
        "whiten": (policy_gradient, (a, mask)),
        "ppo_clip": (policy_gradient, (a, a + 0.1 * b, c, mask, 0.2)),
        "value_clip": (policy_gradient, (a, a + 0.1 * b, c, mask, 0.2)),
        "group_advantages": (policy_gradient, (rewards, GROUP)),
        "rloo_advantages": (policy_gradient, (rewards, GROUP)),
        "log_sigmoid": (preference, (pairs[0],)),
        "bradley_terry": (preference, pairs[:2]),
        "plackett_luce": (preference, (draw(PAIRS // ITEMS, ITEMS),)),
        "dpo": (preference, (*pairs, 0.1)),
        "ipo": (preference, (*pairs, 0.1)),
        "hinge": (preference, (*pairs, 0.1)),
        "global_norm": (optim, (draw(PARAMETERS),)),
    }


def random_bag(seed: int) -> Bag:
    """Words of a reply: a few are frequent, most are rare."""
    rng = np.random.default_rng(seed)
    n = B * PER_ROW
    indices = (rng.zipf(1.3, size=n) % FEATURES).astype(np.int32)
    return Bag(np.arange(B + 1) * PER_ROW, indices, np.ones(n, np.float32))


def by_hand_bag_scores(weights: Any, indptr: Any, indices: Any, data: Any) -> Any:
    return np.add.reduceat(weights[indices] * data, indptr[:-1])


def scipy_peer(name: str) -> Peer | None:
    special = pytest.importorskip("scipy.special")
    peers = {
        "log_softmax": lambda x: special.log_softmax(x, axis=-1),
        "log_sigmoid": special.log_expit,
    }
    return Peer("scipy", peers[name]) if name in peers else None


def measure(benchmark: Any, call: Callable[..., Any], twin: Callable[..., Any], arguments: Arguments) -> None:
    """Check against the twin, then time."""
    results, wanted = fields(call(*arguments)), fields(twin(*arguments))
    for mine, theirs in zip(results, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
    benchmark.extra_info["elements"] = int(np.size(arguments[0]))
    benchmark(call, *arguments)


def choose(side: str, name: str, ours: Callable[..., Any], twin: Callable[..., Any]) -> Callable[..., Any]:
    if side == "scipy":
        peer = scipy_peer(name)
        assert peer is not None
        return peer.call
    return ours if side == "kernel" else twin


def sides(names: Any, with_scipy: tuple[str, ...]) -> list[Any]:
    return [(name, side) for name in names for side in (*SIDES, *(["scipy"] * (name in with_scipy)))]


@pytest.mark.parametrize("V", VOCABULARIES)
@pytest.mark.parametrize(("name", "side"), sides(vocabulary_cases(1), ("log_softmax",)))
def test_over_the_vocabulary(name: str, side: str, V: int, benchmark: Any) -> None:
    ours, twin = getattr(categorical, name), getattr(reference, name)
    benchmark.group = f"{name}, ({B}, {T}, {V})"
    measure(benchmark, choose(side, name, ours, twin), twin, vocabulary_cases(V)[name])


@pytest.mark.parametrize(("name", "side"), sides(array_cases(), ("log_sigmoid",)))
def test_arrays(name: str, side: str, benchmark: Any) -> None:
    module, arguments = array_cases()[name]
    ours, twin = getattr(module, name), getattr(reference, name)
    benchmark.group = f"{name}, {arguments[0].shape}"
    measure(benchmark, choose(side, name, ours, twin), twin, arguments)


@pytest.mark.parametrize("side", SIDES)
def test_adamw(side: str, benchmark: Any) -> None:
    def state() -> list[Any]:
        zeros = [np.zeros(PARAMETERS, np.float32) for _ in range(2)]
        return [draw(PARAMETERS), draw(PARAMETERS, seed=1), *zeros]

    ours, theirs = state(), state()
    optim.adamw(*ours, 1, 1e-3)
    reference.adamw(*theirs, 1, 1e-3)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    benchmark.group = f"adamw, ({PARAMETERS},)"
    benchmark.extra_info["elements"] = PARAMETERS
    benchmark(optim.adamw if side == "kernel" else reference.adamw, *ours, 2, 1e-3)


@pytest.mark.parametrize("side", ["kernel", "scipy", "by hand"])
def test_bag_scores(side: str, benchmark: Any) -> None:
    """The twin makes the matrix dense, which is no baseline: SciPy's CSR product and NumPy's reduceat are."""
    sparse = pytest.importorskip("scipy.sparse")
    rows, weights = random_bag(0), draw(FEATURES)
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
    rows, weights = bag.bag_difference(random_bag(0), random_bag(1), FEATURES), draw(FEATURES)
    x = sparse.csr_array((rows.data, rows.indices, rows.indptr), shape=(B, FEATURES))

    def with_scipy(weights: Any, *rows: Any) -> tuple[Any, Any]:
        margins = x @ weights
        return -special.log_expit(margins).mean(), -(x.T @ special.expit(-margins)) / B

    benchmark.group = f"bradley_terry_bag, {B} pairs, {FEATURES} features"
    call = bag.bradley_terry_bag if side == "kernel" else with_scipy
    measure(benchmark, call, reference.bradley_terry_bag, (weights, *rows))


def test_no_kernel_is_without_a_benchmark() -> None:
    modules = (categorical, policy_gradient, preference, optim)
    public = {
        name
        for module in modules
        for name in module.__all__
        if isinstance(getattr(reference, name, None), FunctionType)
    }
    assert public <= {*vocabulary_cases(1), *array_cases(), "adamw"}
