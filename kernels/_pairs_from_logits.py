"""Whole losses of pairs of responses, from logits to their gradients: see `from_logits`, which offers them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import _batch, _check
from ._check import Array
from ._tokens import Tokens, ignored_token
from ._whole_losses import ALL, ROWS, SUM, WEIGH, dpo_loss_jit

__all__ = ["DPOFromLogits", "dpo_from_logits"]


class DPOFromLogits(NamedTuple):
    """`preference.dpo` with the gradients carried on to the logits, and the responses' log-probabilities (...)."""

    loss: float
    d_chosen_logits: Array
    d_rejected_logits: Array
    chosen_rewards: Array
    rejected_rewards: Array
    chosen_logprobs: Array
    rejected_logprobs: Array


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

    A pair's gradient is written as soon as both log-probabilities are known, so that rows come from memory once where
    a pair stays in the cache. Halves of one batch are passed as views, ``logits[:B]`` and ``logits[B:]``.

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
    chosen = Tokens(x, chosen_tokens, chosen_mask, 3, "chosen_")
    rejected = Tokens(y, rejected_tokens, rejected_mask, 3, "rejected_")
    ignored = ignored_token(ignore_index)
    shape, dtype = chosen.shape[:-1], chosen.dtype
    if not chosen.shape or rejected.shape[:-1] != shape:
        raise ValueError(
            f"rejected_logits: came with shape {y.shape}, (..., U, V) is needed as (..., T, V) is {x.shape}"
        )
    up = _check.shaped("ref_chosen", ref_chosen, dtype, shape, "one a sequence")
    down = _check.shaped("ref_rejected", ref_rejected, dtype, shape, "one a sequence")
    _check.not_empty("ref_chosen", up)
    strength, heat = _check.number("beta", beta, above=0.0), _batch.temperature(temperature)
    smoothing = _check.number("label_smoothing", label_smoothing, 0.0, 1.0)
    first, second = _pair(out, chosen_logits, rejected_logits)
    given = chosen_tokens, rejected_tokens, ref_chosen, ref_rejected, chosen_mask, rejected_mask
    inputs = (chosen_logits, rejected_logits, *given)
    d_chosen, d_x = _batch.gradient(first, x, inputs)
    d_rejected, d_y = _batch.gradient(second, y, inputs)
    pairs = np.empty((5, *shape), dtype)  # the last ones are the losses
    each = _batch.flat(up), _batch.flat(down), pairs if pairs.ndim == 2 else pairs.reshape(5, -1)
    loss = _loss(chosen, rejected, d_x, d_y, threads, each, (ignored, heat, strength, smoothing))
    rewards, sums = (pairs[2, ...], pairs[3, ...]), (pairs[0, ...], pairs[1, ...])
    return DPOFromLogits(loss, d_chosen, d_rejected, *rewards, *sums)


def _loss(
    chosen: Tokens,
    rejected: Tokens,
    d_chosen: Array,
    d_rejected: Array,
    threads: int,
    pairs: tuple[Array, ...],
    scalars: tuple[Any, ...],
) -> Any:
    """Call `dpo_loss_jit`, which writes the gradients and what is given a pair."""
    batches = _batch.batches(chosen.logits, d_chosen), _batch.batches(rejected.logits, d_rejected)
    given = *_columns(chosen), *_columns(rejected), *pairs
    B = len(pairs[0])
    if type(threads) is int and threads == 1 and all(batches):
        *read, loss = dpo_loss_jit(*batches[0], *batches[1], *given, ALL, 0, B, *scalars)
        _check_both(chosen, rejected, *read)
        return loss
    rows, others = _batch.as_rows((chosen.logits, d_chosen)), _batch.as_rows((rejected.logits, d_rejected))

    def of_pairs(first: int, last: int, steps: int) -> Any:
        some = *_some_rows(rows, first, last, B), *_some_rows(others, first, last, B)
        return dpo_loss_jit(*some, *given, steps, first, last, *scalars)

    def share(places: Array) -> None:
        first, last = int(places[0, 0]), int(places[-1, 0]) + 1
        step = last - first if rows[0].ndim == others[0].ndim == 2 else 1
        for start in range(first, last, step):
            of_pairs(start, start + step, ROWS)

    _check_both(chosen, rejected, *of_pairs(0, 1, WEIGH)[:-1])
    _batch.over_rows(share, threads, np.arange(B).reshape(-1, 1))
    return of_pairs(0, 1, SUM)[-1]


def _check_both(
    chosen: Tokens, rejected: Tokens, total: float, other_total: float, outside: int, other_outside: int
) -> None:
    chosen.check(total, outside)
    rejected.check(other_total, other_outside)


def _some_rows(arrays: Sequence[Array], first: int, last: int, B: int) -> list[Array]:
    """Of arrays from `_batch.as_rows`, the rows of pairs first to last of B: of one pair, where they are not (N, V).

    They are (1, n, V).
    """
    if arrays[0].ndim == 2:
        T = len(arrays[0]) // B
        return [a[None, first * T : last * T] for a in arrays]
    place = np.unravel_index(first, arrays[0].shape[:-2])
    return [a[place][None] for a in arrays]


def _columns(read: Tokens) -> tuple[Array, ...]:
    """What `dpo_loss_jit` is given of the tokens of one response of each pair."""
    tokens, mask = read.tokens, read.mask
    masses = np.empty(tokens.size, _check.sums(read.dtype))
    if tokens.ndim != 2:
        tokens, mask = tokens.reshape(1, -1), mask.reshape(1, -1)
    return tokens, mask, read.columns, masses


def _pair(out: Any, chosen: Any, rejected: Any) -> tuple[Any, Any]:
    """Both outputs; neither lies where the other, or the logits that the other belongs to, are."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"out: came as {type(out).__name__}, a tuple of two arrays is needed")
    if out[0] is None and out[1] is None:
        return out
    for one, other in (out, (out[0], rejected), (out[1], chosen)):
        if isinstance(one, np.ndarray) and _check.may_overlap(one, np.asarray(other)):
            raise ValueError(
                "out: one of its arrays overlaps the other, or the other's logits, apart is needed"
            )
    return out
