"""What each kernel takes of the decoding loop, which calls them itself, where no clock can stand between them.

The loop is handed a table of addresses. With one of functions that do nothing it goes on without its kernels; with one
in which a single kernel is itself, this kernel has taken the difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from time import thread_time
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
from numba import types

from benchmarks.transformer_cases import Size, make_setup, sampling
from kernels import decoding
from kernels._linked import address

DECODE = "decode_jit"
ROUNDS = 100
GIVER = {"gelu_over_jit": "product_jit"}
"""Of a kernel that writes over what it is given: which one gives it, or it would go on with its own results."""


def shares(size: Size) -> dict[str, float]:
    """Of the loop's time, by kernel; under the loop's own name what it takes without any. They add up to 1."""
    _, parts = seconds(size)
    return {name: taken / sum(parts.values()) for name, taken in parts.items()}


def seconds(size: Size) -> tuple[float, Mapping[str, float]]:
    """What the loop takes with all kernels, and its parts, each measured by itself.

    The parts are short of the whole by what kernels cost each other in the caches, an eighth. Without one kernel the
    loop would be short of that, too, but small kernels would be lost in the differences of large times.

    All take turns; of each the least counts, of the thread's own time, for few calls are never interrupted. The policy
    is that of the case: none of its responses ends early, or those of a loop that draws nothing would be the longer.
    """
    if numba.config.DISABLE_JIT:  # functions are called by their names
        return 1.0, {DECODE: 1.0}
    code, *arguments = _arguments(size)
    called = _called(np.dtype(np.float32))
    nothing = np.array([_empty_like(*kernel) for kernel in called])
    names = [kernel.__name__ for kernel, _ in called]
    tables = {"whole": code, DECODE: nothing}
    for name in names:
        tables[name] = np.where(np.isin(names, [name, GIVER.get(name, name)]), code, nothing)
    taken = dict.fromkeys(tables, math.inf)
    for _ in range(ROUNDS):
        for name, table in tables.items():
            start = thread_time()
            decoding.decode_jit(table, *arguments)
            taken[name] = min(taken[name], thread_time() - start)
    parts = {name: max(taken[name] - taken[GIVER.get(name, DECODE)], 0.0) for name in names}
    return taken["whole"], {DECODE: taken[DECODE]} | parts


def _arguments(size: Size) -> tuple[Any, ...]:
    """What `decode_jit` is called with."""
    call = sampling(make_setup(size), size)
    call()
    with patch.object(decoding, DECODE) as loop:
        call()
    return tuple(loop.call_args.args)


def _called(dtype: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The kernels of `decoding.addresses`, in their order, and the types that they are looked up for."""
    with patch.object(decoding, "address", return_value=0) as looked_up:
        decoding.addresses.__wrapped__(dtype)
    return [call.args for call in looked_up.call_args_list]


def _empty_like(kernel: Any, kinds: tuple[Any, ...]) -> int:
    """Where a function lies that takes and gives what the kernel does, and does nothing."""
    gives = kernel.overloads[kinds].signature.return_type
    empty = _empty(len(kinds), gives != types.none)
    empty.compile(gives(*kinds))
    return address(empty, kinds)


@cache  # which keeps their code
def _empty(arguments: int, number: bool) -> Any:
    names = ", ".join(f"a{n}" for n in range(arguments))
    return numba.njit(eval(f"lambda {names}: {0 if number else None}"))
