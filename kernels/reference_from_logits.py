"""Readable float64 twins of `kernels.from_logits`, made of the other twins."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import reference
from .from_logits import DPOFromLogits, GRPOFromLogits, PPOFromLogits, SFTFromLogits


def _weigh(
    logits: Any, tokens: Any, mask: Any, ignore_index: int, temperature: float
) -> tuple[Any, Any, Any]:
    """Logits over temperature, 0 where nothing counts; tokens, 0 there too; and the weights."""
    t = np.asarray(tokens)
    weights = (np.ones(t.shape) if mask is None else np.asarray(mask, np.float64)) * (t != ignore_index)
    x = np.where(weights[..., None] > 0, np.asarray(logits, np.float64), 0.0) / temperature
    return x, np.where(weights > 0, t, 0), weights


def _logprobs(x: Any, tokens: Any, weights: Any) -> Any:
    return np.where(weights > 0, reference.token_logprobs(x, tokens), 0.0)


def _into(out: Any, result: Any) -> Any:
    if out is None:
        return result
    out[...] = result
    return out


def sft_from_logits(
    logits: Any,
    tokens: Any,
    mask: Any = None,
    *,
    ignore_index: int = -100,
    temperature: float = 1.0,
    out: Any = None,
    threads: int = 1,
) -> SFTFromLogits:
    """-mean log p(token)."""
    x, t, w = _weigh(logits, tokens, mask, ignore_index, temperature)
    lp, count = _logprobs(x, t, w), np.sum(w) or 1.0
    d = reference.token_logprobs_backward(x, t, -w / count) / temperature
    return SFTFromLogits(float(-np.sum(w * lp) / count), _into(out, d), lp)


def ppo_from_logits(
    logits: Any,
    tokens: Any,
    old_logprobs: Any,
    advantages: Any,
    mask: Any,
    cliprange: float,
    *,
    ignore_index: int = -100,
    temperature: float = 1.0,
    out: Any = None,
    threads: int = 1,
) -> PPOFromLogits:
    """`ppo_clip` of log p(token)."""
    x, t, w = _weigh(logits, tokens, mask, ignore_index, temperature)
    lp = _logprobs(x, t, w)
    loss, d, clipfrac, approxkl = reference.ppo_clip(lp, old_logprobs, advantages, w, cliprange)
    d = reference.token_logprobs_backward(x, t, d) / temperature
    return PPOFromLogits(loss, _into(out, d), clipfrac, approxkl, lp)


def grpo_from_logits(
    logits: Any,
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
    out: Any = None,
    threads: int = 1,
) -> GRPOFromLogits:
    """`grpo` of log p(token)."""
    x, t, w = _weigh(logits, tokens, mask, ignore_index, temperature)
    lp = _logprobs(x, t, w)
    given = (lp, old_logprobs, advantages, w, cliprange, cliprange_high, beta, ref_logprobs, loss_type)
    loss, d, clipfrac, kl = reference.grpo(*given)
    d = reference.token_logprobs_backward(x, t, d) / temperature
    return GRPOFromLogits(loss, _into(out, d), clipfrac, kl, lp)


def dpo_from_logits(
    chosen_logits: Any,
    rejected_logits: Any,
    chosen_tokens: Any,
    rejected_tokens: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    *,
    chosen_mask: Any = None,
    rejected_mask: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    temperature: float = 1.0,
    out: tuple[Any, Any] = (None, None),
    threads: int = 1,
) -> DPOFromLogits:
    """`dpo` of sum log p(token)."""
    chosen = _weigh(chosen_logits, chosen_tokens, chosen_mask, ignore_index, temperature)
    rejected = _weigh(rejected_logits, rejected_tokens, rejected_mask, ignore_index, temperature)
    up, down = (np.sum(w * _logprobs(x, t, w), axis=-1) for x, t, w in (chosen, rejected))
    result = reference.dpo(up, down, ref_chosen, ref_rejected, beta, label_smoothing)
    d_chosen, d_rejected = (
        _into(into, reference.token_logprobs_backward(x, t, d[..., None] * w) / temperature)
        for (x, t, w), d, into in zip(
            (chosen, rejected), (result.d_chosen, result.d_rejected), out, strict=True
        )
    )
    rewards = result.chosen_rewards, result.rejected_rewards
    return DPOFromLogits(result.loss, d_chosen, d_rejected, *rewards, up, down)
