"""Kernels of the transformer against their twins, gradients by central differences, work, packing and memory."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import nn_cases as table
import numba
import numpy as np
import pytest
from differences import gradient
from numba.core.runtime import rtsys
from test_kernels_guards import optimised, unpacked_loops

from kernels import flops, nn, reference_nn

JIT = not numba.config.DISABLE_JIT
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}
DTYPE = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
SIZE = pytest.mark.parametrize("size", table.SIZES, ids=str)
NAME = pytest.mark.parametrize("name", sorted(table.CASES))


def near(got, want, dtype, what=""):
    np.testing.assert_allclose(got, want, rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype], err_msg=what)


@DTYPE
@SIZE
def test_forward_equals_the_twin(dtype, size):
    x = table.inputs(size, dtype)
    near(table.run("embedding", x)["out"], reference_nn.embedding(*x.ids, x.table, x.places), dtype)
    normed = reference_nn.layer_norm(*map(wide, (x.x, x.gain, x.shift))).out
    near(table.run("layer_norm", x)["out"], normed, dtype)
    found = table.run("residual_norm", x)
    stream = wide(x.x) + wide(x.branch) + wide(x.bias)
    near(found["stream"], stream, dtype)
    near(found["out"], reference_nn.layer_norm(stream, *map(wide, (x.gain, x.shift))).out, dtype)
    near(table.run("gelu", x)["out"], reference_nn.gelu(wide(x.branch), wide(x.bias)).out, dtype)
    mixed = reference_nn.attention(wide(x.qkv), x.spans, size.heads).out
    near(table.run("attention", x)["out"], mixed, dtype)


def wide(array):
    return np.asarray(array, np.float64)


# Rows that six do not divide, columns below, between and above a panel's width, sums longer than a panel, several
# blocks of rows.
@DTYPE
@pytest.mark.parametrize(
    "size", [(7, 5, 9), (13, 70, 41), (6, 64, 192), (4, 129, 33), (150, 9, 1), (1, 1, 1), (1100, 70, 67)]
)
@pytest.mark.parametrize("skip", [0, 3])
def test_products_equal_the_twin(dtype, size, skip):
    N, C, F = size
    skip = min(skip, F - 1)
    rng = np.random.default_rng(0)
    x, w, d = (rng.normal(size=shape).astype(dtype) for shape in ((N, C), (C, F), (N, F)))
    panel = np.full(nn.PANEL, np.nan, dtype)

    def check(kind, a, b, before, want):
        out = before.copy()
        nn.product_jit(a, b, kind, skip, panel, out)
        np.testing.assert_allclose(out, want, rtol=0, atol=max(1000, 2 * N) * np.finfo(dtype).eps)

    kept = np.arange(F) < skip
    want = np.where(kept, d, reference_nn.product(wide(x), wide(w)))
    check(nn.TIMES, x, w, d, want)
    seen = reference_nn.product(wide(d)[:, skip:], wide(w)[:, skip:], turned="b")
    check(nn.TIMES_TURNED, d, w, x, seen)
    grown = w + np.where(kept, 0, reference_nn.product(wide(x), wide(d), turned="a"))
    check(nn.TURNED_TIMES, x, d, w, grown)


@DTYPE
@pytest.mark.parametrize("size", [(7, 5, 9), (13, 70, 41), (6, 64, 192), (4, 129, 33), (1, 1, 1)])
def test_a_factor_that_was_packed_gives_the_same(dtype, size):
    N, C, F = size
    rng = np.random.default_rng(0)
    x, w, d = (rng.normal(size=shape).astype(dtype) for shape in ((N, C), (C, F), (N, F)))
    panel = np.full(nn.PANEL, np.nan, dtype)
    for kind, a, shape in ((nn.TIMES, x, (C, F)), (nn.TIMES_TURNED, d, (F, C))):
        panels = np.full(nn.panels_shape(*shape, x.itemsize), np.nan, dtype)
        found, want = np.full((2, N, shape[1]), 9, dtype)
        assert nn.panels_jit(w, kind, panels) == len(panels)
        assert nn.product_jit(a, panels, nn.PACKED, 0, panel, found) == len(panels)
        nn.product_jit(a, w, kind, 0, panel, want)
        np.testing.assert_allclose(found, want, rtol=0, atol=0 if JIT else 1e-4)


@pytest.mark.skipif(not JIT, reason="NumPy adds up in an order of its own")
@DTYPE
def test_a_row_of_a_product_depends_on_no_other(dtype):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(11, 40)).astype(dtype), rng.normal(size=(40, 70)).astype(dtype)
    panel, out = np.empty(nn.PANEL, dtype), np.empty((11, 70), dtype)
    nn.product_jit(x, w, nn.TIMES, 0, panel, out)
    one = np.empty((1, 70), dtype)
    for n in range(11):
        nn.product_jit(x[n : n + 1], w, nn.TIMES, 0, panel, one)
        np.testing.assert_array_equal(one[0], out[n])
    x[3], w[:, 5] = np.nan, np.inf
    again = out.copy()
    nn.product_jit(x, w, nn.TIMES, 0, panel, again)
    same = (np.arange(11) != 3)[:, None] & (np.arange(70) != 5)
    np.testing.assert_array_equal(again[same], out[same])
    assert not np.isfinite(again[~same]).any()


@DTYPE
@SIZE
def test_layer_norm_backward_equals_the_twin(dtype, size):
    x = table.inputs(size, dtype)
    found = table.run("layer_norm_backward", x)
    inputs = map(wide, (x.d_out, x.x, x.gain))
    norm = reference_nn.layer_norm(*map(wide, (x.x, x.gain, x.shift)))
    d_x, d_gain, d_shift = reference_nn.layer_norm_backward(*inputs, norm.means, norm.shares)
    near(found["d_x"], 1 + d_x, dtype)
    near(found["d_gain"], 1 + d_gain, dtype)
    near(found["d_shift"], 1 + d_shift, dtype)
    near(found["d_bias"], 1 + (1 + d_x).sum(axis=0), dtype)


@pytest.mark.parametrize("size", table.SMALL, ids=str)
def test_gradients_by_central_differences(size):
    x = table.inputs(size, np.float64)

    def check(function, at, claimed):
        np.testing.assert_allclose(claimed, gradient(function, at), atol=1e-7)

    found = table.run("gelu_backward", x)
    check(lambda z: (reference_nn.gelu(z, x.bias).out * x.d_out).sum(), x.branch, found["d_out"])
    check(lambda b: (reference_nn.gelu(x.branch, b).out * x.d_out).sum(), x.bias, found["d_bias"] - 1)
    d_qkv = table.run("attention_backward", x)["d_qkv"]
    used = np.concatenate([np.arange(a, a + n) for a, n in x.spans[:, :2]])
    d_qkv[:, size.C :] -= 1  # what was there

    def mixed(qkv):
        return (reference_nn.attention(qkv, x.spans, size.heads).out[used] * x.d_out[used]).sum()

    check(mixed, x.qkv, d_qkv)
    found = table.run("embedding_backward", x)
    check(
        lambda t: (reference_nn.embedding(*x.ids, t, x.places) * x.d_out).sum(),
        x.table,
        found["d_table"] - 1,
    )
    check(
        lambda p: (reference_nn.embedding(*x.ids, x.table, p) * x.d_out).sum(),
        x.places,
        found["d_places"] - 1,
    )


@DTYPE
@SIZE
def test_a_step_with_cache_equals_the_last_row_of_attention(dtype, size):
    x = table.inputs(size, dtype)
    first, count, before, prefix = x.spans[-1, :4]
    want = reference_nn.attention(wide(x.qkv), x.spans[-1:], size.heads).out
    J, heads = prefix + count, size.heads
    keys = np.full((1, *nn.keys_shape(J, size.C)), np.nan, dtype)
    values = np.full((1, J, size.C), np.nan, dtype)
    nn.fill_cache_jit(x.qkv, np.array([before]), np.array([prefix]), keys, values)
    out, weights = np.empty((1, size.C), dtype), np.empty(nn.step_room(J), dtype)
    for i in range(count):
        fresh = x.qkv[first + i : first + i + 1]
        place = np.array([prefix + i])
        nn.attention_step_jit(fresh, np.array([0]), place, heads, keys, values, weights, out)
        near(out[0], want[first + i], dtype)


# Whole fours and parts, heads of a vector and more, and heads that four do not divide.
@DTYPE
@pytest.mark.parametrize("heads", [1, 3, 4, 6])
@pytest.mark.parametrize("size", [1, 4, 5, 8, 16, 21])
@pytest.mark.parametrize("J", [1, 4, 9, 16, 50])
def test_a_step_sees_all_keys(dtype, heads, size, J):
    C, count = size * heads, 2
    rng = np.random.default_rng(0)
    qkv = rng.normal(size=(count * J, 3 * C)).astype(dtype)
    firsts = np.arange(0, count * J, J)
    spans = np.column_stack([firsts, np.full(count, J), firsts * 0, firsts * 0])
    want = reference_nn.attention(wide(qkv), spans, heads).out
    keys = np.full((count, *nn.keys_shape(J, C)), np.nan, dtype)
    values = np.full((count, J, C), np.nan, dtype)
    nn.fill_cache_jit(qkv, firsts, np.full(count, J - 1), keys, values)
    weights, out = np.full(nn.step_room(J), np.nan, dtype), np.empty((count, C), dtype)
    latest = qkv[firsts + J - 1], np.arange(count), np.full(count, J - 1)
    nn.attention_step_jit(*latest, heads, keys, values, weights, out)
    near(out, want[firsts + J - 1], dtype)


@DTYPE
@SIZE
def test_gelu_without_slopes_is_the_same(dtype, size):
    x = table.inputs(size, dtype)
    x.branch[0] *= 50
    np.testing.assert_array_equal(table.run("gelu_over", x)["x"], table.run("gelu", x)["out"])


@DTYPE
def test_scores_far_apart_and_large_inputs_stay_finite(dtype):
    x = table.inputs(table.SIZES[0], dtype)
    x.qkv[...] *= 300
    out = table.run("attention", x)["out"]
    assert np.isfinite(out).all()
    near(out / 300, reference_nn.attention(wide(x.qkv), x.spans, table.SIZES[0].heads).out / 300, dtype)
    x.branch[...] *= 50
    found = table.run("gelu", x)
    assert np.isfinite(found["out"]).all()
    assert np.isfinite(found["x"]).all()


@pytest.mark.parametrize("name", sorted(table.WORK))
def test_work_is_counted_exactly(name, counts):
    for entry in counts[name]:
        assert tuple(entry["counted"]) == flops.work(name, *entry["shape"]), entry


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    target = tmp_path_factory.mktemp("nn") / "counts.json"
    subprocess.run(
        [sys.executable, str(Path(table.__file__)), str(target)],
        check=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    return json.loads(target.read_text())


@pytest.mark.skipif(not JIT, reason="nothing is compiled")
@NAME
@DTYPE
def test_nothing_is_allocated(name, dtype):
    function, arguments = table.CASES[name](table.inputs(table.SIZES[1], dtype))
    function(*arguments)
    before = rtsys.get_allocation_stats().mi_alloc
    function(*arguments)
    assert rtsys.get_allocation_stats().mi_alloc == before


@pytest.mark.skipif(
    not JIT or platform.machine().lower() not in {"x86_64", "amd64"} or bool(numba.config.BOUNDSCHECK),
    reason="packed loops are known for x86-64 only, and checks of bounds undo them",
)
@NAME
@DTYPE
def test_hot_loops_are_packed(name, dtype):
    function, arguments = table.CASES[name](table.inputs(table.SIZES[1], dtype))
    function(*arguments)
    for signature in function.signatures:
        assert not unpacked_loops(optimised(function, signature)), signature
