"""Tensors as the arrays that the kernels take, without a copy, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._check import Array

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_GRAIN = 2**17  # elements of logits below which a further thread does not pay


def _on_cpu(name: str, tensor: Tensor) -> Tensor:
    if tensor.device.type != "cpu":
        raise TypeError(f"{name}: came on device {tensor.device}, a tensor on the CPU is needed")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: came with layout {tensor.layout}, a dense tensor is needed")
    return tensor.detach()


def memory(tensor: Tensor) -> Array:
    """The tensor's memory; NumPy has no bfloat16, its bits are uint16."""
    bits = tensor.dtype == torch.bfloat16
    array: Array = (tensor.view(torch.int16) if bits else tensor).numpy()
    return array.view(np.uint16) if bits else array


def logits_of(name: str, logits: Any) -> Array:
    """The memory of what a gradient flows into."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name}: came as {type(logits).__name__}, a tensor is needed")
    dense = _on_cpu(name, logits)
    if dense.dtype not in _DTYPES:
        raise TypeError(
            f"{name}: came with dtype {dense.dtype}, float32, float64, float16 or bfloat16 is needed"
        )
    return memory(dense)


def constant(name: str, value: Any) -> Any:
    """An argument that no gradient flows into; what is no tensor stays as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: requires a gradient, which it gets none of here; {name}.detach() is needed"
        )
    dense = _on_cpu(name, value)
    return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()


def promoted(names: tuple[str, str], *logits: Tensor) -> tuple[Tensor, ...]:
    """Two tensors in their common type; autograd casts the gradients back."""
    for name, tensor in zip(names, logits, strict=True):
        logits_of(name, tensor)
    common = torch.promote_types(logits[0].dtype, logits[1].dtype)
    return tuple(tensor.to(common) for tensor in logits)


def needs_gradient(*logits: Tensor) -> bool:
    """Whether to compute the gradient with the loss; the logits are checked, too."""
    for tensor in logits:
        logits_of("logits", tensor)
    return torch.is_grad_enabled() and any(x.requires_grad for x in logits)


def empty_like(logits: Tensor) -> Tensor:
    """Room for the gradient."""
    return torch.empty(logits.shape, dtype=logits.dtype)


def share(threads: int | None, logits: Tensor) -> int:
    """How many threads to use: no more than PyTorch may, and than pay."""
    return min(torch.get_num_threads(), 1 + logits.numel() // _GRAIN) if threads is None else threads


def numbers(dtype: np.dtype[Any], *values: float) -> list[Tensor]:
    """Each value as a tensor without dimensions."""
    return [torch.from_numpy(np.array(x, dtype)) for x in values]
