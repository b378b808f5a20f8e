"""What the methods that learn from preference pairs share: the loop over epochs, one optimiser step, the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from kernels import categorical

from .metrics import accuracy, mean
from .options import require
from .schedules import Schedule, scheduled
from .types import Float, Int, Metrics, Optimizer, PreferencePairs, Setup

CHUNK = 512
"""Replies that the reference reads at a time: its workspace stays small however many come."""


class PairLoss(NamedTuple):
    """Mean loss of a batch, its gradient with respect to summed log-probabilities, and the rewards that are shown."""

    loss: float
    d_chosen: Float
    d_rejected: Float
    chosen_rewards: Float
    rejected_rewards: Float


LossOf = Callable[..., PairLoss]
"""From log-probabilities (n,) of chosen and rejected responses, and what else there is of each pair."""


class PairConfig(Protocol):
    """The hyper-parameters of training on pairs, which each method has."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def lr_scheduler_type(self) -> Schedule: ...
    @property
    def warmup_ratio(self) -> float: ...
    @property
    def beta(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...


def check_training(config: PairConfig) -> None:
    """Raise an `InputError` that names the first hyper-parameter out of range."""
    require(0 <= config.warmup_ratio < 1, "warmup_ratio", config.warmup_ratio, "at least 0 and below 1")
    require(config.epochs >= 1, "epochs", config.epochs, "at least 1")
    require(config.batch_size >= 1, "batch_size", config.batch_size, "at least 1")
    require(config.learning_rate > 0, "learning_rate", config.learning_rate, "above 0")
    require(config.beta > 0, "beta", config.beta, "above 0")
    require(config.max_grad_norm >= 0, "max_grad_norm", config.max_grad_norm, "at least 0")


def reference_logps(setup: Setup, pairs: PreferencePairs) -> tuple[Float, Float]:
    """(N,) summed log-probabilities of chosen and rejected responses under the reference.

    It never changes, so they are computed once and paid for once.
    """
    return (
        _reference_logps(setup, pairs.prompts, pairs.chosen, pairs.chosen_mask),
        _reference_logps(setup, pairs.prompts, pairs.rejected, pairs.rejected_mask),
    )


def _reference_logps(setup: Setup, prompts: Int, responses: Int, mask: Float) -> Float:
    """(N,) those of one reply to each prompt."""
    out = np.empty(len(responses), setup.reference.params.dtype)
    for begin in range(0, len(out), CHUNK):
        some = slice(begin, begin + CHUNK)
        setup.reference.logprobs(prompts[some], responses[some], mask[some]).sum(axis=1, out=out[some])
    setup.charge("sum", *responses.shape)
    return out


def response_lengths(setup: Setup, pairs: PreferencePairs) -> tuple[Float, Float]:
    """(N,) tokens of chosen and rejected responses."""
    setup.charge("sum", *pairs.chosen_mask.shape)
    setup.charge("sum", *pairs.rejected_mask.shape)
    return np.asarray(pairs.chosen_mask.sum(axis=1)), np.asarray(pairs.rejected_mask.sum(axis=1))


def train(setup: Setup, config: PairConfig, loss_of: LossOf, *columns: Float) -> Iterator[Metrics]:
    """One optimiser step a batch; `columns` (N,) hold what the loss takes of each pair beside log-probabilities."""
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    for index in batches(setup, config):
        given = [column[index] for column in columns]
        yield pair_step(setup, config, optimizer, loss_of, setup.preferences, index, *given)


def batches(setup: Setup, config: PairConfig) -> Iterator[Int]:
    """Indices of the pairs of each update; every epoch has an order of its own."""
    pairs = len(setup.preferences)
    each = -(-pairs // config.batch_size)
    order = np.arange(pairs)
    for step in setup.steps(config.epochs * each):
        if step % each == 0:
            order = setup.rng.permutation(pairs)
        yield order[step % each * config.batch_size :][: config.batch_size]


def pair_step(
    setup: Setup,
    config: PairConfig,
    optimizer: Optimizer,
    loss_of: LossOf,
    pairs: PreferencePairs,
    index: Int,
    *given: Float | float,
) -> Metrics:
    """One optimiser step on the pairs at `index`; `given` is what else there is of each of those."""
    logps, loss = accumulate(setup, loss_of, pairs, index, *given)
    optimizer.step(scheduled(config.lr_scheduler_type, setup.progress(), config.warmup_ratio, floor=0.1))
    chosen, rejected = mean(loss.chosen_rewards), mean(loss.rejected_rewards)
    return {
        "loss": float(loss.loss),
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": accuracy(loss.chosen_rewards, loss.rejected_rewards),
        "logps/chosen": mean(logps[: len(index)]),
        "logps/rejected": mean(logps[len(index) :]),
    }


def accumulate(
    setup: Setup, loss_of: LossOf, pairs: PreferencePairs, index: Int, *given: Float | float
) -> tuple[Float, PairLoss]:
    """Add to the gradients; give log-probabilities (2 n,), first the chosen ones', and the loss.

    Chosen and rejected share one forward pass.
    """
    n, room = len(index), setup.room
    prompts = room.take_both("pair prompts", pairs.prompts, pairs.prompts, index)
    responses = room.take_both("pair responses", pairs.chosen, pairs.rejected, index)
    mask = room.take_both("pair mask", pairs.chosen_mask, pairs.rejected_mask, index)
    logits = setup.policy.logits(prompts, responses, mask)
    logprobs = room("pair logprobs", mask.shape, logits.dtype)
    categorical.token_logprobs(logits, responses, out=logprobs)
    logprobs *= mask
    logps = logprobs.sum(axis=1)
    loss = loss_of(logps[:n], logps[n:], *given)
    d_logprobs = logprobs  # has served, and is of the right shape
    d_logprobs[:n], d_logprobs[n:] = loss.d_chosen[:, None], loss.d_rejected[:, None]
    d_logprobs *= mask
    d_logits = categorical.token_logprobs_backward(logits, responses, d_logprobs, out=logits)
    setup.charge("token_logprobs", *logits.shape)
    setup.charge("elementwise", 2 * mask.size)
    setup.charge("sum", *mask.shape)
    setup.charge("token_logprobs_backward", *logits.shape)
    setup.policy.backward(d_logits)
    return logps, loss
