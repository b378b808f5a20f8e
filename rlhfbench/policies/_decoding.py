"""Sampling token by token, with the keys and values of what went before in a cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels import nn

from ..types import Float, Int, Rollout
from . import _backbone
from ._buffers import Buffers
from ._packed import Packed
from ._products import times, times_turned
from ._weights import Sizes, Weights
from .linear import NEVER

Plan: TypeAlias = list[Callable[[], Any]]


class Model(NamedTuple):
    """What tokens are drawn from: all of `TransformerPolicy` that it takes, V its tokens."""

    weights: Weights
    sizes: Sizes
    V: int
    context: int
    eos: int | None
    never: int | None


class Cache(NamedTuple):
    """Of each block: `keys` (layers, B, C, J) and `values` (layers, B, J, C); `ends` (B,) tokens of each prompt."""

    keys: Float
    values: Float
    ends: Int


def decode(model: Model, replies: Packed, uniforms: Float, out: Rollout, get: Buffers) -> Int:
    """Writes what is drawn by `uniforms` (B, T) to `out`, which is 0; of `replies` the prompts count.

    Gives how many tokens these have (B,).
    """
    B, T = uniforms.shape
    cache = prefill(model, replies, T, get)
    start = np.full(B, model.V), np.full(B, model.context), cache.ends.copy()
    now = Now.of(np.arange(B), *start, out.logprobs.dtype)
    calls = plan(model, now, cache, get)
    for t in range(T):
        now.uniforms[:] = uniforms[now.slots, t]
        for call in calls:
            call()
        out.responses[now.slots, t] = now.tokens
        out.logprobs[now.slots, t] = now.logprobs
        out.mask[now.slots, t] = 1
        np.add(now.places, 1, out=now.places)
        np.add(now.ends, 1, out=now.ends)
        if model.eos is None:
            continue
        ended = now.tokens == model.eos
        if ended.any():
            if ended.all():
                break
            now = now.left(~ended)
            calls = plan(model, now, cache, get)
    return cache.ends


def prefill(model: Model, replies: Packed, T: int, get: Buffers) -> Cache:
    """The cache after the prompts of `replies`, with room for T tokens of each."""
    packed, (before, ends) = replies.alone, np.ascontiguousarray(replies.spans[replies.prompts :, 2:4].T)
    weights, sizes = model.weights, model.sizes
    B, L, C = len(ends), sizes.layers, sizes.width
    J = int(ends.max(initial=0)) + T
    cache = Cache(get("cache_keys", L, B, C, J), get("cache_values", L, B, J, C), ends)
    if packed.rows:
        rooms = _backbone.passing(get, packed, sizes)
        _backbone.enter(packed, weights, rooms.blocks[0])
        for i, layer in enumerate(weights.layers):
            room = rooms.blocks[i]
            if i + 1 < L:
                _backbone.attend(packed, layer, sizes.heads, room, get)
                _backbone.feed_forward(layer, room, rooms.after(i), *_backbone.next_norm(weights, i), get)
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


class Now(NamedTuple):
    """Of each sequence that is left: its number, its latest token, that token's place, what lies before it, a draw."""

    slots: Int
    tokens: Int
    places: Int
    ends: Int
    uniforms: Float
    logprobs: Float

    @classmethod
    def of(cls, slots: Int, tokens: Int, places: Int, ends: Int, dtype: np.dtype[np.floating]) -> Now:
        n = len(slots)
        return cls(slots, tokens, places, ends, np.empty(n), np.empty(n, dtype))

    def left(self, alive: NDArray[np.bool_]) -> Now:
        """Those that are."""
        slots, tokens, places, ends = (array[alive] for array in self[:4])
        return Now.of(slots, tokens, places, ends, self.logprobs.dtype)


def plan(model: Model, now: Now, cache: Cache, get: Buffers) -> Plan:
    """The calls of one step: from `now.tokens` to the tokens after them, which take their place.

    They hold for as long as no sequence ends: what a step needs is looked up once, not at each.
    """
    n, (weights, sizes, V, *_, never) = len(now.slots), model
    room, row = Step.of(get, n, sizes, V), get("step.row", nn.step_room(sizes.heads, cache.keys.shape[3]))
    _, B, C, J = cache.keys.shape
    stream, normed, norms, layer = room.stream, room.normed, (room.means, room.shares), weights.layers[0]
    calls: Plan = [
        partial(nn.embedding_jit, now.tokens, now.places, weights.table, weights.places, stream),
        partial(nn.layer_norm_jit, stream, layer.gain1, layer.shift1, *norms, normed),
    ]
    for i, layer in enumerate(weights.layers):
        flat = cache.keys[i].reshape(B * C, J), cache.values[i].reshape(B * J, C)
        inner = room.other, normed
        outer = *_backbone.next_norm(weights, i), *norms, stream, normed
        calls += [
            partial(times, normed, layer.qkv, room.qkv, get),
            partial(nn.attention_step_jit, room.qkv, now.slots, now.ends, sizes.heads, *flat, row, normed),
            partial(times, normed, layer.proj, room.branch, get),
            partial(
                nn.residual_norm_jit,
                *(stream, room.branch, layer.proj_bias, layer.gain2, layer.shift2, *norms, *inner),
            ),
            partial(times, normed, layer.up, room.slopes, get),
            partial(nn.gelu_jit, layer.up_bias, room.slopes, room.active),
            partial(times, room.active, layer.down, room.branch, get),
            partial(nn.residual_norm_jit, room.other, room.branch, layer.down_bias, *outer),
        ]
    calls.append(partial(times_turned, normed, weights.table[:V], room.logits, get))
    if never is not None:
        calls.append(partial(room.logits[:, never].fill, NEVER))
    scratch = nn.sample_scratch(V, get.dtype)
    calls.append(partial(nn.draw_jit, room.logits, now.uniforms, *scratch, now.tokens, now.logprobs))
    return calls
