"""What the transformer's benchmarks run: sizes, inputs, and our own side of each case.

Prompts are all different and responses have full length, so that no side computes on padding and nobody else's prompts
are shared; the two responses of a pair do share theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from kernels import flops
from rlhfbench import ppo_step
from rlhfbench.algorithms import dpo
from rlhfbench.optimizer import AdamW
from rlhfbench.pair_training import pair_step
from rlhfbench.policies._buffers import scratch
from rlhfbench.policies.transformer import TransformerPolicy
from rlhfbench.rewards.transformer import TransformerRewardModel
from rlhfbench.rollouts import collect
from rlhfbench.room import Room
from rlhfbench.types import Float, Int, PreferencePairs

Call = Callable[[], Any]
LEARNING_RATE = 1e-4


class Size(NamedTuple):
    """`rows` pairs or episodes; `prompt` and `length` tokens."""

    width: int = 64
    vocab: int = 256
    rows: int = 64
    prompt: int = 8
    length: int = 16
    layers: int = 2
    heads: int = 4
    epochs: int = 4
    minibatches: int = 1


SIZES = {"width 64": Size(), "width 32": Size(width=32, vocab=64)}


@dataclass
class Setup:
    """What `pair_step`, `rollouts.collect` and `ppo_step.epochs` ask for; `done` is the work of each kind."""

    policy: TransformerPolicy
    reference: TransformerPolicy
    reward_model: TransformerRewardModel
    rng: np.random.Generator
    fixed_prompts: Int

    def __post_init__(self) -> None:
        self.done: dict[str, flops.Work] = {}
        self.room = Room()
        self.policy.charge, self.reference.charge = self._account(""), self._account("reference ")
        self.reward_model.charge = lambda work, sequences: self.add("reward model", work)

    def _account(self, name: str) -> Callable[[str, flops.Work, int], None]:
        def charge(kind: str, work: flops.Work, tokens: int) -> None:
            self.add(name + kind, work)

        return charge

    def add(self, kind: str, work: flops.Work) -> None:
        self.done[kind] = self.done.get(kind, flops.Work(0, 0)) + work

    def held(self) -> int:
        """Bytes of the workspaces, which stay for the next call."""
        own = self.policy, self.reference, self.reward_model.backbone
        return sum(policy.nbytes for policy in own) + scratch(self.policy.params.dtype).nbytes

    def optimizer(self, learning_rate: float, **options: float) -> AdamW:
        policy = self.policy

        def charge(work: flops.Work) -> None:
            self.add("optimizer", work)

        return AdamW(policy.params, policy.grads, learning_rate, charge=charge, **options)

    def prompts(self, n: int) -> Int:
        return self.fixed_prompts[:n]

    def progress(self) -> float:
        return 0.0

    def charge(self, kernel: str, *shape: int) -> None:
        self.add("losses", flops.work(kernel, *shape))


def make_policy(size: Size, seed: int = 0, more: int = 0) -> TransformerPolicy:
    """With room for so many tokens more: a reward model reads the state after the last one."""
    return TransformerPolicy(
        size.vocab,
        size.vocab,
        size.length + more,
        prompt_length=size.prompt,
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        shared=True,
        rng=np.random.default_rng(seed),
    )


def make_setup(size: Size) -> Setup:
    """A policy, its frozen copy, and a reward model of other weights."""
    policy, scorer = make_policy(size), make_policy(size, 1, more=1)
    scorer._w.value[...] = np.random.default_rng(2).normal(scale=size.width**-0.5, size=size.width)
    rng = np.random.default_rng(3)
    prompts = rng.integers(size.vocab, size=(size.rows, size.prompt))
    return Setup(policy, policy.clone(), TransformerRewardModel(scorer), rng, prompts)


def make_pairs(size: Size) -> PreferencePairs:
    draw = np.random.default_rng(4).integers
    mask = np.ones((size.rows, size.length), np.float32)
    chosen, rejected = draw(size.vocab, size=(2, size.rows, size.length))
    return PreferencePairs(draw(size.vocab, size=(size.rows, size.prompt)), chosen, mask, rejected, mask)


def padded(size: Size) -> tuple[Int, Int, Float, Float]:
    """The same pairs as one batch, chosen first: prompts, responses, mask, and what the reference says, 0."""
    pairs = make_pairs(size)
    return (
        np.concatenate([pairs.prompts, pairs.prompts]),
        np.concatenate([pairs.chosen, pairs.rejected]),
        np.concatenate([pairs.chosen_mask, pairs.rejected_mask]),
        np.zeros(2 * size.rows, np.float32),
    )


def ppo_config(size: Size) -> ppo_step.PPOConfig:
    return replace(
        ppo_step.PPOConfig(),
        batch_size=size.rows,
        num_mini_batches=size.minibatches,
        num_ppo_epochs=size.epochs,
        learning_rate=LEARNING_RATE,
        beta=0.05,
    )


def dpo_step(setup: Setup, size: Size) -> Call:
    """One step on the same pairs; the reference's log-probabilities are known, as they are after the first epoch."""
    optimizer = setup.optimizer(LEARNING_RATE, max_grad_norm=1.0)
    reference, pairs, index = np.zeros(size.rows, np.float32), make_pairs(size), np.arange(size.rows)
    config = dpo.DPOConfig()
    loss_of = partial(dpo.losses, setup, config)
    return lambda: pair_step(setup, config, optimizer, loss_of, pairs, index, reference, reference)


def ppo_update(setup: Setup, size: Size) -> Call:
    """A rollout and all its epochs."""
    config = ppo_config(size)
    optimizer = setup.optimizer(LEARNING_RATE, max_grad_norm=config.max_grad_norm)

    def update() -> list[float]:
        episodes = collect(setup, setup.prompts(config.batch_size), lasting=False)
        targets = ppo_step.advantages_and_returns(setup, config, episodes, config.beta)
        episodes = episodes.without_reference()
        steps = ppo_step.epochs(setup, config, optimizer, config.beta, episodes, targets)
        return [step["loss/policy_avg"] + config.vf_coef * step["loss/value_avg"] for step in steps]

    return update


def sampling(setup: Setup, size: Size) -> Call:
    """Responses to all prompts; each call draws others."""
    return lambda: setup.policy.sample(setup.fixed_prompts, setup.rng.random((size.rows, size.length)))


CASES: dict[str, Callable[[Setup, Size], Call]] = {
    "DPO step": dpo_step,
    "PPO update": ppo_update,
    "sampling": sampling,
}
