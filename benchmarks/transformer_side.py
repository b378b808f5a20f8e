"""One side of one of the transformer's cases, in a process of its own that `benchmarks.turns` asks.

    python -m benchmarks.transformer_side rlhfbench|torch|torch.compile|jax|machine CASE SIZE

`machine` is no library: it is a product of two squares of 1,024, the most that the machine gives (CASE "matmul"), or
the products of one of our own steps and nothing else.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks import transformer_cases, transformer_profile
from benchmarks.measure import one_core
from benchmarks.turns import serve

MATMUL = 1024


def ours(case: str, size: transformer_cases.Size) -> None:
    setup = transformer_cases.make_setup(size)
    call = transformer_cases.CASES[case](setup, size)
    call(), call()
    serve(call, f"numba {version('numba')}, numpy {version('numpy')}", setup.held)


def theirs(peer: str, case: str, size: transformer_cases.Size) -> None:
    library, _, compiled = peer.partition(".")
    if library == "torch":
        importlib.import_module("torch").set_num_threads(1)
    cases = importlib.import_module(f"benchmarks.peers.{library}_cases")
    chosen = cases.COMPILED if compiled else cases.CASES
    call = chosen[case](transformer_cases.make_setup(size), size)
    call(), call()
    serve(call, f"{library} {version(library)}")


def machine(case: str, size: transformer_cases.Size) -> None:
    if case == "matmul":
        x = np.random.default_rng(0).random((MATMUL, MATMUL), dtype=np.float32)
        out = np.empty_like(x)
        serve(lambda: np.matmul(x, x, out=out), f"{2 * MATMUL**3}")
        return
    call = transformer_cases.CASES[case](transformer_cases.make_setup(size), size)
    call()
    products = transformer_profile.products(call)
    replay = transformer_profile.replay(products)
    replay()
    serve(replay, str(sum(2 * m * k * n for (m, k, n), *_ in products)))


def main(name: str, case: str, size: str) -> None:
    one_core()
    given: dict[str, Any] = json.loads(size)
    sizes = transformer_cases.Size(**given)
    if name == "rlhfbench":
        ours(case, sizes)
    elif name == "machine":
        machine(case, sizes)
    else:
        theirs(name, case, sizes)


if __name__ == "__main__":
    main(*sys.argv[1:])
