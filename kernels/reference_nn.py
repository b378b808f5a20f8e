"""Readable float64 twins of `kernels.nn`, in plain NumPy: what each computes, and its gradient."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
EPS = 1e-5


def embedding(tokens: Array, places: Array, table: Array, positions: Array) -> Array:
    """(N, C)."""
    return np.asarray(table[tokens] + positions[places])


def layer_norm(x: Array, gain: Array, shift: Array) -> Array:
    """(N, C), each row with mean 0 and variance 1, times gain plus shift."""
    gap = x - x.mean(axis=1, keepdims=True)
    return np.asarray(gap / np.sqrt((gap**2).mean(axis=1, keepdims=True) + EPS) * gain + shift)


def layer_norm_backward(d_out: Array, x: Array, gain: Array) -> tuple[Array, Array, Array]:
    """d_x, d_gain, d_shift."""
    gap = x - x.mean(axis=1, keepdims=True)
    deviation = np.sqrt((gap**2).mean(axis=1, keepdims=True) + EPS)
    unit, d_unit = gap / deviation, d_out * gain
    along = (d_unit * unit).mean(axis=1, keepdims=True)
    d_x = (d_unit - d_unit.mean(axis=1, keepdims=True) - unit * along) / deviation
    return d_x, (d_out * unit).sum(axis=0), d_out.sum(axis=0)


def gelu(x: Array, bias: Array) -> Array:
    """Hendrycks and Gimpel 2016 (arXiv:1606.08415), the form with tanh, of x + bias."""
    z = x + bias
    return np.asarray(z / 2 * (1 + np.tanh(sqrt(2 / pi) * (z + 0.044715 * z**3))))


def product(a: Array, b: Array, turned: str = "") -> Array:
    """The product of both, or with "a" or "b" turned round first."""
    left, right = a.T if turned == "a" else a, b.T if turned == "b" else b
    return np.asarray((left[:, :, None] * right).sum(axis=1))


def _seen(span: Array) -> Array:
    """Rows of `qkv` that a span's last token sees, in order."""
    first, count, before, prefix = span[:4]
    return np.concatenate([np.arange(before, before + prefix), np.arange(first, first + count)])


def attention(qkv: Array, spans: Array, heads: int) -> Array:
    """(N, C), rows outside all spans 0: Vaswani et al. 2017 (arXiv:1706.03762), causal."""
    N, C = qkv.shape[0], qkv.shape[1] // 3
    D = C // heads
    out = np.zeros((N, C))
    for span in spans:
        first, count, _, prefix = span[:4]
        keys = _seen(span)
        blind = np.triu(np.ones((count, prefix + count), bool), prefix + 1)
        for h in range(heads):
            q, k, v = (qkv[:, part * C + h * D :][:, :D] for part in range(3))
            scores = np.where(blind, -np.inf, q[first : first + count] @ k[keys].T / sqrt(D))
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            out[first : first + count, h * D : (h + 1) * D] = weights @ v[keys]
    return out
