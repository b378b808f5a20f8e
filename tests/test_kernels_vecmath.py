"""Vectorised functions against NumPy's in extended precision, over all floats."""

from __future__ import annotations

import re
from math import factorial

import numba
import numpy as np
import pytest

from kernels import _veclog, _vecmath
from kernels._jit import jit

DTYPES = (np.float32, np.float64)


@jit
def exp_all(x, out):
    for i in range(x.shape[0]):
        out[i] = _vecmath.exp(x[i])


@jit
def log_all(x, out):
    for i in range(x.shape[0]):
        out[i] = _veclog.log(x[i])


@jit
def log1p_all(x, out):
    for i in range(x.shape[0]):
        out[i] = _veclog.log1p(x[i])


@jit
def tanh_all(x, out):
    for i in range(x.shape[0]):
        out[i] = _veclog.tanh(x[i])


@jit
def exp_remainder_all(x, out):
    for i in range(x.shape[0]):
        out[i] = _veclog.exp_remainder(x[i])


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


def exact_remainder(x):
    """e**x - 1 - x; by its series where the difference would cancel."""
    near = np.clip(x, -0.1, 0.1)
    series = sum(near**k / np.longdouble(factorial(k)) for k in range(2, 16))
    with np.errstate(invalid="ignore"):
        difference = np.expm1(x) - x
    return np.where(np.abs(x) < 0.1, series, np.where(x == np.inf, x, difference))


ULPS = {
    "log": (log_all, np.log, 1),
    "log1p": (log1p_all, np.log1p, 2),
    "tanh": (tanh_all, np.tanh, 3),
    "exp_remainder": (exp_remainder_all, exact_remainder, 8),
}
EVERY = pytest.mark.parametrize("name", sorted(ULPS))


def some_of_all_floats(dtype):
    """Drawn by their bits, so of every size, with infinities and NaN; and densely where functions cancel or end."""
    whole = np.int32 if dtype is np.float32 else np.int64
    bounds = np.iinfo(whole)
    bits = np.random.default_rng(0).integers(bounds.min, bounds.max, 200_000, dtype=whole, endpoint=True)
    ranges = ((-1, 1), (0.4, 2.5), (-1e-3, 1e-3), (-30, 30), (-110, 110), (-750, 750))
    dense = [np.linspace(low, high, 100_001) for low, high in ranges]
    limits = np.finfo(dtype)
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, limits.max, limits.smallest_normal]
    subnormal = limits.smallest_subnormal * np.arange(1, 1000)
    return np.concatenate([bits.view(dtype), *(np.asarray(a, dtype) for a in (*dense, special, subnormal))])


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NumPy's own functions")
@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_over_all_floats(name, dtype):
    function, exact, most = ULPS[name]
    x = some_of_all_floats(dtype)
    found = np.empty_like(x)
    with np.errstate(all="ignore"):
        function(x, found)
        want = exact(x.astype(np.longdouble))
        rounded = want.astype(dtype)
        ulps = np.abs(found - want) / np.spacing(np.abs(rounded)).astype(np.longdouble)
    near_overflow = np.abs(want) > np.finfo(dtype).max * (1 - 1e-5)  # may be infinite a little early
    finite = np.isfinite(rounded) & ~near_overflow
    assert ulps[finite].max() < most
    np.testing.assert_array_equal(found[~finite & ~near_overflow], rounded[~finite & ~near_overflow])
    assert not np.isnan(found[near_overflow]).any()
    odd = name in {"log1p", "tanh"}
    np.testing.assert_array_equal(np.signbit(found[x == 0]), np.signbit(x[x == 0]) if odd else name == "log")
    assert name != "exp_remainder" or not (found < 0).any()


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_loops_pack(name, dtype):
    """Vector divisions or products in the machine's own code, and no call of the C library."""
    function, _, _ = ULPS[name]
    function(np.ones(8, dtype), np.empty(8, dtype))
    kind = numba.from_dtype(np.dtype(dtype))
    (code,) = (c for s, c in function.inspect_llvm().items() if s[0].dtype == kind)
    assert re.search(rf"fmul[a-z ]* <\d+ x {'float' if dtype is np.float32 else 'double'}>", code)
    assert not re.search(r"call .*@(log|log1p|tanh|exp|expm1)f?\(", code)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_exp_packs():
    """The loop works on vectors: without that this file has no reason to be."""
    exponential(np.zeros(8, np.float32))
    (code,) = (c for s, c in exp_all.inspect_llvm().items() if s[0].dtype == numba.float32)
    assert " x float> @llvm.rint" in code
