"""JAX's side of the cases of `benchmarks.transformer_cases`: the DPO step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import transformer_cases as ours
from benchmarks.peers import jax_transformer


def dpo_step(setup: ours.Setup, size: ours.Size) -> Callable[[], Any]:
    prompts, responses, mask, reference = ours.padded(size)
    return jax_transformer.dpo_step(
        setup.policy, prompts, responses, mask, reference, 0.1, ours.LEARNING_RATE
    )


CASES: dict[str, Callable[[ours.Setup, ours.Size], Callable[[], Any]]] = {"DPO step": dpo_step}
