"""Best-of-n from one set of samples: against all subsets, against the exact distribution, and wrong input."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from rlhfbench import oracle, selection
from rlhfbench.errors import InputError
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task


@pytest.mark.parametrize("scores", [[0.3, -1.0, 2.0, 0.5, 1.0], [1.0, 0.0, 1.0, 1.0, 0.0], [2.0] * 5])
def test_weights_are_those_of_the_best_of_all_subsets(scores):
    scores = np.array(scores)
    for n in range(1, 6):
        expected = np.zeros(5)
        for subset in combinations(range(5), n):
            best = [i for i in subset if scores[i] == scores[list(subset)].max()]
            expected[best] += 1 / len(best) / math.comb(5, n)
        found = selection.best_of_n_weights(scores, n)
        assert found.sum() == pytest.approx(1)
        # Within a tie, any order is as likely: subsets with one of the tied favour it, all together share alike.
        for level in np.unique(scores):
            tied = scores == level
            np.testing.assert_allclose(found[tied].sum(), expected[tied].sum())
            assert np.ptp(found[tied]) == 0


def test_the_curve_is_unbiased():
    """The mean over many sets of samples is what the exact distribution of best-of-n gives."""
    rng = np.random.default_rng(0)
    scores, values = rng.integers(0, 6, size=12).astype(float), rng.normal(size=12)
    logp = np.log(rng.dirichlet(np.ones(12)))
    ns, sets, N = (1, 2, 4, 8), 20_000, 8
    drawn = rng.choice(12, size=(sets, N), p=np.exp(logp))
    found = selection.best_of_n_curve(scores[drawn], values[drawn], ns)
    for n, estimate in zip(ns, found, strict=True):
        exact = oracle.expectation(oracle.best_of_n(logp[None], scores[None], n), values[None])
        weights = selection.best_of_n_weights(scores[drawn], n)
        error = (weights * values[drawn]).sum(axis=1).std() / math.sqrt(sets)
        assert abs(estimate - exact) < 4 * error
    naive = values[drawn[np.arange(sets), scores[drawn].argmax(axis=1)]].mean()
    assert found[-1] == pytest.approx(naive, abs=0.02)  # n = N: the best of all


def test_replies_of_a_policy_give_the_curve_of_the_sampler():
    prepared = prepare(load_task("words"), "tabular", 0, 64)
    replies = oracle.all_replies(prepared.task)
    inputs = (replies.prompts, replies.responses, replies.mask)
    scores = replies.by_prompt(prepared.reward_model.score(*inputs))
    logp = oracle.log_probabilities(prepared.reference, replies)
    prompts, N = np.zeros((16_000, 1), np.int64), 16
    rollout = prepared.reference.sample(prompts, np.random.default_rng(1).random((len(prompts), 2)))
    drawn = prepared.reward_model.score(prompts, rollout.responses, rollout.mask).reshape(-1, N)
    found = selection.best_of_n_curve(drawn, drawn, [1, 4, 16])
    exact = [oracle.expectation(oracle.best_of_n(logp[:1], scores[:1], n), scores[:1]) for n in (1, 4, 16)]
    np.testing.assert_allclose(found, exact, atol=0.1)


def test_thousands_of_replies_neither_overflow_nor_lose_weight():
    scores = np.random.default_rng(0).normal(size=20_000)
    for n in (1, 50, 19_999, 20_000):
        weights = selection.best_of_n_weights(scores, n)
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()
    assert weights[scores.argmax()] == 1


@pytest.mark.parametrize("n", [0, 4])
def test_an_impossible_n_is_named(n):
    with pytest.raises(InputError, match=f"n must be at least 1 and at most the 3 .*got {n}"):
        selection.best_of_n_weights(np.zeros(3), n)
