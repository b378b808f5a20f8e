"""What holds for every kernel, over the table in kernel_cases.py."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import kernel_cases as table
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.runtime import rtsys

import kernels
from kernels import flops, reference

DRAWS = {"sample", "draw"}  # tokens are the first of what they give
CASE = pytest.mark.parametrize("case", table.CASES, ids=lambda case: case.name)
DTYPES = (np.float32, np.float64)
EPS = {np.dtype(t): float(np.finfo(t).eps) for t in DTYPES}
JIT = not numba.config.DISABLE_JIT
PACKAGE = Path(table.categorical.__file__).parent


def scale(kwargs):
    """Magnitude of the inputs: rounding errors of differences are relative to it."""
    floats = [v for v in kwargs.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f" and v.size]
    return max([1.0, *(float(np.abs(np.nan_to_num(v)).max()) for v in floats)])


def assert_near(outputs, expected, tolerance, names=""):
    assert len(outputs) == len(expected)
    for got, want in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=names)


def other_process(mode, target, **environment):
    script = Path(table.__file__)
    subprocess.run([sys.executable, script, mode, target], check=True, env={**os.environ, **environment})


def test_the_table_names_every_public_kernel():
    public = {n for m in table.MODULES for n in m.__all__ if n.islower() and not n.endswith("_jit")}
    assert {case.public for case in table.CASES} == public - table.NO_KERNELS


@CASE
def test_twin_has_the_same_signature(case):
    def parameters(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert parameters(case.twin) == parameters(case.function)


@CASE
@given(
    B=st.integers(1, 5),
    T=st.integers(1, 6),
    V=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_agrees_with_its_twin(case, B, T, V, dtype, seed):
    kwargs = case.make(np.random.default_rng(seed), B, T, V, dtype)
    before = {k: np.copy(v) for k, v in kwargs.items() if isinstance(v, np.ndarray)}
    outputs = table.compute(case.function, kwargs)
    expected = table.compute(case.twin, {k: _wide(v) for k, v in kwargs.items()})
    for name, array in before.items():
        np.testing.assert_array_equal(kwargs[name], array, err_msg=f"{name} was changed")
    if case.public in DRAWS and dtype is np.float32:
        assert _near_the_boundary(kwargs, outputs[0], expected[0])
        return
    if case.public in {"ppo_clip", "value_clip", "grpo"} and dtype is np.float32:
        return  # float32 and float64 may fall on two sides of the clip; checked in float64
    # A gradient of a loss with a kink, or a whitened near-constant, amplifies rounding.
    tolerance = 200 * EPS[np.dtype(dtype)] * scale(kwargs)
    if case.public in {"whiten", "group_advantages"}:
        tolerance = 20 * np.sqrt(EPS[np.dtype(dtype)])
    assert_near(outputs, expected, tolerance)


def _wide(value):
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value


def _near_the_boundary(kwargs, got, want):
    """Rounding may move a draw across a boundary of the cumulative distribution, no further."""
    wide = np.asarray(kwargs["logits"], np.float64) / kwargs.get("temperature", 1.0)
    reached = np.cumsum(np.exp(reference.log_softmax(wide)), axis=-1)
    upper = np.take_along_axis(reached, got[..., None], -1)[..., 0]
    lower = np.where(got > 0, np.take_along_axis(reached, np.maximum(got - 1, 0)[..., None], -1)[..., 0], 0.0)
    inside = (lower - 1e-4 <= kwargs["uniforms"]) & (kwargs["uniforms"] <= upper + 1e-4)
    return bool(np.all((got == want) | inside))


@CASE
@pytest.mark.parametrize("dtype", DTYPES)
def test_preserves_the_dtype(case, dtype):
    kwargs = case.make(np.random.default_rng(0), 3, 4, 5, dtype)
    for i, output in enumerate(table.compute(case.function, kwargs)):
        if isinstance(output, np.ndarray):
            assert output.dtype == (np.int64 if case.public in DRAWS and i == 0 else dtype)
        else:
            assert isinstance(output, float)


@CASE
def test_takes_lists_and_any_layout(case):
    kwargs = case.make(np.random.default_rng(1), 3, 4, 5, np.float64)
    expected = table.compute(case.function, kwargs)
    for convert in (np.ndarray.tolist, np.asfortranarray, lambda a: np.repeat(a, 2, axis=0)[::2]):
        other = {
            k: convert(v) if isinstance(v, np.ndarray) and k not in table.IN_PLACE else v
            for k, v in kwargs.items()
        }
        for got, want in zip(table.compute(case.function, other), expected, strict=True):
            np.testing.assert_array_equal(got, want)


@CASE
def test_out_is_used_and_checked(case):
    if "out" not in inspect.signature(case.function).parameters:
        pytest.skip("has no out")
    kwargs = case.make(np.random.default_rng(2), 3, 4, 5, np.float64)
    expected = case.function(**kwargs)
    if isinstance(expected, tuple):
        pytest.skip("out is one of several results: test_kernels_from_logits.py, test_kernels_nn_public.py")
    out = np.full_like(expected, -7)
    assert case.function(**kwargs, out=out) is out
    np.testing.assert_array_equal(out, expected)
    frozen = out.copy()
    frozen.flags.writeable = False
    wrong = (frozen, out[:-1], out.astype(np.float32), np.repeat(out, 2, axis=-1)[..., ::2])
    for bad in wrong:
        with pytest.raises(ValueError, match=r"^out: "):
            case.function(**kwargs, out=bad)
    with pytest.raises(TypeError, match=r"^out: "):
        case.function(**kwargs, out=out.tolist())
    same = next(
        (k for k, v in kwargs.items() if getattr(v, "shape", 0) == out.shape and v.dtype == out.dtype), None
    )
    if same is None:
        return
    given = kwargs[same]
    if "logits" in same:  # may take their place
        case.function(**{**kwargs, same: out}, out=np.copyto(out, given) or out)
        np.testing.assert_array_equal(out, expected)
    else:
        with pytest.raises(ValueError, match=r"^out: overlaps"):
            case.function(**kwargs, out=given)
    shifted = np.empty(given.size + 1, given.dtype)
    shifted[1:] = given.ravel()
    with pytest.raises(ValueError, match=r"^out: overlaps"):
        case.function(
            **{**kwargs, same: shifted[1:].reshape(given.shape)}, out=shifted[:-1].reshape(given.shape)
        )


@CASE
def test_batch_order_does_not_matter(case):
    rng = np.random.default_rng(3)
    kwargs = case.make(rng, 6, 4, 5, np.float64)
    if "spans" in kwargs:
        pytest.skip("spans name rows by their numbers: test_kernels_nn_public.py")
    order = rng.permutation(6)

    def reordered(value):
        """What goes along the batch; parameters have other lengths."""
        return value[order] if isinstance(value, np.ndarray) and value.shape[:1] == (6,) else value

    moved = {k: reordered(v) for k, v in kwargs.items()}
    expected = [reordered(v) for v in table.compute(case.function, kwargs)]
    assert_near(table.compute(case.function, moved), expected, 1e-13)


MASKED = [case for case in table.CASES if case.public in {"gae", "whiten", "ppo_clip", "value_clip"}]


@pytest.mark.parametrize("case", MASKED, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_does_not_matter(case, dtype):
    kwargs = case.make(np.random.default_rng(4), 6, 4, 1, dtype)
    expected = table.compute(case.function, kwargs)
    off = kwargs["mask"] == 0
    for rubbish in (np.nan, np.inf, 1e30):
        dirty = {
            k: np.where(off, dtype(rubbish), v) if isinstance(v, np.ndarray) and k != "mask" else v
            for k, v in kwargs.items()
        }
        for got, want in zip(table.compute(case.function, dirty), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    wide = {
        k: np.pad(v, ((0, 0), (0, 3)), constant_values=0 if k == "mask" else np.nan)
        if isinstance(v, np.ndarray)
        else v
        for k, v in kwargs.items()
    }
    tolerance = 8 * EPS[np.dtype(dtype)]  # sums of several lanes fall otherwise
    for got, want in zip(table.compute(case.function, wide), expected, strict=True):
        if isinstance(want, np.ndarray):
            near = tolerance if case.public == "whiten" else 0  # its moments are such sums
            np.testing.assert_allclose(got[:, :4], want, rtol=near, atol=near)
            assert not got[:, 4:].any()
        else:
            assert got == pytest.approx(want, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("case", MASKED, ids=lambda case: case.name)
@pytest.mark.parametrize("B", [0, 1, 3])
def test_all_masked_gives_zeros(case, B):
    kwargs = case.make(np.random.default_rng(5), B, 4, 1, np.float32)
    kwargs["mask"] = np.zeros((B, 4), np.float32)
    for output in table.compute(case.function, kwargs):
        assert not np.any(output)


@CASE
def test_thread_count_does_not_change_a_bit(case):
    threads = numba.get_num_threads()
    if threads < 2:
        pytest.skip("one thread only")
    kwargs = case.make(np.random.default_rng(6), 7, 9, 33, np.float32)
    many = table.compute(case.function, kwargs)
    numba.set_num_threads(1)
    try:
        one = table.compute(case.function, kwargs)
    finally:
        numba.set_num_threads(threads)
    for a, b in zip(many, one, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.skipif(not JIT, reason="nothing to compare with")
def test_jit_and_plain_python_agree(tmp_path):
    other_process("values", tmp_path / "plain.npz", NUMBA_DISABLE_JIT="1")
    plain = np.load(tmp_path / "plain.npz")
    jitted = table.values()
    assert set(plain.files) == set(jitted)
    for key, value in jitted.items():
        other = plain[key]
        dtype = np.dtype(key.split()[-2])
        tolerance = 4 * EPS[dtype]
        inputs = 100  # what was subtracted may be as large: absolute errors are relative to that
        if value.dtype == np.int64:
            np.testing.assert_array_equal(value, other, err_msg=key)
        else:
            np.testing.assert_allclose(value, other, rtol=tolerance, atol=tolerance * inputs, err_msg=key)


def test_work_is_counted_exactly(tmp_path):
    other_process("counts", tmp_path / "counts.json", NUMBA_DISABLE_JIT="1")
    for key, entry in json.loads((tmp_path / "counts.json").read_text()).items():
        assert entry["right"], key
        for counted in entry["counted"]:  # the same whatever the values
            assert tuple(counted) == flops.work(entry["kernel"], *entry["shape"]), key


def test_unknown_work_names_the_nearest():
    with pytest.raises(ValueError, match="token_logprobs"):
        flops.work("token_logprob", 1, 2)
    with pytest.raises(ValueError, match="shape"):
        flops.work("log_softmax")


@pytest.mark.skipif(not JIT, reason="nothing is allocated")
@CASE
def test_nothing_leaks(case):
    kwargs = case.make(np.random.default_rng(7), 3, 4, 5, np.float64)
    table.compute(case.function, kwargs)
    before = rtsys.get_allocation_stats()
    for _ in range(100):
        table.compute(case.function, kwargs)
    after = rtsys.get_allocation_stats()
    assert after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free
    assert after.alloc - before.alloc == after.free - before.free


def test_only_one_file_spells_numba_options():
    for path in PACKAGE.glob("*.py"):
        if path.name != "_jit.py":
            assert "njit(" not in path.read_text(encoding="utf-8"), path.name


MODULE_NAMES = sorted(
    {m.name for m in pkgutil.iter_modules(kernels.__path__) if not m.name.startswith("_")}
    | {case.function.__module__.removeprefix("kernels.") for case in table.CASES}
    | {table.nn.spans_of.__module__.removeprefix("kernels.")}
)


@pytest.mark.skipif(not JIT, reason="plain Python gives NumPy's floats, which print otherwise")
@pytest.mark.parametrize("name", MODULE_NAMES)
def test_examples_in_docstrings(name):
    path = PACKAGE / f"{name}.py"
    if not path.is_file() or name == "torch":
        pytest.skip("not one of ours, or optional")
    assert doctest.testmod(importlib.import_module(f"kernels.{name}")).failed == 0


@pytest.mark.parametrize("name", sorted({case.public for case in table.CASES}))
def test_docstring_has_an_example(name):
    assert ">>>" in (table.BY_NAME.get(name) or _variant(name)).function.__doc__


def _variant(name):
    return next(case for case in table.CASES if case.public == name)
