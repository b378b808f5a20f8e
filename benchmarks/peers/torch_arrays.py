"""PyTorch on arrays of one entry a token or a parameter, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.peers import Idiom

Call = Callable[[], Any]


def tensors_of(arguments: tuple[Any, ...]) -> list[Any]:
    return [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments]


def gae(rewards: Any, values: Any, mask: Any, gamma: float, lam: float) -> Call:
    """As in TRL: a loop over tokens, vectorised over the batch."""
    r, v, m = tensors_of((rewards, values, mask))

    @torch.inference_mode()
    def call() -> Any:
        masked, T = v * m, r.shape[1]
        last, reverse = torch.zeros(len(r)), []
        for t in reversed(range(T)):
            following = masked[:, t + 1] if t < T - 1 else 0.0
            delta = r[:, t] + gamma * following - v[:, t]
            last = (delta + gamma * lam * last) * m[:, t]
            reverse.append(last)
        advantages = torch.stack(reverse[::-1], dim=1)
        return advantages, advantages + masked

    return call


def whiten(x: Any, mask: Any) -> Call:
    values, m = tensors_of((x, mask))

    @torch.inference_mode()
    def call() -> Any:
        count = m.sum()
        shifted = (values - (values * m).sum() / count) * m
        return shifted * torch.rsqrt((shifted**2).sum() / count + 1e-8)

    return call


def adamw(params: Any, grads: Any, m: Any, v: Any, step: int, rate: float) -> Call:
    """The kernel under `AdamW(fused=True)`, without the optimiser's Python."""
    p, first, second = (torch.from_numpy(a.copy()) for a in (params, m, v))
    g, steps = torch.from_numpy(grads), torch.tensor(float(step))
    options: dict[str, Any] = {"lr": rate, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8}
    fused = partial(torch._fused_adamw_, amsgrad=False, maximize=False, **options)

    @torch.inference_mode()
    def call() -> Any:
        fused([p], [g], [first], [second], [], [steps])
        return p, first, second

    return call


ARRAYS: dict[str, dict[str, Idiom]] = {
    "gae": {"torch": gae},
    "whiten": {"torch": whiten},
    "adamw": {"torch fused": adamw},
}
