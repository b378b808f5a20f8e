"""Central differences, to check gradients that were derived by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def gradient(function: Callable[[Any], float], x: Any, step: float = 1e-5) -> Any:
    """d function / d x by central differences; x is a float64 array and is not changed."""
    result = np.empty_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        result[index] = (function(up) - function(down)) / (2 * step)
    return result


def assert_gradient(function: Callable[[Any], float], x: Any, claimed: Any) -> None:
    np.testing.assert_allclose(claimed, gradient(function, x), rtol=1e-6, atol=1e-8)
