"""Sampling: the prompts' keys and values by the packed pass, then `kernels.decoding` token by token."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels import decoding, nn
from kernels.passes import Tensors

from ..types import Float, Rollout
from . import _backbone
from ._buffers import Buffers
from ._packed import Packed
from ._weights import Sizes
from .linear import NEVER

CACHE = 3 << 18
"""Bytes of a second-level cache that weights, keys and values may take."""
FEW, MANY = 12, 60
"""Sequences at a time: products go by six rows, and more gain nothing where all fits; many share what does not."""


class Model(NamedTuple):
    """What tokens are drawn from: all of `TransformerPolicy` that it takes; V tokens."""

    tensors: Tensors
    sizes: Sizes
    V: int
    context: int
    eos: int | None
    never: int | None


def decode(model: Model, replies: Packed, uniforms: Float, out: Rollout, get: Buffers) -> tuple[int, int]:
    """Writes what is drawn by `uniforms` (B, T) to `out`; of `replies`, one token each, the prompts count.

    Gives how many tokens it drew, and how many keys these saw.
    """
    qkv = _backbone.keys_and_values(replies, model.tensors, model.sizes, get)
    prompts = decoding.Prompts(qkv, replies.spans[replies.prompts :].reshape(-1))
    room, now = room_for(model, len(uniforms), replies.longest - 1 + uniforms.shape[1], get)
    if uniforms.dtype != np.float64 or not uniforms.flags.carray:
        uniforms = np.require(uniforms, np.float64, ["C", "W"])  # others would be compiled for
    written = out.responses, out.logprobs, out.mask
    return decoding.decode(packed(model, get), prompts, uniforms, room, now, *written)


def packed(model: Model, get: Buffers) -> decoding.Model:
    """As the kernel takes it."""
    sizes = model.sizes
    return decoding.Model(
        *model.tensors,
        get("panels", *decoding.panels_of(sizes.layers, sizes.width, model.V, get.dtype.itemsize)),
        sizes.heads,
        model.V,
        model.context,
        -1 if model.eos is None else model.eos,
        -1 if model.never is None else model.never,
        NEVER,
    )


def room_for(model: Model, B: int, J: int, get: Buffers) -> tuple[decoding.Room, decoding.Now]:
    """Room for as many of B sequences at a time as `slots` says, of J tokens each."""
    L, C = model.sizes.layers, model.sizes.width
    S = min(slots(model.sizes, J, get.dtype.itemsize), B)
    size, places = decoding.laid_out(S, J, C, model.V)
    return (
        decoding.Room(
            get("keys", L, S, *nn.keys_shape(J, C)),
            get("values", L, S, J, C),
            get.panel,
            get("rows", size),
            places,
            *decoding.sums_and_uniforms(S, model.V, get.dtype),
        ),
        decoding.Now(*get.ints("now", len(decoding.Now._fields), S)),
    )


def slots(sizes: Sizes, J: int, itemsize: int) -> int:
    """Sequences of J tokens at a time, such that keys and values stay in the cache beside the weights.

    Examples
    --------
    >>> [slots(Sizes(300, 24, layers=2, width=width, heads=4), J=24, itemsize=4) for width in (32, 64, 128)]
    [48, 12, 60]
    """
    left = CACHE - sizes.layers * 12 * sizes.width**2 * itemsize
    if left < 0:
        return MANY
    return min(max(left // (2 * sizes.layers * sizes.width * J * itemsize) // FEW * FEW, FEW), MANY)
