"""The arguments of the cases: drawn once, float32, log-probabilities and masks as a trainer has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import exact

Arguments = tuple[Any, ...]
F32 = np.float32
GROUP, ITEMS = 8, 4


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, F32)


def lengths_mask(B: int, T: int) -> Any:
    lengths = np.random.default_rng(1).integers(1, T + 1, size=(B, 1))
    return (np.arange(T) < lengths).astype(F32)


def tokens_of(*shape: int, V: int, seed: int = 2) -> Any:
    return np.random.default_rng(seed).integers(V, size=shape)


# Logits and what goes with a row: (N, V)


def logits(B: int, T: int, V: int) -> Any:
    return draw(B * T, V) * F32(3)


def one_row(B: int, T: int, V: int) -> Arguments:
    return (logits(B, T, V),)


def with_tokens(B: int, T: int, V: int) -> Arguments:
    return logits(B, T, V), tokens_of(B * T, V=V)


def with_tokens_and_gradient(B: int, T: int, V: int) -> Arguments:
    return *with_tokens(B, T, V), draw(B * T, seed=3)


def with_gradient(B: int, T: int, V: int) -> Arguments:
    return logits(B, T, V), draw(B * T, seed=3)


def two_rows(B: int, T: int, V: int) -> Arguments:
    x = logits(B, T, V)
    return x, x + draw(B * T, V, seed=4)


def two_rows_and_gradient(B: int, T: int, V: int) -> Arguments:
    return *two_rows(B, T, V), draw(B * T, seed=3)


def with_uniforms(B: int, T: int, V: int) -> Arguments:
    return logits(B, T, V), np.random.default_rng(5).random(B * T)


# Whole losses: logits (B, T, V)


def sequences(B: int, T: int, V: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Logits, tokens, and log-probabilities of an older policy that is near."""
    logits, tokens = draw(B, T, V, seed=seed) * F32(3), tokens_of(B, T, V=V, seed=seed)
    old = exact.token_logprobs(logits, tokens) + 0.2 * draw(B, T, seed=seed + 1)
    return logits, tokens, old.astype(F32)


def sft(B: int, T: int, V: int) -> Arguments:
    return *sequences(B, T, V)[:2], lengths_mask(B, T)


def ppo(B: int, T: int, V: int) -> Arguments:
    return *sequences(B, T, V), draw(B, T, seed=6), lengths_mask(B, T), 0.2


def grpo(B: int, T: int, V: int) -> Arguments:
    logits, tokens, old = sequences(B, T, V)
    return logits, tokens, old, draw(B, seed=6), lengths_mask(B, T), 0.2, 0.04, old + F32(0.1)


def dpo(B: int, T: int, V: int) -> Arguments:
    """B / 2 pairs, so that the logits of both sides take what one array takes elsewhere."""
    chosen, rejected = (sequences(B // 2, T, V, seed) for seed in (0, 10))
    masks = lengths_mask(B // 2, T), lengths_mask(B // 2, T)[::-1].copy()
    sums = [(old * mask).sum(-1) for (_, _, old), mask in zip((chosen, rejected), masks, strict=True)]
    return chosen[0], rejected[0], chosen[1], rejected[1], *sums, 0.1, *masks


# Arrays of one entry a token or a pair


def gae(B: int, T: int) -> Arguments:
    return draw(B, T), draw(B, T, seed=1), lengths_mask(B, T), 1.0, 0.95


def masked(B: int, T: int) -> Arguments:
    return draw(B, T), lengths_mask(B, T)


def clip(B: int, T: int) -> Arguments:
    a = draw(B, T)
    return a, a + F32(0.1) * draw(B, T, seed=1), draw(B, T, seed=2), lengths_mask(B, T), 0.2


def token_grpo(B: int, T: int) -> Arguments:
    logprobs, old, _, mask, cliprange = clip(B, T)
    return logprobs, old, draw(B, seed=2), mask, cliprange, 0.04, old + F32(0.1) * draw(B, T, seed=3)


def log_ratio(B: int, T: int) -> Arguments:
    a = draw(B, T)
    return a, a + F32(0.3) * draw(B, T, seed=1)


def grouped(B: int, T: int) -> Arguments:
    return draw(B * T), GROUP


def pairs(B: int, T: int) -> Arguments:
    return draw(B * T), draw(B * T, seed=1)


def quadruples(B: int, T: int) -> Arguments:
    return *(draw(B * T, seed=seed) for seed in range(4)), 0.1


def with_lengths(sums: int, *scalars: float) -> Callable[[int, int], Arguments]:
    """So many log-probabilities of whole responses a pair, below 0, and the tokens of both responses."""

    def make(B: int, T: int) -> Arguments:
        logps = [-F32(1) - np.abs(draw(B * T, seed=seed)) for seed in range(sums)]
        lengths = [F32(1) + np.floor(F32(8) * np.abs(draw(B * T, seed=seed))) for seed in (8, 9)]
        return (*logps, *lengths, *scalars)

    return make


def responses(B: int, T: int) -> Arguments:
    """What KTO takes: log-probabilities under both policies, which are desirable, and the reference point."""
    return draw(B * T), draw(B * T, seed=1), (draw(B * T, seed=2) > 0).astype(F32), 0.1, 0.1


def optimiser(P: int) -> Arguments:
    params, grads, m = (draw(P, seed=seed) for seed in range(3))
    return params, grads, m, draw(P, seed=3) ** 2, 2, 1e-3
