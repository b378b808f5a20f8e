"""The three matrix products of a layer; in `d` and `w` only the columns from `skip` on count.

Narrow ones are our own kernel's, wide ones BLAS's (docs/adr/0003).
"""

from __future__ import annotations

import numpy as np

from kernels import nn

from ..types import Float
from ._buffers import Buffers

NARROW = 128
"""Width of a layer up to which our kernel is the faster one; from 256 on BLAS is, by 1.1 to 2 times."""


def times(x: Float, w: Float, out: Float, get: Buffers, skip: int = 0) -> None:
    """Writes out: x w."""
    if min(w.shape) > NARROW:
        np.matmul(x, w[:, skip:], out=out[:, skip:])
    else:
        nn.product_jit(x, w, nn.TIMES, skip, get.panel, out)


def times_turned(d: Float, w: Float, out: Float, get: Buffers, skip: int = 0) -> None:
    """Writes out: d w'."""
    if min(w.shape) > NARROW:
        np.matmul(d[:, skip:], w[:, skip:].T, out=out)
    else:
        nn.product_jit(d, w, nn.TIMES_TURNED, skip, get.panel, out)


def accumulate(x: Float, d: Float, grad: Float, get: Buffers, skip: int = 0) -> None:
    """grad += x' d."""
    if min(grad.shape) > NARROW:
        product = get("product", grad.shape[0], grad.shape[1] - skip)
        np.matmul(x.T, d[:, skip:], out=product)
        grad[:, skip:] += product
    else:
        nn.product_jit(x, d, nn.TURNED_TIMES, skip, get.panel, grad)
