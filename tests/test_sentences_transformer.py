"""(Slow) What the default world shows with a transformer and the reward model on its backbone.

The statements are those of `test_sentences`, but for three. The reward model reads whole replies and ends in a norm, so
its scores have a ceiling: without a penalty the RM score ends at 2 to 4 reference deviations instead of 5 and more,
while KL and the fall of gold are larger, and gold peaks earlier. DPO trained too long gives back more in the mean of
seeds than it does as shipped, where it gives back next to nothing, but not a fifth in every seed.
"""

from __future__ import annotations

import numpy as np
import pytest
from sentence_worlds import SEEDS, Seen, given_back, gold_of, see

OVERTRAINED_DPO = "dpo:epochs=8,learning_rate=0.005"  # four times the epochs, 2.5 times the learning rate
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def default() -> list[Seen]:
    return [see("sentences", seed, "transformer") for seed in SEEDS]


def test_the_reward_model_is_as_good_as_a_linear_one(default):
    linear = [see("sentences:rm=unigrams", seed, "transformer") for seed in SEEDS]
    for name in ("label_accuracy", "gold_accuracy"):
        ours, theirs = (np.mean([getattr(seen, name) for seen in worlds]) for worlds in (default, linear))
        assert ours >= theirs - 0.002  # the standard error of this mean difference
    for seen in default:
        assert 0.23 <= seen.contradicting <= 0.28
        assert 0.63 <= seen.label_accuracy <= 0.78
        assert seen.gold_accuracy > 0.74


def test_without_a_penalty_ppo_over_optimises(default):
    for seen in default:
        result = seen.run("ppo:beta=0")
        gold = gold_of(result)
        peak = int(gold.argmax())
        assert result.rm_score >= 1.0
        assert result.kl > 10
        assert gold[peak] - gold[0] >= 0.5 * seen.gold_sd
        assert result.curve[peak]["update"] / result.curve[-1]["update"] <= 0.6
        assert given_back(result) >= 0.5


@pytest.mark.parametrize("arm", ["ppo", "dpo"])
def test_the_defaults_gain_and_keep_it(default, arm):
    results = [seen.run(arm) for seen in default]
    assert sum(r.kl < 5.0 and given_back(r) <= 0.1 for r in results) >= 9
    assert all(r.rm_score > 0.5 for r in results)
    assert all(gold_of(r)[-1] - gold_of(r)[0] > 0.8 for r in results)


def test_dpo_trained_too_long_gives_gold_back(default):
    too_long, shipped = ([given_back(seen.run(arm)) for seen in default] for arm in (OVERTRAINED_DPO, "dpo"))
    assert np.mean(too_long) >= 0.1
    assert sum(much > little for much, little in zip(too_long, shipped, strict=True)) >= 9


@pytest.mark.parametrize("knob", ["pairs=250", "flips=0.35", "length_bias=0.5"])
def test_worse_data_makes_worse_models(default, knob):
    others = [see(f"sentences:{knob}", seed, "transformer") for seed in SEEDS]
    assert np.mean([s.gold_accuracy for s in others]) < np.mean([s.gold_accuracy for s in default])
    for arm in ("ppo", "dpo"):
        ours, theirs = [s.run(arm) for s in default], [s.run(arm) for s in others]
        assert np.mean([r.gold_score for r in theirs]) < np.mean([r.gold_score for r in ours])
        if knob.startswith("length"):
            assert np.mean([r.length for r in theirs]) > np.mean([r.length for r in ours])


def test_a_smaller_reward_model_is_a_worse_one(default):
    small = [see("sentences:rm=transformer,rm_layers=1,rm_width=8", seed, "transformer") for seed in SEEDS]
    assert np.mean([s.gold_accuracy for s in small]) < np.mean([s.gold_accuracy for s in default])
