"""Categorical kernels: gradients, limits, sampling, wrong input."""

from __future__ import annotations

import kernel_cases as table
import numba
import numpy as np
import pytest
from differences import assert_gradient
from hypothesis import given
from hypothesis import strategies as st

from kernels import categorical as c
from kernels import reference
from kernels._rows import BLOCK

RNG = np.random.default_rng
# Without the JIT NumPy says so when it meets infinities and NaN.
pytestmark = [pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")] * bool(
    numba.config.DISABLE_JIT
)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (3, 5)])
def test_gradients(shape):
    rng = RNG(0)
    x, y = rng.standard_normal(shape), rng.standard_normal(shape)
    d = rng.standard_normal(shape[:-1])
    tokens = rng.integers(0, shape[-1], shape[:-1])
    assert_gradient(
        lambda z: np.sum(d * c.token_logprobs(z, tokens)), x, c.token_logprobs_backward(x, tokens, d)
    )
    assert_gradient(lambda z: np.sum(d * c.kl_divergence(z, y)), x, c.kl_divergence_backward(x, y, d))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (0, 4), (2, 0, 4)])
def test_any_leading_shape(shape):
    x = RNG(1).standard_normal(shape)
    tokens = np.zeros(shape[:-1], int)
    assert c.log_softmax(x).shape == c.token_logprobs_backward(x, tokens, tokens).shape == shape
    assert (
        c.entropy(x).shape == c.kl_divergence(x, x).shape == c.token_logprobs(x, tokens).shape == shape[:-1]
    )
    assert c.sample(x, np.zeros(shape[:-1])).shape == shape[:-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_impossible_tokens(dtype):
    x = np.array([[0.0, -np.inf, 0.0], [-np.inf, 3.0, -np.inf]], dtype)
    y = np.array([[0.0, -np.inf, 0.0], [0.0, 0.0, 0.0]], dtype)
    np.testing.assert_allclose(c.entropy(x), [np.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(c.kl_divergence(x, y), [0, np.log(3)], rtol=1e-6)
    assert c.kl_divergence(y, x)[1] == np.inf
    np.testing.assert_array_equal(c.kl_divergence_backward(x, y, np.ones(2)), np.zeros((2, 3)))
    assert c.token_logprobs(x, [1, 1])[0] == -np.inf
    np.testing.assert_array_equal(c.token_logprobs_backward(x, [0, 1], [1.0, 1.0])[:, 1], [0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [50, 1e4, 1e30])
def test_large_logits(dtype, size):
    x = np.array([[size, -size, 0.0], [size, size, size]], dtype)
    logp = c.log_softmax(x)
    assert np.isfinite(logp).all()
    np.testing.assert_allclose(np.exp(logp.astype(float)).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(c.entropy(x), [0, np.log(3)], atol=1e-6)
    assert np.isfinite(c.kl_divergence(x, x[::-1].copy())).all()


def test_nan_stays():
    x = np.array([[0.0, np.nan], [0.0, 0.0]])
    for result in (c.log_softmax(x)[:, 0], c.entropy(x), c.kl_divergence(x, x[1:].repeat(2, 0))):
        assert np.isnan(result[0])
        assert not np.isnan(result[1])


@given(seed=st.integers(0, 2**32), V=st.integers(1, 50), dtype=st.sampled_from([np.float32, np.float64]))
def test_kl_and_entropy_bounds(seed, V, dtype):
    x, y = (table.logits(RNG([seed, i]), (6, V), dtype) for i in range(2))
    assert (c.kl_divergence(x, y) >= 0).all()
    assert (c.kl_divergence(x, x) == 0).all()
    assert (c.entropy(x) >= 0).all()
    assert (c.entropy(x) <= np.log(V) + 1e-6).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("u", [0.0, np.nextafter(1.0, 0.0), 1.0])
def test_sample_never_draws_the_impossible(dtype, u):
    x = np.array([[-np.inf, 0, -np.inf, 1, -np.inf], [-500, 0, -200, -500, -900]], dtype)
    first, second = c.sample(x, [u, u])
    assert first == (1 if u == 0 else 3)
    assert second == (0 if u == 0 and dtype is np.float64 else 1)  # exp(-500) is 0 in float32
    assert c.sample(x, [u, u], temperature=1e-30).tolist() == [3, 1]


def test_sample_frequencies():
    rng = RNG(2)
    x = np.array([0.0, 1.0, -np.inf, 2.0])
    p = np.exp(c.log_softmax(x / 0.5))
    n = 40_000
    drawn = c.sample(np.tile(x, (n, 1)), rng.random(n), temperature=0.5)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / n, p, atol=4 * np.sqrt(0.25 / n))


def test_sample_is_monotone_in_the_uniform():
    x = RNG(3).standard_normal(30)
    drawn = c.sample(np.tile(x, (1000, 1)), np.linspace(0, 1, 1000))
    assert (np.diff(drawn) >= 0).all()


def test_out_of_the_jitted_form_with_float64_uniforms():
    x = RNG(4).standard_normal((3, 5)).astype(np.float32)
    assert c.sample(x, RNG(5).random(3)).dtype == np.int64


# --- from block to block


BLOCKS = pytest.mark.parametrize("V", [BLOCK, BLOCK + 1, 2 * BLOCK + 70])
ENDS = (0, BLOCK - 1, BLOCK)


def growing(V, seed, step):
    """A row whose largest element grows from block to block."""
    return RNG(seed).standard_normal(V) + step * (np.arange(V) // (BLOCK // 2))


def near(found, want, tolerance=1e-10):
    np.testing.assert_allclose(found, want, rtol=tolerance, atol=tolerance)


def every(module, x, y):
    """What all functions of a row and a reference row give."""
    d, tokens = np.array([-0.7]), np.array([x.shape[1] - 1])
    yield module.log_softmax(x)
    yield module.token_logprobs(x, tokens)
    yield module.token_logprobs_backward(x, tokens, d)
    yield module.entropy(x)
    yield module.entropy_backward(x, d)
    yield module.kl_divergence(x, y)
    yield module.kl_divergence_backward(x, y, d)


@BLOCKS
@pytest.mark.parametrize(("step", "other"), [(0, 0), (3, -3), (-3, 3), (300, 300), (300, 1), (-1, -400)])
def test_largest_element_moves_from_block_to_block(V, step, other):
    x, y = growing(V, 0, step)[None], growing(V, 1, other)[None]
    for found, want in zip(every(c, x, y), every(reference, x, y), strict=True):
        near(found, want, 1e-9)
    for found, want in zip(
        every(c, x.astype(np.float32), y.astype(np.float32)), every(reference, x, y), strict=True
    ):
        near(found, want, 3e-3 if abs(step) + abs(other) > 9 else 2e-5)  # as coarse as float32 logits are


@BLOCKS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_without_probability(V, dtype):
    x, y = (growing(V, seed, 0.0)[None].astype(dtype) for seed in (2, 3))
    for excluded in (slice(0, V // 2), slice(V // 2, V - 1), slice(0, V - 1)):
        z = x.copy()
        z[:, excluded] = -np.inf
        r = np.where(z > -np.inf, y, z)
        for ref in (y, r):
            with np.errstate(all="ignore"):
                wanted = list(every(reference, z, ref))
            for found, want in zip(every(c, z, ref), wanted, strict=True):
                near(found, want, 2e-5)
            for gradient in (c.entropy_backward(z, [1.0]), c.kl_divergence_backward(z, ref, [1.0])):
                assert not gradient[:, excluded].any()


@BLOCKS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_in_any_block_stay(V, dtype, bad):
    x, y = (growing(V, seed, 1.0)[None].astype(dtype) for seed in (4, 5))
    for v in (*ENDS, V // 2, V - 1):
        if v < V:
            z = x.copy()
            z[0, v] = bad
            for found in every(c, z, y):
                assert np.isnan(found).any()
            assert np.isnan(c.kl_divergence(x, z)).all()
            assert np.isnan(c.token_logprobs_backward(z, [V // 3], [1.0])).any()
            with pytest.raises(ValueError, match=r"^logits: "):
                c.sample(z, [0.3])


@BLOCKS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_only_the_policy_can_say(V, dtype):
    """Excluded by the reference it makes the divergence infinite, in any block; unless it has weight 0 in the end."""
    x, y = (growing(V, seed, 0.0)[None].astype(dtype) for seed in (6, 7))
    for v in (*ENDS, V - 1):
        if v < V:
            z, r = x.copy(), y.copy()
            r[0, v] = -np.inf
            assert c.kl_divergence(x, r)[0] == np.inf
            z[0, (v + V // 2) % V] = 3000.0  # beside it the rest vanishes
            assert np.isfinite(c.kl_divergence(z, r)[0])
            near(c.kl_divergence(z, r), c.kl_divergence(z[:, ::-1].copy(), r[:, ::-1].copy()), 1e-6)
            z[0, v] = -np.inf
            assert np.isfinite(c.kl_divergence_backward(z, r, [1.0])).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("V", [3, BLOCK + 9])
def test_rows_without_any_probability(V, dtype):
    x, y = np.full((1, V), -np.inf, dtype), np.zeros((1, V), dtype)
    for found in every(c, x, y):
        assert np.isnan(found).all()
    assert np.isnan(c.kl_divergence(y, x)).all() or (c.kl_divergence(y, x) == np.inf).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("V", [5, BLOCK + 9])
@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_sample_at_any_temperature(V, dtype, temperature):
    x = growing(V, 8, 0.01)[None].astype(dtype)
    x[0, V // 2], x[0, 0] = 60, -np.inf
    tokens = [c.sample(x, [u], temperature)[0] for u in (0.0, 0.5, 1.0)]
    if temperature < 0.1:
        assert tokens == [V // 2] * 3
    elif temperature > 1e2:
        assert tokens[0] == 1
        assert abs(tokens[1] - V // 2) <= 1 + V // 50
        assert tokens[2] == V - 1


BOTH = [
    (c.token_logprobs, c.token_logprobs_backward, lambda x: np.arange(len(x)) % x.shape[1]),
    (c.entropy, c.entropy_backward, None),
    (c.kl_divergence, c.kl_divergence_backward, lambda x: x[::-1].copy()),
]


@pytest.mark.parametrize(("forward", "backward", "other"), BOTH)
@pytest.mark.parametrize(("N", "V"), [(1, 1), (70, 64), (5, 300), (3, 5000)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_backward_pass_gives_the_forward_result_too(forward, backward, other, N, V, dtype):
    x = np.random.default_rng(N).normal(size=(N, V)).astype(dtype)
    inputs = (x,) if other is None else (x, other(x))
    d = np.linspace(-1, 1, N).astype(np.float64 if dtype == np.float64 else np.float32)
    value, alone = np.full(N, 7, d.dtype), backward(*inputs, d)
    for threads in (1, 2):
        found = backward(*inputs, d, forward=value, threads=threads)
        np.testing.assert_array_equal(found, alone)
        np.testing.assert_array_equal(value, forward(*inputs))
    expected = value.copy()
    backward(x, *inputs[1:], d, out=x if d.dtype == dtype else None, forward=value)
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ("value", "error"),
    [(np.empty(3), ValueError), (np.empty(2, np.float32), ValueError), ([0.0, 0.0], TypeError)],
)
def test_room_for_the_forward_result_has_to_fit(value, error):
    for function, inputs in ((c.entropy_backward, (X, D)), (c.token_logprobs_backward, (X, T, D))):
        with pytest.raises(error, match=r"^forward: "):
            function(*inputs, forward=value)
    with pytest.raises(ValueError, match=r"^forward: overlaps"):
        c.kl_divergence_backward(X, X + 1, D, forward=D)
    out = np.empty((2, 3))
    with pytest.raises(ValueError, match=r"^forward: overlaps"):
        c.entropy_backward(X, D, out=out, forward=out[0, :2])


X = np.zeros((2, 3))
T = np.zeros(2, int)
D = np.zeros(2)
WRONG = [
    (c.log_softmax, (1.0,), "logits", ValueError),
    (c.log_softmax, (np.zeros((2, 0)),), "logits", ValueError),
    (c.log_softmax, (["a", "b"],), "logits", TypeError),
    (c.log_softmax, ([[1.0], [1.0, 2.0]],), "logits", TypeError),
    (c.log_softmax, (np.zeros(3, complex),), "logits", TypeError),
    (c.log_softmax, (None,), "logits", TypeError),
    (c.token_logprobs, (X, np.zeros(3, int)), "tokens", ValueError),
    (c.token_logprobs, (X, [0, 3]), "tokens", ValueError),
    (c.token_logprobs, (X, [-1, 0]), "tokens", ValueError),
    (c.token_logprobs, (X, [0.0, 1.0]), "tokens", TypeError),
    (c.token_logprobs_backward, (X, [0, 3], D), "tokens", ValueError),
    (c.token_logprobs_backward, (X, T, np.zeros(3)), "d_logprobs", ValueError),
    (c.kl_divergence, (X, X[:1]), "ref_logits", ValueError),
    (c.kl_divergence_backward, (X, X, np.zeros((2, 1))), "d_kl", ValueError),
    (c.sample, (X, [0.5, 1.5]), "uniforms", ValueError),
    (c.sample, (X, [0.5, np.nan]), "uniforms", ValueError),
    (c.sample, (X, [0.5]), "uniforms", ValueError),
    (c.sample, (X, D, 0.0), "temperature", ValueError),
    (c.sample, (X, D, -1.0), "temperature", ValueError),
    (c.sample, (X, D, np.nan), "temperature", ValueError),
    (c.sample, (X, D, "warm"), "temperature", TypeError),
    (c.sample, (X, D, "1.0"), "temperature", TypeError),
    (c.sample, (X, D, np.ones(1)), "temperature", TypeError),
    (c.sample, (X, D, np.complex64(1)), "temperature", TypeError),
    (c.sample, (X, D, 1e-31), "temperature", ValueError),
    (c.sample, (X, D, 1e31), "temperature", ValueError),
    (c.sample, (np.full((2, 3), -np.inf), D), "logits", ValueError),
    (c.sample, (np.array([[0.0, 1.0, np.nan]] * 2), D), "logits", ValueError),
]


@pytest.mark.parametrize(("function", "arguments", "parameter", "error"), WRONG)
def test_wrong_input_is_named(function, arguments, parameter, error):
    with pytest.raises(error, match=f"^{parameter}: "):
        function(*arguments)
