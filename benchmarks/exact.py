"""The right answers, from the float64 twins: every side of a benchmark has to give them before it is timed.

Twins are slow and make many copies, so that of large arrays only some rows are checked: those hold the same numbers
whatever the other rows are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels import reference

Check = Callable[[tuple[Any, ...], Any], None]
RTOL, ATOL = 2e-3, 2e-5
SOME = 16


def fields(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def close(result: Any, wanted: Any) -> None:
    """Relative, and absolute on the scale of the largest entry: a gradient of 1e-8 is not 0."""
    wanted = np.asarray(wanted, np.float64)
    scale = float(np.max(np.abs(wanted), initial=0.0))
    np.testing.assert_allclose(np.asarray(result), wanted, rtol=RTOL, atol=ATOL * max(scale, 1e-30))


def some_rows(count: int) -> Any:
    return np.unique(np.linspace(0, count - 1, SOME).astype(int))


def whole(twin: Callable[..., Any]) -> Check:
    def check(arguments: tuple[Any, ...], result: Any) -> None:
        wanted = fields(twin(*arguments))
        for mine, theirs in zip(fields(result), wanted, strict=False):
            close(mine, theirs)

    return check


def rows(twin: Callable[..., Any]) -> Check:
    """All arguments and the result have one entry, or one row, a row of logits."""

    def check(arguments: tuple[Any, ...], result: Any) -> None:
        assert len(result) == len(arguments[0])
        index = some_rows(len(arguments[0]))
        close(np.asarray(result)[index], twin(*[a[index] for a in arguments]))

    return check


def forward_backward(forward: Callable[..., Any], backward: Callable[..., Any]) -> Check:
    """Arguments end with the gradient of the forward function's result."""

    def check(arguments: tuple[Any, ...], result: Any) -> None:
        value, d_logits = result
        rows(forward)(arguments[:-1], value)
        rows(backward)(arguments, d_logits)

    return check


def sample(arguments: tuple[Any, ...], tokens: Any) -> None:
    """The uniform lies in the token's part of the cumulative sum, but for float32's rounding of sums."""
    logits, uniforms = arguments
    index = some_rows(len(logits))
    p = np.exp(reference.log_softmax(logits[index]))
    after = np.take_along_axis(np.cumsum(p, axis=-1), np.asarray(tokens)[index, np.newaxis], axis=-1)[:, 0]
    before = after - np.take_along_axis(p, np.asarray(tokens)[index, np.newaxis], axis=-1)[:, 0]
    assert np.all(before - 1e-3 <= uniforms[index])
    assert np.all(uniforms[index] <= after + 1e-3)


def adamw(arguments: tuple[Any, ...], result: Any) -> None:
    """The first call's result; on some parameters."""
    params, grads, m, v, step, rate = arguments
    index = slice(0, 1000)
    p, m, v = (a[index].astype(np.float64) for a in (params, m, v))
    reference.adamw(p, grads[index], m, v, step, rate)
    for mine, theirs in zip(result, (p, m, v), strict=True):
        close(np.asarray(mine)[index], theirs)


# Whole losses: (loss, d_logits, ...) by way of the twins on log-probabilities


def token_logprobs(logits: Any, tokens: Any) -> Any:
    """In float64, one sequence at a time; not by the twin, whose copies would take the memory."""
    result = np.empty(tokens.shape)
    for b, (x, t) in enumerate(zip(logits, tokens, strict=True)):
        top = x.max(-1)
        total = np.exp(x - top[:, np.newaxis]).sum(-1, dtype=np.float64)
        result[b] = np.take_along_axis(x, t[:, np.newaxis], -1)[:, 0] - top - np.log(total)
    return result


def _gradient(logits: Any, tokens: Any, d_logprobs: Any, result: Any) -> None:
    V = logits.shape[-1]
    assert result.shape == logits.shape
    weights = np.abs(d_logprobs).reshape(-1)
    index = np.argsort(weights)[-SOME:]  # padding has none
    x, t, d = logits.reshape(-1, V)[index], tokens.reshape(-1)[index], d_logprobs.reshape(-1)[index]
    close(np.asarray(result).reshape(-1, V)[index], reference.token_logprobs_backward(x, t, d))


def sft(arguments: tuple[Any, ...], result: Any) -> None:
    logits, tokens, mask = arguments
    logprobs = token_logprobs(logits, tokens)
    close(result[0], -(logprobs * mask).sum() / mask.sum())
    _gradient(logits, tokens, -mask / mask.sum(), result[1])


def ppo(arguments: tuple[Any, ...], result: Any) -> None:
    logits, tokens, *rest = arguments
    wanted = reference.ppo_clip(token_logprobs(logits, tokens), *rest)
    close(result[0], wanted.loss)
    _gradient(logits, tokens, wanted.d_logprobs, result[1])


def grpo(arguments: tuple[Any, ...], result: Any) -> None:
    """Mean over each sequence's tokens, then over sequences; by the definition, at the middle of two differences."""
    logits, tokens, old, advantages, mask, cliprange, beta, ref = arguments
    logprobs = token_logprobs(logits, tokens)

    def each(lp: Any) -> Any:
        rho, gap, a = np.exp(lp - old), ref - lp, advantages[:, np.newaxis]
        surrogate = np.minimum(a * rho, a * np.clip(rho, 1 - cliprange, 1 + cliprange))
        return (beta * (np.exp(gap) - gap - 1) - surrogate) * mask / mask.sum(-1, keepdims=True) / len(mask)

    close(result[0], each(logprobs).sum())
    step = 1e-6
    _gradient(logits, tokens, (each(logprobs + step) - each(logprobs - step)) / (2 * step), result[1])


def dpo(arguments: tuple[Any, ...], result: Any) -> None:
    chosen, rejected, chosen_tokens, rejected_tokens, *refs, beta, chosen_mask, rejected_mask = arguments
    sums = [
        (token_logprobs(x, t) * mask).sum(-1)
        for x, t, mask in ((chosen, chosen_tokens, chosen_mask), (rejected, rejected_tokens, rejected_mask))
    ]
    wanted = reference.dpo(*sums, *refs, beta)
    close(result[0], wanted.loss)
    _gradient(chosen, chosen_tokens, wanted.d_chosen[:, np.newaxis] * chosen_mask, result[1])
    _gradient(rejected, rejected_tokens, wanted.d_rejected[:, np.newaxis] * rejected_mask, result[2])
