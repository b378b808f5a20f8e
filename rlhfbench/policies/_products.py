"""The three matrix products of a layer; in `d` and `w` only the columns from `skip` on count."""

from __future__ import annotations

from kernels import nn

from ..types import Float
from ._buffers import Buffers


def times(x: Float, w: Float, out: Float, get: Buffers, skip: int = 0) -> None:
    """Writes out: x w."""
    nn.product_jit(x, w, nn.TIMES, skip, get("panel", nn.PANEL), out)


def times_turned(d: Float, w: Float, out: Float, get: Buffers, skip: int = 0) -> None:
    """Writes out: d w'."""
    nn.product_jit(d, w, nn.TIMES_TURNED, skip, get("panel", nn.PANEL), out)


def accumulate(x: Float, d: Float, grad: Float, get: Buffers, skip: int = 0) -> None:
    """grad += x' d."""
    nn.product_jit(x, d, nn.TURNED_TIMES, skip, get("panel", nn.PANEL), grad)
