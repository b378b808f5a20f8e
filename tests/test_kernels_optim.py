"""Optimiser kernels: the published update, in-place rules, wrong input."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from kernels import optim

RNG = np.random.default_rng


def state(n=4, dtype=np.float64):
    return RNG(0).standard_normal(n).astype(dtype), np.zeros(n, dtype), np.zeros(n, dtype)


def test_first_step_is_the_sign_of_the_gradient():
    params, m, v = state()
    before = params.copy()
    grads = np.array([3.0, -1e-3, 1e4, 0.0])
    optim.adamw(params, grads, m, v, 1, 0.1, eps=0.0 + 1e-16)
    np.testing.assert_allclose(params, before - 0.1 * np.sign(grads), rtol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_many_steps_follow_the_bias_corrected_form(dtype, tolerance):
    params, m, v = state(dtype=dtype)
    expected = params.astype(np.float64)
    first, second = np.zeros(4), np.zeros(4)
    for step in range(1, 101):
        grads = RNG(step).standard_normal(4).astype(dtype)
        optim.adamw(params, grads, m, v, step, 0.01, weight_decay=0.1)
        g = grads.astype(np.float64)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        corrected = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * corrected
    np.testing.assert_allclose(params, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(v, second, rtol=1e-5)


def test_decay_is_decoupled():
    params, m, v = state()
    before = params.copy()
    optim.adamw(params, np.zeros(4), m, v, 1, 0.1, weight_decay=0.5)
    np.testing.assert_allclose(params, before * 0.95)


def test_a_view_is_changed_in_place():
    whole = np.ones((3, 4), np.float32)
    m, v = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
    optim.adamw(whole[1:], np.ones((2, 4)), m, v, 1, 0.1)
    np.testing.assert_allclose(whole[:, 0], [1, 0.9, 0.9], rtol=1e-6)


def test_views_that_overlap_are_named():
    """Of arrays apart they do not, wherever they lie in these."""
    whole, others = np.ones(10), [np.zeros(6) for _ in range(3)]
    optim.adamw(whole[:4], *(array[2:] for array in others), 1, 0.1)
    for place, name in ((0, "grads"), (1, "m"), (2, "v")):
        arrays = [array[:4] for array in others]
        arrays[place] = whole[3:7]
        with pytest.raises(ValueError, match=f"^{name}: overlaps params"):
            optim.adamw(whole[:4], *arrays, 1, 0.1)
    both = np.zeros((2, 4))
    optim.adamw(np.ones(4), np.ones(4), both[0], both[1], 1, 0.1)
    assert both.all()


def test_global_norm():
    x = RNG(1).standard_normal((3, 5)).astype(np.float32)
    assert optim.global_norm(x) == pytest.approx(np.linalg.norm(x), rel=1e-6)
    assert optim.global_norm([]) == 0
    many = np.full(1_000_000, 0.1, np.float32)  # a float32 sum would be off by percents
    assert optim.global_norm(many) == pytest.approx(100, rel=1e-6)


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_squares_of_float32_neither_overflow_nor_vanish(size):
    assert optim.global_norm(np.array([3 * size, 4 * size], np.float32)) == pytest.approx(5 * size)


def test_unpickled_arrays_are_changed_in_place():
    # Their dtype is equal to float64, but not the same object.
    params, m, v = pickle.loads(pickle.dumps(state()))
    before = params.copy()
    optim.adamw(params, np.ones(4), np.zeros(4), v, 1, 0.1)
    optim.adamw(before, np.ones(4), m, np.zeros(4), 1, 0.1)
    np.testing.assert_array_equal(params, before)


def frozen():
    array = np.zeros(4)
    array.flags.writeable = False
    return array


P, M, V, G = (np.zeros(4) for _ in range(4))
WRONG = [
    ({"params": [0.0] * 4}, "params", TypeError),
    ({"params": np.zeros(4, int)}, "params", TypeError),
    ({"params": np.zeros(4, complex)}, "params", TypeError),
    ({"params": frozen()}, "params", ValueError),
    ({"params": np.zeros(8)[::2]}, "params", ValueError),
    ({"m": np.zeros(3)}, "m", ValueError),
    ({"m": np.zeros(4, np.float32)}, "m", ValueError),
    ({"m": [0.0] * 4}, "m", TypeError),
    ({"m": P}, "m", ValueError),
    ({"v": M}, "v", ValueError),
    ({"v": P}, "v", ValueError),
    *(({"grads": array}, "grads", ValueError) for array in (P, M, V)),
    *(({"grads": array[:]}, "grads", ValueError) for array in (P, M, V)),
    ({"m": P[:], "params": P[:]}, "m", ValueError),
    ({"grads": np.zeros(3)}, "grads", ValueError),
    ({"grads": "abcd"}, "grads", TypeError),
    ({"step": 0}, "step", ValueError),
    ({"step": 1.0}, "step", TypeError),
    ({"step": 2**70}, "step", ValueError),
    ({"learning_rate": -0.1}, "learning_rate", ValueError),
    ({"learning_rate": np.nan}, "learning_rate", ValueError),
    ({"beta1": 1.0}, "beta1", ValueError),
    ({"beta2": -0.1}, "beta2", ValueError),
    ({"eps": np.inf}, "eps", ValueError),
    ({"weight_decay": -1}, "weight_decay", ValueError),
]


@pytest.mark.parametrize(("wrong", "parameter", "error"), WRONG)
def test_wrong_input_is_named(wrong, parameter, error):
    right = {"params": P, "grads": G, "m": M, "v": V, "step": 1, "learning_rate": 0.1}
    with pytest.raises(error, match=f"^{parameter}: "):
        optim.adamw(**{**right, **wrong})
