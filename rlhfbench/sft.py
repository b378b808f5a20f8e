"""An untrained policy that fits a task, and its supervised fine-tuning, which gives the reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np

from kernels import categorical, flops

from .compute import ComputeMeter
from .optimizer import AdamW
from .policies.linear import LinearPolicy
from .policies.tabular import TabularPolicy
from .policies.transformer import TransformerPolicy
from .policy_choice import PolicyChoice, TransformerSizes, choose_policy
from .schedules import Schedule, scheduled
from .types import Demonstrations, Policy, Task

Model: TypeAlias = LinearPolicy | TransformerPolicy
POLICIES: dict[str, type[Model]] = {
    "linear": LinearPolicy,
    "tabular": TabularPolicy,
    "transformer": TransformerPolicy,
}


@dataclass(frozen=True)
class FineTuning:
    """How demonstrations are learnt: AdamW at `learning_rate`, which warms up and falls to 0.

    Few demonstrations are passed more often than `epochs` times, until `fewest_steps` have been made.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.0
    fewest_steps: int = 0

    def passes(self, batches: int) -> int:
        """Epochs of so many batches."""
        return max(self.epochs, -(-self.fewest_steps // batches))


LOG_LINEAR = FineTuning(epochs=6, batch_size=64, learning_rate=0.05)
SFT = {
    "linear": LOG_LINEAR,
    "tabular": LOG_LINEAR,
    "transformer": FineTuning(3, 16, 4e-3, "cosine", warmup_ratio=0.1, fewest_steps=480),
}
"""By policy; chosen on demonstrations put aside, of the default world and of real pairs."""


def make_policy(policy: str, task: Task, rng: np.random.Generator | None = None) -> Model:
    """An untrained policy that fits `task`.

    Parameters
    ----------
    policy : str
        ``name[:field=value,...]``.
    task : Task
    rng : numpy.random.Generator, optional
        Draws initial weights where not all begin at 0; without it they are to be filled.
    """
    choice: PolicyChoice = choose_policy(policy)
    sizes = len(task.prompt_vocab), len(task.vocab), task.max_length
    if isinstance(choice.options, TransformerSizes):
        return TransformerPolicy(
            *sizes,
            prompt_length=task.prompts(1, np.random.default_rng(0)).shape[1],
            **asdict(choice.options),
            shared=task.prompt_vocab == task.vocab,
            eos=task.eos,
            never=task.unknown,
            rng=rng,
        )
    kind = TabularPolicy if choice.name == "tabular" else LinearPolicy
    return kind(*sizes, eos=task.eos, never=task.unknown)


def fine_tune(
    policy: Policy,
    demos: Demonstrations,
    rng: np.random.Generator,
    meter: ComputeMeter,
    settings: FineTuning = LOG_LINEAR,
) -> None:
    """Supervised fine-tuning: minimise the mean negative log-likelihood of the demonstrated tokens."""
    optimizer = AdamW(
        policy.params, policy.grads, settings.learning_rate, charge=lambda work: meter.add("sft", work)
    )
    batches = -(-len(demos) // settings.batch_size)
    epochs = settings.passes(batches)
    steps = epochs * batches
    for epoch in range(epochs):
        order = rng.permutation(len(demos))
        for batch in range(batches):
            part = demos.take(order[batch * settings.batch_size :][: settings.batch_size])
            logits = policy.logits(part.prompts, part.responses, part.mask)
            d_logprobs = np.divide(-part.mask, part.mask.sum())
            policy.backward(
                categorical.token_logprobs_backward(logits, part.responses, d_logprobs, out=logits)
            )
            meter.add("sft", flops.work("token_logprobs_backward", *logits.shape))
            meter.add("sft", flops.work("elementwise", 3 * part.mask.size - 1))
            done = (epoch * batches + batch) / steps
            optimizer.step(scheduled(settings.lr_scheduler_type, done, settings.warmup_ratio))
