"""Sampling token by token, with the keys and values of what went before in a cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels import nn

from ..types import Float, Int, Rollout
from . import _backbone
from ._buffers import Buffers
from ._packed import Packed, Prompts
from ._weights import Sizes, Weights
from .linear import NEVER


class Cache(NamedTuple):
    """Of each block: `keys` (layers, B, C, J) and `values` (layers, B, J, C); `ends` (B,) tokens of each prompt."""

    keys: Float
    values: Float
    ends: Int


def prefill(prompts: Prompts, packed: Packed, weights: Weights, sizes: Sizes, T: int, get: Buffers) -> Cache:
    """The cache after the prompts, with room for T tokens of each sequence."""
    B, L, C = len(prompts.group), sizes.layers, sizes.width
    J = int(prompts.lengths.max(initial=0)) + T
    own = np.cumsum(prompts.lengths) - prompts.lengths
    before, ends = own[prompts.group], prompts.lengths[prompts.group]
    cache = Cache(get("cache_keys", L, B, C, J), get("cache_values", L, B, J, C), ends)
    if packed.rows:
        rooms = _backbone.kept(get, packed, weights, keep=False)
        first, layer = rooms[0], weights.layers[0]
        nn.embedding_jit(packed.tokens, packed.places, weights.table, weights.places, first.stream1)
        nn.layer_norm_jit(
            first.stream1, layer.gain1, layer.shift1, first.means1, first.shares1, first.normed1
        )
        for i, layer in enumerate(weights.layers):
            room, after = rooms[i], rooms[i + 1]
            if i + 1 < L:
                _backbone.attend(packed, layer, sizes.heads, room, 0, packed.spans, get)
                _backbone.feed_forward(layer, room, after, 0, *_backbone.next_norm(weights, i), get)
            else:
                _backbone.project(layer, room.normed1, packed.rows, room.qkv, get)
            nn.fill_cache_jit(room.qkv, before, ends, cache.keys[i], cache.values[i])
    return cache


class Factors(NamedTuple):
    """The weights as `nn.decode_jit` takes them."""

    vectors: Float
    biases: Float
    panels: Float

    @classmethod
    def of(cls, weights: Weights, sizes: Sizes, vocab_size: int, get: Buffers) -> Factors:
        C, F, L = sizes.width, sizes.hidden, sizes.layers
        vectors, biases = get("step.vectors", 2 + 6 * L, C), get("step.biases", L, F)
        shapes = [(C, 3 * C), (C, C), (C, F), (F, C)] * L + [(C, vocab_size)]
        panels = get("step.panels", sum(nn.panels_of(*shape, get.dtype) for shape in shapes), nn.PANEL)
        vectors[0], vectors[1] = weights.layers[0].gain1, weights.layers[0].shift1
        panel = 0
        for i, layer in enumerate(weights.layers):
            gain, shift = _backbone.next_norm(weights, i)
            first = (layer.proj_bias, layer.gain2, layer.shift2, layer.down_bias, gain, shift)
            for v, vector in enumerate(first, 2 + 6 * i):
                vectors[v] = vector
            biases[i] = layer.up_bias
            for factor in (layer.qkv, layer.proj, layer.up, layer.down):
                panel = nn.panels_jit(factor, False, panel, panels)
        nn.panels_jit(weights.table[:vocab_size], True, panel, panels)
        return cls(vectors, biases, panels)


def decode(
    cache: Cache,
    weights: Weights,
    sizes: Sizes,
    vocab_size: int,
    uniforms: Float,
    place: int,
    eos: int | None,
    never: int | None,
    rollout: Rollout,
    get: Buffers,
) -> None:
    """Writes the rollout: from the start token at `place`, which comes after what is in the cache."""
    (L, B, C, J), F, n = cache.keys.shape, sizes.hidden, nn.GROUP
    widths = (C, C, C, C, 3 * C, F, F)
    rooms = [get(f"step.{i}", n, wide) for i, wide in enumerate(widths)]
    rooms += [get("step.means", n), get("step.shares", n), get("step.row", sizes.heads * J)]
    nn.decode_jit(
        uniforms,
        cache.ends,
        weights.table,
        weights.places,
        *Factors.of(weights, sizes, vocab_size, get),
        place,
        vocab_size,
        -1 if eos is None else eos,
        -1 if never is None else never,
        NEVER,
        sizes.heads,
        cache.keys.reshape(L, B * C, J),
        cache.values.reshape(L, B * J, C),
        tuple(rooms),
        nn.sample_scratch(vocab_size, get.dtype),
        get("step.logits", n, vocab_size),
        np.empty(n),
        get("step.chosen", n),
        np.empty((4, n), np.int64),
        rollout.responses,
        rollout.mask,
        rollout.logprobs,
    )


def empty_rollout(B: int, T: int, dtype: np.dtype[np.floating]) -> Rollout:
    return Rollout(np.zeros((B, T), np.int64), np.zeros((B, T), dtype), np.zeros((B, T), dtype))
