"""The linear reward model: what it scores, how it is trained, normalised and charged."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import flops
from rlhfbench.rewards.bags import BagFeatures
from rlhfbench.rewards.bradley_terry import LinearRewardModel, train_reward_model
from rlhfbench.rewards.penalty import accuracy, split_folds, split_groups
from rlhfbench.types import PreferencePairs

V, T = 20, 8


def bradley_terry_pairs(n: int, seed: int = 0) -> tuple[PreferencePairs, np.ndarray]:
    """Pairs labelled by a linear reward, with noise; and that reward's weights."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=V)
    tokens = rng.integers(0, V, (2, n, T))
    mask = (np.arange(T) < rng.integers(1, T + 1, (2, n, 1))).astype(np.float32)
    scores = (weights[tokens] * mask).sum(axis=2)
    first = rng.random(n) < 1 / (1 + np.exp(scores[1] - scores[0]))
    best, worst = np.where(first, 0, 1), np.where(first, 1, 0)
    rows = np.arange(n)
    prompts = rng.integers(0, 50, (n, 2))
    return PreferencePairs(
        prompts, tokens[best, rows], mask[best, rows], tokens[worst, rows], mask[worst, rows]
    ), weights


@pytest.mark.parametrize("features", ["unigrams", "bigrams"])
def test_training_recovers_the_reward_that_labelled_the_pairs(features: str) -> None:
    pairs, weights = bradley_terry_pairs(3000)
    model, training = train_reward_model(pairs, vocab_size=V, features=features, rng=np.random.default_rng(0))
    assert np.corrcoef(model.weights[:V], weights)[0, 1] > 0.95
    fresh, _ = bradley_terry_pairs(1000, seed=0)
    margins = model.score(fresh.prompts, fresh.chosen, fresh.chosen_mask) - model.score(
        fresh.prompts, fresh.rejected, fresh.rejected_mask
    )
    assert accuracy(margins) > 0.7
    assert training.pairs == 3000
    assert training.C in [C for C, _ in training.path]
    assert training.accuracy is not None
    assert training.accuracy > 0.7
    assert training.work.flops > 3000
    assert training.record()["flops"] == training.work.flops


def test_the_same_stream_gives_the_same_bits() -> None:
    pairs, _ = bradley_terry_pairs(200)
    first, second = (
        train_reward_model(pairs, vocab_size=V, rng=np.random.default_rng(3))[0].weights for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_pairs_is_enough(n: int) -> None:
    pairs, _ = bradley_terry_pairs(n)
    model, training = train_reward_model(pairs, vocab_size=V, rng=np.random.default_rng(0))
    assert np.isfinite(model.weights).all()
    assert (training.log_loss is None) == (n == 1)


def test_no_pairs_are_refused() -> None:
    pairs, _ = bradley_terry_pairs(1)
    with pytest.raises(ValueError, match="no preference pairs"):
        train_reward_model(pairs.take(np.zeros(0, np.int64)), vocab_size=V, rng=np.random.default_rng(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_are_sums_over_what_the_mask_leaves(dtype: type) -> None:
    rng = np.random.default_rng(1)
    model = LinearRewardModel(rng.normal(size=V), BagFeatures.of("unigrams", V))
    tokens, mask = rng.integers(0, V, (5, T)), (rng.random((5, T)) < 0.5).astype(dtype)
    scores = model.score(np.zeros((5, 1), np.int64), tokens, mask)
    assert scores.dtype == dtype
    np.testing.assert_allclose(scores, (model.weights[tokens] * mask).sum(axis=1), rtol=1e-5, atol=1e-6)
    tokens[mask == 0] = 3
    np.testing.assert_array_equal(model.score(np.zeros((5, 1), np.int64), tokens, mask), scores)


def test_bigrams_see_the_order_of_tokens_and_unigrams_do_not() -> None:
    rng = np.random.default_rng(2)
    tokens, mask = np.array([[1, 2, 3], [3, 2, 1]]), np.ones((2, 3), np.float32)
    prompts = np.zeros((2, 1), np.int64)
    for kind, differ in (("unigrams", False), ("bigrams", True)):
        features = BagFeatures.of(kind, V)
        a, b = LinearRewardModel(rng.normal(size=features.size), features).score(prompts, tokens, mask)
        assert (abs(a - b) > 1e-3) == differ
    assert BagFeatures.of("bigrams", 1000).size == 1000 + 65_536


def test_normalised_scores_have_mean_0_and_sd_1_on_the_reference() -> None:
    rng = np.random.default_rng(3)
    model = LinearRewardModel(rng.normal(size=V) * 7, BagFeatures.of("unigrams", V))
    tokens, mask = rng.integers(0, V, (500, T)), np.ones((500, T), np.float32)
    prompts = np.zeros((500, 1), np.int64)
    raw = model.score(prompts, tokens, mask)
    once = model.normalised(raw)
    scores = once.score(prompts, tokens, mask)
    assert scores.mean() == pytest.approx(0, abs=1e-5)
    assert scores.std() == pytest.approx(1, abs=1e-5)
    assert once.mean == pytest.approx(raw.mean(), rel=1e-5)
    assert once.sd == pytest.approx(raw.std(), rel=1e-5)
    twice = once.normalised(3 * scores + 1)
    np.testing.assert_allclose(twice.score(prompts, tokens, mask), (scores - 1) / 3, atol=1e-4)


def test_a_reference_that_always_scores_the_same_only_shifts() -> None:
    model = LinearRewardModel(np.ones(V), BagFeatures.of("unigrams", V))
    tokens, mask = np.zeros((4, 3), np.int64), np.ones((4, 3), np.float32)
    prompts = np.zeros((4, 1), np.int64)
    shifted = model.normalised(model.score(prompts, tokens, mask))
    assert shifted.sd == 1
    np.testing.assert_array_equal(shifted.score(prompts, tokens, mask), 0)


@pytest.mark.parametrize("features", ["unigrams", "bigrams"])
def test_scoring_charges_its_work(features: str) -> None:
    bag = BagFeatures.of(features, V)
    model = LinearRewardModel(np.zeros(bag.size), bag)
    charged: list[tuple[flops.Work, int]] = []
    model.charge = lambda work, sequences: charged.append((work, sequences))
    model.score(np.zeros((4, 1), np.int64), np.zeros((4, 6), np.int64), np.ones((4, 6), np.float32))
    assert charged == [(flops.work("token_scores", 4, 6, bag.buckets), 4)]
    assert model.normalised(np.arange(3.0)).charge is model.charge


def test_unknown_features_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="trigrams"):
        BagFeatures.of("trigrams", V)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        LinearRewardModel(np.zeros(V + 1), BagFeatures.of("unigrams", V))


def test_splits_keep_groups_together_and_cover_everything() -> None:
    groups = np.random.default_rng(0).integers(0, 60, 500)
    aside = split_groups(groups, 0.2, np.random.default_rng(1))
    assert set(groups[aside]).isdisjoint(groups[~aside])
    assert 0.2 <= aside.mean() < 0.25
    folds = split_folds(groups, 5, np.random.default_rng(1))
    assert all(len(set(folds[groups == g])) == 1 for g in set(groups))
    assert np.bincount(folds, minlength=5).min() > 70


def test_equal_scores_count_half() -> None:
    assert accuracy(np.array([1.0, 0.0, -1.0, 0.0])) == 0.5
