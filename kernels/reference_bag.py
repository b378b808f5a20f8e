"""Float64 NumPy twins of the bag kernels: readable, slow, and sharing no code with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Rows = tuple[ArrayLike, ArrayLike, ArrayLike]


def _dense(indptr: ArrayLike, indices: ArrayLike, data: ArrayLike, n_features: int) -> Array:
    """(N, F) float64; what occurs twice in a row is summed."""
    ptr, ind = np.asarray(indptr), np.asarray(indices)
    out = np.zeros((len(ptr) - 1, n_features))
    rows = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    np.add.at(out, (rows, ind[: ptr[-1]].astype(np.int64)), np.asarray(data, np.float64)[: ptr[-1]])
    return out


def bag_scores(
    weights: ArrayLike, indptr: ArrayLike, indices: ArrayLike, data: ArrayLike, out: Array | None = None
) -> Array:
    """(N,) dot products of each row with the weights."""
    w = np.asarray(weights, np.float64)
    scores = _dense(indptr, indices, data, len(w)) @ w
    if out is None:
        return np.asarray(scores)
    out[...] = scores
    return out


def bag_difference(chosen: Rows, rejected: Rows, n_features: int) -> tuple[Array, Array, Array]:
    """CSR of chosen minus rejected, features in order of their number."""
    dense = _dense(*chosen, n_features) - _dense(*rejected, n_features)
    rows, indices = np.nonzero(dense)
    indptr = np.searchsorted(rows, np.arange(len(dense) + 1))
    return indptr, indices, dense[rows, indices]


def bradley_terry_bag(
    weights: ArrayLike,
    indptr: ArrayLike,
    indices: ArrayLike,
    data: ArrayLike,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """Loss and gradient (F,) of a linear Bradley-Terry model."""
    w = np.asarray(weights, np.float64)
    x = _dense(indptr, indices, data, len(w))
    margins = x @ w
    wrong = np.logaddexp(0.0, margins)
    right = np.logaddexp(0.0, -margins)
    loss = np.mean((1 - label_smoothing) * right + label_smoothing * wrong) + l2 / 2 * w @ w
    d_margins = (np.exp(-right) - (1 - label_smoothing)) / len(x)
    return float(loss), x.T @ d_margins + l2 * w


def fit_bradley_terry(
    indptr: ArrayLike,
    indices: ArrayLike,
    data: ArrayLike,
    n_features: int,
    order: ArrayLike,
    C: float = 1.0,
    tol: float = 2e-3,
    max_epochs: int = 200,
    start: Any = None,
) -> Array:
    """(F,) weights at the optimum itself, by Newton's method with halving; `order`, `tol`, `start` do not matter."""
    x = _dense(indptr, indices, data, n_features)
    w = np.zeros(n_features)

    def loss(w: Array) -> float:
        return float(w @ w / 2 + C * np.logaddexp(0.0, -x @ w).sum())

    for _ in range(max_epochs):
        p = np.exp(-np.logaddexp(0.0, -x @ w))
        gradient = w - C * x.T @ (1 - p)
        if np.abs(gradient).max() < 1e-12:
            break
        hessian = np.eye(n_features) + C * x.T @ (x * (p * (1 - p))[:, None])
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-8 and loss(w - size * step) > loss(w):
            size /= 2
        w = w - size * step
    return w


def duality_gap(
    indptr: ArrayLike, indices: ArrayLike, data: ArrayLike, margins: ArrayLike, C: float, n_features: int
) -> float:
    """P(w) - D(a) at a_i = C sigmoid(-margins_i) and w = sum_i a_i x_i; 0 only at the optimum, never below."""
    x = _dense(indptr, indices, data, n_features)
    d = np.asarray(margins, np.float64)
    a = C * np.exp(-np.logaddexp(0.0, d))
    w = x.T @ a
    primal = w @ w / 2 + C * np.logaddexp(0.0, -x @ w).sum()
    # a log(a / C) + (C - a) log(1 - a / C), by margins, so that nothing is 0 log 0
    entropy = -a * np.logaddexp(0.0, d) - (C - a) * np.logaddexp(0.0, -d)
    return float(primal - (-(w @ w) / 2 - entropy.sum()))
