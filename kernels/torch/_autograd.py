"""What PyTorch may do with these functions: compile around them, differentiate once, scale a gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ._tensors import numbers

_Function = TypeVar("_Function", bound=Callable[..., Any])


def eager(function: _Function) -> _Function:
    """Keeps `torch.compile` out, which fails on Numba's functions; what stands around the call is compiled."""
    hidden = torch.compiler.disable(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return hidden(*args, **kwargs)

    return cast(_Function, call)


def first_order(backward: _Function) -> _Function:
    """Refuses a second derivative, also where `once_differentiable` would silently take this one for a constant."""

    @wraps(backward)
    def call(ctx: Any, *d_results: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "kernels.torch has no second derivatives: create_graph=True came, False is needed"
            )
        return backward(ctx, *d_results)

    return cast(_Function, call)


class KnownGradient(torch.autograd.Function):
    """A number whose gradients with respect to the logits are known already."""

    @staticmethod
    def forward(ctx: Any, loss: float, dtype: Any, gradients: tuple[Tensor, ...], *logits: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return numbers(dtype, loss)[0]

    @staticmethod
    @first_order
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        factor = d_loss.item()
        scaled = [d if factor == 1.0 else d * factor for d in ctx.saved_tensors]
        return None, None, None, *scaled
