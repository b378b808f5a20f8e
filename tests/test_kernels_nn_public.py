"""The public functions of `kernels.nn`, beyond what the contract tests say of every kernel."""

from __future__ import annotations

import importlib.util

import nn_cases
import nn_public_cases as table
import numba
import numpy as np
import pytest
from differences import gradient

from kernels import categorical, nn, reference_nn

DISABLED = bool(numba.config.DISABLE_JIT)
RNG = np.random.default_rng
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}
DTYPE = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
SIZE = pytest.mark.parametrize("size", nn_cases.SIZES, ids=str)
SHAPE = pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 2), (2, 1, 19), (3, 4, 5)], ids=str)
MAKE = {name: make for name, make, *_ in table.CASES}


def near(got, want, dtype):
    np.testing.assert_allclose(got, want, rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])


def inputs(size, dtype):
    """(qkv, spans, heads, rows of a span), of sizes that fill vectors in every way."""
    x = nn_cases.inputs(size, dtype)
    return x.qkv, x.spans[:, :4], size.heads, np.concatenate([np.arange(a, a + n) for a, n in x.spans[:, :2]])


# --- gradients


def check(claimed, forward, at):
    np.testing.assert_allclose(claimed, gradient(forward, at), rtol=1e-5, atol=1e-7)


@SHAPE
def test_gradient_of_layer_norm(shape):
    x, gain, shift = MAKE["layer_norm"](RNG(0), *shape, np.float64).values()
    d = RNG(1).standard_normal(x.shape)

    def loss(x=x, gain=gain, shift=shift):
        return float((reference_nn.layer_norm(x, gain, shift).out * d).sum())

    norm = nn.layer_norm(x, gain, shift)
    found = nn.layer_norm_backward(d, x, gain, norm.means, norm.shares)
    check(found.d_x, lambda x: loss(x=x), x)
    check(found.d_gain, lambda gain: loss(gain=gain), gain)
    check(found.d_shift, lambda shift: loss(shift=shift), shift)


@SHAPE
def test_gradient_of_residual_norm(shape):
    inputs = MAKE["residual_norm"](RNG(0), *shape, np.float64)
    d, d_stream = RNG(1).standard_normal((2, *inputs["x"].shape))
    norm = nn.residual_norm(**inputs)
    found = nn.residual_norm_backward(d, d_stream, norm.stream, inputs["gain"], norm.means, norm.shares)
    gradients = {
        "x": found.d_x,
        "branch": found.d_x,
        "bias": found.d_bias,
        "gain": found.d_gain,
        "shift": found.d_shift,
    }
    for name, claimed in gradients.items():

        def loss(value, name=name):
            again = reference_nn.residual_norm(**{**inputs, name: value})
            return float((again.out * d + again.stream * d_stream).sum())

        check(claimed, loss, inputs[name])


@SHAPE
def test_gradient_of_gelu(shape):
    x, bias = MAKE["gelu"](RNG(0), *shape, np.float64).values()
    d = RNG(1).standard_normal(x.shape)
    found = nn.gelu_backward(nn.gelu(x, bias).slopes, d)
    check(found.d_x, lambda x: float((reference_nn.gelu(x, bias).out * d).sum()), x)
    check(found.d_bias, lambda bias: float((reference_nn.gelu(x, bias).out * d).sum()), bias)


@SHAPE
def test_gradient_of_embedding(shape):
    tokens, places, *tables = MAKE["embedding"](RNG(0), *shape, np.float64).values()
    d = RNG(1).standard_normal((*tokens.shape, shape[-1]))
    found = nn.embedding_backward(tokens, places, d, *map(len, tables))
    for i, claimed in enumerate(found):

        def loss(value, i=i):
            return float(
                (reference_nn.embedding(tokens, places, *tables[:i], value, *tables[i + 1 :]) * d).sum()
            )

        check(claimed, loss, tables[i])


@pytest.mark.parametrize("size", nn_cases.SMALL, ids=str)
def test_gradient_of_attention(size):
    qkv, spans, heads, rows = inputs(size, np.float64)
    d = np.full((len(qkv), size.C), np.nan)  # rows of no span do not count
    d[rows] = RNG(1).standard_normal((len(rows), size.C))
    d_qkv = nn.attention_backward(d, qkv, nn.attention(qkv, spans, heads).weights, spans, heads)
    check(d_qkv, lambda x: float((reference_nn.attention(x, spans, heads).out[rows] * d[rows]).sum()), qkv)


# --- attention


@DTYPE
@SIZE
def test_attention_equals_the_twin(dtype, size):
    qkv, spans, heads, _ = inputs(size, dtype)
    got, want = nn.attention(qkv, spans, heads), reference_nn.attention(qkv, spans, heads)
    near(got.out, want.out, dtype)
    near(got.weights, want.weights, dtype)
    d = RNG(2).standard_normal(got.out.shape).astype(dtype)
    near(
        nn.attention_backward(d, qkv, got.weights, spans, heads),
        reference_nn.attention_backward(d, qkv, want.weights, spans, heads),
        dtype,
    )


def batch(B=5, T=9, C=6, dtype=np.float32):
    return RNG(3).standard_normal((B, T, 3 * C)).astype(dtype)


@DTYPE
def test_padding_on_either_side_changes_nothing(dtype):
    qkv = batch(dtype=dtype)
    whole = nn.attention(qkv, nn.spans_of(np.ones(qkv.shape[:2])), 2)
    d = RNG(4).standard_normal(whole.out.shape).astype(dtype)
    every = nn.spans_of(np.ones(qkv.shape[:2]))
    gradients = nn.attention_backward(d, qkv, whole.weights, every, 2)
    B, T, _ = qkv.shape
    for before, after in ((3, 0), (0, 2), (1, 4)):
        padding = (0, 0), (before, after), (0, 0)
        dirty = np.pad(qkv, padding, constant_values=np.nan)
        spans = nn.spans_of(np.pad(np.ones((B, T)), padding[:2]))
        padded = nn.attention(dirty, spans, 2)
        np.testing.assert_array_equal(padded.out[:, before : before + T], whole.out)
        np.testing.assert_array_equal(padded.weights, whole.weights)
        assert not np.delete(padded.out, np.arange(before, before + T), axis=1).any()
        d_dirty = np.pad(d, padding, constant_values=np.nan)
        again = nn.attention_backward(d_dirty, dirty, padded.weights, spans, 2)
        np.testing.assert_array_equal(again[:, before : before + T], gradients)
        assert not np.delete(again, np.arange(before, before + T), axis=1).any()


@DTYPE
def test_a_shared_prompt_equals_a_copy_before_each(dtype):
    prompt, first, second = batch(3, 5, 4, dtype)
    packed = np.concatenate([prompt, first, second])
    shared = nn.attention(packed, [[0, 5, 0, 0], [5, 5, 0, 5], [10, 5, 0, 5]], 2).out
    copies = np.stack([np.concatenate([prompt, first]), np.concatenate([prompt, second])])
    apart = nn.attention(copies, nn.spans_of(np.ones((2, 10))), 2).out
    near(shared[:5], apart[0, :5], dtype)
    near(shared[5:10], apart[0, 5:], dtype)
    near(shared[10:], apart[1, 5:], dtype)


def test_weights_are_what_each_token_sees():
    qkv, heads = batch(2, 4, 6), 3
    spans = nn.spans_of([[0, 1, 1, 1], [1, 1, 1, 1]])
    weights = nn.attention(qkv, spans, heads).weights
    short, long = weights[: 3 * 9].reshape(3, 3, 3), weights[3 * 9 :].reshape(3, 4, 4)
    for each in (short, long):
        np.testing.assert_allclose(each.sum(axis=2), 1, rtol=1e-6)
        assert not np.triu(each, 1).any()
        assert (each[:, np.tri(each.shape[1], dtype=bool)] > 0).all()


def test_the_order_of_spans_does_not_matter():
    qkv, spans, heads, _ = inputs(nn_cases.SIZES[1], np.float32)
    moved = nn.attention(qkv, spans[::-1], heads)
    want = nn.attention(qkv, spans, heads)
    np.testing.assert_array_equal(moved.out, want.out)
    d = RNG(5).standard_normal(want.out.shape)
    got = nn.attention_backward(d, qkv, moved.weights, spans[::-1], heads)
    near(got, nn.attention_backward(d, qkv, want.weights, spans, heads), np.float32)


@DTYPE
@SIZE
def test_decoding_with_a_cache_equals_attention(dtype, size):
    """Two sequences after one prompt, token by token."""
    heads, prefix, T = size.heads, 3, 5
    packed = RNG(6).standard_normal((prefix + 2 * T, 3 * size.C)).astype(dtype)
    spans = [[prefix, T, 0, prefix], [prefix + T, T, 0, prefix]]
    want = nn.attention(packed, spans, heads).out
    keys, values = (
        np.full((2, 2, size.C, 4), np.nan, dtype),
        np.full((2, prefix + T, size.C), np.nan, dtype),
    )
    nn.fill_cache(packed, [0, 0], [prefix, prefix], keys, values)
    for t in range(T):
        rows = np.array([prefix + T + t, prefix + t])
        got = nn.attention_step(packed[rows], [1, 0], [prefix + t] * 2, heads, keys, values)
        near(got, want[rows], dtype)
    assert np.isfinite(keys).all()
    assert np.isfinite(values).all()


def test_spans_of_a_mask():
    mask = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [True, 0.5, -1]]
    lengths = nn.spans_of(mask)[:, 1]
    np.testing.assert_array_equal(lengths, [0, 1, 1, 1, 3])
    np.testing.assert_array_equal(nn.spans_of(mask)[1:, 0], [5, 6, 10, 12])
    assert nn.spans_of(np.zeros((2, 0))).tolist() == [[0, 0, 0, 0]] * 2
    assert nn.spans_of(np.zeros((0, 2))).shape == (0, 4)
    assert nn.attention(np.ones((5, 3, 6)), nn.spans_of(mask), 2).out.shape == (5, 3, 2)


# --- draw


@DTYPE
def test_draw_is_sample_with_the_log_probability(dtype):
    logits = (4 * RNG(7).standard_normal((50, 3, 37))).astype(dtype)
    logits[0, 0, 5:] = -np.inf
    uniforms = RNG(8).random((50, 3))
    tokens, logprobs = nn.draw(logits, uniforms)
    np.testing.assert_array_equal(tokens, categorical.sample(logits, uniforms))
    near(logprobs, categorical.token_logprobs(logits, tokens), dtype)


# Without the JIT NumPy warns of infinities and NaN.
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning" if DISABLED else "error")
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, -3e38])
def test_a_row_without_a_distribution_is_refused(wrong):
    logits = np.zeros((3, 4), np.float32)
    logits[1] = wrong
    with pytest.raises(ValueError, match=r"^logits: came with 1 rows of NaN"):
        nn.draw(logits, [0.5, 0.5, 0.5])


# --- results


GIVING = [name for name in MAKE if hasattr(nn, name) and name != "fill_cache"]
FUNCTION = pytest.mark.parametrize(
    ("function", "make"), [(getattr(nn, name), MAKE[name]) for name in GIVING], ids=GIVING
)


@FUNCTION
def test_out_takes_the_first_result(function, make):
    kwargs = make(RNG(9), 3, 4, 5, np.float32)
    result = function(**kwargs)
    expected = result[0] if isinstance(result, tuple) else result
    out = np.full_like(expected, -7)
    again = function(**kwargs, out=out)
    assert (again[0] if isinstance(again, tuple) else again) is out
    np.testing.assert_array_equal(out, expected)
    frozen = out.copy()
    frozen.flags.writeable = False
    for bad in (frozen, out[:-1], out.astype(np.float16), np.repeat(out, 2, axis=-1)[..., ::2]):
        with pytest.raises(ValueError, match=r"^out: "):
            function(**kwargs, out=bad)
    for name, value in kwargs.items():  # what is read may lie inside
        if isinstance(value, np.ndarray) and value.dtype == out.dtype and value.size <= out.size:
            memory = np.empty_like(out)
            part = memory.reshape(-1)[: value.size].reshape(value.shape)
            part[...] = value
            with pytest.raises(ValueError, match=r": overlaps "):
                function(**{**kwargs, name: part}, out=memory)


@FUNCTION
def test_no_rows_are_no_error(function, make):
    kwargs = make(RNG(9), 2, 2, 3, np.float64)
    caches = {name: kwargs.pop(name) for name in ("key_cache", "value_cache") if name in kwargs}
    shared = {"gain", "shift", "bias", "table", "position_table", "b"}
    empty = {
        name: value if name in shared or not isinstance(value, np.ndarray) else value[:0]
        for name, value in kwargs.items()
    }
    result = function(**empty, **caches)
    for array in result if isinstance(result, tuple) else (result,):
        assert not array.any()


def test_a_single_row_needs_no_batch():
    norm = nn.layer_norm([1.0, 3.0], [1.0, 1.0], [0.0, 0.0])
    assert (norm.out.shape, norm.means.shape) == ((2,), ())
    assert nn.layer_norm_backward([1.0, 0.0], [1.0, 3.0], [1.0, 1.0], *norm[1:]).d_x.shape == (2,)
    assert nn.embedding(1, 0, [[0.0], [1.0]], [[5.0]]) == [6.0]
    assert nn.gelu([[3], [4]]).out.dtype == np.float64


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_tensors_are_arrays():
    import torch

    x = torch.linspace(-2, 2, 12).reshape(3, 4)
    got = nn.gelu(x).out
    assert got.dtype == np.float32
    want = torch.nn.functional.gelu(x, approximate="tanh")
    np.testing.assert_allclose(got, want.numpy(), rtol=2e-6, atol=1e-7)
