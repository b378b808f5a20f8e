"""Reward-model distillation: its slopes, its optimum, what it does not look at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlhfbench import oracle
from rlhfbench.algorithms.distill import squared_error
from rlhfbench.errors import InputError
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.run import run
from rlhfbench.types import PreferencePairs


@pytest.fixture(scope="module")
def world():
    return prepare(load_task("words:labels=bt"), "tabular", 0, 64)


def test_slopes_are_central_differences():
    rng = np.random.default_rng(0)
    given = [rng.normal(size=7) for _ in range(5)]
    _, *slopes = squared_error(*given, 0.4)
    for which, slope in enumerate(slopes):
        for i in range(7):
            shift = np.zeros(7)
            shift[i] = 1e-5
            high, low = (
                squared_error(*given[:which], given[which] + sign * shift, *given[which + 1 :], 0.4)[0]
                for sign in (1, -1)
            )
            assert slope[i] == pytest.approx((high - low) / 2e-5, rel=1e-6, abs=1e-9)


def test_it_is_zero_at_the_optimum_under_the_kl_penalty_and_nowhere_near(world):
    """Rafailov et al. 2023, equation 5: there beta log(pi/ref) is the reward, up to a constant of the prompt."""
    replies = oracle.all_replies(world.task)
    ref = oracle.log_probabilities(world.reference, replies)
    scores = replies.by_prompt(world.reward_model.score(replies.prompts, replies.responses, replies.mask))
    best, _ = oracle.optimum(ref, scores, 0.3)
    one, other = np.random.default_rng(0).integers(scores.shape[1], size=(2, 50))
    gaps = (scores[:, one] - scores[:, other]).ravel()

    def error(logp):
        pairs = [values[:, index].ravel() for values in (logp, ref) for index in (one, other)]
        return squared_error(*pairs, gaps, 0.3)[0]

    assert error(best) < 1e-20
    assert error(ref) > 0.1


def every_pair(world):
    """All pairs of replies to each prompt, as if the second had always been preferred."""
    replies = oracle.all_replies(world.task)
    each = len(replies.prompts) // replies.n_prompts
    i, j = np.triu_indices(each, 1)
    first, second = (np.concatenate([p * each + k for p in range(replies.n_prompts)]) for k in (i, j))
    responses, mask = replies.responses, replies.mask
    pairs = PreferencePairs(
        replies.prompts[first], responses[second], mask[second], responses[first], mask[first]
    )
    return replies, pairs


def test_on_all_pairs_it_reaches_the_closed_form_optimum(world):
    replies, pairs = every_pair(world)
    kept = []
    arm = parse_arm("distill:beta=0.3,epochs=12,batch_size=256,learning_rate=0.05")

    def watched(setup, config):
        kept.append(setup.policy)
        yield from arm.spec.function(setup, config)

    result = run(
        replace(world, preferences=pairs),
        replace(arm, spec=replace(arm.spec, function=watched)),
        checkpoints=1,
    )
    assert result.status == "done"
    ref = oracle.log_probabilities(world.reference, replies)
    scores = replies.by_prompt(world.reward_model.score(replies.prompts, replies.responses, replies.mask))
    best, value = oracle.optimum(ref, scores, 0.3)
    found = oracle.log_probabilities(kept[0], replies)
    assert oracle.kl_divergence(ref, best) > 0.1
    assert oracle.kl_divergence(found, best) < 1e-4
    assert oracle.objective(found, ref, scores, 0.3) == pytest.approx(value, rel=1e-3)


def test_who_was_preferred_plays_no_part(world):
    p = world.preferences
    swapped = PreferencePairs(p.prompts, p.rejected, p.rejected_mask, p.chosen, p.chosen_mask)
    arm = parse_arm("distill:epochs=1")
    one, other = run(world, arm), run(replace(world, preferences=swapped), arm)
    assert one.rm_score == pytest.approx(other.rm_score, rel=1e-4)
    assert one.curve[-1]["loss"] == pytest.approx(other.curve[-1]["loss"], rel=1e-4)
    assert one.curve[-1]["rewards/margins"] == pytest.approx(-other.curve[-1]["rewards/margins"], rel=1e-3)


def test_it_pays_for_the_reward_model_and_for_two_scores_a_pair(world):
    result = run(world, parse_arm("distill:epochs=2"))
    assert result.compute["rm_calls"] == 2 * len(world.preferences)
    assert result.compute["by_phase"]["rm_train"] > 0
    assert result.compute["by_phase"]["rollout"] == 0


def test_beta_has_to_be_above_0():
    with pytest.raises(InputError, match="beta must be above 0, got 0"):
        parse_arm("distill:beta=0")
