"""What each estimator of the KL penalises in each place: expected gradients by enumeration (E6 and E7 of the field)."""

from __future__ import annotations

from glob import glob
from pathlib import Path

import numpy as np
import pytest
from small_worlds import directional, listed, setup_of, two_policies

from rlhfbench import oracle
from rlhfbench.harness import compare
from rlhfbench.kl_penalty import KINDS, PENALISED, cautions, estimates, in_loss
from rlhfbench.registry import parse_arm
from rlhfbench.results import load_run
from rlhfbench.rollouts import Episodes, logit_gradient, penalised_scores
from rlhfbench.show import run_blocks


def expected_gradient(kl, policy, reference, replies):
    """E[gradient of the penalty] of on-policy replies, through what the algorithms call."""
    inputs = (replies.prompts, replies.responses, replies.mask)
    logprobs = policy.logprobs(*inputs)
    ref_logprobs = reference.logprobs(*inputs)
    episodes = Episodes(*inputs, logprobs, ref_logprobs, np.zeros(len(logprobs)))
    setup = setup_of(policy, reference)
    share = np.exp(logprobs.sum(axis=1, keepdims=True)) / replies.n_prompts * replies.mask
    slopes, weights = np.zeros_like(share), None
    if in_loss(kl):
        weights = share
    else:
        slopes = -share * penalised_scores(setup, episodes, kl, 1.0)[:, None]
    policy.grads[:] = 0
    logits = policy.logits(*inputs)
    policy.backward(logit_gradient(setup, episodes, logits, logprobs, slopes, kl, weights))
    return policy.grads.copy()


def divergences(policy, reference, replies):
    """KL(pi || ref), KL(ref || pi) and E[log(pi/ref)^2] / 2 of replies, averaged over prompts."""
    p, q = (oracle.log_probabilities(one, replies) for one in (policy, reference))
    return np.array(
        [oracle.kl_divergence(p, q), oracle.kl_divergence(q, p), oracle.expectation(p, (p - q) ** 2 / 2)]
    )


COEFFICIENTS = {
    "k1:reward": (1, 0, 0),
    "k2:reward": (-1, 0, 1),
    "k3:reward": (1, -1, 0),
    "full:reward": (0, 0, 0),
    "k1:loss": (0, 0, 0),
    "k2:loss": (1, 0, 0),
    "k3:loss": (0, 1, 0),
    "full:loss": (1, 0, 0),
}
"""Of the three divergences, in what is descended with replies of one token."""


@pytest.mark.parametrize("kl", KINDS)
def test_what_is_descended_with_one_token(kl):
    policy, reference = two_policies()
    replies = listed(tokens=1)
    gradient = expected_gradient(kl, policy, reference, replies)
    for seed in range(3):
        direction = np.random.default_rng(seed).normal(size=policy.params.size)
        slopes = directional(lambda: divergences(policy, reference, replies), policy, direction)
        assert (np.abs(slopes) > 1e-3).all()
        assert gradient @ direction == pytest.approx(COEFFICIENTS[kl] @ slopes, abs=1e-8)


def test_those_that_do_not_descend_the_kl_are_named():
    assert {kl for kl, weights in COEFFICIENTS.items() if weights != (1, 0, 0)} == set(PENALISED)


def test_in_the_reward_k1_descends_the_kl_of_whole_replies():
    policy, reference = two_policies("linear")
    replies = listed()
    gradient = expected_gradient("k1:reward", policy, reference, replies)
    direction = np.random.default_rng(0).normal(size=policy.params.size)
    slopes = directional(lambda: divergences(policy, reference, replies), policy, direction)
    assert gradient @ direction == pytest.approx(slopes[0], abs=1e-8)


def test_of_longer_replies_the_loss_descends_that_of_each_state_and_k1_none():
    policy, reference = two_policies("linear")
    replies = listed()
    by_state = expected_gradient("full:loss", policy, reference, replies)
    np.testing.assert_allclose(expected_gradient("k2:loss", policy, reference, replies), by_state, atol=1e-12)
    assert np.abs(expected_gradient("k1:loss", policy, reference, replies)).max() < 1e-12
    assert np.abs(expected_gradient("k1:reward", policy, reference, replies) - by_state).max() > 1e-3


def test_a_state_level_kl_as_reward_is_felt_by_earlier_tokens_alone():
    """The lesson's toy takes beta KL(state) from the reward: what a token does to its own state's KL is lost."""
    policy, reference = two_policies("linear")
    whole, first = listed(), listed(tokens=1)
    gradient = expected_gradient("full:reward", policy, reference, whole)
    direct = expected_gradient("full:loss", policy, reference, whole)
    np.testing.assert_allclose(
        gradient + direct, expected_gradient("k1:reward", policy, reference, whole), atol=1e-12
    )
    assert np.abs(gradient).max() > 1e-3
    assert np.abs(expected_gradient("full:reward", policy, reference, first)).max() < 1e-12


def test_estimates_have_the_kl_as_their_mean_but_for_k2():
    policy, reference = two_policies()
    replies = listed()
    inputs = (replies.prompts, replies.responses, replies.mask)
    logprobs, ref_logprobs = policy.logprobs(*inputs), reference.logprobs(*inputs)
    exact, _, second = divergences(policy, reference, replies)
    share = np.exp(logprobs.sum(axis=1, keepdims=True)) / replies.n_prompts

    def of(kl):
        return (share * estimates(setup_of(policy, reference), kl, inputs, logprobs, ref_logprobs)).sum()

    for kl in ("k1:reward", "k3:reward", "full:reward"):
        assert of(kl) == pytest.approx(exact)
    assert of("k2:reward") != pytest.approx(exact, rel=0.01)
    assert second > 0


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce", "rloo", "grpo"])
def test_a_person_is_told_what_is_penalised(algorithm):
    for kl in KINDS:
        said = parse_arm(f"{algorithm}:kl={kl}").cautions
        assert (said != []) == (kl in PENALISED)
        assert all(PENALISED[kl] in line and f"kl={kl}" in line for line in said)
        assert parse_arm(f"{algorithm}:kl={kl},beta=0").cautions == []
    assert cautions(parse_arm("ppo").config) == []
    assert parse_arm("best_of_n").cautions == []


def test_what_is_penalised_is_said_once_and_kept_with_the_run(tmp_path):
    said, out = [], tmp_path / "runs"
    arms = ["grpo:updates=1,batch_size=16", "reinforce:updates=1,batch_size=16"]
    comparison = compare(
        arms, task="words", policy="tabular", seeds=1, jobs=0, out=str(out), watch=said.append
    )
    (plan,) = (event for event in said if event["kind"] == "plan")
    assert plan["cautions"]["reinforce"] == []
    assert "KL(reference || policy)" in plan["cautions"]["grpo"][0]
    for folder in map(Path, sorted(glob(f"{comparison.folder}/runs/*"))):
        manifest, result = load_run(folder)
        shown = " ".join(str(getattr(block, "text", "")) for block in run_blocks(manifest, result))
        assert ("KL(reference || policy)" in shown) == ("grpo" in folder.name)
