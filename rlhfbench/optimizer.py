"""AdamW over a policy's flat parameters, with gradient clipping; it charges its own work."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels import flops, optim

from .types import Float


class AdamW:
    """Loshchilov and Hutter 2019 (arXiv:1711.05101), on flat arrays.

    Parameters
    ----------
    params, grads : (size,) arrays
        Updated and cleared in place.
    learning_rate : float
    max_grad_norm : float
        Gradients with a larger global norm are scaled down to it; 0 leaves them.
    beta1, beta2, eps, weight_decay : float
    charge : callable (Work) or None
        Where the work goes.
    count : callable () or None
        Called once a step.

    Attributes
    ----------
    spared : int
        So many of the first parameters do not decay; 0 to begin with.
    """

    def __init__(
        self,
        params: Float,
        grads: Float,
        learning_rate: float,
        *,
        max_grad_norm: float = 0.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        charge: Callable[[flops.Work], None] | None = None,
        count: Callable[[], None] | None = None,
    ) -> None:
        self.params, self.grads = params, grads
        self.learning_rate, self.max_grad_norm = learning_rate, max_grad_norm
        self.options = {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        self.spared = 0
        self.m, self.v = np.zeros_like(params), np.zeros_like(params)
        self.steps = 0
        self.charge, self.count = charge, count

    def step(self, scale: float = 1.0) -> None:
        """One update with learning rate `learning_rate * scale`; clears the gradients."""
        self.steps += 1
        if self.max_grad_norm > 0:
            self._clip()
        self._update(slice(self.spared, None), self.learning_rate * scale, self.options)
        if self.spared:
            self._update(slice(self.spared), self.learning_rate * scale, self.options | {"weight_decay": 0.0})
        self._charge("adamw")
        self.grads.fill(0)
        if self.count is not None:
            self.count()

    def _update(self, part: slice, rate: float, options: dict[str, float]) -> None:
        optim.adamw(
            self.params[part], self.grads[part], self.m[part], self.v[part], self.steps, rate, **options
        )

    def _clip(self) -> None:
        norm = optim.global_norm(self.grads)
        self._charge("global_norm")
        if norm > self.max_grad_norm:
            self.grads *= self.grads.dtype.type(self.max_grad_norm / norm)
            if self.charge is not None:
                self.charge(flops.work("elementwise", self.params.size + 1))  # the factor is one of them

    def _charge(self, kernel: str) -> None:
        if self.charge is not None:
            self.charge(flops.work(kernel, self.params.size))
