"""Vectors of `kernels._lanes`: memory at the edges of a row, the power of two, half precision bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from kernels._jit import jit
from kernels._lanemath import exp, largest, nothing, power, total, where_less
from kernels._lanes import load, load_part, splat, store, store_part, width
from kernels._row import at, length, narrow, put, row_of
from kernels._rows import BLOCK, LOG2E, NO_TOP, block_top

JIT = not numba.config.DISABLE_JIT
COMPILED = pytest.mark.skipif(not JIT, reason="NumPy's own functions")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
STORED = pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16])


@jit
def copy_rows(x, out):
    for n in range(x.shape[0]):
        row, into = row_of(x, n), row_of(out, n)
        v = 0
        while v + width(row) <= length(row):
            store(into, v, load(row, v))
            v += width(row)
        if v < length(row):
            store_part(into, v, length(row), load_part(row, v, length(row), narrow(0.0, row)))


@jit
def copy_each(x, out):
    row, into = row_of(x, 0), row_of(out, 0)
    for v in range(length(row)):
        put(into, v, at(row, v))


@jit
def power_row(x, scale, out):
    row, into, factor = row_of(x, 0), row_of(out, 0), narrow(scale, x)
    v = 0
    while v + width(row) <= length(row):
        store(into, v, power(load(row, v), factor))
        v += width(row)
    if v < length(row):
        store_part(into, v, length(row), power(load_part(row, v, length(row), narrow(0.0, row)), factor))


@jit
def power_each(x, scale, out):
    row, into, factor = row_of(x, 0), row_of(out, 0), narrow(scale, x)
    for v in range(length(row)):
        put(into, v, power(at(row, v), factor))


@jit
def exp_row(x, out):
    row, into = row_of(x, 0), row_of(out, 0)
    zero = narrow(0.0, row)
    v = 0
    while v + width(row) <= length(row):
        store(into, v, exp(load(row, v)))
        v += width(row)
    store_part(into, v, length(row), exp(load_part(row, v, length(row), zero)))


@jit
def exp_each(x, out):
    row, into = row_of(x, 0), row_of(out, 0)
    for v in range(length(row)):
        put(into, v, exp(at(row, v)))


@jit
def choose(a, b, x, out):
    """x where a < b, 0 elsewhere, of rows and of a number b."""
    V, zero = x.shape[1], narrow(0.0, x)
    lanes, other = load_part(row_of(a, 0), 0, V, zero), load_part(row_of(x, 0), 0, V, zero)
    store_part(row_of(out, 0), 0, V, where_less(lanes, narrow(b, x), other, nothing(other)))


@jit
def reduce_part(x, fill):
    """(largest, total) of one vector that holds the row, and `fill` behind it."""
    part = load_part(row_of(x, 0), 0, x.shape[1], narrow(fill, x))
    return largest(part), total(part)


@jit
def reduce_whole(x):
    lanes = load(row_of(x, 0), 0) + splat(narrow(0.0, x), row_of(x, 0))
    return largest(lanes), total(lanes)


@jit
def width_of(x):
    return width(row_of(x, 0))


@jit
def top_of(x, start, stop):
    return block_top(row_of(x, 0), start, stop, narrow(NO_TOP, x))


# --- memory


@STORED
@pytest.mark.parametrize("V", [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200])
def test_stores_end_with_the_row(dtype, V):
    x = np.arange(3 * V).reshape(3, V).astype(dtype)
    around = np.full((3, V + 400), 77, dtype)
    copy_rows(x, around[:, 200 : 200 + V])
    np.testing.assert_array_equal(around[:, 200 : 200 + V], x)
    assert (around[:, :200] == 77).all()
    assert (around[:, 200 + V :] == 77).all()


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from kernels import categorical as c, from_logits as f

page = mmap.PAGESIZE
memory = mmap.mmap(-1, 3 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None, use_errno=True)
for guard in (start, start + 2 * page):
    assert libc.mprotect(ctypes.c_void_p(guard), page, 0) == 0

def inside(shape, dtype, at_end):
    count = int(np.prod(shape))
    offset = page + (page - count * np.dtype(dtype).itemsize if at_end else 0)
    return np.frombuffer(memory, dtype, count, offset).reshape(shape)

if sys.argv[1:]:
    inside((1, 1), np.float32, True).ctypes.data_as(ctypes.POINTER(ctypes.c_float))[1]
for dtype in (np.float32, np.float16):
    for V in (1, 17, 63, 64, 65, 130):
        for at_end in (False, True):
            x = inside((2, V), dtype, at_end)
            x[:] = 1
            tokens, ones = np.array([0, V - 1]), np.ones(2)
            c.entropy_backward(x, ones, out=x)
            c.kl_divergence_backward(x, x, ones, out=x)
            c.sample(x, ones)
            f.sft_from_logits(x, tokens, out=x)
print("untouched")
"""


def _guarded(*arguments):
    command = [sys.executable, "-c", GUARDED, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])


@COMPILED
@pytest.mark.skipif(sys.platform != "linux", reason="protects pages through the C library")
def test_nothing_outside_the_row_is_read():
    """Pages before and behind the rows are forbidden: one byte read there ends the process."""
    found = _guarded()
    assert (found.stdout, found.returncode) == ("untouched\n", 0), found.stderr
    assert _guarded("touch").returncode < 0  # the guard does work


# --- 2**x


SCALES = [1.0, LOG2E, LOG2E / 0.7, LOG2E / 30, LOG2E * 1e30, LOG2E * 1e-30]


def _limits(dtype):
    """Exponents between which 2**x is exact to so many units in the last place."""
    return (-126.499, 127.0, 2.2) if dtype is np.float32 else (-1022.499, 1023.0, 1.0)


@COMPILED
@DTYPES
@pytest.mark.parametrize("scale", SCALES)
def test_power_is_accurate(dtype, scale):
    low, high, units = _limits(dtype)
    factor = dtype(scale)
    exponents = np.concatenate(
        [np.linspace(low, high, 400_001), np.linspace(-1.5, 1.5, 100_001), np.arange(low, high)]
    )
    x = (exponents / np.float64(factor)).astype(dtype)
    exact = x.astype(np.longdouble) * np.longdouble(factor)
    documented = (exact >= low) & (exact <= high)
    x, want = x[documented], np.exp2(exact[documented])
    ulp = np.spacing(want.astype(dtype)).astype(np.longdouble)
    for function in (power_row, power_each):
        found = np.empty_like(x)
        function(x[None], scale, found[None])
        assert (np.abs(found - want) / ulp).max() < units
    assert documented.mean() > 0.99


@DTYPES
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("function", [power_row, power_each])
def test_power_at_the_limits(dtype, scale, function):
    low, _, _ = _limits(dtype)
    below = np.array([low - 0.002, low - 1, low - 30, 1.5 * low, 1e3 * low, -np.inf]) / np.float64(
        dtype(scale)
    )
    with np.errstate(all="ignore"):
        x = np.concatenate([np.maximum(below, -np.finfo(dtype).max), [-np.inf, np.nan, 0.0, -0.0]]).astype(
            dtype
        )
        found = np.empty_like(x)
        function(x[None], scale, found[None])
    if JIT:
        np.testing.assert_array_equal(found[: len(below) + 1], 0)
    np.testing.assert_array_equal(found[-4:], [0, np.nan, 1, 1])


@COMPILED
@DTYPES
@pytest.mark.parametrize("function", [exp_row, exp_each])
def test_exponential(dtype, function):
    low, high, _ = _limits(dtype)
    ln2 = np.log(2.0)
    x = np.concatenate([np.linspace(low * ln2, (high + 0.49) * ln2, 400_001), np.linspace(-1, 1, 100_001)])
    x = x.astype(dtype)
    want = np.exp(x.astype(np.longdouble))
    found = np.empty_like(x)
    function(x[None], found[None])
    assert (np.abs(found - want) / np.spacing(want.astype(dtype)).astype(np.longdouble)).max() < 2.5
    x = np.array(
        [-np.inf, 1e3 * low, (low - 1) * ln2, 0.0, (high + 1.01) * ln2, 1e3 * high, np.inf, np.nan], dtype
    )
    found = np.empty_like(x)
    function(x[None], found[None])
    np.testing.assert_array_equal(found, [0, 0, 0, 1, np.inf, np.inf, np.inf, np.nan])


@DTYPES
def test_choice(dtype):
    a, x = np.array([[-1.0, 0.0, 1.0, np.nan, 0.5]], dtype), np.array([[1, 2, 3, 4, 5]], dtype)
    found = np.empty_like(x)
    choose(a, 0.75, x, found)
    np.testing.assert_array_equal(found, [[1, 2, 0, 0, 5]])


# --- reductions


@DTYPES
def test_reductions(dtype):
    count = min(width_of(np.zeros((1, 1), dtype)), 128)
    for V in (1, 2, 3, count // 2, count - 1):
        x = np.random.default_rng(V).integers(-99, 99, (1, V)).astype(dtype)
        assert reduce_part(x, -100.0)[0] == x.max()
        assert reduce_part(x, 0.0)[1] == x.sum()
    x = np.random.default_rng(0).integers(-99, 99, (1, count)).astype(dtype)
    assert reduce_whole(x) == (x.max(), x.sum())
    for lane in range(count):
        one = np.full((1, count), -np.inf, dtype)
        one[0, lane] = 3
        assert reduce_whole(one)[0] == 3


@COMPILED
@DTYPES
def test_top_of_a_block(dtype):
    x = np.random.default_rng(1).standard_normal((1, 300)).astype(dtype)
    for start, stop in ((0, 300), (17, 200), (17, 18), (128, 256)):
        assert top_of(x, start, stop) == x[0, start:stop].max()
    assert top_of(np.full((1, 300), -np.inf, dtype), 0, 300) == dtype(NO_TOP)
    assert BLOCK % width_of(x) == 0  # so that only the last block has a part of a vector


# --- half precision


EVERY_PATTERN = np.arange(1 << 16, dtype=np.uint16)


def _bfloat16():
    return np.dtype(pytest.importorskip("ml_dtypes", reason="needs ml_dtypes").bfloat16)


def _half(name):
    return (np.dtype(np.float16), np.int16) if name == "float16" else (_bfloat16(), np.uint16)


HALF = pytest.mark.parametrize("name", ["float16", "bfloat16"])
COPY = pytest.mark.parametrize("copy", [copy_rows, copy_each])


@HALF
@COPY
def test_every_pattern_is_widened(name, copy):
    half, bits = _half(name)
    if copy is copy_each and not JIT:
        pytest.skip("one by one in Python")
    found = np.empty(1 << 16, np.float32)
    copy(EVERY_PATTERN.view(bits)[None], found[None])
    np.testing.assert_array_equal(found, EVERY_PATTERN.view(half).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(found), EVERY_PATTERN >> 15)


@HALF
@COPY
def test_every_rounding(name, copy):
    """Each number of half precision, halfway to the next one, and a little to both sides; and random numbers."""
    half, bits = _half(name)
    if copy is copy_each and not JIT:
        pytest.skip("one by one in Python")
    exact = EVERY_PATTERN.view(half).astype(np.float32)
    size = exact.view(np.uint32)
    places = 13 if name == "float16" else 16
    halfway = np.concatenate([exact, (size + np.uint32(1 << (places - 1))).view(np.float32)])
    steps = np.arange(0, 1 << 11, dtype=np.float32)
    subnormal = (steps + np.float32(0.5)) * np.float32(2.0**-24)
    near = np.concatenate([halfway, subnormal, -subnormal]).view(np.uint32)
    drawn = np.random.default_rng(0).integers(0, 1 << 32, 300_000, dtype=np.uint32)
    x = np.concatenate([near, near + 1, near - 1, drawn, drawn % 0x48000000]).view(np.float32)
    found = np.empty(x.shape, bits)
    copy(x[None], found[None])
    with np.errstate(all="ignore"):
        want = x.astype(half)
    nan = np.isnan(x)
    np.testing.assert_array_equal(found[~nan].view(np.uint16), want[~nan].view(np.uint16))
    assert np.isnan(found.view(half)[nan].astype(np.float32)).all()
    assert nan.sum() > 1000
