"""Where a step of the transformer spends its time and its arithmetic, by phase, by kernel and by product.

    python -m benchmarks.transformer_profile CASE SIZE

prints one line of JSON, from a process of its own on one core. The functions that the policy calls are timed by
replacing them where it looks them up, and what compiled loops call by `benchmarks.clocked`; what is left is Python and
NumPy between them.
"""

from __future__ import annotations

import inspect
import json
import sys
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import transformer_cases
from benchmarks.clocked import LOOPS, clocked, in_python
from benchmarks.measure import one_core
from kernels import categorical, nn, optim, policy_gradient, preference
from kernels.flops import Work

Call = Callable[[], Any]
Product = tuple[tuple[int, int, int], tuple[bool, bool], int]
"""(m, k, n), which of the factors are transposed, and how wide the rows of the result lie."""
MATMUL, IN_LOOPS, REST = "matrix products", "loops over blocks and tokens", "Python and NumPy"
KINDS = {
    MATMUL: ("product", "panels"),
    "attention": ("attention", "cache"),
    "layer norm, residual": ("norm",),
    "GELU": ("gelu",),
    "embedding": ("embedding",),
    "softmax, drawing, losses": ("logprobs", "draw", "dpo", "clip", "gae", "whiten", "k1"),
    "clipping, AdamW": ("adamw", "global_norm"),
    IN_LOOPS: tuple(LOOPS),
}
"""What stands for a kernel in the table: parts of its name."""
OWN = "product_jit"
"""The kernel of `nn` that does products of narrow layers."""
ROUNDS = 20


def kind_of(kernel: str) -> str:
    """Which row of the table a kernel's time goes to.

    Examples
    --------
    >>> kind_of("layer_norm_backward_jit")
    'layer norm, residual'
    """
    return next((kind for kind, parts in KINDS.items() if any(part in kernel for part in parts)), kernel)


# Products


def products(call: Call) -> list[Product]:
    """The matrix products that a call does, in order."""
    found: list[Product] = []
    real, own = np.matmul, nn.product_jit

    def note(a: Any, b: Any, out: Any = None, **more: Any) -> Any:
        result = real(a, b, out=out, **more)
        turned = (a.strides[0] < a.strides[1], b.ndim > 1 and b.strides[0] < b.strides[1])
        found.append((_shape(a, b), turned, result.strides[0] // result.itemsize))
        return result

    def note_own(x: Any, w: Any, mode: int, skip: int, panel: Any, out: Any) -> Any:
        turned = (mode == nn.TURNED_TIMES, mode == nn.TIMES_TURNED)
        found.append((_own_shape(x, w, mode, skip, panel, out), turned, out.strides[0] // out.itemsize))
        return own(x, w, mode, skip, panel, out)

    with ExitStack() as stack:
        stack.enter_context(patch.object(np, "matmul", note))
        stack.enter_context(patch.object(nn, OWN, note_own))
        for module in LOOPS.values():
            stack.enter_context(patch.object(module, OWN, note_own))
        stack.enter_context(in_python())
        call()
    return found


def _shape(a: Any, b: Any, *_: Any) -> tuple[int, int, int]:
    return (*a.shape, b.shape[1] if b.ndim > 1 else 1)


def _own_shape(x: Any, w: Any, mode: int, skip: int, _panel: Any, out: Any) -> tuple[int, int, int]:
    """Of `kernels.nn.product_jit`; in `w`, or in the left factor where that is turned, columns from `skip` on count."""
    skip = int(skip)
    if mode == nn.PACKED:
        return *x.shape, out.shape[1]
    if mode == nn.TIMES:
        return x.shape[0], x.shape[1], w.shape[1] - skip
    if mode == nn.TIMES_TURNED:
        return x.shape[0], x.shape[1] - skip, w.shape[0]
    return x.shape[1], x.shape[0], w.shape[1] - skip


def replay(found: list[Product]) -> Call:
    """A call that has BLAS do these products and nothing else, on arrays of their own."""
    rng = np.random.default_rng(0)

    def factor(rows: int, columns: int, turned: bool) -> Any:
        return (
            rng.random((columns, rows), np.float32).T if turned else rng.random((rows, columns), np.float32)
        )

    arrays = [
        (factor(m, k, left), factor(k, n, right), np.empty((m, max(wide, n)), np.float32)[:, :n])
        for (m, k, n), (left, right), wide in found
    ]

    def call() -> None:
        for a, b, out in arrays:
            np.matmul(a, b, out=out)

    return call


# Time


@contextmanager
def timed(into: dict[Any, list[float]], clock: Callable[[], float] = perf_counter) -> Iterator[None]:
    """Adds up seconds, without those of calls within, and calls of every kernel, and of each shape of product."""
    within: list[float] = [0.0]

    def watch(key: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **more: Any) -> Any:
            within.append(0.0)
            start = clock()
            result = function(*args, **more)
            whole = clock() - start
            own = whole - within.pop()
            within[-1] += whole
            taken = into.setdefault(key(*args), [0.0, 0.0])
            taken[0] += own
            taken[1] += 1
            return result

        return watched

    compiled = nn, *LOOPS.values()
    with ExitStack() as stack:
        stack.enter_context(patch.object(np, "matmul", watch(_shape, np.matmul)))
        for module in (*compiled, categorical, policy_gradient, preference, optim):
            for name, function in vars(module).items():
                known = kind_of(name) != name and not name.startswith("_")
                if known and (name.endswith("_jit") if module in compiled else inspect.isfunction(function)):
                    key = _own_shape if name == OWN else lambda *_, name=name: name
                    watched = watch(key, function)
                    stack.enter_context(patch.object(module, name, watched))
        yield


def by_kind(
    kernels: Mapping[Any, list[float]], inside: Mapping[str, list[float]], whole: float
) -> dict[str, float]:
    """What `timed` and `clocked` found, by row of the table; what is left of the `whole` is Python and NumPy."""
    kinds: dict[str, float] = defaultdict(float)
    for key, (taken, _) in kernels.items():
        kinds[kind_of(key) if isinstance(key, str) else MATMUL] += taken
    for name, (taken, _) in inside.items():
        kinds[kind_of(name)] += taken
        kinds[IN_LOOPS] -= taken
    rows = {kind: kinds[kind] for kind in KINDS if kind in kinds}
    return rows | {REST: whole - sum(rows.values())}


@contextmanager
def phases(setup: transformer_cases.Setup, into: dict[str, list[float]]) -> Iterator[None]:
    """Adds up the seconds of each of the policies' calls."""
    named = {
        "sample": (setup.policy, "sample"),
        "logits": (setup.policy, "logits"),
        "values": (setup.policy, "values"),
        "backward": (setup.policy, "backward"),
        "reference logprobs": (setup.reference, "logprobs"),
        "reward model": (setup.reward_model, "score"),
    }

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **more: Any) -> Any:
            start = perf_counter()
            result = function(*args, **more)
            into[name][0] += perf_counter() - start
            return result

        return watched

    with ExitStack() as stack:
        for name, (owner, method) in named.items():
            stack.enter_context(patch.object(owner, method, watch(name, getattr(owner, method))))
        yield


def profile(case: str, size: transformer_cases.Size) -> dict[str, Any]:
    """Seconds, FLOPs and bytes of one call; seconds by phase and by kernel are means over `ROUNDS` of them."""
    setup = transformer_cases.make_setup(size)
    call = transformer_cases.CASES[case](setup, size)
    call(), call()
    setup.done.clear()
    call()
    done: dict[str, Work] = dict(setup.done)
    kernels: dict[Any, list[float]] = {}
    with clocked() as inside, timed(kernels):
        whole = _mean(call)
    shapes: dict[Any, list[float]] = {}
    with in_python(), timed(shapes):
        _mean(call)
    by_phase: dict[str, list[float]] = defaultdict(lambda: [0.0])
    with phases(setup, by_phase):
        _mean(call)
    return {
        "case": case,
        "size": size._asdict(),
        "seconds": whole,
        "flops": {name: work.flops for name, work in done.items()},
        "phases": {name: taken / ROUNDS for name, (taken,) in by_phase.items()},
        "kinds": {kind: taken / ROUNDS for kind, taken in by_kind(kernels, inside, whole * ROUNDS).items()},
        "products": [
            [*key, calls / ROUNDS, taken / ROUNDS]
            for key, (taken, calls) in shapes.items()
            if isinstance(key, tuple)
        ],
        "allocated": allocated(call),
    }


def _mean(call: Call) -> float:
    start = perf_counter()
    for _ in range(ROUNDS):
        call()
    return (perf_counter() - start) / ROUNDS


def allocated(call: Call) -> int:
    """Most bytes that Python and NumPy hold at a time of what a call asks for: the least of some calls.

    What differs between them is Python's own, such as what waits for its garbage collector.
    """
    tracemalloc.start()
    call()
    found = [_held_beside(call) for _ in range(5)]
    tracemalloc.stop()
    return min(found)


def _held_beside(call: Call) -> int:
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    call()
    return tracemalloc.get_traced_memory()[1] - before


def main(case: str, size: str) -> None:
    one_core()
    print(json.dumps(profile(case, transformer_cases.Size(**json.loads(size)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
