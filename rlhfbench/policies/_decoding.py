"""Sampling token by token, with the keys and values of what went before in a cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels import nn

from ..types import Float, Int, Rollout
from . import _backbone
from ._buffers import Buffers
from ._packed import Packed, Prompts
from ._products import times, times_turned
from ._weights import Sizes, Weights


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


class Step(NamedTuple):
    """Scratch of one step, for as many sequences as are left."""

    stream: Float
    other: Float
    normed: Float
    branch: Float
    qkv: Float
    slopes: Float
    active: Float
    means: Float
    shares: Float
    logits: Float

    @classmethod
    def of(cls, get: Buffers, n: int, sizes: Sizes, vocab_size: int) -> Step:
        C, F = sizes.width, sizes.hidden
        widths = (C, C, C, C, 3 * C, F, F)
        arrays = [get(f"step.{name}", n, wide) for name, wide in zip(cls._fields, widths, strict=False)]
        arrays += [get("step.means", n), get("step.shares", n), get("step.logits", n, vocab_size)]
        return cls(*arrays)


def step(
    tokens: Int,
    places: Int,
    slots: Int,
    ends: Int,
    cache: Cache,
    weights: Weights,
    heads: int,
    room: Step,
    get: Buffers,
) -> None:
    """Writes `room.logits` of the token after each of `tokens`, which comes at `ends` of sequence `slots`."""
    _, B, C, J = cache.keys.shape
    stream, other = room.stream, room.other
    layer = weights.layers[0]
    nn.embedding_jit(tokens, places, weights.table, weights.places, stream)
    nn.layer_norm_jit(stream, layer.gain1, layer.shift1, room.means, room.shares, room.normed)
    row = get("step.row", J)
    for i, layer in enumerate(weights.layers):
        times(room.normed, layer.qkv, room.qkv, get)
        keys, values = cache.keys[i].reshape(B * C, J), cache.values[i].reshape(B * J, C)
        nn.attention_step_jit(room.qkv, slots, ends, heads, keys, values, row, room.normed)
        times(room.normed, layer.proj, room.branch, get)
        norms = (room.means, room.shares)
        nn.residual_norm_jit(
            stream, room.branch, layer.proj_bias, layer.gain2, layer.shift2, *norms, other, room.normed
        )
        times(room.normed, layer.up, room.slopes, get)
        nn.gelu_jit(layer.up_bias, room.slopes, room.active)
        times(room.active, layer.down, room.branch, get)
        gain, shift = _backbone.next_norm(weights, i)
        nn.residual_norm_jit(other, room.branch, layer.down_bias, gain, shift, *norms, stream, room.normed)
    times_turned(room.normed, weights.table[: room.logits.shape[1]], room.logits, get)


def empty_rollout(B: int, T: int, dtype: np.dtype[np.floating]) -> Rollout:
    return Rollout(np.zeros((B, T), np.int64), np.zeros((B, T), dtype), np.zeros((B, T), dtype))
