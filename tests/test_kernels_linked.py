"""Calls by address, and the decoding loop that makes them."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from kernels import nn
from kernels._jit import jit
from kernels._linked import address, call

COMPILED = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing has an address")


@jit
def product(code, a, b, panel, out):
    return call(nn.product_jit, code, (a, b, nn.TIMES, 0, panel, out))


@jit
def of_every_second(code, a, b, panel, out):
    return call(nn.product_jit, code, (a[::2], b, nn.TIMES, 0, panel, out))


def inputs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 5)), rng.normal(size=(5, 3))
    return a, b, np.empty(nn.PANEL), np.zeros((6, 3))


def code(arrays):
    a, b, panel, out = map(numba.typeof, arrays)
    return address(nn.product_jit, (a, b, numba.int64, numba.int64, panel, out))


def test_a_call_by_address_is_the_call():
    arrays, want = inputs(), inputs()[-1]
    product(code(arrays), *arrays)
    nn.product_jit(*arrays[:2], nn.TIMES, 0, arrays[2], want)
    np.testing.assert_array_equal(arrays[-1], want)
    assert want.any()


@COMPILED
def test_what_nobody_looked_up_is_not_compiled():
    arrays = inputs()
    with pytest.raises(numba.TypingError):
        of_every_second(code(arrays), *arrays)
    of_those_that_may_change = code(arrays)
    arrays[0].flags.writeable = False
    with pytest.raises(numba.TypingError):
        product(of_those_that_may_change, *arrays)
