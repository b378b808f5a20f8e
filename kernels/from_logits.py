"""Whole losses, from logits to their gradient, without a second array of the logits' size but the gradient itself.

Logits are (..., V) as `categorical` takes them: float32, float64 or half precision, rows may lie apart, so that
``logits[:, :-1]`` costs no copy. A token counts with its entry of the mask; where that is 0, or the token is
`ignore_index`, nothing is read, and the gradient is 0. ``temperature``, from 1e-30 to 1e30, divides the logits.
``out=logits`` writes the gradient over the logits, and then not even a second array is needed. `threads` share the
rows out; any number gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _batch, _check
from ._check import Array
from ._from_logits import (
    backward_jit,
    clipped_jit,
    forward_jit,
    linear_jit,
    sequence_rates_jit,
    weighted_sum_jit,
    weighted_sums_jit,
)
from ._policy_gradient import grpo_jit, ppo_clip_jit
from ._preference import dpo_jit
from ._tokens import Tokens, read_tokens
from .policy_gradient import AGGREGATIONS

__all__ = [
    "DPOFromLogits",
    "GRPOFromLogits",
    "PPOFromLogits",
    "SFTFromLogits",
    "dpo_from_logits",
    "grpo_from_logits",
    "ppo_from_logits",
    "sft_from_logits",
]


class SFTFromLogits(NamedTuple):
    """Mean negative log-likelihood of the tokens, its gradient, and the log-probabilities (...)."""

    loss: float
    d_logits: Array
    logprobs: Array


class PPOFromLogits(NamedTuple):
    """`policy_gradient.ppo_clip` with the gradient carried on to the logits, and the log-probabilities (...)."""

    loss: float
    d_logits: Array
    clipfrac: float
    approxkl: float
    logprobs: Array


class GRPOFromLogits(NamedTuple):
    """`policy_gradient.grpo` with the gradient carried on to the logits, and the log-probabilities (..., T)."""

    loss: float
    d_logits: Array
    clipfrac: float
    kl: float
    logprobs: Array


class DPOFromLogits(NamedTuple):
    """`preference.dpo` with the gradients carried on to the logits, and the responses' log-probabilities (...)."""

    loss: float
    d_chosen_logits: Array
    d_rejected_logits: Array
    chosen_rewards: Array
    rejected_rewards: Array
    chosen_logprobs: Array
    rejected_logprobs: Array


def sft_from_logits(
    logits: Any,
    tokens: Any,
    mask: Any = None,
    *,
    ignore_index: int = -100,
    temperature: float = 1.0,
    out: Array | None = None,
    threads: int = 1,
) -> SFTFromLogits:
    """Cross-entropy of supervised fine-tuning: mean over the tokens of ``-log_softmax(logits)[token]``.

    Parameters
    ----------
    logits : array_like, (..., V)
    tokens : array_like of int, (...)
    mask : array_like, (...), optional
    ignore_index : int
        Tokens of this value do not count.
    temperature : float
        Above 0.
    out : ndarray, (..., V), optional
    threads : int

    Returns
    -------
    SFTFromLogits

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; a token outside the vocabulary is a ValueError, and `out` is then undefined.

    Examples
    --------
    >>> loss, d_logits, logprobs = sft_from_logits([[0.0, 0.0], [0.0, 1.0]], [1, -100])
    >>> round(loss, 4)
    0.6931
    >>> d_logits
    array([[ 0.5, -0.5],
           [ 0. ,  0. ]])
    """
    (x,) = _batch.logits(("logits",), logits)
    read = read_tokens(x, tokens, mask, ignore_index)
    heat = _batch.temperature(temperature)
    result, written = _batch.gradient(out, x, logits, tokens, mask)
    logprobs = read.empty()
    rate = -1.0 / read.total

    def rows(x: Array, t: Array, w: Array, lp: Array, d: Array) -> Any:
        return linear_jit(x, t, w, rate, heat, lp, d)

    read.over_rows(rows, threads, read.weights, logprobs, written)
    loss = rate * weighted_sum_jit(logprobs.reshape(-1), read.weights.reshape(-1))
    return SFTFromLogits(loss, result, logprobs)


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
    out: Array | None = None,
    threads: int = 1,
) -> PPOFromLogits:
    """PPO's clipped loss, `policy_gradient.ppo_clip` of the tokens' log-probabilities; each row is read once.

    Parameters
    ----------
    logits : array_like, (..., V)
    tokens : array_like of int, (...)
    old_logprobs, advantages : array_like, (...)
    mask : array_like, (...), or None
    cliprange : float, at least 0
    ignore_index : int
    temperature : float
        Above 0; the one that the old log-probabilities were taken at.
    out : ndarray, (..., V), optional
    threads : int

    Returns
    -------
    PPOFromLogits

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; a token outside the vocabulary is a ValueError, and `out` is then undefined.

    References
    ----------
    Schulman et al. 2017 (arXiv 1707.06347), eq. 7.

    Examples
    --------
    >>> result = ppo_from_logits([[0.0, 0.0]], [1], [-0.6931], [2.0], [1], cliprange=0.2)
    >>> round(result.loss, 3), result.d_logits.round(3)
    (-2.0, array([[ 1., -1.]]))
    """
    (x,) = _batch.logits(("logits",), logits)
    read = read_tokens(x, tokens, mask, ignore_index)
    old = read.column("old_logprobs", old_logprobs)
    each = read.column("advantages", advantages)
    reach, heat = _check.number("cliprange", cliprange, 0.0), _batch.temperature(temperature)
    result, written = _batch.gradient(out, x, logits, tokens, old_logprobs, advantages, mask)
    logprobs, d = read.empty(), read.empty()
    d.fill(-1.0 / read.total)

    def rows(x: Array, t: Array, o: Array, a: Array, w: Array, r: Array, lp: Array, dx: Array) -> Any:
        return clipped_jit(x, t, o, o, a, w, r, 1.0 - reach, 1.0 + reach, 0.0, heat, lp, dx)

    read.over_rows(rows, threads, old, each, read.weights, d, logprobs, written)
    flat = [a.reshape(1, -1) for a in (logprobs, old, each, read.weights)]
    loss, clipfrac, approxkl = ppo_clip_jit(*flat, reach, d.reshape(1, -1))
    return PPOFromLogits(loss, result, clipfrac, approxkl, logprobs)


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
    out: Array | None = None,
    threads: int = 1,
) -> GRPOFromLogits:
    """GRPO's loss, `policy_gradient.grpo` of the tokens' log-probabilities; each row is read once.

    Parameters
    ----------
    logits : array_like, (..., T, V)
    tokens : array_like of int, (..., T)
    old_logprobs : array_like, (..., T)
    advantages : array_like, (...)
    mask : array_like, (..., T), or None
    cliprange, cliprange_high, beta, ref_logprobs, loss_type
        As of `policy_gradient.grpo`.
    ignore_index : int
    temperature : float
        Above 0; the one that the other log-probabilities were taken at.
    out : ndarray, (..., T, V), optional
    threads : int

    Returns
    -------
    GRPOFromLogits

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; a token outside the vocabulary is a ValueError, and `out` is then undefined.

    References
    ----------
    Shao et al. 2024 (arXiv 2402.03300), eq. 3 and 4.

    Examples
    --------
    >>> result = grpo_from_logits([[[0.0, 0.0]]], [[1]], [[-0.6931]], [2.0], [[1]], cliprange=0.2)
    >>> round(result.loss, 3), result.d_logits.round(3)
    (-2.0, array([[[ 1., -1.]]]))
    """
    if not isinstance(loss_type, str) or loss_type not in AGGREGATIONS:
        raise ValueError(f"loss_type: came as {loss_type!r}, one of {', '.join(AGGREGATIONS)} is needed")
    (x,) = _batch.logits(("logits",), logits)
    read = read_tokens(x, tokens, mask, ignore_index)
    T = _check.last_axis("tokens", read.tokens)
    old = read.column("old_logprobs", old_logprobs)
    each = _check.like("advantages", advantages, read.weights.dtype)
    _check.shape_is("advantages", each, read.tokens.shape[:-1], "one a sequence")
    low, heat = _check.number("cliprange", cliprange, 0.0), _batch.temperature(temperature)
    high = low if cliprange_high is None else _check.number("cliprange_high", cliprange_high, 0.0)
    strength = _check.number("beta", beta, 0.0)
    if strength and ref_logprobs is None:
        raise ValueError(
            "ref_logprobs: came as None with beta above 0, the reference's log-probabilities are needed"
        )
    ref = old if ref_logprobs is None else read.column("ref_logprobs", ref_logprobs)
    inputs = (logits, tokens, old_logprobs, advantages, mask, ref_logprobs)
    result, written = _batch.gradient(out, x, *inputs)
    logprobs, d = read.empty(), read.empty()
    aggregation = AGGREGATIONS[loss_type]
    sequence_rates_jit(read.weights.reshape(-1, T), aggregation, read.total, d.reshape(-1, T))

    def rows(
        x: Array, t: Array, o: Array, f: Array, a: Array, w: Array, r: Array, lp: Array, dx: Array
    ) -> Any:
        return clipped_jit(x, t, o, f, a, w, r, 1.0 - low, 1.0 + high, strength, heat, lp, dx)

    per_token = np.ascontiguousarray(np.broadcast_to(each[..., None], read.tokens.shape))
    read.over_rows(rows, threads, old, ref, per_token, read.weights, d, logprobs, written)
    shown = ref.reshape(-1, T)[: 0 if ref_logprobs is None else None]
    loss, clipfrac, kl = grpo_jit(
        logprobs.reshape(-1, T),
        old.reshape(-1, T),
        shown,
        each.reshape(-1),
        read.weights.reshape(-1, T),
        low,
        high,
        strength,
        aggregation,
        d.reshape(-1, T),
    )
    return GRPOFromLogits(loss, result, clipfrac, kl, logprobs)


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
    out: tuple[Array | None, Array | None] = (None, None),
    threads: int = 1,
) -> DPOFromLogits:
    """DPO's loss, `preference.dpo` of the responses' summed log-probabilities.

    Each row is read twice: no gradient is known before all log-probabilities of a pair are. Halves of one batch are
    passed as views, ``logits[:B]`` and ``logits[B:]``.

    Parameters
    ----------
    chosen_logits : array_like, (..., T, V)
    rejected_logits : array_like, (..., U, V)
        The responses may be padded to different lengths.
    chosen_tokens, rejected_tokens : array_like of int, (..., T), (..., U)
    ref_chosen, ref_rejected : array_like, (...)
        The reference's log-probabilities of whole responses.
    beta : float
        Above 0.
    chosen_mask, rejected_mask : array_like, (..., T), (..., U), optional
    label_smoothing : float in [0, 1]
    ignore_index : int
    temperature : float
        Above 0; the one that the reference's were taken at.
    out : (ndarray or None, ndarray or None)
        For the gradients of chosen and rejected logits.
    threads : int

    Returns
    -------
    DPOFromLogits

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; a token outside the vocabulary is a ValueError, and `out` is then undefined.

    References
    ----------
    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7.

    Examples
    --------
    >>> x = [[[0.0, 0.0]]]
    >>> result = dpo_from_logits(x, x, [[1]], [[0]], [-0.6931], [-0.6931], beta=0.1)
    >>> round(result.loss, 4), result.d_chosen_logits, result.d_rejected_logits
    (0.6931, array([[[ 0.025, -0.025]]]), array([[[ 0.025, -0.025]]]))
    """
    x, y = _batch.logits(("chosen_logits", "rejected_logits"), chosen_logits, rejected_logits)
    chosen = read_tokens(x, chosen_tokens, chosen_mask, ignore_index, "chosen_")
    rejected = read_tokens(y, rejected_tokens, rejected_mask, ignore_index, "rejected_")
    shape = chosen.tokens.shape[:-1]
    if chosen.tokens.ndim == 0 or rejected.tokens.shape[:-1] != shape:
        raise ValueError(
            f"rejected_logits: came with shape {y.shape}, (..., U, V) is needed as (..., T, V) is {x.shape}"
        )
    dtype = chosen.weights.dtype
    refs = [_check.like(n, v, dtype) for n, v in (("ref_chosen", ref_chosen), ("ref_rejected", ref_rejected))]
    for name, ref in zip(("ref_chosen", "ref_rejected"), refs, strict=True):
        _check.shape_is(name, ref, shape, "one a sequence")
    _check.not_empty("ref_chosen", refs[0])
    strength, heat = _check.number("beta", beta, above=0.0), _batch.temperature(temperature)
    smoothing = _check.number("label_smoothing", label_smoothing, 0.0, 1.0)
    inputs = chosen_logits, rejected_logits, chosen_tokens, rejected_tokens, ref_chosen, ref_rejected
    pair = _pair(out, chosen_logits, rejected_logits)
    outs = [
        _batch.gradient(o, z, *inputs, chosen_mask, rejected_mask) for o, z in zip(pair, (x, y), strict=True)
    ]
    halves = [_Half(read, heat, threads) for read in (chosen, rejected)]
    sums = [half.forward() for half in halves]
    slopes = [np.empty(shape, dtype) for _ in range(4)]
    loss = dpo_jit(
        *[a.reshape(-1) for a in (*sums, *refs)], strength, smoothing, *[a.reshape(-1) for a in slopes]
    )
    for half, slope, (_, written) in zip(halves, slopes, outs, strict=False):
        half.backward(slope, written)
    return DPOFromLogits(loss, outs[0][0], outs[1][0], *slopes[2:], *sums)


def _pair(out: Any, chosen: Any, rejected: Any) -> tuple[Any, Any]:
    """Both outputs; neither lies where the other, or the logits that the other belongs to, are."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"out: came as {type(out).__name__}, a tuple of two arrays is needed")
    for one, other in (out, (out[0], rejected), (out[1], chosen)):
        if isinstance(one, np.ndarray) and np.may_share_memory(one, np.asarray(other)):
            raise ValueError(
                "out: one of its arrays overlaps the other, or the other's logits, apart is needed"
            )
    return out


class _Half:
    """Chosen or rejected responses between the reading of their log-probabilities and the writing of gradients."""

    def __init__(self, read: Tokens, temperature: float, threads: int) -> None:
        self.read, self.temperature, self.threads = read, temperature, threads
        self.tops, self.masses = read.empty(), np.empty(read.tokens.shape, _check.sums(read.weights.dtype))

    def forward(self) -> Array:
        """The log-probability of each response."""
        logprobs, weights = self.read.empty(), self.read.weights

        def rows(x: Array, t: Array, w: Array, lp: Array, tops: Array, masses: Array) -> Any:
            return forward_jit(x, t, w, self.temperature, lp, tops, masses)

        self.read.over_rows(rows, self.threads, weights, logprobs, self.tops, self.masses)
        sums = np.empty(weights.shape[:-1], weights.dtype)
        shape = sums.size, weights.shape[-1]
        weighted_sums_jit(logprobs.reshape(shape), weights.reshape(shape), sums.reshape(-1))
        return sums

    def backward(self, slopes: Array, written: Array) -> None:
        """Writes the gradient, given the loss's slope by each response's log-probability."""

        def rows(x: Array, t: Array, s: Array, w: Array, tops: Array, masses: Array, d: Array) -> Any:
            return backward_jit(x, t, s, w, tops, masses, self.temperature, d)

        weights = self.read.weights
        each = np.ascontiguousarray(np.broadcast_to(slopes[..., None], weights.shape))
        self.read.over_rows(rows, self.threads, each, weights, self.tops, self.masses, written)
