"""Whole losses, from logits to their gradient, without a second array of the logits' size but the gradient itself.

Logits are (..., V) as `categorical` takes them: float32, float64 or half precision, rows may lie apart, so that
``logits[:, :-1]`` costs no copy. A token counts with its entry of the mask; where that is 0, or the token is
`ignore_index`, nothing is read, and the gradient is 0. ``temperature``, from 1e-30 to 1e30, divides the logits.
``out=logits`` writes the gradient over the logits, and then not even a second array is needed; rows of `out` may lie
apart as well. `threads` share the rows out; any number gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from . import _batch, _check
from ._check import Array
from ._pairs_from_logits import DPOFromLogits, dpo_from_logits
from ._tokens import Tokens, ignored_token
from ._whole_losses import grpo_loss_jit, ppo_loss_jit, sft_loss_jit
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
    read, ignored = Tokens(x, tokens, mask), ignored_token(ignore_index)
    heat = _batch.temperature(temperature)
    result, written = _batch.gradient(out, x, (logits, tokens, mask))
    logprobs = read.empty()
    (loss,) = read.loss(sft_loss_jit, threads, (ignored, heat), written, logprobs)
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
    read, ignored = Tokens(x, tokens, mask, 2), ignored_token(ignore_index)
    old = read.column("old_logprobs", old_logprobs)
    each = read.column("advantages", advantages)
    reach, heat = _check.number("cliprange", cliprange, 0.0), _batch.temperature(temperature)
    result, written = _batch.gradient(out, x, (logits, tokens, old_logprobs, advantages, mask))
    logprobs = read.empty()
    columns = old, each, logprobs
    loss, clipfrac, approxkl = read.loss(ppo_loss_jit, threads, (ignored, heat, reach), written, *columns)
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
    read, ignored = Tokens(x, tokens, mask, 3), ignored_token(ignore_index)
    _check.last_axis("tokens", read.tokens)
    old = read.column("old_logprobs", old_logprobs)
    each = _check.shaped("advantages", advantages, old.dtype, old.shape[:-1], "one a sequence")
    low, heat = _check.number("cliprange", cliprange, 0.0), _batch.temperature(temperature)
    high = low if cliprange_high is None else _check.number("cliprange_high", cliprange_high, 0.0)
    strength = _check.number("beta", beta, 0.0)
    if strength and ref_logprobs is None:
        raise ValueError(
            "ref_logprobs: came as None with beta above 0, the reference's log-probabilities are needed"
        )
    ref = old if ref_logprobs is None else read.column("ref_logprobs", ref_logprobs)
    inputs = (logits, tokens, old_logprobs, advantages, mask, ref_logprobs)
    result, written = _batch.gradient(out, x, inputs)
    logprobs, has_ref = read.empty(), ref_logprobs is not None
    columns = old, ref, each, logprobs
    scalars = ignored, heat, low, high, strength, AGGREGATIONS[loss_type], has_ref
    loss, clipfrac, kl = read.loss(grpo_loss_jit, threads, scalars, written, *columns)
    return GRPOFromLogits(loss, result, clipfrac, kl, logprobs)
