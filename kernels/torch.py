"""The kernels as differentiable PyTorch functions, for tensors on the CPU; needs PyTorch, which nothing else here does.

Logits are (..., V) tensors of float32, float64, float16 or bfloat16. They are read where they are, not copied, also
where rows lie apart as in ``logits[:, :-1]``; their gradient has their type, all else of half precision is float32.
Gradients flow into logits only: any other argument is a constant, and one that requires a gradient is refused.
Tokens equal to `ignore_index`, or whose mask is 0, do not count; their logits are not read.

The losses compute the gradient together with the loss, keep it until ``backward()``, and only scale it there, by a
pass that is saved where the factor is 1. Where no gradient is asked for, none is computed. `threads` is at most
``torch.get_num_threads()`` unless given; any number gives the same bits. What does not fit is a TypeError or
ValueError that names the parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from . import _batch, categorical, from_logits, policy_gradient, preference
from ._check import Array, like, number
from ._from_logits import backward_jit, forward_jit, weighted_sum_jit, weighted_sums_jit
from ._tokens import Tokens, read_tokens

__all__ = [
    "DPOLoss",
    "GRPOLoss",
    "PPOLoss",
    "SFTLoss",
    "dpo_loss",
    "entropy",
    "grpo_loss",
    "kl_divergence",
    "ppo_loss",
    "selective_log_softmax",
    "sft_loss",
    "token_logprobs",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_GRAIN = 2**17  # elements of logits below which a further thread does not pay


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


class DPOLoss(NamedTuple):
    """The loss; without gradient, rewards and summed log-probabilities of the responses, (...) each."""

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    chosen_logps: Tensor
    rejected_logps: Tensor


# --- what PyTorch may do with these functions --------------------------------------------------------------------


def _eager(function: _Function) -> _Function:
    """Keeps `torch.compile` out, which fails on Numba's functions; what stands around the call is compiled."""
    hidden = torch.compiler.disable(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return hidden(*args, **kwargs)

    return cast(_Function, call)


def _first_order(backward: _Function) -> _Function:
    """Refuses a second derivative, also where `once_differentiable` would silently take this one for a constant."""

    @wraps(backward)
    def call(ctx: Any, *d_results: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "kernels.torch has no second derivatives: create_graph=True came, False is needed"
            )
        return backward(ctx, *d_results)

    return cast(_Function, call)


# --- tensors as arrays -------------------------------------------------------------------------------------------


def _on_cpu(name: str, tensor: Tensor) -> Tensor:
    if tensor.device.type != "cpu":
        raise TypeError(f"{name}: came on device {tensor.device}, a tensor on the CPU is needed")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: came with layout {tensor.layout}, a dense tensor is needed")
    return tensor.detach()


def _memory(tensor: Tensor) -> Array:
    """The tensor's memory; NumPy has no bfloat16, its bits are uint16."""
    bits = tensor.dtype == torch.bfloat16
    array: Array = (tensor.view(torch.int16) if bits else tensor).numpy()
    return array.view(np.uint16) if bits else array


def _logits(name: str, logits: Any) -> Array:
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name}: came as {type(logits).__name__}, a tensor is needed")
    dense = _on_cpu(name, logits)
    if dense.dtype not in _DTYPES:
        raise TypeError(
            f"{name}: came with dtype {dense.dtype}, float32, float64, float16 or bfloat16 is needed"
        )
    return _memory(dense)


def _constant(name: str, value: Any) -> Any:
    """An argument that no gradient flows into; what is no tensor stays as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: requires a gradient, which it gets none of here; {name}.detach() is needed"
        )
    dense = _on_cpu(name, value)
    return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()


def _needs_gradient(*logits: Tensor) -> bool:
    for tensor in logits:
        _logits("logits", tensor)
    return torch.is_grad_enabled() and any(x.requires_grad for x in logits)


def _like(logits: Tensor) -> Tensor:
    """Room for the gradient."""
    return torch.empty(logits.shape, dtype=logits.dtype)


def _share(threads: int | None, logits: Tensor) -> int:
    return min(torch.get_num_threads(), 1 + logits.numel() // _GRAIN) if threads is None else threads


def _promoted(names: tuple[str, str], *logits: Tensor) -> tuple[Tensor, ...]:
    """Two tensors in their common type; autograd casts the gradients back."""
    for name, tensor in zip(names, logits, strict=True):
        _logits(name, tensor)
    common = torch.promote_types(logits[0].dtype, logits[1].dtype)
    return tuple(tensor.to(common) for tensor in logits)


def _tensors(dtype: np.dtype[Any], *numbers: float) -> list[Tensor]:
    return [torch.from_numpy(np.array(x, dtype)) for x in numbers]


# --- per token ---------------------------------------------------------------------------------------------------


def _score(read: Tokens, temperature: float, threads: int) -> tuple[Array, Array, Array]:
    """Log-probabilities, and the two numbers a row that the backward pass spares itself."""
    logprobs, tops, masses = read.empty(), read.empty(), np.empty(read.tokens.shape)

    def rows(x: Array, t: Array, w: Array, lp: Array, top: Array, mass: Array) -> Any:
        return forward_jit(x, t, w, temperature, lp, top, mass)

    read.over_rows(rows, threads, read.weights, logprobs, tops, masses)
    return logprobs, tops, masses


def _logprobs(
    logits: Tensor, tokens: Any, mask: Any, ignore_index: int, temperature: float, threads: int | None
) -> tuple[Tokens, Array]:
    """What the losses start from where no gradient is asked for."""
    (x,) = _batch.logits(("logits",), _logits("logits", logits))
    read = read_tokens(x, tokens, mask, ignore_index)
    return read, _score(read, number("temperature", temperature, above=0.0), _share(threads, logits))[0]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Any, mask: Any, ignore: int, heat: float, threads: int
    ) -> Tensor:
        (x,) = _batch.logits(("logits",), _logits("logits", logits))
        read = read_tokens(x, _constant("tokens", tokens), mask, ignore)
        logprobs, *normalizers = _score(read, heat, threads)
        ctx.save_for_backward(logits, *[t for t in (tokens,) if isinstance(t, Tensor)])
        ctx.rows = (read.tokens, read.weights, *normalizers)
        ctx.heat, ctx.threads = heat, threads
        return torch.from_numpy(logprobs)

    @staticmethod
    @_first_order
    def backward(ctx: Any, d_logprobs: Tensor) -> tuple[Tensor | None, ...]:
        logits = ctx.saved_tensors[0]  # complains if logits or tokens were changed since
        (x,) = _batch.logits(("logits",), _logits("logits", logits))
        d_logits = _like(logits)

        def rows(x: Array, t: Array, w: Array, top: Array, mass: Array, slope: Array, d: Array) -> Any:
            return backward_jit(x, t, slope, w, top, mass, ctx.heat, d)

        tokens, *rest = ctx.rows
        slopes = np.ascontiguousarray(d_logprobs.numpy())
        _batch.over_rows(rows, ctx.threads, x, tokens, *rest, slopes, _batch.stored(_memory(d_logits)))
        return d_logits, None, None, None, None, None


@_eager
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
        Above 0.
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
    _logits("logits", logits)
    counts = None if mask is None else np.asarray(_constant("mask", mask)) != 0
    heat = number("temperature", temperature, above=0.0)
    result: Tensor = _TokenLogprobs.apply(logits, tokens, counts, ignore_index, heat, _share(threads, logits))
    return result


@_eager
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
        return torch.from_numpy(np.asarray(categorical.entropy(_logits("logits", logits), threads=threads)))

    @staticmethod
    @_first_order
    def backward(ctx: Any, d_entropy: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        d_logits = _like(logits)
        x, d = _logits("logits", logits), d_entropy.numpy()
        categorical.entropy_backward(x, d, out=_memory(d_logits), threads=ctx.threads)
        return d_logits, None


@_eager
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
    _logits("logits", logits)
    result: Tensor = _Entropy.apply(logits, _share(threads, logits))
    return result


class _KLDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ref_logits: Tensor, threads: int) -> Tensor:
        ctx.save_for_backward(logits, ref_logits)
        ctx.threads = threads
        x, y = _logits("logits", logits), _logits("ref_logits", ref_logits)
        return torch.from_numpy(np.asarray(categorical.kl_divergence(x, y, threads=threads)))

    @staticmethod
    @_first_order
    def backward(ctx: Any, d_kl: Tensor) -> tuple[Tensor | None, ...]:
        logits, ref_logits = ctx.saved_tensors
        x, y, d = _logits("logits", logits), _logits("ref_logits", ref_logits), d_kl.numpy()
        d_logits = d_ref = None
        if ctx.needs_input_grad[0]:
            d_logits = _like(logits)
            categorical.kl_divergence_backward(x, y, d, out=_memory(d_logits), threads=ctx.threads)
        if ctx.needs_input_grad[1]:  # q - p, as the difference of (1[v = 0] - p) and (1[v = 0] - q)
            first = np.zeros(d.shape, np.int64)
            of_p, of_q = (
                categorical.token_logprobs_backward(z, first, d, threads=ctx.threads) for z in (x, y)
            )
            d_ref = torch.from_numpy(np.subtract(of_p, of_q, out=of_p)).to(ref_logits.dtype)
        return d_logits, d_ref, None


@_eager
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
    pair = _promoted(("logits", "ref_logits"), logits, ref_logits)
    result: Tensor = _KLDivergence.apply(*pair, _share(threads, logits))
    return result


# --- losses ------------------------------------------------------------------------------------------------------


class _Loss(torch.autograd.Function):
    """A number whose gradients with respect to the logits are known already."""

    @staticmethod
    def forward(ctx: Any, loss: float, dtype: Any, gradients: tuple[Tensor, ...], *logits: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return _tensors(dtype, loss)[0]

    @staticmethod
    @_first_order
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        factor = d_loss.item()
        scaled = [d if factor == 1.0 else d * factor for d in ctx.saved_tensors]
        return None, None, None, *scaled


def _fused(
    function: Any, logits: Tensor, *constants: Any, threads: int | None, **settings: Any
) -> tuple[Tensor, ...]:
    """What a function of `from_logits` returns, as tensors; the gradient stands behind the loss."""
    d_logits, share = _like(logits), _share(threads, logits)
    out = _memory(d_logits)
    loss, _, *shown, lp = function(_logits("logits", logits), *constants, **settings, out=out, threads=share)
    leading: Tensor = _Loss.apply(loss, lp.dtype, (d_logits,), logits)
    return leading, *_tensors(lp.dtype, *shown), torch.from_numpy(lp)


@_eager
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
    t, m = _constant("tokens", tokens), _constant("mask", mask)
    given: dict[str, Any] = {"ignore_index": ignore_index, "temperature": temperature, "threads": threads}
    if _needs_gradient(logits):
        return SFTLoss._make(_fused(from_logits.sft_from_logits, logits, t, m, **given))
    read, lp = _logprobs(logits, t, m, **given)
    mean = -1.0 / read.total * weighted_sum_jit(lp.reshape(-1), read.weights.reshape(-1))
    return SFTLoss._make([*_tensors(lp.dtype, mean), torch.from_numpy(lp)])


@_eager
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
    >>> old = token_logprobs(logits, [1]).detach()
    >>> ppo_loss(logits, [1], old, [2.0], None, 0.2).loss
    tensor(-2., grad_fn=<_LossBackward>)
    """
    names = ("tokens", "old_logprobs", "advantages", "mask")
    t, old, each, m = map(_constant, names, (tokens, old_logprobs, advantages, mask))
    given: dict[str, Any] = {"ignore_index": ignore_index, "temperature": temperature, "threads": threads}
    if _needs_gradient(logits):
        return PPOLoss._make(_fused(from_logits.ppo_from_logits, logits, t, old, each, m, cliprange, **given))
    read, lp = _logprobs(logits, t, m, **given)
    old, each = read.column("old_logprobs", old), read.column("advantages", each)
    loss, _, *shown = policy_gradient.ppo_clip(lp, old, each, read.weights, cliprange)
    return PPOLoss._make([*_tensors(lp.dtype, loss, *shown), torch.from_numpy(lp)])


@_eager
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
    >>> old = token_logprobs(logits, [[1]]).detach()
    >>> grpo_loss(logits, [[1]], old, [2.0], None, 0.2).loss
    tensor(-2., grad_fn=<_LossBackward>)
    """
    names = ("tokens", "old_logprobs", "advantages", "mask", "ref_logprobs")
    values = (tokens, old_logprobs, advantages, mask, ref_logprobs)
    t, old, each, m, ref = map(_constant, names, values)
    given: dict[str, Any] = {"ignore_index": ignore_index, "temperature": temperature, "threads": threads}
    objective: dict[str, Any] = {"cliprange_high": cliprange_high, "beta": beta, "loss_type": loss_type}
    if _needs_gradient(logits):
        function, objective["ref_logprobs"] = from_logits.grpo_from_logits, ref
        return GRPOLoss._make(_fused(function, logits, t, old, each, m, cliprange, **objective, **given))
    read, lp = _logprobs(logits, t, m, **given)
    old, each = read.column("old_logprobs", old), like("advantages", each, lp.dtype)
    objective["ref_logprobs"] = None if ref is None else read.column("ref_logprobs", ref)
    loss, _, *shown = policy_gradient.grpo(lp, old, each, read.weights, cliprange, **objective)
    return GRPOLoss._make([*_tensors(lp.dtype, loss, *shown), torch.from_numpy(lp)])


def _is_pair(name: str, value: Any) -> bool:
    if isinstance(value, tuple) and len(value) != 2:
        raise ValueError(f"{name}: came as a tuple of {len(value)}, (chosen, rejected) is needed")
    return isinstance(value, tuple)


def _sums(read: Tokens, temperature: float, threads: int) -> Array:
    """The log-probability of each response."""
    logprobs, weights = _score(read, temperature, threads)[0], read.weights
    sums = np.empty(weights.shape[:-1], weights.dtype)
    weighted_sums_jit(logprobs.ravel(), weights.ravel(), sums.ravel())
    return sums


def _halves(name: str, responses: Array) -> tuple[Array, Array]:
    if responses.ndim == 0 or len(responses) % 2:
        raise ValueError(
            f"{name}: came with shape {responses.shape}, an even number of responses is needed, chosen ones first"
        )
    return responses[: len(responses) // 2], responses[len(responses) // 2 :]


def _constants(name: str, value: Any) -> tuple[Any, Any]:
    """Of chosen and of rejected responses, given as a pair or as one."""
    if value is None:
        return None, None
    if _is_pair(name, value):
        return _constant(name, value[0]), _constant(name, value[1])
    return _halves(name, np.asarray(_constant(name, value)))


@_eager
def dpo_loss(
    logits: Tensor | tuple[Tensor, Tensor],
    tokens: Any,
    ref_logps: Any,
    beta: float,
    *,
    mask: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    temperature: float = 1.0,
    threads: int | None = None,
) -> DPOLoss:
    """DPO's loss, `from_logits.dpo_from_logits`.

    Each of logits, tokens, reference and mask is one tensor with the chosen responses in its first half and the
    rejected ones in its second, as TRL batches them, or a pair (chosen, rejected), which may differ in T.

    Parameters
    ----------
    logits : Tensor, (2 B, ..., T, V), or a pair (B, ..., T, V), (B, ..., U, V)
    tokens : Tensor of integers, (2 B, ..., T), or a pair
    ref_logps : Tensor, (2 B, ...), or a pair
        The reference's log-probabilities of whole responses.
    beta : float
        Above 0.
    mask : Tensor, (2 B, ..., T), or a pair, optional
    label_smoothing : float in [0, 1]
    ignore_index, temperature, threads
        As of `token_logprobs`.

    Returns
    -------
    DPOLoss

    Examples
    --------
    >>> logits = torch.zeros(2, 1, 2, requires_grad=True)
    >>> dpo_loss(logits, [[1], [0]], [-0.6931, -0.6931], beta=0.1).loss.backward()
    >>> logits.grad
    tensor([[[ 0.0250, -0.0250]],
    <BLANKLINE>
            [[ 0.0250, -0.0250]]])
    """
    paired = _is_pair("logits", logits)
    whole = _promoted(("logits", "logits"), *logits) if paired else (logits,)
    arrays = [_logits("logits", tensor) for tensor in whole]
    x, y = arrays if paired else _halves("logits", arrays[0])
    t, u = _constants("tokens", tokens)
    refs, (m, n) = _constants("ref_logps", ref_logps), _constants("mask", mask)
    share = _share(threads, whole[0])
    if not _needs_gradient(*whole):
        heat = number("temperature", temperature, above=0.0)
        x, y = (_batch.logits(("logits",), z)[0] for z in (x, y))
        chosen = read_tokens(x, t, m, ignore_index, "chosen_")
        rejected = read_tokens(y, u, n, ignore_index, "rejected_")
        up, down = (_sums(half, heat, share) for half in (chosen, rejected))
        ref_up, ref_down = (like("ref_logps", ref, up.dtype) for ref in refs)
        loss, _, _, *rewards = preference.dpo(up, down, ref_up, ref_down, beta, label_smoothing)
        return DPOLoss(*_tensors(up.dtype, loss), *map(torch.from_numpy, (*rewards, up, down)))
    gradients = tuple(_like(tensor) for tensor in whole)
    written = [_memory(d) for d in gradients]
    loss, _, _, *shown = from_logits.dpo_from_logits(
        *(x, y, t, u, *refs, beta),
        chosen_mask=m,
        rejected_mask=n,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        temperature=temperature,
        out=(written[0], written[1]) if paired else _halves("logits", written[0]),
        threads=share,
    )
    loss = _Loss.apply(loss, shown[0].dtype, gradients, *whole)
    return DPOLoss(loss, *map(torch.from_numpy, shown))
