"""The transformer's peers compute the same as the policy: what they sample, a PPO update, a DPO step; TRL's run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: an installed kernels package goes first

from benchmarks import transformer_cases as cases
from benchmarks import transformer_job

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


@pytest.mark.parametrize("case", ["dpo", "grpo", "generate", "ppo"])
def test_trl_answers(case):
    size = json.dumps(SMALL._replace(rows=8)._asdict())
    python = interpreter("trl.experimental.ppo" if case == "ppo" else "trl")
    about, seconds, peak = answers([python, "-I", PEERS / "trl_cases.py", case, size], "time", "peak")
    assert "trl" in about["about"]
    assert seconds["seconds"] > 0
    assert "peak" in peak


def test_trl_does_the_same_job(tmp_path):
    python = interpreter("trl.experimental.ppo")
    job = transformer_job.the_job("sentences-small:pairs=64,demos=64", 16)
    job["points"] = 3
    for part in job["parts"].values():
        part.update(updates=4, rows=16)
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    _, told = answers([python, "-I", PEERS / "trl_job.py", "0", file], "seed")
    found = told["found"]
    assert found["seconds"].keys() == {*job["parts"], "evaluation"}
    assert min(found["seconds"].values()) > 0
    for curve in found["curves"].values():  # reward, KL, entropy
        assert np.shape(curve) == (3, 3)
        assert curve[0][1] == 0 < curve[-1][1]


PEERS = Path(cases.__file__).parent / "peers"


def interpreter(module):
    """This one, or what RLHFBENCH_TRL_PPO names: one with the last TRL that had PPO."""
    with suppress(ModuleNotFoundError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's, of what is experimental
        if find_spec(module) is not None:
            return sys.executable
    other = os.environ.get("RLHFBENCH_TRL_PPO", "")
    if module == "trl" or not Path(other).is_file():
        pytest.skip(f"no interpreter that has {module}")
    return other


def answers(command, *asked):
    """What a script says of itself, then to each line that it is asked."""
    lines = "".join(f"{line}\n" for line in asked)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
