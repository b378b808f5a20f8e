"""The transformer's peers compute the same as the policy: what they sample, a PPO update, a DPO step; TRL's run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: an installed kernels package goes first

from benchmarks import transformer_cases as cases

SMALL = cases.Size(width=16, vocab=11, rows=6, prompt=4, length=5, epochs=2, minibatches=2)


def both():
    """Two setups of the same weights and random numbers; weights large enough for replies to depend on them."""
    setups = [cases.make_setup(SMALL) for _ in range(2)]
    for setup in setups:
        for policy in (setup.policy, setup.reference, setup.reward_model.backbone):
            n = np.arange(policy.params.size)
            policy.params[:] = 0.3 * np.sin(0.1 + 1.7 * n + 0.01 * n**1.5)
        setup.reference.params[:] *= 0.9
    return setups


@pytest.fixture
def torch_cases():
    pytest.importorskip("torch")
    from benchmarks.peers import torch_cases

    return torch_cases.CASES


def test_pytorch_draws_the_same_tokens(torch_cases):
    ours, theirs = both()
    mine, others = cases.sampling(ours, SMALL), torch_cases["sampling"](theirs, SMALL)
    for _ in range(3):
        rollout, (tokens, logprobs) = mine(), others()
        np.testing.assert_array_equal(rollout.responses, tokens.numpy())
        np.testing.assert_allclose(rollout.logprobs, logprobs.numpy(), rtol=1e-4, atol=1e-5)
    assert len(np.unique(rollout.responses)) > 3


def test_updates_of_ppo_follow_pytorch(torch_cases):
    ours, theirs = both()
    mine, others = cases.ppo_update(ours, SMALL), torch_cases["PPO update"](theirs, SMALL)
    trace = [(mine(), others()) for _ in range(3)]
    got, want = np.array(trace).transpose(1, 0, 2)
    assert got.shape == (3, SMALL.epochs * SMALL.minibatches)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_steps_of_dpo_follow(library):
    pytest.importorskip(library)
    if library == "jax":
        from benchmarks.peers import jax_cases as peer
    else:
        from benchmarks.peers import torch_cases as peer
    ours, theirs = both()
    mine, others = cases.dpo_step(ours, SMALL), peer.CASES["DPO step"](theirs, SMALL)
    trace = [(mine()["loss"], float(others())) for _ in range(10)]
    np.testing.assert_allclose(*np.array(trace).T, rtol=1e-4)


@pytest.mark.parametrize("case", ["sft", "reward", "dpo", "grpo", "generate", "ppo"])
def test_trl_answers(case):
    pytest.importorskip("trl")
    if case == "ppo":
        pytest.importorskip("trl.experimental.ppo", reason="the last TRL that had PPO is 1.9")
    script = Path(cases.__file__).parent / "peers" / "trl_cases.py"
    size = json.dumps(SMALL._replace(rows=8)._asdict())
    done = subprocess.run(
        [sys.executable, "-I", script, case, size],
        input="time\npeak\n",
        capture_output=True,
        text=True,
        check=True,
    )
    about, seconds, peak = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert "trl" in about["about"]
    assert seconds["seconds"] > 0
    assert "peak" in peak
