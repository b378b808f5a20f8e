"""Identities of the field that hold exactly on listed replies: best-of-n, tilting, natural gradients, groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernels import policy_gradient
from rlhfbench import oracle
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task


@pytest.fixture(scope="module")
def scored():
    """Reference log-probabilities, RM scores and gold of all replies of the lesson's world; (prompts, replies)."""
    task = load_task("words")
    prepared = prepare(task, "tabular", 0, 64)
    replies = oracle.all_replies(task)
    inputs = (replies.prompts, replies.responses, replies.mask)
    proxy, gold = prepared.reward_model.score(*inputs), task.gold_score(*inputs)
    logp = oracle.log_probabilities(prepared.reference, replies)
    logp -= np.log(np.exp(logp).sum(axis=1, keepdims=True))  # float32 policies sum to 1 but for rounding
    return logp, replies.by_prompt(proxy), replies.by_prompt(gold)


def kl_of(one, other):
    """Of rows of log-probabilities, where -inf has no mass."""
    terms = np.exp(one) * np.where(np.isfinite(one), one - other, 0.0)
    return terms.sum(axis=1).mean()


@pytest.mark.parametrize(
    ("replies", "n", "exact"), [(2, 16, 0.693), (8, 16, 1.680), (64, 64, 3.134), (4096, 64, 3.1745)]
)
def test_e1_the_kl_of_best_of_n_is_below_its_formula_where_scores_are_atoms(replies, n, exact):
    logp = np.full((1, replies), -math.log(replies))
    found = kl_of(oracle.best_of_n(logp, np.arange(replies, dtype=float)[None], n), logp)
    bound = math.log(n) - (n - 1) / n
    assert found == pytest.approx(exact, abs=5e-4)
    assert found <= bound
    assert (found > 0.999 * bound) == (replies >= 64 * n)


@pytest.mark.parametrize("n", [2, 5, 40])
def test_e2_best_of_n_wins_n_of_n_plus_1_where_no_two_scores_tie(n):
    replies = 20_000
    logp = np.full((1, replies), -math.log(replies))
    mine = np.exp(oracle.best_of_n(logp, np.arange(replies, dtype=float)[None], n))[0]
    beaten_or_half = (np.arange(replies) + 0.5) / replies
    assert mine @ beaten_or_half == pytest.approx(n / (n + 1), abs=1e-3)
    assert mine @ beaten_or_half <= n / (n + 1)


def test_e8_a_tilt_of_gaussian_scores_gains_their_deviation_times_root_two_kl():
    scores = np.linspace(-12, 12, 20_001)[None]
    logp = -(scores**2) / 2
    logp -= np.log(np.exp(logp).sum())
    for beta in (10.0, 1.0, 0.4):
        tilted, _ = oracle.optimum(logp, scores, beta)
        gain = oracle.expectation(tilted, scores) - oracle.expectation(logp, scores)
        assert gain == pytest.approx(math.sqrt(2 * kl_of(tilted, logp)), rel=1e-6)


def test_e8_holds_to_first_order_for_any_scores(scored):
    logp, scores, _ = (rows[:1] for rows in scored)
    deviation = math.sqrt(oracle.expectation(logp, scores**2) - oracle.expectation(logp, scores) ** 2)

    def miss(beta):
        tilted, _ = oracle.optimum(logp, scores, beta)
        gain = oracle.expectation(tilted, scores) - oracle.expectation(logp, scores)
        return abs(gain / (deviation * math.sqrt(2 * kl_of(tilted, logp))) - 1)

    assert miss(1000.0) < 1e-3
    assert miss(10.0) > 3 * miss(100.0) > 9 * miss(1000.0)


def test_e9_natural_gradient_without_a_penalty_passes_through_every_penalised_optimum(scored):
    """Steps of size h along the Fisher metric's steepest ascent of E[score]: t / h of them make the optimum at 1/t."""
    logp, scores, _ = (rows[0] for rows in scored)
    theta, step = logp.copy(), 0.25
    for steps in range(1, 9):
        p = np.exp(theta - np.log(np.exp(theta).sum()))
        gradient = p * (scores - p @ scores)
        fisher = np.diag(p) - np.outer(p, p)
        theta = theta + step * np.linalg.lstsq(fisher, gradient, rcond=1e-13)[0]
        reached = theta - np.log(np.exp(theta).sum())
        best, _ = oracle.optimum(logp[None], scores[None].astype(float), 1 / (steps * step))
        np.testing.assert_allclose(np.exp(reached), np.exp(best[0]), atol=1e-9)


def test_e10_over_optimisation_starts_where_the_covariance_of_gold_and_proxy_changes_sign():
    """Price's equation on the path of tilts: dE[gold]/dt = Cov(gold, proxy), dKL/dt = t Var(proxy)."""
    rng = np.random.default_rng(3)
    gold = rng.normal(size=(1, 200))
    trap = rng.random((1, 200)) < 0.02
    proxy = gold + 0.3 * rng.normal(size=(1, 200)) + np.where(trap, 6.0, 0.0)
    gold = gold - np.where(trap, 4.0, 0.0)  # what scores best is bad
    logp = np.full((1, 200), -math.log(200))

    def at(t):
        tilted = logp if t == 0 else oracle.optimum(logp, proxy, 1 / t)[0]
        means = [oracle.expectation(tilted, x) for x in (gold, proxy, gold * proxy, proxy**2)]
        covariance, variance = means[2] - means[0] * means[1], means[3] - means[1] ** 2
        return means[0], kl_of(tilted, logp), covariance, variance

    path = np.linspace(0.05, 3, 60)
    for t in path:
        (low, kl_low, *_), (high, kl_high, *_) = at(t - 1e-4), at(t + 1e-4)
        _, _, covariance, variance = at(t)
        assert (high - low) / 2e-4 == pytest.approx(covariance, abs=1e-5)
        assert (kl_high - kl_low) / 2e-4 == pytest.approx(t * variance, abs=1e-5)
    golds, covariances = np.array([at(t)[0] for t in path]), np.array([at(t)[2] for t in path])
    peak = golds.argmax()
    assert 0 < peak < len(path) - 1
    assert (covariances[:peak] > 0).all()
    assert covariances[peak + 1] < 0
    assert golds[peak] - golds[-1] > 1  # and what is lost is more than noise could be


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
def test_e13_scaled_groups_of_binary_rewards_ascend_twice_the_arcsine_of_root_p(p):
    """The expected gradient by the logit of success, over all counts of successes in a group of G."""
    G = 2000
    mean = 0.0
    for wins in range(G + 1):
        rewards = np.arange(G) < wins
        advantages = policy_gradient.group_advantages(rewards.astype(float), G)
        log_share = math.lgamma(G + 1) - math.lgamma(wins + 1) - math.lgamma(G - wins + 1)
        log_share += wins * math.log(p) + (G - wins) * math.log1p(-p)
        mean += math.exp(log_share) * float(advantages @ (rewards - p)) / G
    slope = math.sqrt(p * (1 - p))  # of 2 arcsin(sqrt(p)) by the logit: p (1 - p) / sqrt(p (1 - p))
    assert mean == pytest.approx(slope, rel=0.01)
    plain = p * (1 - p)
    assert abs(mean - plain) > 0.05
