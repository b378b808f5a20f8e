"""DPO's loss of logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _batch, from_logits, preference
from .._check import Array, shaped
from .._from_logits import weighted_sums_jit
from .._tokens import Tokens, read_tokens
from . import _tensors
from ._autograd import KnownGradient, eager
from ._per_token import score
from ._tensors import constant, needs_gradient, numbers, promoted


class DPOLoss(NamedTuple):
    """The loss; without gradient, rewards and summed log-probabilities of the responses, (...) each."""

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    chosen_logps: Tensor
    rejected_logps: Tensor


def _is_pair(name: str, value: Any) -> bool:
    if isinstance(value, tuple) and len(value) != 2:
        raise ValueError(f"{name}: came as a tuple of {len(value)}, (chosen, rejected) is needed")
    return isinstance(value, tuple)


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
        return constant(name, value[0]), constant(name, value[1])
    return _halves(name, np.asarray(constant(name, value)))


def _sums(read: Tokens, temperature: float, threads: int) -> Array:
    """The log-probability of each response."""
    logprobs, weights = score(read, temperature, threads)[0], read.weights
    sums = np.empty(weights.shape[:-1], weights.dtype)
    weighted_sums_jit(logprobs.ravel(), weights.ravel(), sums.ravel())
    return sums


@eager
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
    whole = promoted(("logits", "logits"), *logits) if paired else (logits,)
    arrays = [_tensors.logits_of("logits", tensor) for tensor in whole]
    x, y = arrays if paired else _halves("logits", arrays[0])
    t, u = _constants("tokens", tokens)
    (m, n), dtype = _constants("mask", mask), _batch.number(_batch.stored(x))
    ref_up, ref_down = (
        shaped("ref_logps", ref, dtype, z.shape[:-2], "one a response")
        for ref, z in zip(_constants("ref_logps", ref_logps), (x, y), strict=True)
    )
    share = _tensors.share(threads, whole[0])
    if not needs_gradient(*whole):
        heat = _batch.temperature(temperature)
        x, y = (_batch.logits(("logits",), z)[0] for z in (x, y))
        chosen = read_tokens(x, t, m, ignore_index, "chosen_")
        rejected = read_tokens(y, u, n, ignore_index, "rejected_")
        up, down = (_sums(half, heat, share) for half in (chosen, rejected))
        loss, _, _, *rewards = preference.dpo(up, down, ref_up, ref_down, beta, label_smoothing)
        return DPOLoss(*numbers(up.dtype, loss), *map(torch.from_numpy, (*rewards, up, down)))
    gradients = tuple(_tensors.empty_like(tensor) for tensor in whole)
    written = [_tensors.memory(d) for d in gradients]
    loss, _, _, *shown = from_logits.dpo_from_logits(
        *(x, y, t, u, ref_up, ref_down, beta),
        chosen_mask=m,
        rejected_mask=n,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        temperature=temperature,
        out=(written[0], written[1]) if paired else _halves("logits", written[0]),
        threads=share,
    )
    loss = KnownGradient.apply(loss, shown[0].dtype, gradients, *whole)
    return DPOLoss(loss, *map(torch.from_numpy, shown))
