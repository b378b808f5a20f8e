"""The losses of preference pairs beside DPO's: gradients, optima, identities, limits, wrong input."""

from __future__ import annotations

import numpy as np
import pytest
from differences import assert_gradient

from kernels import preference as p
from kernels import reference

RNG = np.random.default_rng
ONES = np.ones(3)
FOUR = (ONES, ONES, ONES, ONES)
LENGTHS = {"chosen_lengths": [2, 3, 4], "rejected_lengths": [5, 1, 2]}

WITH_REFERENCE = [
    (p.robust, {"beta": 0.7}),
    (p.robust, {"beta": 0.7, "label_smoothing": 0.3}),
    (p.exo_pair, {"beta": 0.7, "label_smoothing": 0.1}),
    (p.exo_pair, {"beta": 0.7}),
    (p.discopop, {"beta": 0.2, "tau": 0.3}),
    (p.discopop, {"beta": 0.05}),
    (p.aot, {"beta": 0.7}),
    (p.aot, {"beta": 0.7, "label_smoothing": 0.2}),
    (p.sigmoid_norm, {"beta": 2.0, **LENGTHS}),
    (p.nca_pair, {"beta": 0.7}),
    (p.bco_pair, {"beta": 0.7, "delta": 0.4}),
    (p.sppo_hard, {"beta": 0.7}),
    (p.apo_zero, {"beta": 0.7}),
    (p.apo_down, {"beta": 0.7}),
]
WITHOUT = [
    (p.simpo, {"beta": 2.0, "gamma": 1.0, **LENGTHS}),
    (p.orpo, {"beta": 0.3, **LENGTHS}),
    (p.cpo, {"beta": 0.7, "label_smoothing": 0.1}),
    (p.cpo, {"beta": 0.7, "alpha": 0.5, "chosen_lengths": [2, 3, 4]}),
]


@pytest.mark.parametrize(("loss", "options"), WITH_REFERENCE)
def test_gradients_relative_to_a_reference(loss, options):
    pi_c, pi_r, ref_c, ref_r = RNG(2).standard_normal((4, 3)) * 2
    result = loss(pi_c, pi_r, ref_c, ref_r, **options)
    assert_gradient(lambda x: loss(x, pi_r, ref_c, ref_r, **options).loss, pi_c, result.d_chosen)
    assert_gradient(lambda x: loss(pi_c, x, ref_c, ref_r, **options).loss, pi_r, result.d_rejected)


@pytest.mark.parametrize(("loss", "options"), WITHOUT)
def test_gradients_without_a_reference(loss, options):
    pi_c, pi_r = -1 - 5 * RNG(3).random((2, 3))
    result = loss(pi_c, pi_r, **options)
    assert_gradient(lambda x: loss(x, pi_r, **options).loss, pi_c, result.d_chosen)
    assert_gradient(lambda x: loss(pi_c, x, **options).loss, pi_r, result.d_rejected)


def test_gradient_of_kto():
    pi, ref = RNG(4).standard_normal((2, 6)) * 2
    rest = ([1, 0, 0, 1, 1, 0], 0.3, 0.7, 1.2, 0.8)
    assert_gradient(lambda x: p.kto(x, ref, *rest).loss, pi, p.kto(pi, ref, *rest).d_logps)


@pytest.mark.parametrize(("loss", "options"), [*WITH_REFERENCE, *WITHOUT])
def test_a_pair_among_others_counts_as_alone(loss, options):
    """No pair's padding or length is another's; with aot ranks are, and with a likelihood by tokens their number."""
    if loss in (p.aot, p.orpo) or "alpha" in options:
        pytest.skip("these look at the batch")
    arrays = -1 - 5 * RNG(5).random((4 if (loss, options) in WITH_REFERENCE else 2, 3))
    whole = loss(*arrays, **options)
    for n in range(3):
        own = {k: v[n : n + 1] if isinstance(v, list) else v for k, v in options.items()}
        alone = loss(*arrays[:, n : n + 1], **own)
        np.testing.assert_allclose(alone.d_chosen / 3, whole.d_chosen[n : n + 1], rtol=1e-12)
        np.testing.assert_allclose(alone.d_rejected / 3, whole.d_rejected[n : n + 1], rtol=1e-12)


# --- optima


def at_margin(loss, s, beta=0.3, **options):
    """d_chosen where beta times the margin is s."""
    return loss([s / beta], [0.0], [0.0], [0.0], beta, **options).d_chosen[0]


@pytest.mark.parametrize("e", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("loss", [p.dpo, p.exo_pair])
def test_smoothed_losses_are_least_at_the_logit_of_their_share(loss, e):
    assert at_margin(loss, np.log((1 - e) / e), label_smoothing=e) == pytest.approx(0, abs=1e-14)
    assert at_margin(loss, np.log((1 - e) / e) - 0.1, label_smoothing=e) < 0


@pytest.mark.parametrize("e", [0.05, 0.2, 0.4])
def test_robust_is_unbiased_under_flips(e):
    """Of labels that are wrong with probability e the mean loss is DPO's on right labels, and so is the gradient."""
    arrays = RNG(6).standard_normal((4, 7)) * 3
    flipped = arrays[[1, 0, 3, 2]]
    clean = p.dpo(*arrays, beta=0.5)
    right, wrong = (p.robust(*a, beta=0.5, label_smoothing=e) for a in (arrays, flipped))
    assert (1 - e) * right.loss + e * wrong.loss == pytest.approx(clean.loss, rel=1e-12)
    mean = (1 - e) * right.d_chosen + e * wrong.d_rejected
    np.testing.assert_allclose(mean, clean.d_chosen, rtol=1e-10, atol=1e-15)


def test_robust_has_no_lower_bound_and_its_pull_no_end():
    e = 0.2
    far = [at_margin(p.robust, s, label_smoothing=e) for s in (50.0, 500.0)]
    np.testing.assert_allclose(far, -0.3 * e / (1 - 2 * e), rtol=1e-12)
    assert p.robust([1e4], [0.0], [0.0], [0.0], 0.3, e).loss == pytest.approx(-e * 3e3 / (1 - 2 * e))


def test_exo_pulls_at_neither_end():
    assert at_margin(p.exo_pair, 300.0) == pytest.approx(0, abs=1e-12)
    assert at_margin(p.exo_pair, -300.0) == pytest.approx(0, abs=1e-12)
    assert at_margin(p.exo_pair, 0.0) < -0.1


def test_nca_has_an_absolute_anchor():
    """The chosen response's reward is pulled to log 2 whatever the rejected one's is."""
    beta = 0.3
    for rejected in (-3.0, 0.0, 5.0):
        result = p.nca_pair([np.log(2) / beta], [rejected], [0.0], [0.0], beta)
        assert result.d_chosen[0] == pytest.approx(0, abs=1e-14)
        assert result.d_rejected[0] > 0


def test_sppo_pulls_log_ratios_to_finite_values():
    assert p.sppo_hard([4.0], [-4.0], [0.0], [0.0], beta=0.125) == (0.0, 0.0, 0.0)


def test_apo_down_lowers_both_and_zero_raises_the_chosen():
    zero, down = (loss(*(np.zeros((4, 1))), beta=0.3) for loss in (p.apo_zero, p.apo_down))
    assert zero.d_chosen[0] < 0 < zero.d_rejected[0]
    high = p.apo_down([3.0], [-30.0], [0.0], [0.0], 0.3)  # told apart by far: what is left lowers the chosen
    assert high.d_chosen[0] > 0
    assert down.d_rejected[0] > 0


# --- identities


def test_robust_without_noise_is_dpo():
    arrays = RNG(7).standard_normal((4, 5))
    robust, dpo = p.robust(*arrays, beta=0.4), p.dpo(*arrays, beta=0.4)
    assert robust.loss == pytest.approx(dpo.loss, rel=1e-12)
    np.testing.assert_allclose(robust.d_chosen, dpo.d_chosen, rtol=1e-12)


def test_cpo_is_dpo_with_a_uniform_reference():
    chosen, rejected = -RNG(8).random((2, 5))
    dpo = p.dpo(chosen, rejected, np.full(5, -3.0), np.full(5, -3.0), beta=0.4)
    plain = p.cpo(chosen, rejected, beta=0.4, alpha=0.0)
    assert plain.loss == pytest.approx(dpo.loss, rel=1e-12)
    with_likelihood = p.cpo(chosen, rejected, beta=0.4, alpha=2.0)
    assert with_likelihood.loss == pytest.approx(dpo.loss - 2 * chosen.mean(), rel=1e-12)
    of_tokens = p.cpo(chosen, rejected, beta=0.4, alpha=2.0, chosen_lengths=[1, 2, 3, 4, 5])
    assert of_tokens.loss == pytest.approx(dpo.loss - 2 * chosen.sum() / 15, rel=1e-12)


def test_simpo_is_normalised_dpo_with_a_uniform_reference_and_a_margin():
    chosen, rejected = -RNG(9).random((2, 3))
    simpo = p.simpo(chosen, rejected, **LENGTHS, beta=2.0, gamma=0.0)
    norm = p.sigmoid_norm(chosen, rejected, np.zeros(3), np.zeros(3), **LENGTHS, beta=2.0)
    assert simpo.loss == pytest.approx(norm.loss, rel=1e-12)
    np.testing.assert_allclose(simpo.d_rejected, norm.d_rejected, rtol=1e-12)


@pytest.mark.parametrize("loss", [p.ipo, p.sigmoid_norm])
def test_sums_and_means_differ_by_the_length(loss):
    """With the mean a margin is short by the length of the replies; one strength means two things."""
    arrays = RNG(10).standard_normal((4, 3))
    six = {"chosen_lengths": np.full(3, 6), "rejected_lengths": np.full(3, 6)}
    mean = loss(*(6 * arrays), **six, **({"tau": 0.2} if loss is p.ipo else {"beta": 0.2}))
    total = p.ipo(*arrays, tau=0.2) if loss is p.ipo else p.dpo(*arrays, beta=0.2)
    assert mean.loss == pytest.approx(total.loss, rel=1e-12)
    np.testing.assert_allclose(6 * mean.d_chosen, total.d_chosen, rtol=1e-12)


def test_kto_at_zero_on_balanced_pairs_is_apo_zero():
    pi_c, pi_r, ref_c, ref_r = RNG(11).standard_normal((4, 5))
    apo = p.apo_zero(pi_c, pi_r, ref_c, ref_r, beta=0.4)
    desirable = np.repeat([True, False], 5)
    kto = p.kto(np.append(pi_c, pi_r), np.append(ref_c, ref_r), desirable, kl=0.0, beta=0.4)
    assert 2 * kto.loss == pytest.approx(apo.loss, rel=1e-12)
    np.testing.assert_allclose(2 * kto.d_logps, np.append(apo.d_chosen, apo.d_rejected), rtol=1e-12)


def test_bco_is_not_dpo():
    """Chosen and rejected are told apart each by itself: raising both changes DPO's loss not at all, and BCO's."""
    arrays = RNG(12).standard_normal((4, 5))
    raised = arrays + np.array([3.0, 3.0, 0.0, 0.0])[:, None]
    assert p.dpo(*raised, beta=0.4).loss == pytest.approx(p.dpo(*arrays, beta=0.4).loss)
    assert p.bco_pair(*raised, beta=0.4).loss != pytest.approx(p.bco_pair(*arrays, beta=0.4).loss, rel=0.01)


def test_aot_compares_distributions():
    """The reference's margins may belong to any pairs; with one pair, or ranks that agree, it is DPO."""
    arrays = RNG(13).standard_normal((4, 6))
    arrays[2:] = arrays[2:][:, RNG(0).permutation(6)]
    shuffled = arrays.copy()
    shuffled[2:] = arrays[2:][:, RNG(1).permutation(6)]
    one, two = p.aot(*arrays, beta=0.4), p.aot(*shuffled, beta=0.4)
    assert one.loss == pytest.approx(two.loss, rel=1e-12)
    np.testing.assert_allclose(one.d_chosen, two.d_chosen, rtol=1e-12)
    order = [np.argsort(arrays[0] - arrays[1]), np.argsort(arrays[2] - arrays[3])]
    ranked = np.concatenate([arrays[:2][:, order[0]], arrays[2:][:, order[1]]])
    assert one.loss == pytest.approx(p.dpo(*ranked, beta=0.4).loss, rel=1e-12)
    assert one.loss != pytest.approx(p.dpo(*arrays, beta=0.4).loss, rel=1e-3)


def test_discopop_blends_by_the_margin():
    """Far above 0 it is the exponential loss, far below the logistic."""
    above, below = (p.discopop([margin], [0.0], [0.0], [0.0], beta=0.1) for margin in (40.0, -40.0))
    assert above.loss == pytest.approx(np.exp(-4.0), rel=1e-6)
    assert below.loss == pytest.approx(np.logaddexp(0, 4.0), rel=1e-6)


# --- populations, by enumeration


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def population_gradient(loss, logp, ref_logp, weight, strength):
    """Of the loss's expectation over ordered pairs (winner, loser), with respect to the logits of a tabular policy."""
    won, lost = (index.ravel() for index in np.indices(weight.shape))
    result = loss(logp[won], logp[lost], ref_logp[won], ref_logp[lost], strength)
    d = np.zeros_like(logp)
    np.add.at(d, won, result.d_chosen * weight.ravel() * weight.size)
    np.add.at(d, lost, result.d_rejected * weight.ravel() * weight.size)
    return d - np.exp(logp) * d.sum()


def world(seed=0, K=6):
    rng = RNG(seed)
    return rng.standard_normal(K), softmax(rng.standard_normal(K)), softmax(rng.standard_normal(K))


def bradley_terry(rewards):
    return 1 / (1 + np.exp(rewards[None, :] - rewards[:, None]))


def test_dpo_is_stationary_at_the_regularised_optimum():
    """Rafailov et al. 2023: with labels from Bradley-Terry, and every pair seen, at ref exp(r / beta) / Z."""
    rewards, ref, seen = world()
    beta = 0.4
    weight = seen[:, None] * seen[None, :] * bradley_terry(rewards)
    optimum = np.log(softmax(np.log(ref) + rewards / beta))
    assert np.abs(population_gradient(p.dpo, optimum, np.log(ref), weight, beta)).max() < 1e-15
    assert np.abs(population_gradient(p.dpo, np.log(ref), np.log(ref), weight, beta)).max() > 1e-3
    assert np.abs(population_gradient(p.ipo, optimum, np.log(ref), weight, beta)).max() > 1e-3


def test_dpo_on_finite_data_is_a_fitted_reward_model_and_exact_optimisation():
    """Of a tabular policy: at the policy that is best for the rewards fitted to the same counts, DPO does not move."""
    rewards, ref, _ = world(1, K=4)
    beta, counts = 0.4, RNG(2).integers(3, 9, (4, 4)).astype(float)
    np.fill_diagonal(counts, 0)
    fitted = np.zeros(4)
    for _ in range(20_000):
        missed = counts * (1 - bradley_terry(fitted))
        fitted += 0.02 * (missed.sum(axis=1) - missed.sum(axis=0))
    optimum = np.log(softmax(np.log(ref) + fitted / beta))
    weight = counts / counts.sum()
    assert np.abs(population_gradient(p.dpo, optimum, np.log(ref), weight, beta)).max() < 1e-12
    other = np.log(softmax(np.log(ref) + rewards / beta))
    assert np.abs(population_gradient(p.dpo, other, np.log(ref), weight, beta)).max() > 1e-3


def test_ipo_is_stationary_at_its_optimum():
    """Azar et al. 2023: at ref exp(p(y > mu) / tau) / Z, whatever the preferences are: here not Bradley-Terry's."""
    _, ref, mu = world(3)
    tau, draws = 0.3, RNG(4).random((6, 6))
    preferred = np.triu(draws, 1) + np.tril(1 - draws.T, -1) + 0.5 * np.eye(6)
    weight = mu[:, None] * mu[None, :] * preferred
    optimum = np.log(softmax(np.log(ref) + preferred @ mu / tau))
    assert np.abs(population_gradient(p.ipo, optimum, np.log(ref), weight, tau)).max() < 1e-14
    assert np.abs(population_gradient(p.dpo, optimum, np.log(ref), weight, tau)).max() > 1e-3


def test_certain_preferences_run_away_with_dpo_and_not_with_ipo():
    """One pair, always labelled the same: IPO stops at a margin of 1 / (2 tau), DPO pulls at any."""
    for tau in (0.1, 1.0, 5.0):
        stop = p.ipo([1 / (2 * tau)], [0.0], [0.0], [0.0], tau)
        assert stop.d_chosen[0] == pytest.approx(0, abs=1e-12)
        assert p.dpo([1 / (2 * tau)], [0.0], [0.0], [0.0], tau).d_chosen[0] < -0.01


# --- limits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("loss", "options"), WITH_REFERENCE)
def test_large_margins_stay_finite(loss, options, dtype):
    far = np.array([3e3, -3e3, 0.0], dtype)
    zero = np.zeros(3, dtype)
    result = loss(far, -far, zero, zero, **options)
    expected = getattr(reference, loss.__name__)(far, -far, zero, zero, **options)
    assert all(np.isfinite(part).all() for part in result)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(result.d_chosen, expected.d_chosen, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("module", [p, reference])
def test_odds_of_certain_responses_are_finite(module):
    result = module.orpo([0.0, -1e-9, -800.0], [-800.0, 0.0, 0.0], ONES, ONES, beta=0.1)
    assert all(np.isfinite(part).all() for part in result)


# --- wrong input


TWO = (-ONES, -ONES)
WRONG = [
    (p.robust, FOUR, {"beta": 0.1, "label_smoothing": 0.5}, "label_smoothing", ValueError),
    (p.robust, FOUR, {"beta": 0.1, "label_smoothing": -0.1}, "label_smoothing", ValueError),
    (p.robust, FOUR, {"beta": 0.0}, "beta", ValueError),
    (p.exo_pair, FOUR, {"beta": 0.1, "label_smoothing": 0.0}, "label_smoothing", ValueError),
    (p.exo_pair, FOUR, {"beta": 0.1, "label_smoothing": 1.0}, "label_smoothing", ValueError),
    (p.discopop, FOUR, {"beta": 0.1, "tau": 0.0}, "tau", ValueError),
    (p.aot, FOUR, {"beta": 0.1, "label_smoothing": 2.0}, "label_smoothing", ValueError),
    (p.aot, (ONES, ONES, ONES, np.ones(2)), {"beta": 0.1}, "ref_rejected", ValueError),
    (p.aot, ([], [], [], []), {"beta": 0.1}, "pi_chosen", ValueError),
    (p.sigmoid_norm, FOUR, {"beta": 1, **LENGTHS, "chosen_lengths": None}, "chosen_lengths", TypeError),
    (
        p.sigmoid_norm,
        FOUR,
        {"beta": 1, **LENGTHS, "rejected_lengths": [1, 0, 1]},
        "rejected_lengths",
        ValueError,
    ),
    (p.nca_pair, FOUR, {"beta": np.inf}, "beta", ValueError),
    (p.bco_pair, FOUR, {"beta": 0.1, "delta": np.nan}, "delta", ValueError),
    (p.sppo_hard, FOUR, {"beta": None}, "beta", TypeError),
    (p.apo_zero, ([], [], [], []), {"beta": 0.1}, "pi_chosen", ValueError),
    (p.apo_down, (ONES, "x", ONES, ONES), {"beta": 0.1}, "pi_rejected", TypeError),
    (p.kto, (ONES, ONES, np.ones(2), 0.0, 0.1), {}, "desirable", ValueError),
    (p.kto, (ONES, ONES, ONES, -0.1, 0.1), {}, "kl", ValueError),
    (p.kto, (ONES, np.ones(2), ONES, 0.0, 0.1), {}, "ref_logps", ValueError),
    (p.kto, ([], [], [], 0.0, 0.1), {}, "logps", ValueError),
    (p.kto, (ONES, ONES, ONES, 0.0, 0.1, -1.0), {}, "desirable_weight", ValueError),
    (p.kto, (ONES, ONES, ONES, 0.0, 0.1, 1.0, -1.0), {}, "undesirable_weight", ValueError),
    (p.simpo, TWO, {**LENGTHS, "beta": 0.0, "gamma": 1.0}, "beta", ValueError),
    (p.simpo, TWO, {**LENGTHS, "beta": 1.0, "gamma": np.inf}, "gamma", ValueError),
    (p.orpo, TWO, {**LENGTHS, "rejected_lengths": [1, 1], "beta": 0.1}, "rejected_lengths", ValueError),
    (p.orpo, TWO, {**LENGTHS, "beta": -0.1}, "beta", ValueError),
    (p.cpo, TWO, {"beta": 0.1, "alpha": -1.0}, "alpha", ValueError),
    (p.cpo, TWO, {"beta": 0.1, "chosen_lengths": [1, -1, 1]}, "chosen_lengths", ValueError),
    (p.cpo, (ONES, np.ones(2)), {"beta": 0.1}, "pi_rejected", ValueError),
]


@pytest.mark.parametrize(("function", "arguments", "options", "parameter", "error"), WRONG)
def test_wrong_input_is_named(function, arguments, options, parameter, error):
    with pytest.raises(error, match=f"^{parameter}: .*, .* is needed|^{parameter}: .* are needed"):
        function(*arguments, **options)
