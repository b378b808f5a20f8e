"""What kernels take that compiled loops call by address (`kernels._linked`), where Python's clocks see one call.

A loop is handed a table of addresses. Here it gets one of functions that read the processor's counter, call the
kernel, and read the counter again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from kernels import _backward, _forward, decoding
from kernels._linked import Call, address, call

LOOPS = {"decode_jit": decoding, "forward_jit": _forward, "backward_jit": _backward}
"""The loops, and the modules that look addresses up for them."""
_I64 = ir.IntType(64)
_NOTES: dict[int, Any] = {}
"""By the kernel's address: its name, and the cycles and calls (2,) that its clock writes."""


@intrinsic
def _cycles(context: Any) -> Any:
    def lower(_: Any, builder: Any, *__: Any) -> Any:
        kind = ir.FunctionType(_I64, [])
        return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", fnty=kind), [])

    return types.int64(), lower


@intrinsic
def _add(context: Any, place: Any, cycles: Any) -> Any:
    """Adds to the two whole numbers at a place in memory."""

    def lower(_: Any, builder: Any, __: Any, args: Any) -> Any:
        first = builder.inttoptr(args[0], _I64.as_pointer())
        for n, more in enumerate((args[1], _I64(1))):
            number = builder.gep(first, [_I64(n)])
            builder.store(builder.add(builder.load(number), more), number)
        return _I64(0)

    return types.int64(place, types.int64), lower


@numba.njit
def _now() -> Any:
    return _cycles()


@cache
def _clock(function: Any, kinds: tuple[Any, ...]) -> int:
    """Where a function lies that calls this one and notes how long it took."""
    there = address(function, kinds)
    note = np.zeros(2, np.int64)
    place = note.ctypes.data
    names = ", ".join(f"a{n}" for n in range(len(kinds)))
    scope = {"there": there, "place": place, "kernel": function, "call": call, "cycles": _cycles, "add": _add}
    lines = (
        f"def clocked({names}):",
        "    start = cycles()",
        f"    result = call(kernel, there, ({names},))",
        "    add(place, cycles() - start)",
        "    return result",
    )
    exec("\n".join(lines), scope)
    clocked = numba.njit(error_model="numpy")(scope["clocked"])
    _NOTES[there] = function.__name__, note, clocked  # which keeps the code
    return address(clocked, kinds)


@cache
def _table(called: Any, dtype: Any) -> Any:
    """As `kernels._linked.addresses`."""
    found: tuple[Call, ...] = called(dtype)
    return np.array([_clock(function, kinds) for function, kinds in found])


@contextmanager
def clocked() -> Iterator[dict[str, list[float]]]:
    """Seconds and calls of every kernel that a compiled loop calls meanwhile, by name, filled in at the end."""
    taken: dict[str, list[float]] = {}
    if numba.config.DISABLE_JIT:  # there is no address, and each call can be seen
        yield taken
        return
    with ExitStack() as stack:
        for module in LOOPS.values():
            _table(module.calls, np.dtype(np.float32))  # while its functions are what they are
            stack.enter_context(patch.object(module, "addresses", _table))
        for _, note, _ in _NOTES.values():
            note[:] = 0
        _now()  # which is compiled
        start, first = perf_counter(), _now()
        yield taken
        rate = (perf_counter() - start) / max(_now() - first, 1)
    for name, note, _ in _NOTES.values():
        sums = taken.setdefault(name, [0.0, 0.0])
        sums[0] += float(note[0]) * rate
        sums[1] += float(note[1])


@contextmanager
def in_python() -> Iterator[None]:
    """The loops as plain Python, so that each of their calls can be seen."""
    with ExitStack() as stack:
        for module in LOOPS.values():
            for name, function in vars(module).items():
                if hasattr(function, "py_func") and (name in LOOPS or not name.endswith("_jit")):
                    stack.enter_context(patch.object(module, name, function.py_func))
        yield
