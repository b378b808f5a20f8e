"""Losses and slopes of the online methods are TRL's: those kept in golden/, and made anew where TRL is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kernels import policy_gradient
from rlhfbench import ppo_step
from rlhfbench.algorithms import grpo, rloo
from rlhfbench.registry import parse_arm
from rlhfbench.rollouts import Episodes, penalised_scores
from rlhfbench.room import Room

GOLDEN = Path(__file__).with_name("golden")
KEPT = json.loads((GOLDEN / "trl_online.json").read_text(encoding="utf-8"))
GIVEN = {name: np.array(values) for name, values in KEPT["inputs"].items()}
B, T = GIVEN["mask"].shape


class Given:
    """A policy of two words that gives the first the log-probabilities it was handed, and the values."""

    def __init__(self, logprobs):
        self.probability = np.exp(logprobs)
        self.d_logprobs = self.d_values = None

    def logits(self, *replies):
        return np.log(np.stack([self.probability, 1 - self.probability], axis=-1))

    def values(self, *replies, keep=True, out=None):
        return GIVEN["old_values"]

    def backward(self, d_logits=None, d_values=None):
        self.d_logprobs = d_logits[..., 0] / (1 - self.probability)


def setup_and_episodes():
    setup = SimpleNamespace(
        policy=Given(GIVEN["logprobs"]),
        charge=lambda *work: None,
        progress=lambda: 0.0,
        room=Room(),
    )
    mask = GIVEN["mask"]
    episodes = Episodes(
        np.zeros((B, 1), np.int64),
        np.zeros((B, T), np.int64),
        mask,
        GIVEN["old_logprobs"] * mask,
        GIVEN["ref_logprobs"] * mask,
        GIVEN["scores"],
    )
    return setup, episodes


OPTIMIZER = SimpleNamespace(step=lambda scale: None)
GRPO = {
    "grpo": "grpo:beta=0",
    "grpo with kl": "grpo:beta=0.4",
    "bnpo": "grpo:variant=bnpo,beta=0.4",
    "dr_grpo": "grpo:variant=dr_grpo,beta=0.4",
    "dapo": "grpo:variant=dapo,beta=0",
    "gspo": "grpo:variant=gspo,beta=0",
    "gspo, wide clip": "grpo:variant=gspo,beta=0.4,cliprange=0.2,cliprange_high=0.2",
}


@pytest.mark.parametrize("case", GRPO)
def test_slopes_of_grpo(case):
    setup, episodes = setup_and_episodes()
    grpo.step(setup, parse_arm(GRPO[case]).config, OPTIMIZER, episodes, GIVEN["advantages"])
    expected = np.array(KEPT["cases"][case]["d_logprobs"])
    np.testing.assert_allclose(setup.policy.d_logprobs, expected, rtol=1e-9, atol=1e-12)
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("case", ["grpo", "dapo", "gspo"])
def test_losses_of_grpo(case):
    """Those without KL: what the KL adds to the loss is not computed, as only its slope is used."""
    setup, episodes = setup_and_episodes()
    metrics = grpo.step(setup, parse_arm(GRPO[case]).config, OPTIMIZER, episodes, GIVEN["advantages"])
    assert metrics["loss"] == pytest.approx(KEPT["cases"][case]["loss"])


def test_rloo():
    setup, episodes = setup_and_episodes()
    metrics = rloo.step(setup, parse_arm("rloo").config, OPTIMIZER, episodes, GIVEN["advantages"])
    expected = KEPT["cases"]["rloo"]
    np.testing.assert_allclose(setup.policy.d_logprobs, expected["d_logprobs"], rtol=1e-9, atol=1e-12)
    assert metrics["loss"] == pytest.approx(expected["loss"])


@pytest.mark.parametrize(("variant", "scale"), [("grpo", "group"), ("dr_grpo", "none")])
def test_advantages_of_grpo(variant, scale):
    found = policy_gradient.group_advantages(GIVEN["scores"], 3, scale=grpo.VARIANTS[variant].scale)
    expected = KEPT["cases"][f"grpo, advantages, {scale}"]["advantages"]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_advantages_of_rloo():
    """The KL of a reply is taken from its reward before the others' mean is."""
    setup, episodes = setup_and_episodes()
    returns = penalised_scores(setup, episodes, "k1:reward", 0.3)
    found = policy_gradient.rloo_advantages(returns, 3)
    np.testing.assert_allclose(found, KEPT["cases"]["rloo, advantages"]["advantages"], rtol=1e-9)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_advantages_and_returns_of_ppo(kind):
    setup, episodes = setup_and_episodes()
    full = np.ones((B, T))
    logprobs, ref_logprobs = GIVEN["old_logprobs"], GIVEN["ref_logprobs"]
    episodes = Episodes(*episodes.replies[:2], full, logprobs, ref_logprobs, GIVEN["scores"])
    config = parse_arm(f"ppo:beta=0.3,gamma=0.98,lam=0.95,kl={kind}:reward").config
    found = ppo_step.advantages_and_returns(setup, config, episodes, config.beta)
    expected = KEPT["cases"][f"ppo, {kind}"]
    np.testing.assert_allclose(found.returns, expected["returns"], rtol=1e-9)
    bessel = np.sqrt((full.size - 1) / full.size)  # TRL divides by the sample's deviation
    np.testing.assert_allclose(found.advantages * bessel, expected["advantages"], rtol=1e-7)


def test_scores_beyond_the_clip_count_as_the_clip():
    setup, episodes = setup_and_episodes()
    config = parse_arm("ppo:beta=0.3,score_clip=0.5").config
    clipped = replace(episodes, scores=np.array([0.4, -0.5, 0.5, 0.3, -0.2, 0.5]))
    assert (clipped.scores != episodes.scores).sum() == 3
    found = ppo_step.advantages_and_returns(setup, config, episodes, config.beta).returns.copy()
    expected = ppo_step.advantages_and_returns(setup, parse_arm("ppo:beta=0.3").config, clipped, config.beta)
    np.testing.assert_array_equal(found, expected.returns)


def test_losses_of_ppo():
    setup, episodes = setup_and_episodes()
    setup.policy.values = lambda *replies, out: GIVEN["values"]
    kept = {}
    setup.policy.backward = lambda d_logits, d_values: kept.update(d_values=d_values, d_logits=d_logits)
    returns = GIVEN["old_values"] + GIVEN["scores"][:, None]
    advantages = np.broadcast_to(GIVEN["advantages"][:, None], returns.shape)
    targets = ppo_step.Targets(GIVEN["old_values"], advantages, returns)
    config = parse_arm("ppo:vf_coef=0.1").config
    index = np.arange(len(returns))
    metrics = ppo_step.minibatch_step(setup, config, OPTIMIZER, config.beta, episodes, targets, index)
    expected = KEPT["cases"]["ppo, loss"]
    assert metrics["loss/policy_avg"] == pytest.approx(expected["policy"])
    assert metrics["loss/value_avg"] == pytest.approx(expected["value"])
    d_logprobs = kept["d_logits"][..., 0] / (1 - setup.policy.probability)
    np.testing.assert_allclose(d_logprobs, expected["d_logprobs"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(kept["d_values"], expected["d_values"], rtol=1e-9, atol=1e-12)


def interpreters():
    """This one if it has TRL, and what RLHFBENCH_TRL_PPO names: one with the last TRL that had PPO."""
    here = sys.executable if find_spec("trl") else None
    return [
        python for python in (here, os.environ.get("RLHFBENCH_TRL_PPO")) if python and Path(python).exists()
    ]


def test_what_is_kept_is_what_trl_computes():
    if not interpreters():
        pytest.skip("no TRL here")
    for python in interpreters():
        script = str(GOLDEN / "trl_online.py")
        done = subprocess.run([python, script], capture_output=True, text=True, check=True)
        made = json.loads(done.stdout)
        assert made["cases"]
        for name, case in made["cases"].items():
            for key in case.keys() - {"trl"}:
                np.testing.assert_allclose(case[key], KEPT["cases"][name][key], rtol=1e-9, atol=1e-12)
