"""Preference losses: gradients, identities, limits, wrong input."""

from __future__ import annotations

import numpy as np
import pytest
from differences import assert_gradient

from kernels import preference as p
from kernels import reference

RNG = np.random.default_rng
ONES = np.ones(3)

VARIANTS = [
    {},
    {"margin": np.array([0.3, 1.0, -0.2])},
    {"margin": 0.5, "temperature": 0.5},
    {"label_smoothing": 0.2, "temperature": 2.0},
    {"noise": 0.1, "margin": 0.5, "temperature": 0.7},
    {"centering": 0.1},
    {"noise": 0.3, "centering": 0.2},
    {"noise": 1.0},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_bradley_terry_gradient(options):
    c, r = RNG(0).standard_normal((2, 3)) * 2
    _, d_chosen, d_rejected = p.bradley_terry(c, r, **options)
    assert_gradient(lambda x: p.bradley_terry(x, r, **options).loss, c, d_chosen)
    assert_gradient(lambda x: p.bradley_terry(c, x, **options).loss, r, d_rejected)


@pytest.mark.parametrize("shape", [(1,), (4,), (1, 1), (3, 2), (2, 5), (2, 2, 4)])
def test_plackett_luce_gradient(shape):
    s = RNG(1).standard_normal(shape) * 3
    assert_gradient(lambda x: p.plackett_luce(x).loss, s, p.plackett_luce(s).d_scores)


LOSSES = [
    (p.dpo, {"beta": 0.7}),
    (p.dpo, {"beta": 0.7, "label_smoothing": 0.2}),
    (p.ipo, {"tau": 0.4}),
    (p.ipo, {"tau": 0.4, "chosen_lengths": [2, 3, 4], "rejected_lengths": [5, 1, 2]}),
    (p.hinge, {"beta": 0.3}),
]


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_policy_gradients(loss, options):
    pi_c, pi_r, ref_c, ref_r = RNG(2).standard_normal((4, 3)) * 2
    result = loss(pi_c, pi_r, ref_c, ref_r, **options)
    assert_gradient(lambda x: loss(x, pi_r, ref_c, ref_r, **options).loss, pi_c, result.d_chosen)
    assert_gradient(lambda x: loss(pi_c, x, ref_c, ref_r, **options).loss, pi_r, result.d_rejected)


def test_two_ranked_items_are_a_pair():
    c, r = RNG(3).standard_normal((2, 6))
    loss, d_chosen, d_rejected = p.bradley_terry(c, r)
    ranked = p.plackett_luce(np.stack([c, r], axis=1))
    assert ranked.loss == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(ranked.d_scores, np.stack([d_chosen, d_rejected], axis=1), rtol=1e-12)


def test_plackett_luce_limits():
    assert p.plackett_luce([[3.0], [4.0]]).loss == 0
    assert p.plackett_luce([5.0] * 6).loss == pytest.approx(np.log(720))
    huge = p.plackett_luce(np.array([[1e4, 0, -1e4], [-1e4, 0, 1e4]]))
    assert huge.loss == pytest.approx(15_000)
    np.testing.assert_allclose(huge.d_scores, [[0, 0, 0], [-0.5, 0 - 0.0, 0.5]], atol=0.51)
    assert np.isfinite(huge.d_scores).all()
    np.testing.assert_allclose(huge.d_scores.sum(axis=1), 0, atol=1e-12)


def test_dpo_is_bradley_terry_on_implicit_rewards():
    pi_c, pi_r, ref_c, ref_r = RNG(4).standard_normal((4, 5))
    result = p.dpo(pi_c, pi_r, ref_c, ref_r, 0.3, 0.1)
    np.testing.assert_allclose(result.chosen_rewards, 0.3 * (pi_c - ref_c))
    np.testing.assert_allclose(result.rejected_rewards, 0.3 * (pi_r - ref_r))
    plain = p.bradley_terry(result.chosen_rewards, result.rejected_rewards, label_smoothing=0.1)
    assert result.loss == pytest.approx(plain.loss)
    np.testing.assert_allclose(result.d_chosen, 0.3 * plain.d_chosen)


def test_noise_bounds_loss_and_gradient():
    """A badly misordered pair pulls fully without noise and not at all with it."""
    assert p.bradley_terry([-40.0], [0.0]).d_chosen[0] == pytest.approx(-1)
    noisy = p.bradley_terry([-40.0], [0.0], noise=0.1)
    assert noisy.loss == pytest.approx(-np.log(0.05))
    assert abs(noisy.d_chosen[0]) < 1e-12
    assert p.bradley_terry([1.0], [0.0], noise=1e-12).loss == pytest.approx(
        p.bradley_terry([1.0], [0.0]).loss
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_gaps_stay_finite(dtype):
    c, r = np.array([1e4, -1e4], dtype), np.zeros(2, dtype)
    result = p.bradley_terry(c, r, label_smoothing=0.1)
    assert result.loss == pytest.approx(5000)
    np.testing.assert_allclose(result.d_chosen, [0.05, -0.45], rtol=1e-6)
    np.testing.assert_allclose(p.log_sigmoid(c), [0, -1e4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_sigmoid_is_accurate(dtype):
    x = np.linspace(-80, 80, 4001).astype(dtype)
    exact = -np.logaddexp(0, -x.astype(np.float64))
    np.testing.assert_allclose(p.log_sigmoid(x), exact, rtol=8 * np.finfo(dtype).eps)


def test_ipo_optimum():
    at_optimum = p.ipo([1.25], [0.0], [0.0], [0.0], tau=0.4)
    assert at_optimum.loss == pytest.approx(0)
    assert at_optimum.d_chosen[0] == pytest.approx(0)


def test_hinge_beyond_the_margin():
    assert p.hinge([11.0], [0.0], [0.0], [0.0], beta=0.1) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_any_shape(shape):
    x = np.zeros(shape, np.float32)
    assert p.bradley_terry(x, x).d_chosen.shape == shape
    assert p.dpo(x, x, x, x, 0.1).rejected_rewards.shape == shape
    assert p.log_sigmoid(x).shape == shape


def test_mixed_floats_are_promoted():
    assert p.bradley_terry(np.zeros(2, np.float32), np.zeros(2)).d_chosen.dtype == np.float64
    assert p.bradley_terry(np.zeros(2, np.float32), np.zeros(2, int)).d_chosen.dtype == np.float32
    assert p.bradley_terry(np.zeros(2, np.float16), np.zeros(2, np.float16)).d_chosen.dtype == np.float32
    assert p.bradley_terry(np.zeros(2, ">f4"), np.zeros(2, ">f4")).d_chosen.dtype == np.dtype(np.float32)


@pytest.mark.parametrize("module", [p, reference])
@pytest.mark.parametrize(
    ("gap", "loss", "noisy"), [(np.inf, 0, -np.log(0.95)), (-np.inf, np.inf, -np.log(0.05))]
)
def test_an_impossible_response_gives_the_limit_not_nan(module, gap, loss, noisy):
    zero, far = np.zeros(1), np.array([gap])
    assert module.dpo(zero, -far, zero, zero, 0.1).loss == loss
    assert module.bradley_terry(far, zero).loss == loss
    assert module.bradley_terry(far, zero, noise=0.1).loss == pytest.approx(noisy)
    assert not np.isnan(module.bradley_terry(far, zero).d_chosen).any()


FOUR = (ONES, ONES, ONES, ONES)
WRONG = [
    (p.log_sigmoid, ("x",), {}, "x", TypeError),
    (p.bradley_terry, (ONES, np.ones(2)), {}, "rejected", ValueError),
    (p.bradley_terry, ([], []), {}, "chosen", ValueError),
    (p.bradley_terry, (ONES, ONES), {"margin": np.ones(2)}, "margin", ValueError),
    (p.bradley_terry, (ONES, ONES), {"temperature": 0.0}, "temperature", ValueError),
    (p.bradley_terry, (ONES, ONES), {"temperature": np.nan}, "temperature", ValueError),
    (p.bradley_terry, (ONES, ONES), {"label_smoothing": 1.5}, "label_smoothing", ValueError),
    (p.bradley_terry, (ONES, ONES), {"noise": -0.1}, "noise", ValueError),
    (p.bradley_terry, (ONES, ONES), {"noise": 0.1, "label_smoothing": 0.1}, "noise", ValueError),
    (p.bradley_terry, (ONES, ONES), {"centering": np.inf}, "centering", ValueError),
    (p.plackett_luce, (1.0,), {}, "scores", ValueError),
    (p.plackett_luce, (np.zeros((0, 3)),), {}, "scores", ValueError),
    (p.dpo, FOUR, {"beta": -1.0}, "beta", ValueError),
    (p.dpo, FOUR, {"beta": np.nan}, "beta", ValueError),
    (p.dpo, FOUR, {"beta": 10**400}, "beta", ValueError),
    (p.dpo, FOUR, {"beta": None}, "beta", TypeError),
    (p.dpo, (ONES, ONES, np.ones(2), ONES), {"beta": 0.1}, "ref_chosen", ValueError),
    (p.dpo, FOUR, {"beta": 0.1, "label_smoothing": 2}, "label_smoothing", ValueError),
    (p.ipo, FOUR, {"tau": 0}, "tau", ValueError),
    (p.ipo, FOUR, {"tau": 1, "chosen_lengths": ONES}, "rejected_lengths", ValueError),
    (p.ipo, FOUR, {"tau": 1, "rejected_lengths": ONES}, "chosen_lengths", ValueError),
    (
        p.ipo,
        FOUR,
        {"tau": 1, "chosen_lengths": ONES, "rejected_lengths": [1, 0, 1]},
        "rejected_lengths",
        ValueError,
    ),
    (p.hinge, FOUR, {"beta": 0}, "beta", ValueError),
]


@pytest.mark.parametrize(("function", "arguments", "options", "parameter", "error"), WRONG)
def test_wrong_input_is_named(function, arguments, options, parameter, error):
    with pytest.raises(error, match=f"^{parameter}: "):
        function(*arguments, **options)
