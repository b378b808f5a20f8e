"""Kernels are compiled by a compiler of their own: it gives calls the types that Numba gives them, if sooner."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from kernels import _inlaid

compiled = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")


def mixed(x, n):
    total = 0
    for i in range(n):
        total += x[i] * 2 if i > 1 else max(n, i) + 1
    return total


def pairs(x, n):
    a, b = (n, x[0]) if n > 1 else (1, x[1])
    return (a + b) / 2, np.float32(a) * x[0] - n // 2


def expression(x, n):
    return (x + x * n).sum()


@compiled
@pytest.mark.parametrize("function", [mixed, pairs, expression])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_types_are_numbas(function, dtype) -> None:
    args = np.arange(1, 5).astype(dtype), 3
    usual = numba.njit(function)
    found = usual(*args)
    for _ in range(2):  # the second time from memory
        ours = numba.njit(pipeline_class=_inlaid.Entry)(function)
        assert ours(*args) == found
        (signature,) = usual.signatures
        one, other = (f.overloads[signature].type_annotation for f in (usual, ours))
        assert ours.nopython_signatures == usual.nopython_signatures
        # An array expression stays the calls that it is made of; all else has the same names.
        shared = one.typemap.keys() & other.typemap.keys()
        assert [one.typemap[name] for name in shared] == [other.typemap[name] for name in shared]


@compiled
def test_a_call_is_remembered_and_numba_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: dict[object, object] = {}
    monkeypatch.setattr(_inlaid, "_found", memory)
    numba.njit(mixed)(np.ones(3), 3)
    assert not memory
    numba.njit(pipeline_class=_inlaid.Entry)(mixed)(np.ones(3), 3)
    before = len(memory)
    assert before
    numba.njit(pipeline_class=_inlaid.Entry)(mixed)(np.ones(4), 4)
    assert len(memory) == before
