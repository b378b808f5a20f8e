"""PyTorch's side of each case of `benchmarks.transformer_cases`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import transformer_cases as ours
from benchmarks.peers import torch_rollout, torch_transformer
from benchmarks.peers.torch_rollout import Sampler
from benchmarks.peers.torch_transformer import Transformer

Call = Callable[[], Any]


def dpo_step(
    setup: ours.Setup, size: ours.Size, loss_of: Callable[..., Any] = torch_transformer.pairs_loss
) -> Call:
    model = Transformer(setup.policy)
    optimizer = torch_transformer.adamw(model, ours.LEARNING_RATE)
    tensors = [torch.from_numpy(array) for array in ours.padded(size)]
    return lambda: torch_transformer.dpo_step(model, optimizer, *tensors, 0.1, 1.0, loss_of)


def compiled_dpo_step(setup: ours.Setup, size: ours.Size) -> Call:
    """Loss and gradient by `torch.compile`."""
    return dpo_step(setup, size, torch.compile(torch_transformer.pairs_loss, fullgraph=True))


def ppo_update(setup: ours.Setup, size: ours.Size) -> Call:
    models = [Transformer(p) for p in (setup.policy, setup.reference, setup.reward_model.backbone)]
    sampler = Sampler(models[0], size.rows, size.prompt, size.length)
    optimizer = torch_transformer.adamw(models[0], ours.LEARNING_RATE)
    prompts, rng = torch.from_numpy(setup.fixed_prompts), setup.rng
    options = torch_rollout.Options(num_mini_batches=size.minibatches)

    def update() -> list[float]:
        uniforms = torch.from_numpy(rng.random((size.rows, size.length)).astype(np.float32))
        orders = [torch.from_numpy(rng.permutation(size.rows)) for _ in range(size.epochs)]
        losses = torch_rollout.ppo_update(
            sampler, models[1], models[2], optimizer, prompts, uniforms, orders, options
        )
        return [float(loss) for loss in losses]

    return update


def sampling(setup: ours.Setup, size: ours.Size) -> Call:
    sampler = Sampler(Transformer(setup.policy), size.rows, size.prompt, size.length)
    prompts, shape = torch.from_numpy(setup.fixed_prompts), (size.rows, size.length)
    return lambda: sampler.sample(prompts, torch.from_numpy(setup.rng.random(shape).astype(np.float32)))


CASES: dict[str, Callable[[ours.Setup, ours.Size], Call]] = {
    "DPO step": dpo_step,
    "PPO update": ppo_update,
    "sampling": sampling,
}
COMPILED = {"DPO step": compiled_dpo_step}
