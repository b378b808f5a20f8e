"""Policy-gradient kernels: gradients, identities, masks, wrong input."""

from __future__ import annotations

import counted
import numba
import numpy as np
import pytest
from differences import assert_gradient

from kernels import flops, reference
from kernels import policy_gradient as g

RNG = np.random.default_rng
MASK = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], float)


def drawn(n, seed=0):
    return RNG(seed).standard_normal((n, *MASK.shape)) * 0.5


def test_ppo_gradient():
    lp, old, advantages = drawn(3)
    d = g.ppo_clip(lp, old, advantages, MASK, 0.2).d_logprobs
    assert_gradient(lambda x: g.ppo_clip(x, old, advantages, MASK, 0.2).loss, lp, d)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_grpo_gradient(loss_type, beta):
    lp, old, ref = drawn(3, seed=8)
    options = {"cliprange_high": 0.4, "beta": beta, "ref_logprobs": ref, "loss_type": loss_type}
    advantages = [1.5, -1.0, -0.5]
    d = g.grpo(lp, old, advantages, MASK, 0.2, **options).d_logprobs
    assert_gradient(lambda x: g.grpo(x, old, advantages, MASK, 0.2, **options).loss, lp, d)


def test_value_gradient():
    values, old, returns = drawn(3, seed=1)
    d = g.value_clip(values, old, returns, MASK, 0.2).d_values
    assert_gradient(lambda x: g.value_clip(x, old, returns, MASK, 0.2).loss, values, d)


def test_ppo_by_hand():
    """rho = 2 and .5, advantages of both signs: the clip binds where it makes the loss larger."""
    lp = np.log([2.0, 2.0, 0.5, 0.5])
    result = g.ppo_clip(lp, np.zeros(4), [1.0, -1.0, 1.0, -1.0], np.ones(4), 0.2)
    assert result.loss == pytest.approx((-1.2 + 2 - 0.5 + 0.8) / 4)
    np.testing.assert_allclose(result.d_logprobs, [0, 0.5, -0.125, 0])
    assert result.clipfrac == 0.5
    assert result.approxkl == pytest.approx(0.5 * np.log(2) ** 2)


def test_grpo_aggregations_by_hand():
    """Two sequences, of 1 and of 3 tokens in 4 places, whose tokens lose 1 and 3 each; a third one has none."""
    zero, mask = np.zeros((3, 4)), np.array([[1, 0, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]])
    expected = {"grpo": (1 + 3) / 3, "bnpo": (1 + 9) / 4, "dr_grpo": (1 + 9) / 12}
    for loss_type, loss in expected.items():
        result = g.grpo(zero, zero, [-1.0, -3.0, -7.0], mask, 0.2, loss_type=loss_type)
        assert result.loss == pytest.approx(loss)
        assert result.d_logprobs.sum() == pytest.approx(loss)  # rho is 1
        assert np.isnan(result.kl)


@pytest.mark.parametrize("compute", [g.grpo, reference.grpo])
def test_grpo_of_no_sequence_has_a_divergence_only_from_a_reference(compute):
    none = np.zeros((0, 4))
    assert np.isnan(compute(none, none, [], none, 0.2).kl)
    assert compute(none, none, [], none, 0.2, ref_logprobs=none).kl == 0


def test_grpo_over_all_tokens_is_ppo():
    lp, old, ref = drawn(3, seed=9)
    advantages = np.array([1.0, 2.0, -1.0])
    ppo = g.ppo_clip(lp, old, np.broadcast_to(advantages[:, None], lp.shape), MASK, 0.2)
    grpo = g.grpo(lp, old, advantages, MASK, 0.2, ref_logprobs=ref, loss_type="bnpo")
    assert grpo.loss == pytest.approx(ppo.loss)
    np.testing.assert_allclose(grpo.d_logprobs, ppo.d_logprobs)
    assert grpo.clipfrac == pytest.approx(ppo.clipfrac)
    assert grpo.kl == pytest.approx((g.k3(lp, ref) * MASK).sum() / MASK.sum())
    dearer = g.grpo(lp, old, advantages, MASK, 0.2, beta=0.5, ref_logprobs=ref, loss_type="bnpo")
    assert dearer.loss == pytest.approx(grpo.loss + 0.5 * grpo.kl)


def test_a_reference_that_does_not_count_does_no_harm():
    """beta 0 beside an impossible token of the reference: 0 times infinity would be NaN."""
    result = g.grpo([[-800.0]], [[-800.0]], [1.0], [[1]], 0.2, ref_logprobs=[[0.0]])
    assert result.loss == -1
    assert result.kl == np.inf
    assert result.d_logprobs == [[-1]]


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
def test_padding_does_not_matter_to_grpo(rubbish, loss_type):
    arrays = drawn(3, seed=10)
    dirty = np.where(MASK > 0, arrays, rubbish)
    results = [
        g.grpo(lp, old, [1.0, rubbish, -1.0], MASK, 0.2, None, 0.1, ref, loss_type)
        for lp, old, ref in (arrays, dirty)
    ]
    for clean, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, clean)
    nothing = g.grpo(*dirty[:2], [rubbish] * 3, 0 * MASK, 0.2, None, 0.1, dirty[2], loss_type)
    assert not any(np.any(x) for x in nothing)


@pytest.mark.parametrize("weight", [np.nan, -1.0, np.inf])
def test_a_wrong_mask_is_named(weight):
    mask = np.array([[1.0, weight, 1.0]])
    row = np.zeros((1, 3))
    calls = (
        lambda: g.ppo_clip(row, row, row, mask, 0.2),
        lambda: g.value_clip(row, row, row, mask, 0.2),
        lambda: g.grpo(row, row, [1.0], mask, 0.2),
        lambda: g.whiten(row, mask),
        lambda: g.gae(row, row, mask, 0.9, 0.9),
    )
    for call in calls:
        with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"^mask: "):
            call()


@pytest.mark.parametrize("function", [g.ppo_clip, g.value_clip])
def test_a_gradient_goes_where_it_is_asked_to(function):
    arrays = *drawn(3, seed=5), MASK
    expected, out = function(*arrays, 0.2), np.full(MASK.shape, -7.0)
    found = function(*arrays, 0.2, out)
    assert found[1] is out
    np.testing.assert_array_equal(out, expected[1])
    assert found[::2] == expected[::2]
    for taken in arrays:
        with pytest.raises(ValueError, match=r"^out: overlaps"):
            function(*arrays, 0.2, taken)
    with pytest.raises(ValueError, match=r"^out: "):
        function(*arrays, 0.2, out[1:])


def test_advantages_and_returns_go_where_they_are_asked_to():
    arrays = *drawn(2, seed=6), MASK
    expected, outs = g.gae(*arrays, 0.9, 0.8), (np.full(MASK.shape, -7.0), np.full(MASK.shape, -7.0))
    found = g.gae(*arrays, 0.9, 0.8, outs)
    assert found.advantages is outs[0]
    assert found.returns is outs[1]
    np.testing.assert_array_equal(outs, expected)
    for place in (0, 1):
        for taken in (*arrays, outs[1 - place]):
            wrong = (taken, outs[1]) if place == 0 else (outs[0], taken)
            with pytest.raises(ValueError, match=r"^out: overlaps"):
                g.gae(*arrays, 0.9, 0.8, wrong)
    for wrong in (None, [None, None], outs[0], (None, None, None)):
        with pytest.raises(TypeError, match=r"^out: "):
            g.gae(*arrays, 0.9, 0.8, wrong)


def test_value_clip_by_hand():
    result = g.value_clip([1.0, 1.0], [0.0, 0.9], [2.0, 2.0], [1, 1], 0.5)
    assert result.loss == pytest.approx(0.5 * (1.5**2 + 1) / 2)
    np.testing.assert_allclose(result.d_values, [0, -0.5])
    assert result.clipfrac == 0.5


def test_gae_limits():
    """lam = 1 gives the discounted return minus the value, lam = 0 the one-step error."""
    rewards, values = RNG(2).standard_normal((2, 5))
    mask = np.ones(5)
    to_go = [sum(0.9 ** (j - i) * rewards[j] for j in range(i, 5)) for i in range(5)]
    whole = g.gae(rewards, values, mask, 0.9, 1.0)
    np.testing.assert_allclose(whole.returns, to_go)
    np.testing.assert_allclose(whole.advantages, to_go - values)
    one = g.gae(rewards, values, mask, 0.9, 0.0)
    np.testing.assert_allclose(one.advantages, rewards + 0.9 * np.append(values[1:], 0) - values)


def test_gae_skips_padding_anywhere():
    rewards, values = RNG(3).standard_normal((2, 3))
    dense = g.gae(rewards, values, np.ones(3), 0.9, 0.8)
    at = [1, 3, 4]
    wide = np.full((3, 7), np.nan)
    wide[2] = 0
    wide[:2, at], wide[2, at] = (rewards, values), 1
    spread = g.gae(wide[0], wide[1], wide[2], 0.9, 0.8)
    np.testing.assert_array_equal(spread.advantages[at], dense.advantages)
    np.testing.assert_array_equal(spread.returns[at], dense.returns)
    assert np.count_nonzero(spread.returns) == 3


def test_whiten():
    x = drawn(1, seed=4)[0]
    on = MASK > 0
    white = g.whiten(x, MASK)
    assert white[on].mean() == pytest.approx(0, abs=1e-12)
    assert white[on].var() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(g.whiten(x, MASK, shift_mean=False)[on], white[on] + x[on].mean())
    assert (g.whiten(np.full((2, 2), 3.0), np.ones((2, 2))) == 0).all()
    assert g.whiten(x, MASK > 0).tolist() == white.tolist()  # a mask of booleans


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whiten_many_blocks(dtype):
    """Moments are joined from blocks, some of them without a token; a far outlier and an offset cost no accuracy."""
    x = (RNG(11).standard_normal(10_000) + 1000).astype(dtype)
    x[0] = 5000
    mask = RNG(12).random(10_000) < 0.5
    mask[0], mask[4096:6144] = True, False
    white = g.whiten(x, mask).astype(float)[mask]
    exact = x.astype(float)[mask]
    np.testing.assert_allclose(white, (exact - exact.mean()) / exact.std(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", [0, 300, 3000, -1])
def test_whiten_about_a_far_element(where):
    """Wherever it stands, the sums of the others about it, or about a mean that it moved, lose next to nothing."""
    x = RNG(14).standard_normal(6000).astype(np.float32) + np.float32(1e4)
    x[where] = -1e4
    exact = x.astype(float)
    np.testing.assert_allclose(
        g.whiten(x, np.ones(6000)), (exact - exact.mean()) / exact.std(), rtol=1e-4, atol=1e-5
    )


def test_whiten_of_equal_elements_is_zero():
    assert not g.whiten(np.full(5000, 0.1, np.float32), RNG(13).random(5000) < 0.5).any()


@pytest.mark.parametrize("lam", [0.95, 0.999, 1.0])
def test_gae_loses_no_digits_where_values_are_large(lam):
    """One-step errors are differences of neighbouring values, small as those may be beside the values themselves."""
    values = (100 + RNG(15).standard_normal((4, 1024))).astype(np.float32)
    rewards = np.zeros_like(values)
    rewards[:, -1] = 100
    found, exact = (module.gae(rewards, values, np.ones((4, 1024)), 1.0, lam)[0] for module in (g, reference))
    assert np.abs(found - exact).max() < 2e-5


@pytest.mark.skipif(not numba.config.DISABLE_JIT, reason="counted in plain Python")
@pytest.mark.parametrize("shape", [(1, 300), (5, 500)])
@pytest.mark.parametrize(
    ("name", "arrays", "scalars"), [("whiten", 1, ()), ("gae", 2, (0.9, 0.8)), ("ppo_clip", 3, (0.2,))]
)
def test_work_of_several_blocks(name, arrays, scalars, shape):
    numbers = [counted.counted(x) for x in (*RNG(15).standard_normal((arrays, *shape)), np.ones(shape))]
    counted.reset()
    getattr(g, name)(*numbers, *scalars)
    assert counted.counts() == flops.work(name, *shape)


def test_kl_estimates():
    lp, ref = drawn(2, seed=5)
    r = lp - ref
    np.testing.assert_array_equal(g.k1(lp, ref), r)
    np.testing.assert_allclose(g.k2(lp, ref), r**2 / 2)
    np.testing.assert_allclose(g.k3(lp, ref), np.exp(-r) - 1 + r, rtol=1e-10)
    for kind in ("k1", "k2", "k3"):
        np.testing.assert_array_equal(g.kl_estimate(lp, ref, kind), getattr(g, kind)(lp, ref))


def test_k3_near_the_reference():
    """In float32 the textbook form is all rounding error here, and negative half of the time."""
    r = np.linspace(-1e-3, 1e-3, 2001).astype(np.float32)
    found = g.k3(r, np.zeros_like(r))
    assert (found >= 0).all()
    np.testing.assert_allclose(found, r.astype(float) ** 2 / 2, rtol=1e-3, atol=1e-15)


def test_group_advantages():
    rewards = np.array([1.0, 2.0, 6.0, 4.0, 4.0, 4.0])
    expected = (rewards[:3] - 3) / (rewards[:3].std(ddof=1) + 1e-4)
    np.testing.assert_allclose(g.group_advantages(rewards, 3), [*expected, 0, 0, 0])
    np.testing.assert_allclose(g.group_advantages(rewards, 3, scale=False), [-2, -1, 3, 0, 0, 0])
    assert g.group_advantages(rewards.reshape(2, 3), 3).shape == (2, 3)
    assert (g.group_advantages(rewards, 1) == 0).all()
    assert (g.group_advantages(np.full(6, 0.1, np.float32), 3) == 0).all()


def test_rloo_is_scaled_centring():
    rewards = RNG(6).standard_normal(12)
    np.testing.assert_allclose(
        g.rloo_advantages(rewards, 4), 4 / 3 * g.group_advantages(rewards, 4, scale=False)
    )


def test_nothing_at_all():
    empty = np.zeros((0, 4))
    assert g.ppo_clip(empty, empty, empty, empty, 0.2).loss == 0
    assert g.gae(empty, empty, empty, 1, 1).advantages.shape == (0, 4)
    assert g.group_advantages([], 4).shape == (0,)


@pytest.mark.parametrize("name", ["values", "old_values", "returns"])
def test_nan_stays_in_the_value_loss(name):
    right = {"values": ROW, "old_values": ROW, "returns": ROW + 1, "mask": ROW + 1, "cliprange_value": 0.2}
    wrong = {**right, name: np.array([0.0, np.nan, 0.0, 0.0])}
    assert np.isnan(g.value_clip(**wrong).loss)
    assert np.isnan(reference.value_clip(**wrong).loss)


ROW = np.zeros(4)
WRONG = [
    (g.kl_estimate, (ROW, ROW, "k4"), "kind", ValueError),
    (g.kl_estimate, (ROW, ROW, ["k1"]), "kind", ValueError),
    (g.k1, (ROW, ROW[:2]), "ref_logprobs", ValueError),
    (g.k3, (["a"], ROW), "logprobs", TypeError),
    (g.gae, (0.0, 0.0, 1.0, 1, 1), "rewards", ValueError),
    (g.gae, (ROW, ROW[:3], ROW, 1, 1), "values", ValueError),
    (g.gae, (ROW, ROW, ROW[:3], 1, 1), "mask", ValueError),
    (g.gae, (ROW, ROW, ROW, 1.1, 1), "gamma", ValueError),
    (g.gae, (ROW, ROW, ROW, 1, np.nan), "lam", ValueError),
    (g.whiten, (ROW, ROW[:1]), "mask", ValueError),
    (g.whiten, (ROW, ["a"] * 4), "mask", TypeError),
    (g.ppo_clip, (ROW, ROW[:1], ROW, ROW, 0.2), "old_logprobs", ValueError),
    (g.ppo_clip, (ROW, ROW, ROW[:1], ROW, 0.2), "advantages", ValueError),
    (g.ppo_clip, (ROW, ROW, ROW, ROW, -0.2), "cliprange", ValueError),
    (g.ppo_clip, (ROW, ROW, ROW, ROW, [0.2, 0.3]), "cliprange", TypeError),
    (g.grpo, (ROW, ROW, ROW, ROW, 0.2), "advantages", ValueError),
    (g.grpo, (ROW, ROW[:1], 1.0, ROW, 0.2), "old_logprobs", ValueError),
    (g.grpo, (ROW, ROW, 1.0, ROW[:2], 0.2), "mask", ValueError),
    (g.grpo, (ROW, ROW, 1.0, ROW, np.nan), "cliprange", ValueError),
    (g.grpo, (ROW, ROW, 1.0, ROW, 0.2, -0.1), "cliprange_high", ValueError),
    (g.grpo, (ROW, ROW, 1.0, ROW, 0.2, 0.2, -1), "beta", ValueError),
    (g.grpo, (ROW, ROW, 1.0, ROW, 0.2, 0.2, 0.1), "ref_logprobs", ValueError),
    (g.grpo, (ROW, ROW, 1.0, ROW, 0.2, 0.2, 0.1, ROW[:3]), "ref_logprobs", ValueError),
    (g.grpo, (ROW, ROW, 1.0, ROW, 0.2, 0.2, 0.1, ROW, "dapo"), "loss_type", ValueError),
    (g.value_clip, (ROW, ROW, ROW[:1], ROW, 0.2), "returns", ValueError),
    (g.value_clip, (ROW, ROW, ROW, ROW, np.nan), "cliprange_value", ValueError),
    (g.group_advantages, (ROW, 3), "group_size", ValueError),
    (g.group_advantages, (ROW, 0), "group_size", ValueError),
    (g.group_advantages, (ROW, 2.0), "group_size", TypeError),
    (g.rloo_advantages, (ROW, 1), "group_size", ValueError),
    (g.rloo_advantages, (ROW, True), "group_size", TypeError),
]


@pytest.mark.parametrize(("function", "arguments", "parameter", "error"), WRONG)
def test_wrong_input_is_named(function, arguments, parameter, error):
    with pytest.raises(error, match=f"^{parameter}: "):
        function(*arguments)
