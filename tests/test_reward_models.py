"""Which reward model a seed gets, where it starts, and who pays for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlhfbench.errors import InputError
from rlhfbench.policy_choice import choose_policy
from rlhfbench.prepare import Prepared, prepare
from rlhfbench.registry import load_task
from rlhfbench.reward_models import choose_reward_model
from rlhfbench.rewards.bradley_terry import LinearRewardModel
from rlhfbench.rewards.transformer import TransformerRewardModel

SMALL = "sentences-small:pairs=64,demos=64"


@pytest.mark.parametrize(
    ("options", "policy", "text"),
    [
        ("", "linear", "linear in a bag of unigrams"),
        (",rm=bigrams", "linear", "linear in a bag of bigrams"),
        (",rm=unigrams", "transformer", "linear in a bag of unigrams"),
        ("", "transformer:layers=1,width=16", "a transformer of 1 layer and width 16"),
        (",rm=transformer", "linear", "a transformer of 2 layers and width 32"),
        (",rm=transformer,rm_layers=1,rm_width=16", "transformer", "a transformer of 1 layer and width 16"),
        (",rm=transformer,rm_width=12", "transformer:layers=3", "a transformer of 3 layers and width 12"),
    ],
)
def test_what_the_options_mean(options: str, policy: str, text: str) -> None:
    choice = choose_reward_model(load_task(SMALL + options), choose_policy(policy))
    assert choice.text == text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("rm_width=16", "rm_width must be left out unless rm=transformer, got 16"),
        ("rm=bigrams,rm_layers=1", "rm_layers must be left out unless rm=transformer"),
        ("rm=transformer,rm_layers=0", "rm_layers must be between 1 and 48, got 0"),
        ("rm=trigrams", "did you mean 'bigrams'?"),
    ],
)
def test_what_is_wrong_is_named(options: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        load_task(f"sentences:{options}")
    assert says in str(refused.value)


def prepared(options: str, policy: str) -> Prepared:
    return prepare(load_task(SMALL + options), policy, 0, 16)


def test_the_policys_own_kind_by_default() -> None:
    assert isinstance(prepared("", "linear").reward_model, LinearRewardModel)
    assert isinstance(prepared("", "transformer").reward_model, TransformerRewardModel)


def size(model: Any) -> tuple[int, int, int]:
    sizes = model.backbone.sizes
    return sizes.layers, sizes.width, sizes.heads


def test_a_smaller_one_is_fine_tuned_first_and_pays_for_it() -> None:
    own, smaller = prepared("", "transformer"), prepared(",rm=transformer,rm_layers=1", "transformer")
    assert (size(own.reward_model), size(smaller.reward_model)) == ((2, 32, 4), (1, 32, 4))
    assert smaller.meter.flops["sft"] == own.meter.flops["sft"]
    without = prepared(",rm=unigrams", "transformer").meter.flops
    for world in (own, smaller):
        assert world.meter.flops["rm_train"] > without["rm_train"]
    # It is half of the policy's blocks, trained as long: SFT of its own is most of what it costs.
    assert smaller.meter.flops["rm_train"] > 0.4 * own.meter.flops["sft"]
    assert own.facts["reward_model"] == "a transformer of 2 layers and width 32"


def test_scores_are_in_deviations_of_the_reference() -> None:
    world = prepare(load_task("sentences-small:pairs=200,demos=200"), "transformer", 1, 16)
    prompts = world.task.prompts(2048, np.random.default_rng(0))
    rollout = world.reference.sample(prompts, np.random.default_rng(1).random((2048, 5)))
    scores = world.reward_model.score(prompts, rollout.responses, rollout.mask)
    assert scores.mean() == pytest.approx(0.0, abs=0.1)
    assert scores.std() == pytest.approx(1.0, abs=0.1)
