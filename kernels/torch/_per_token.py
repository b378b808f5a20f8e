"""A number a token, differentiable by the logits; the gradient is computed when it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _batch, categorical
from .._check import Array
from .._from_logits import backward_jit, forward_jit
from .._tokens import Tokens, read_tokens
from . import _tensors
from ._autograd import eager, first_order
from ._tensors import constant, promoted


def _rows_of(logits: Tensor) -> Array:
    return _batch.logits(("logits",), _tensors.logits_of("logits", logits))[0]


def score(read: Tokens, temperature: float, threads: int) -> tuple[Array, Array, Array]:
    """Log-probabilities, and the two numbers a row that the backward pass spares itself."""
    logprobs, tops, masses = read.empty(), read.empty(), np.empty(read.tokens.shape)

    def rows(x: Array, t: Array, w: Array, lp: Array, top: Array, mass: Array) -> Any:
        return forward_jit(x, t, w, temperature, lp, top, mass)

    read.over_rows(rows, threads, read.weights, logprobs, tops, masses)
    return logprobs, tops, masses


def logprobs_of(
    logits: Tensor, tokens: Any, mask: Any, ignore_index: int, temperature: float, threads: int | None
) -> tuple[Tokens, Array]:
    """What the losses start from where no gradient is asked for."""
    read = read_tokens(_rows_of(logits), tokens, mask, ignore_index)
    heat = _batch.temperature(temperature)
    return read, score(read, heat, _tensors.share(threads, logits))[0]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Any, mask: Any, ignore: int, heat: float, threads: int
    ) -> Tensor:
        read = read_tokens(_rows_of(logits), constant("tokens", tokens), mask, ignore)
        logprobs, *normalizers = score(read, heat, threads)
        ctx.save_for_backward(logits, *[t for t in (tokens,) if isinstance(t, Tensor)])
        ctx.rows = (read.tokens, read.weights, *normalizers)
        ctx.heat, ctx.threads = heat, threads
        return torch.from_numpy(logprobs)

    @staticmethod
    @first_order
    def backward(ctx: Any, d_logprobs: Tensor) -> tuple[Tensor | None, ...]:
        logits = ctx.saved_tensors[0]  # complains if logits or tokens were changed since
        d_logits = _tensors.empty_like(logits)

        def rows(x: Array, t: Array, w: Array, top: Array, mass: Array, slope: Array, d: Array) -> Any:
            return backward_jit(x, t, slope, w, top, mass, ctx.heat, d)

        tokens, *rest = ctx.rows
        slopes, written = np.ascontiguousarray(d_logprobs.numpy()), _batch.stored(_tensors.memory(d_logits))
        _batch.over_rows(rows, ctx.threads, _rows_of(logits), tokens, *rest, slopes, written)
        return d_logits, None, None, None, None, None


@eager
def token_logprobs(
    logits: Tensor,
    tokens: Any,
    mask: Any = None,
    *,
    ignore_index: int = -100,
    temperature: float = 1.0,
    threads: int | None = None,
) -> Tensor:
    """Log-probability of one given token a row: ``log_softmax(logits / temperature)[..., token]``.

    Parameters
    ----------
    logits : Tensor, (..., V)
    tokens : Tensor of integers, (...)
    mask : Tensor, (...), optional
        What is 0 is not read: its log-probability and gradient are 0.
    ignore_index : int
        Tokens of this value are not read either.
    temperature : float
        From 1e-30 to 1e30.
    threads : int, optional

    Returns
    -------
    Tensor, (...)
        float32, or float64 of such logits.

    Examples
    --------
    >>> logits = torch.zeros(1, 2, requires_grad=True)
    >>> token_logprobs(logits, torch.tensor([1])).sum().backward()
    >>> logits.grad
    tensor([[-0.5000,  0.5000]])
    """
    _tensors.logits_of("logits", logits)
    counts = None if mask is None else np.asarray(constant("mask", mask)) != 0
    heat, share = _batch.temperature(temperature), _tensors.share(threads, logits)
    result: Tensor = _TokenLogprobs.apply(logits, tokens, counts, ignore_index, heat, share)
    return result


@eager
def selective_log_softmax(
    logits: Tensor, index: Any, temperature: float = 1.0, row_mask: Any = None
) -> Tensor:
    """`token_logprobs` under the name and with the parameters that it has in TRL; `index` is one token a row.

    Examples
    --------
    >>> selective_log_softmax(torch.zeros(1, 2), torch.tensor([1]))
    tensor([-0.6931])
    """
    return token_logprobs(logits, index, row_mask, temperature=temperature)


class _Entropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, threads: int) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.threads = threads
        return torch.from_numpy(
            np.asarray(categorical.entropy(_tensors.logits_of("logits", logits), threads=threads))
        )

    @staticmethod
    @first_order
    def backward(ctx: Any, d_entropy: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        d_logits = _tensors.empty_like(logits)
        x, d = _tensors.logits_of("logits", logits), d_entropy.numpy()
        categorical.entropy_backward(x, d, out=_tensors.memory(d_logits), threads=ctx.threads)
        return d_logits, None


@eager
def entropy(logits: Tensor, *, threads: int | None = None) -> Tensor:
    """Entropy ``-sum p log p`` of each row, in nats.

    Parameters
    ----------
    logits : Tensor, (..., V)
    threads : int, optional

    Returns
    -------
    Tensor, (...)

    Examples
    --------
    >>> entropy(torch.zeros(1, 2))
    tensor([0.6931])
    """
    _tensors.logits_of("logits", logits)
    result: Tensor = _Entropy.apply(logits, _tensors.share(threads, logits))
    return result


class _KLDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ref_logits: Tensor, threads: int) -> Tensor:
        ctx.save_for_backward(logits, ref_logits)
        ctx.threads = threads
        x, y = _tensors.logits_of("logits", logits), _tensors.logits_of("ref_logits", ref_logits)
        return torch.from_numpy(np.asarray(categorical.kl_divergence(x, y, threads=threads)))

    @staticmethod
    @first_order
    def backward(ctx: Any, d_kl: Tensor) -> tuple[Tensor | None, ...]:
        logits, ref_logits = ctx.saved_tensors
        x, y, d = (
            _tensors.logits_of("logits", logits),
            _tensors.logits_of("ref_logits", ref_logits),
            d_kl.numpy(),
        )
        d_logits = d_ref = None
        if ctx.needs_input_grad[0]:
            d_logits = _tensors.empty_like(logits)
            categorical.kl_divergence_backward(x, y, d, out=_tensors.memory(d_logits), threads=ctx.threads)
        if ctx.needs_input_grad[1]:  # q - p, as the difference of (1[v = 0] - p) and (1[v = 0] - q)
            first = np.zeros(d.shape, np.int64)
            of_p, of_q = (
                categorical.token_logprobs_backward(z, first, d, threads=ctx.threads) for z in (x, y)
            )
            d_ref = torch.from_numpy(np.subtract(of_p, of_q, out=of_p)).to(ref_logits.dtype)
        return d_logits, d_ref, None


@eager
def kl_divergence(logits: Tensor, ref_logits: Tensor, *, threads: int | None = None) -> Tensor:
    """Exact ``KL(pi || ref) = sum p log(p / q)`` of each row, in nats; differentiable by both logits.

    Parameters
    ----------
    logits, ref_logits : Tensor, (..., V)
        Of pi and of the reference. The other direction, as in distillation, is ``kl_divergence(teacher, student)``;
        the gradient of the second argument takes two arrays of its size.
    threads : int, optional

    Returns
    -------
    Tensor, (...)

    Examples
    --------
    >>> kl_divergence(torch.tensor([[0.0, -torch.inf]]), torch.zeros(1, 2))
    tensor([0.6931])
    """
    pair = promoted(("logits", "ref_logits"), logits, ref_logits)
    result: Tensor = _KLDivergence.apply(*pair, _tensors.share(threads, logits))
    return result
