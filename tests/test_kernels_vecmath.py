"""The vectorised exponential, maximum and sum against NumPy's."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from kernels import _vecmath
from kernels._jit import jit

DTYPES = (np.float32, np.float64)


@jit
def exp_all(x, out):
    for i in range(x.shape[0]):
        out[i] = _vecmath.exp(x[i])


@jit
def largest(x):
    top = x[0]
    for i in range(1, x.shape[0]):
        top = _vecmath.larger(top, x[i])
    return top


@jit
def total(x):
    s = np.float64(0.0)
    for i in range(x.shape[0]):
        s = _vecmath.plus(s, x[i])
    return s


def exponential(x):
    out = np.empty_like(x)
    with np.errstate(all="ignore"):
        exp_all(x, out)
    return out


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.float32, -86.9, 88.7), (np.float64, -707.5, 709.7)])
def test_exp_is_accurate(dtype, low, high):
    wide = np.linspace(low, high, 1_000_001)
    near = np.linspace(-1, 1, 1_000_001)
    x = np.concatenate([wide, near]).astype(dtype)
    exact = np.exp(x.astype(np.longdouble))
    error = np.abs(exponential(x) / exact - 1) / np.finfo(dtype).eps
    assert error.max() < 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_at_the_limits(dtype):
    big = np.finfo(dtype).max
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e4, -1e4, big, -big] * 5, dtype)
    expected = np.array([1, 1, np.inf, 0, np.nan, np.inf, 0, np.inf, 0] * 5, dtype)
    np.testing.assert_array_equal(exponential(x), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_around_overflow_and_underflow(dtype):
    limits = np.finfo(dtype)
    top, bottom = np.log(limits.max), np.log(limits.smallest_normal)
    x = np.concatenate(
        [np.linspace(top - 1, top + 3, 4001), np.linspace(bottom - 30, bottom + 1, 4001)]
    ).astype(dtype)
    with np.errstate(all="ignore"):
        exact = np.exp(x.astype(np.longdouble))
    found = exponential(x)
    over = exact * (1 - 1e-4) > limits.max
    assert np.isinf(found[over]).all()
    assert np.isfinite(found[exact * (1 + 1e-4) < limits.max]).all()
    assert (found >= 0).all()
    assert np.abs(found - exact)[x < bottom + 1].max() < 4 * limits.smallest_normal


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 7, 40, 100, 1024])
def test_largest_and_total(dtype, n):
    x = np.random.default_rng(n).standard_normal(n).astype(dtype)
    assert largest(x) == x.max()
    assert total(x) == pytest.approx(
        x.astype(np.float64).sum(), rel=1e-12, abs=1e-12 if dtype is np.float64 else 1e-5
    )
    x[n // 2] = -np.inf
    assert largest(x) == x.max()


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_exp_packs():
    """The loop works on vectors: without that this file has no reason to be."""
    exponential(np.zeros(8, np.float32))
    (code,) = (c for s, c in exp_all.inspect_llvm().items() if s[0].dtype == numba.float32)
    assert " x float> @llvm.rint" in code
