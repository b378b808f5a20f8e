"""SFT's, PPO's and GRPO's loss of logits."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import from_logits, policy_gradient
from .._check import Array, like
from .._from_logits import weighted_sum_jit
from .._tokens import Tokens
from . import _tensors
from ._autograd import KnownGradient, eager
from ._per_token import logprobs_of
from ._tensors import constant, needs_gradient, numbers


class SFTLoss(NamedTuple):
    """The loss, and the tokens' log-probabilities (...), without gradient."""

    loss: Tensor
    logprobs: Tensor


class PPOLoss(NamedTuple):
    """The loss; without gradient, what `from_logits.PPOFromLogits` has beside it."""

    loss: Tensor
    clipfrac: Tensor
    approxkl: Tensor
    logprobs: Tensor


class GRPOLoss(NamedTuple):
    """The loss; without gradient, what `from_logits.GRPOFromLogits` has beside it."""

    loss: Tensor
    clipfrac: Tensor
    kl: Tensor
    logprobs: Tensor


def _loss(logits: Tensor, tokens: Any, mask: Any, reading: Any, fused: Any, plain: Any) -> tuple[Tensor, ...]:
    """The loss, what is shown beside it, and the log-probabilities, as tensors.

    Where a gradient is asked for, `fused` of the logits gives all of it, and the gradient stands behind the loss;
    elsewhere `plain` of the tokens and their log-probabilities gives the numbers alone.
    """
    if not needs_gradient(logits):
        read, lp = logprobs_of(logits, tokens, mask, **reading)
        return *numbers(lp.dtype, *plain(read, lp)), torch.from_numpy(lp)
    d_logits = _tensors.empty_like(logits)
    how = {**reading, "threads": _tensors.share(reading["threads"], logits), "out": _tensors.memory(d_logits)}
    loss, _, *shown, lp = fused(_tensors.logits_of("logits", logits), tokens, mask=mask, **how)
    leading: Tensor = KnownGradient.apply(loss, lp.dtype, (d_logits,), logits)
    return leading, *numbers(lp.dtype, *shown), torch.from_numpy(lp)


@eager
def sft_loss(
    logits: Tensor,
    tokens: Any,
    mask: Any = None,
    *,
    ignore_index: int = -100,
    temperature: float = 1.0,
    threads: int | None = None,
) -> SFTLoss:
    """Cross-entropy of supervised fine-tuning, `from_logits.sft_from_logits`: a mean over the tokens that count.

    Parameters
    ----------
    logits : Tensor, (..., V)
    tokens : Tensor of integers, (...)
    mask : Tensor, (...), optional
    ignore_index, temperature, threads
        As of `token_logprobs`.

    Returns
    -------
    SFTLoss

    Examples
    --------
    >>> logits = torch.zeros(2, 2, requires_grad=True)
    >>> sft_loss(logits, torch.tensor([1, -100])).loss.backward()
    >>> logits.grad
    tensor([[ 0.5000, -0.5000],
            [ 0.0000,  0.0000]])
    """
    t, m = constant("tokens", tokens), constant("mask", mask)
    reading = {"ignore_index": ignore_index, "temperature": temperature, "threads": threads}

    def plain(read: Tokens, lp: Array) -> tuple[float]:
        return (-1.0 / read.total * weighted_sum_jit(lp.reshape(-1), read.weights.reshape(-1)),)

    return SFTLoss._make(_loss(logits, t, m, reading, from_logits.sft_from_logits, plain))


@eager
def ppo_loss(
    logits: Tensor,
    tokens: Any,
    old_logprobs: Any,
    advantages: Any,
    mask: Any,
    cliprange: float,
    *,
    ignore_index: int = -100,
    temperature: float = 1.0,
    threads: int | None = None,
) -> PPOLoss:
    """PPO's clipped loss, `from_logits.ppo_from_logits`.

    Parameters
    ----------
    logits : Tensor, (..., V)
    tokens : Tensor of integers, (...)
    old_logprobs, advantages : Tensor, (...)
    mask : Tensor, (...), or None
    cliprange : float, at least 0
    ignore_index, temperature, threads
        As of `token_logprobs`.

    Returns
    -------
    PPOLoss

    Examples
    --------
    >>> logits = torch.zeros(1, 2, requires_grad=True)
    >>> old = torch.tensor([0.5]).log()
    >>> ppo_loss(logits, [1], old, [2.0], None, 0.2).loss
    tensor(-2., grad_fn=<KnownGradientBackward>)
    """
    names = ("tokens", "old_logprobs", "advantages", "mask")
    t, old, each, m = map(constant, names, (tokens, old_logprobs, advantages, mask))
    reading = {"ignore_index": ignore_index, "temperature": temperature, "threads": threads}
    fused = partial(from_logits.ppo_from_logits, old_logprobs=old, advantages=each, cliprange=cliprange)

    def plain(read: Tokens, lp: Array) -> list[float]:
        columns = read.column("old_logprobs", old), read.column("advantages", each)
        loss, _, *shown = policy_gradient.ppo_clip(lp, *columns, read.weights, cliprange)
        return [loss, *shown]

    return PPOLoss._make(_loss(logits, t, m, reading, fused, plain))


@eager
def grpo_loss(
    logits: Tensor,
    tokens: Any,
    old_logprobs: Any,
    advantages: Any,
    mask: Any,
    cliprange: float,
    *,
    cliprange_high: float | None = None,
    beta: float = 0.0,
    ref_logprobs: Any = None,
    loss_type: str = "grpo",
    ignore_index: int = -100,
    temperature: float = 1.0,
    threads: int | None = None,
) -> GRPOLoss:
    """GRPO's loss, `from_logits.grpo_from_logits`.

    Parameters
    ----------
    logits : Tensor, (..., T, V)
    tokens : Tensor of integers, (..., T)
    old_logprobs : Tensor, (..., T)
    advantages : Tensor, (...)
    mask : Tensor, (..., T), or None
    cliprange, cliprange_high, beta, ref_logprobs, loss_type
        As of `policy_gradient.grpo`.
    ignore_index, temperature, threads
        As of `token_logprobs`.

    Returns
    -------
    GRPOLoss

    Examples
    --------
    >>> logits = torch.zeros(1, 1, 2, requires_grad=True)
    >>> old = torch.tensor([[0.5]]).log()
    >>> grpo_loss(logits, [[1]], old, [2.0], None, 0.2).loss
    tensor(-2., grad_fn=<KnownGradientBackward>)
    """
    names = ("tokens", "old_logprobs", "advantages", "mask", "ref_logprobs")
    values = (tokens, old_logprobs, advantages, mask, ref_logprobs)
    t, old, each, m, ref = map(constant, names, values)
    reading = {"ignore_index": ignore_index, "temperature": temperature, "threads": threads}
    objective: Any = {
        "cliprange": cliprange,
        "cliprange_high": cliprange_high,
        "beta": beta,
        "loss_type": loss_type,
    }
    fused = partial(
        from_logits.grpo_from_logits, old_logprobs=old, advantages=each, ref_logprobs=ref, **objective
    )

    def plain(read: Tokens, lp: Array) -> list[float]:
        columns = read.column("old_logprobs", old), like("advantages", each, lp.dtype)
        reference = None if ref is None else read.column("ref_logprobs", ref)
        result = policy_gradient.grpo(lp, *columns, read.weights, ref_logprobs=reference, **objective)
        return [result.loss, result.clipfrac, result.kl]

    return GRPOLoss._make(_loss(logits, t, m, reading, fused, plain))
