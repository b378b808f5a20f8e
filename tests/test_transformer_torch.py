"""The transformer against PyTorch: logits, values, every gradient tensor of a DPO and of a PPO loss, ten steps."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: an installed kernels package goes first

from benchmarks.transformer_cases import Setup
from kernels import categorical, policy_gradient
from rlhfbench.algorithms import dpo
from rlhfbench.optimizer import AdamW
from rlhfbench.pair_training import pair_step
from rlhfbench.policies.transformer import TransformerPolicy
from rlhfbench.rewards.transformer import TransformerRewardModel
from rlhfbench.types import PreferencePairs

P, T, V, BETA = 4, 5, 11, 0.1
# Gradients of the losses below by PyTorch 2.13, for machines without it: norm of each of the policy's tensors.
GOLDEN = {
    "loss": [0.97829, 0.075535515],
    "dpo": [
        0.1177767,
        0.03057536,
        0.001393375,
        0.002059178,
        0.005906847,
        0.03421711,
        0.06201255,
        0.01448728,
        0.01283096,
        0.01447329,
        0.01076251,
        0.06179619,
        0.05740701,
        0.001983911,
        0.002806805,
        0.01844582,
        0.01987947,
        0.05715968,
        0.01383305,
        0.0117826,
        0.01636297,
        0.01307531,
        0.06364735,
        0.05984915,
        0.139191,
        0.1525095,
        0.0,
        0.0,
    ],
    "ppo": [
        0.1420483,
        0.02915414,
        0.002305221,
        0.0007906492,
        0.00306423,
        0.02069889,
        0.03416761,
        0.005055879,
        0.004309041,
        0.004580254,
        0.003266907,
        0.03387033,
        0.03285809,
        0.0009082675,
        0.0004178803,
        0.00518392,
        0.013452,
        0.03283789,
        0.006954327,
        0.00596942,
        0.005553842,
        0.003698306,
        0.03391422,
        0.0339785,
        0.1104337,
        0.1093438,
        0.105387,
        0.09759336,
    ],
}


def make(dtype=np.float32):
    policy = TransformerPolicy(
        6,
        V,
        T,
        prompt_length=P,
        layers=2,
        width=16,
        heads=4,
        eos=10,
        rng=np.random.default_rng(0),
        dtype=dtype,
    )
    n = np.arange(policy.params.size)
    policy.params[:] = 0.3 * np.sin(0.1 + 1.7 * n + 0.01 * n**1.5)
    return policy


def batch(dtype=np.float32):
    """Chosen and rejected of four pairs: prompts of 4, 3, 1 and no tokens, responses of 5 down to 1."""
    b, t = np.mgrid[:8, :T]
    p, j = np.mgrid[:4, :P]
    prompts = np.where(j < np.array([0, 1, 3, 4])[:, None], -1, (p + 2 * j) % 6)
    return np.concatenate([prompts, prompts]), (3 * b + t * t + b * t) % V, (t < 5 - b % 5).astype(dtype)


def losses(policy):
    """(loss, gradient) of DPO and of PPO with its value loss, by the kernels."""
    prompts, responses, mask = batch(policy.params.dtype.type)
    logits = policy.logits(prompts, responses, mask)
    found = []
    logps = (categorical.token_logprobs(logits, responses) * mask).sum(axis=1)
    loss = dpo.preference.dpo(logps[:4], logps[4:], REFERENCE[:4], REFERENCE[4:], BETA)
    d_logprobs = np.concatenate([loss.d_chosen, loss.d_rejected])[:, None] * mask
    policy.backward(categorical.token_logprobs_backward(logits, responses, d_logprobs.astype(mask.dtype)))
    found.append((float(loss.loss), policy.grads.copy()))
    policy.grads[:] = 0
    old, advantages, values, returns = (x.astype(mask.dtype) for x in fixed())
    logprobs = categorical.token_logprobs(logits, responses)
    clip = policy_gradient.ppo_clip(logprobs, old, advantages, mask, 0.2)
    value = policy_gradient.value_clip(policy.values(prompts, responses, mask), values, returns, mask, 0.2)
    policy.backward(
        categorical.token_logprobs_backward(logits, responses, clip.d_logprobs), 0.1 * value.d_values
    )
    found.append((float(clip.loss + 0.1 * value.loss), policy.grads.copy()))
    return found


REFERENCE = -np.arange(8, dtype=np.float32)


def fixed():
    """Old log-probabilities, advantages, old values and returns."""
    b, t = np.mgrid[:8, :T]
    return -2.4 + 0.3 * np.sin(b + 3 * t), np.cos(2 * b + t), 0.1 * np.sin(b * t), np.cos(b - t)


def norms(policy, flat):
    return [float(np.linalg.norm(x)) for x in flatten(views_of(policy, flat))]


def views_of(policy, flat):
    from rlhfbench.policies._weights import views

    return views(flat.astype(np.float64), policy.sizes)


def flatten(weights):
    inner = [tensor for layer in weights.layers for tensor in layer]
    return [weights.table, weights.places, *inner, *weights[-4:]]


def torch_losses(policy, model, peer, torch):
    F = torch.nn.functional
    dtype = policy.params.dtype.type
    prompts, responses, mask = (torch.from_numpy(a) for a in batch(dtype))
    hidden = model.hidden(prompts, responses, peer.seen(prompts, T))
    logprobs = peer.token_logprobs(model.logits(hidden), responses)
    yield peer.dpo_loss(logprobs, mask, torch.from_numpy(REFERENCE.astype(dtype)), BETA)
    old, advantages, old_values, returns = (torch.from_numpy(x.astype(dtype)) for x in fixed())
    ratio = torch.exp(logprobs - old)
    clipped = ratio.clamp(0.8, 1.2)
    policy_loss = (torch.maximum(-advantages * ratio, -advantages * clipped) * mask).sum() / mask.sum()
    values = model.values(hidden)
    near = old_values + (values - old_values).clamp(-0.2, 0.2)
    worst = torch.maximum(F.mse_loss(values, returns, reduction="none"), (near - returns) ** 2)
    yield policy_loss + 0.1 * 0.5 * (worst * mask).sum() / mask.sum()


def torch_gradients(model):
    """As the policy has them."""
    named = [model.table, model.places]
    named += [p for layer in model.layers for p in layer.parameters()]
    named += [model.gain, model.shift, model.value, model.value_bias]
    grads = [np.zeros(p.shape) if p.grad is None else p.grad.numpy() for p in named]
    inner = {id(p) for layer in model.layers for p in layer.parameters()}
    return [g.T if id(p) in inner and g.ndim == 2 else g for p, g in zip(named, grads, strict=True)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_and_every_gradient_equal_pytorch(dtype):
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_transformer as peer

    policy = make(dtype)
    model = peer.Transformer(policy)
    tolerance = 1e-4 if dtype is np.float32 else 1e-9
    prompts, responses, mask = batch(dtype)
    hidden = model.hidden(
        *map(torch.from_numpy, (prompts, responses)), peer.seen(torch.from_numpy(prompts), T)
    )
    for got, want in (
        (policy.logits(prompts, responses, mask), model.logits(hidden).detach().numpy() * mask[..., None]),
        (policy.values(prompts, responses, mask), model.values(hidden).detach().numpy() * mask),
    ):
        np.testing.assert_allclose(got, want, atol=tolerance)
    mine = losses(policy)
    for (loss, grads), other in zip(mine, torch_losses(policy, model, peer, torch), strict=True):
        model.zero_grad()
        other.backward(retain_graph=True)
        assert loss == pytest.approx(float(other.detach()), rel=tolerance)
        theirs = torch_gradients(model)
        for i, (a, b) in enumerate(zip(flatten(views_of(policy, grads)), theirs, strict=True)):
            assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), i


def test_ten_steps_of_dpo_follow_pytorch():
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_transformer as peer

    policy = make()
    model = peer.Transformer(policy)
    prompts, responses, mask = batch()
    prompts[prompts < 0] = 0
    pairs = PreferencePairs(prompts[:4], responses[:4], mask[:4], responses[4:], mask[4:])
    mine, theirs = AdamW(policy.params, policy.grads, 1e-3, max_grad_norm=1.0), peer.adamw(model, 1e-3)
    setup = Setup(policy, policy, TransformerRewardModel(policy), np.random.default_rng(0), prompts)
    config, trace = dpo.DPOConfig(beta=BETA), []
    loss_of = partial(dpo.losses, setup, config)
    tensors = [torch.from_numpy(a) for a in (prompts, responses, mask, REFERENCE)]
    for _ in range(10):
        step = pair_step(setup, config, mine, loss_of, pairs, np.arange(4), REFERENCE[:4], REFERENCE[4:])
        trace.append((step["loss"], float(peer.dpo_step(model, theirs, *tensors, BETA, 1.0))))
    got, want = np.array(trace).T
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert got[-1] < got[0]


def test_golden_values_for_machines_without_pytorch():
    policy = make(np.float64)
    found = losses(policy)
    np.testing.assert_allclose([loss for loss, _ in found], GOLDEN["loss"], rtol=1e-6)
    for name, (_, grads) in zip(("dpo", "ppo"), found, strict=True):
        np.testing.assert_allclose(norms(policy, grads), GOLDEN[name], rtol=1e-6, atol=1e-9)
