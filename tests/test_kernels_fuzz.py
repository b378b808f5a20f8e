"""Calls of every public kernel with arguments that fit, in any type and layout, and with one that does not.

What fits gives the same in any layout. What does not is a TypeError or ValueError that begins with a parameter's name.
Never a crash, a warning, or a changed input.
"""

from __future__ import annotations

import contextlib
import inspect

import kernel_cases as table
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import bag, bag_fit

CASE = pytest.mark.parametrize("case", table.CASES, ids=lambda case: case.name)
SEEDS = st.integers(0, 2**63)
DISABLED = bool(numba.config.DISABLE_JIT)


def drawn(case, rng):
    """Arguments that fit."""
    B, T, V = (int(rng.integers(1, most)) for most in (4, 5, 70))
    return case.make(rng, B, T, V, rng.choice([np.float32, np.float64]))


def is_array(value):
    return isinstance(value, np.ndarray)


def call(function, kwargs):
    """Call it, and see that inputs stay as they are."""
    kept = {k: v.copy() for k, v in kwargs.items() if is_array(v) and k not in table.IN_PLACE}
    try:
        return table.compute(function, kwargs) if all(map(is_array, _changed(kwargs))) else function(**kwargs)
    finally:
        for key, value in kept.items():
            assert kwargs[key].tobytes() == value.tobytes(), f"{key} was changed"


def _changed(kwargs):
    return [v for k, v in kwargs.items() if k in table.IN_PLACE]


# --- what fits


def apart(x, rng):
    """The same elements, with gaps between them or in another order."""
    if x.ndim == 0:
        return x
    axis = int(rng.integers(x.ndim))
    wide = np.repeat(x, 2, axis=axis)
    turned = tuple(slice(None, None, int(step)) for step in rng.choice([1, -1], x.ndim))
    choices = [
        lambda: wide[(slice(None),) * axis + (slice(None, None, 2),)],
        lambda: np.asfortranarray(x),
        lambda: x[turned].copy()[turned],
        lambda: x.astype(x.dtype.newbyteorder()),
        lambda: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
        lambda: x.tolist() if x.dtype.kind == "f" and x.dtype.itemsize == 8 else x,
    ]
    return choices[rng.integers(len(choices))]()


def padded(x):
    """Rows as a view of longer ones."""
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 3)])[..., : x.shape[-1]]


def layouts_do_not_matter(case, seed):
    rng = np.random.default_rng(seed)
    kwargs = drawn(case, rng)
    expected = call(case.function, kwargs)
    gaps = rng.random() < 0.3
    other = {}
    for key, value in kwargs.items():
        if not is_array(value) or key in table.IN_PLACE:
            other[key] = value
        elif "logits" in key:
            other[key] = padded(value) if gaps else apart(value, rng)
        else:
            other[key] = apart(value, rng)
    if "threads" in inspect.signature(case.function).parameters:
        other["threads"] = int(rng.integers(1, 4))
    for got, want in zip(call(case.function, other), expected, strict=True):
        np.testing.assert_array_equal(got, want)


# --- what does not


class Strange:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array today")


NOT_ARRAYS = [
    "text",
    b"bytes",
    object(),
    {"a": 1},
    {1, 2},
    [[1.0], [1.0, 2.0]],
    ["a"],
    [None],
    np.array([1j]),
    np.array(["2026-01-01"], "M8[D]"),
    np.array([3], "m8[s]"),
    np.array([(1, 2.0)], [("a", int), ("b", float)]),
    np.zeros(2, np.longdouble) if np.dtype(np.longdouble).itemsize > 8 else "text",
    np.zeros(2, "V2"),
    Strange(),
    len,
]
NOT_NUMBERS = [
    "text",
    "0.5",
    b"1",
    object(),
    [0.5],
    np.array([0.5, 0.5]),
    np.ones(1),
    {},
    1j,
    np.complex64(1),
]
NOT_NUMBERS += [
    np.datetime64("2026-01-01"),
    np.timedelta64(1, "s"),
    np.nan,
    np.inf,
    -np.inf,
    10**400,
    -(10**400),
]
ODD_NUMBERS = [-1, 0, 1, -0.0, 5e-324, 1e-40, 1e300, -1e300, 2**63, True, None, np.float32(0.5), np.int8(1)]
NOT_COUNTS = [0, -1, 1.5, 1.0, "2", None, True, 2**70, [1], np.array([1, 1]), np.nan]


def reshaped(x, rng):
    """Elements of the same kind in a shape that they do not have."""
    choices = [x[..., None], x[None], np.zeros((*x.shape, 2), x.dtype)]
    if x.ndim:
        choices += [np.concatenate([x, x]), x[..., :0], x[:0], x[0] if len(x) else x[None], x.swapaxes(0, -1)]
    return choices[rng.integers(len(choices))]


def rubbish(x, rng):
    """Numbers of the same shape, which a kernel may take or refuse."""
    values = [np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300, -1e300, 5e-324, 3e38]
    if x.dtype.kind == "i":
        values = [-1, -100, 2**31, 2**62, -(2**63), 70]
    spoilt = x.astype(np.float64 if x.dtype.kind == "f" else x.dtype)
    spoilt[rng.random(x.shape) < rng.choice([0.2, 1.0])] = values[rng.integers(len(values))]
    others = [np.int8, np.uint8, np.bool_, np.uint64, np.float16, np.float32, np.int16]
    if rng.random() < 0.3:
        with np.errstate(all="ignore"):
            return spoilt.astype(others[rng.integers(len(others))])
    with np.errstate(all="ignore"):
        return spoilt.astype(x.dtype) if rng.random() < 0.7 else spoilt


def spoilt(case, rng):
    """(arguments of which one is wrong or odd, its name, whether the call has to be refused)."""
    kwargs = drawn(case, rng)
    optional = [p for p in ("out", "threads") if p in inspect.signature(case.function).parameters]
    names = [*kwargs, *optional]
    name = names[rng.integers(len(names))]
    value = kwargs.get(name)
    if is_array(value):
        kind = rng.integers(3)
        if kind == 0:
            return {**kwargs, name: NOT_ARRAYS[rng.integers(len(NOT_ARRAYS))]}, name, True
        odd = reshaped(value, rng) if kind == 1 else rubbish(value, rng)
    elif name == "threads":
        return {**kwargs, name: NOT_COUNTS[rng.integers(len(NOT_COUNTS))]}, name, True
    elif name == "out":
        wrong = [*NOT_ARRAYS, np.zeros((9, 9, 9)), np.zeros(3, ">f4"), 1.0]
        return {**kwargs, name: wrong[rng.integers(len(wrong))]}, name, True
    elif rng.random() < 0.5 and not isinstance(value, (str, bool)):
        return {**kwargs, name: NOT_NUMBERS[rng.integers(len(NOT_NUMBERS))]}, name, name != "margin"
    else:
        odd = ODD_NUMBERS[rng.integers(len(ODD_NUMBERS))]
    return {**kwargs, name: odd}, name, False


def wrong_input_is_named(case, seed):
    kwargs, name, refused = spoilt(case, np.random.default_rng(seed))
    given = kwargs[name]
    try:
        call(case.function, kwargs)
    except (TypeError, ValueError) as error:
        message = str(error)
    else:
        assert not refused, f"took {name}={given!r}"
        return
    parameter, colon, _ = message.partition(": ")
    known = inspect.signature(case.function).parameters
    assert colon and parameter in known, f"{name}={given!r}: {message}"  # noqa: PT018


@CASE
@settings(max_examples=min(20, settings().max_examples))
@given(seed=SEEDS)
def test_layouts_do_not_matter(case, seed):
    layouts_do_not_matter(case, seed)


# Without the JIT NumPy warns of infinities and NaN; public functions do not pass that on where they compile.
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning" if DISABLED else "error")
@CASE
@settings(max_examples=min(40, settings().max_examples))
@given(seed=SEEDS)
def test_wrong_input_is_named(case, seed):
    wrong_input_is_named(case, seed)


@pytest.mark.slow
@CASE
def test_for_long(case):
    for seed in range(1000):
        layouts_do_not_matter(case, seed)
        wrong_input_is_named(case, seed)


# --- bags


ROWS = {"indptr": [0, 2, 3], "indices": [0, 1, 1], "data": [1.0, -1.0, 2.0]}
BAGS = {
    "bag_scores": (bag.bag_scores, {"weights": [1.0, 2.0], **ROWS}),
    "bradley_terry_bag": (bag.bradley_terry_bag, {"weights": [1.0, 2.0], **ROWS, "l2": 0.1}),
    "fit": (bag_fit.fit_bradley_terry, {**ROWS, "n_features": 2, "order": [1, 0], "C": 1.0, "max_epochs": 5}),
}


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning" if DISABLED else "error")
@pytest.mark.parametrize(("function", "right"), BAGS.values(), ids=BAGS)
@given(seed=SEEDS)
def test_wrong_bags_are_refused(function, right, seed):
    rng = np.random.default_rng(seed)
    name = list(right)[rng.integers(len(right))]
    odd = [
        *NOT_ARRAYS,
        *NOT_NUMBERS,
        *ODD_NUMBERS,
        [-1, 0],
        [[0, 1]],
        [],
        [0, 1, 9],
        [2**62] * 3,
        [0, 3, 2],
    ]
    odd += [np.array([0, 2**63], np.uint64)]
    with contextlib.suppress(TypeError, ValueError):
        function(**{**right, name: odd[rng.integers(len(odd))]})
