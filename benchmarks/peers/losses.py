"""Losses on log-probabilities as anyone would write them, for any library with NumPy's names (torch, jax.numpy)."""

from __future__ import annotations

from typing import Any


def sft(xp: Any, logprobs: Any, mask: Any) -> Any:
    return -(logprobs * mask).sum() / mask.sum()


def ppo(xp: Any, logprobs: Any, old: Any, advantages: Any, mask: Any, cliprange: float) -> Any:
    ratio = xp.exp(logprobs - old)
    clipped = xp.clip(ratio, 1 - cliprange, 1 + cliprange)
    return -(xp.minimum(advantages * ratio, advantages * clipped) * mask).sum() / mask.sum()


def grpo(
    xp: Any, logprobs: Any, old: Any, advantages: Any, mask: Any, cliprange: float, beta: float, ref: Any
) -> Any:
    ratio, gap, a = xp.exp(logprobs - old), ref - logprobs, advantages[:, None]
    clipped = xp.clip(ratio, 1 - cliprange, 1 + cliprange)
    each = beta * (xp.exp(gap) - gap - 1) - xp.minimum(a * ratio, a * clipped)
    return ((each * mask).sum(-1) / mask.sum(-1)).mean()


def dpo(xp: Any, chosen: Any, rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> Any:
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return xp.logaddexp(-z, xp.zeros_like(z)).mean()


def ipo(xp: Any, chosen: Any, rejected: Any, ref_chosen: Any, ref_rejected: Any, tau: float) -> Any:
    h = (chosen - ref_chosen) - (rejected - ref_rejected)
    return ((h - 1 / (2 * tau)) ** 2).mean()


def bradley_terry(xp: Any, chosen: Any, rejected: Any) -> Any:
    z = chosen - rejected
    return xp.logaddexp(-z, xp.zeros_like(z)).mean()


def value_clip(xp: Any, values: Any, old: Any, returns: Any, mask: Any, cliprange: float) -> Any:
    clipped = xp.clip(values, old - cliprange, old + cliprange)
    worse = xp.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * (worse * mask).sum() / mask.sum()
