"""The transformer's tensors as views of one flat array."""

from __future__ import annotations

from functools import cache
from math import prod, sqrt
from typing import NamedTuple

import numpy as np

from kernels.passes import Tensors

from ..types import Float, Int


class Sizes(NamedTuple):
    """`tokens` rows of the token table, `places` of the position table."""

    tokens: int
    places: int
    layers: int
    width: int
    heads: int

    @property
    def hidden(self) -> int:
        """Numbers between the two products of the perceptron."""
        return 4 * self.width


class Layer(NamedTuple):
    """One block: x + attention(norm x), then x + perceptron(norm x)."""

    gain1: Float
    shift1: Float
    qkv: Float
    proj: Float
    proj_bias: Float
    gain2: Float
    shift2: Float
    up: Float
    up_bias: Float
    down: Float
    down_bias: Float


class Weights(NamedTuple):
    """All tensors. Products are x @ w; the token table turns the last norm into logits, too."""

    table: Float
    places: Float
    layers: tuple[Layer, ...]
    gain: Float
    shift: Float
    value: Float
    value_bias: Float


def _layer_shapes(sizes: Sizes) -> tuple[tuple[int, ...], ...]:
    C, F = sizes.width, sizes.hidden
    return (C,), (C,), (C, 3 * C), (C, C), (C,), (C,), (C,), (C, F), (F,), (F, C), (C,)


def _shapes(sizes: Sizes) -> list[tuple[int, ...]]:
    C = sizes.width
    ends: list[tuple[int, ...]] = [(C,), (C,), (C,), (1,)]
    return [(sizes.tokens, C), (sizes.places, C), *(_layer_shapes(sizes) * sizes.layers), *ends]


def size(sizes: Sizes) -> int:
    """Numbers in all tensors."""
    return sum(prod(shape) for shape in _shapes(sizes))


def views(flat: Float, sizes: Sizes) -> Weights:
    """`flat` as tensors."""
    tensors, start = [], 0
    for shape in _shapes(sizes):
        stop = start + prod(shape)
        tensors.append(flat[start:stop].reshape(shape))
        start = stop
    table, places, *inner = tensors[:-4]
    n = len(Layer._fields)
    layers = tuple(Layer(*inner[i : i + n]) for i in range(0, len(inner), n))
    return Weights(table, places, layers, *tensors[-4:])


def blocks(flat: Float, sizes: Sizes) -> Float:
    """The part of `flat` that is layers, a row each."""
    begin = (sizes.tokens + sizes.places) * sizes.width
    each = sum(prod(shape) for shape in _layer_shapes(sizes))
    return flat[begin : begin + sizes.layers * each].reshape(sizes.layers, each)


def tensors(weights: Weights, flat: Float, sizes: Sizes) -> Tensors:
    """As the kernels take them: `weights` are the views of `flat`."""
    rows = blocks(flat, sizes)
    return Tensors(weights.table, weights.places, weights.gain, weights.shift, rows, starts(sizes))


@cache
def starts(sizes: Sizes) -> Int:
    """Where in its block's row each tensor begins, in the order of `Layer`."""
    return np.cumsum([0, *(prod(shape) for shape in _layer_shapes(sizes)[:-1])])


def initialise(weights: Weights, rng: np.random.Generator) -> None:
    """Embeddings as in GPT-2 (sd .02); products keep the scale of what they get, the 2 L branches add up to one.

    The value head begins at 0.
    """

    def normal(tensor: Float, sd: float) -> None:
        tensor[...] = rng.normal(scale=sd, size=tensor.shape)

    normal(weights.table, 0.02)
    normal(weights.places, 0.02)
    weights.gain[...] = 1
    for layer in weights.layers:
        layer.gain1[...] = layer.gain2[...] = 1
        for tensor in (layer.qkv, layer.up):
            normal(tensor, 1 / sqrt(len(tensor)))
        for tensor in (layer.proj, layer.down):
            normal(tensor, 1 / sqrt(2 * len(weights.layers) * len(tensor)))
