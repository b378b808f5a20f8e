"""Forward and backward through the blocks, on packed rows.

The last block has no use for a prompt beyond its keys and values, so only responses pass it: its arrays after attention
begin at row `Packed.prompt_rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from kernels import nn

from ..types import Float
from ._buffers import Buffers
from ._packed import Packed
from ._products import accumulate, times, times_turned
from ._weights import Layer, Sizes, Weights

CHUNK = 512
"""Rows whose products and activations of the perceptron fill a second-level cache of 1 MiB at width 64."""


class Entry:
    """What a norm works on: a block's first, or the last one after all blocks; the rows from `begin` on."""

    def __init__(self, get: Buffers, name: str, rows: int, C: int, begin: int = 0) -> None:
        self.stream1, self.normed1 = get(f"{name}entry", 2, rows, C)[:, begin:]
        self.means1, self.shares1 = get(f"{name}entry moments", 2, rows)[:, begin:]


class Room(Entry):
    """What a block works on, all of which the backward pass reads again.

    After attention, rows from `begin` on are all that there are.
    """

    def __init__(self, get: Buffers, name: str, packed: Packed, C: int, begin: int) -> None:
        rows, own = packed.rows, packed.rows - begin
        super().__init__(get, name, rows, C)
        self.begin, self.spans = begin, packed.spans[packed.prompts if begin else 0 :]
        self.qkv, self.mixed = get(f"{name}qkv", rows, 3 * C), get(f"{name}mixed", rows, C)
        self.weights = get(f"{name}weights", nn.with_room(packed.weights, packed.longest))
        self.stream2, self.normed2 = get(f"{name}inside", 2, own, C)
        self.means2, self.shares2 = get(f"{name}inside moments", 2, own)
        self.slopes, self.active = get(f"{name}perceptron", 2, own, 4 * C)

    def perceptron(self, some: slice) -> tuple[Float, Float]:
        """(slopes, active) of these rows."""
        return self.slopes[some], self.active[some]


class Passing(Room):
    """A room that blocks take one after the other, where no backward pass follows: most things share a place."""

    def __init__(self, get: Buffers, packed: Packed, heads: int, C: int, begin: int) -> None:
        rows = packed.rows
        Entry.__init__(self, get, "", rows, C)
        spans = packed.spans[packed.prompts if begin else 0 :]
        self.begin, self.spans = begin, get.ints(f"spans from {begin}", *spans.shape)
        self.spans[:, :-1], self.spans[:, -1] = spans[:, :-1], 0
        self.qkv, self.mixed = get("qkv", rows, 3 * C), self.normed1
        self.weights = get("weights", nn.with_room(heads * packed.widest, packed.longest))
        self.stream2, self.normed2 = self.stream1[begin:], self.normed1[begin:]
        self.means2, self.shares2 = self.means1[begin:], self.shares1[begin:]
        self.slopes, self.active = get("perceptron", 2, min(CHUNK, rows), 4 * C)

    def perceptron(self, some: slice) -> tuple[Float, Float]:
        rows = some.stop - some.start
        return self.slopes[:rows], self.active[:rows]


class Rooms(NamedTuple):
    """Of each block, and of the last norm."""

    blocks: Sequence[Room]
    end: Entry

    def after(self, i: int) -> Entry:
        """What comes after block i."""
        return self.end if i + 1 == len(self.blocks) else self.blocks[i + 1]


def kept(get: Buffers, packed: Packed, sizes: Sizes) -> Rooms:
    """Rooms that `backward` reads again."""
    C, last = sizes.width, sizes.layers - 1
    begins = [0] * last + [packed.prompt_rows]
    rooms = [Room(get, f"{i}.", packed, C, begin) for i, begin in enumerate(begins)]
    return Rooms(rooms, Entry(get, "end.", packed.rows - packed.prompt_rows, C))


def passing(get: Buffers, packed: Packed, sizes: Sizes) -> Rooms:
    """One room for all."""
    C, begin = sizes.width, packed.prompt_rows
    early, last = (Passing(get, packed, sizes.heads, C, first) for first in (0, begin))
    return Rooms([early] * (sizes.layers - 1) + [last], Entry(get, "", packed.rows, C, begin))


def forward(packed: Packed, weights: Weights, heads: int, rooms: Rooms, get: Buffers) -> Float:
    """(response rows, C): what the logits and values of the responses are made of."""
    enter(packed, weights, rooms.blocks[0])
    for i, layer in enumerate(weights.layers):
        attend(packed, layer, heads, rooms.blocks[i], get)
        feed_forward(layer, rooms.blocks[i], rooms.after(i), *next_norm(weights, i), get)
    hidden: Float = rooms.end.normed1
    return hidden


def enter(packed: Packed, weights: Weights, first: Entry) -> None:
    """The embedding and the norm after it."""
    layer = weights.layers[0]
    nn.embedding_jit(packed.tokens, packed.places, weights.table, weights.places, first.stream1)
    nn.layer_norm_jit(first.stream1, layer.gain1, layer.shift1, first.means1, first.shares1, first.normed1)


def next_norm(weights: Weights, i: int) -> tuple[Float, Float]:
    """Gain and shift of the norm that comes after block i."""
    if i + 1 == len(weights.layers):
        return weights.gain, weights.shift
    return weights.layers[i + 1].gain1, weights.layers[i + 1].shift1


def project(layer: Layer, normed: Float, begin: int, qkv: Float, get: Buffers) -> None:
    """Queries, keys and values; of the rows before `begin` keys and values only."""
    C = normed.shape[1]
    if begin:
        times(normed[:begin], layer.qkv, qkv[:begin], get, skip=C)
    times(normed[begin:], layer.qkv, qkv[begin:], get)


def attend(packed: Packed, layer: Layer, heads: int, room: Room, get: Buffers) -> None:
    """The block's first half: stream1, normed1 -> stream2, normed2."""
    C, begin = room.normed1.shape[1], room.begin
    project(layer, room.normed1, begin, room.qkv, get)
    turned = get("turned", *nn.turned_shape(C // heads, packed.longest))
    nn.attention_jit(room.qkv, room.spans, heads, turned, room.weights, room.mixed)
    branch = get("branch", packed.rows - begin, C)
    times(room.mixed[begin:], layer.proj, branch, get)
    nn.residual_norm_jit(
        room.stream1[begin:],
        branch,
        layer.proj_bias,
        layer.gain2,
        layer.shift2,
        room.means2,
        room.shares2,
        room.stream2,
        room.normed2,
    )


@lru_cache(64)
def slices(rows: int) -> tuple[slice, ...]:
    """As many rows at a time as stay in the cache from one product to the next."""
    return tuple(slice(row, min(row + CHUNK, rows)) for row in range(0, rows, CHUNK))


def feed_forward(layer: Layer, room: Room, after: Entry, gain: Float, shift: Float, get: Buffers) -> None:
    """The block's second half: stream2, normed2 -> stream1, normed1 of what comes after."""
    rows, C = room.normed2.shape
    for some in slices(rows):
        slopes, active = room.perceptron(some)
        branch = get("branch", len(active), C)
        times(room.normed2[some], layer.up, slopes, get)
        nn.gelu_jit(layer.up_bias, slopes, active)
        times(active, layer.down, branch, get)
        nn.residual_norm_jit(
            room.stream2[some],
            branch,
            layer.down_bias,
            gain,
            shift,
            after.means1[some],
            after.shares1[some],
            after.stream1[some],
            after.normed1[some],
        )


def backward(
    d_hidden: Float,
    packed: Packed,
    weights: Weights,
    grads: Weights,
    heads: int,
    rooms: Rooms,
    get: Buffers,
) -> None:
    """Accumulates into `grads`, from the gradient of what `forward` gave."""
    C, begin = d_hidden.shape[1], packed.prompt_rows
    d_stream = get("d_stream", packed.rows, C)
    d_stream[begin:] = 0
    norm = grads.gain, grads.shift, grads.layers[-1].down_bias
    norm_backward(d_hidden, rooms.end, weights.gain, d_stream[begin:], *norm)
    for i in reversed(range(len(weights.layers))):
        layer, grad, room = weights.layers[i], grads.layers[i], rooms.blocks[i]
        feed_forward_backward(layer, grad, room, d_stream[room.begin :], get)
        d_normed = attend_backward(packed, layer, grad, heads, room, d_stream, get)
        d_stream[: room.begin] = 0
        # The embedding is no branch: it has no bias.
        d_bias = grads.layers[i - 1].down_bias if i else get("nothing", C)
        if not i:
            d_bias[:] = 0
        norm_backward(d_normed, room, layer.gain1, d_stream, grad.gain1, grad.shift1, d_bias)
    nn.embedding_backward_jit(packed.tokens, packed.places, d_stream, grads.table, grads.places)


def norm_backward(
    d_out: Float,
    room: Entry,
    gain: Float,
    d_stream: Float,
    d_gain: Float,
    d_shift: Float,
    d_bias: Float,
) -> None:
    """Through a block's first norm, or the last."""
    nn.layer_norm_backward_jit(
        d_out, room.stream1, gain, room.means1, room.shares1, d_stream, d_gain, d_shift, d_bias
    )


def feed_forward_backward(layer: Layer, grad: Layer, room: Room, d_stream: Float, get: Buffers) -> None:
    """Through the perceptron and the norm before it."""
    rows, C = d_stream.shape
    for some in slices(rows):
        d_branch, active = d_stream[some], room.active[some]
        d_active, d_normed = get("d_active", *active.shape), get("d_normed", len(active), C)
        accumulate(active, d_branch, grad.down, get)
        times_turned(d_branch, layer.down, d_active, get)
        nn.gelu_backward_jit(room.slopes[some], d_active, grad.up_bias)
        accumulate(room.normed2[some], d_active, grad.up, get)
        times_turned(d_active, layer.up, d_normed, get)
        nn.layer_norm_backward_jit(
            d_normed,
            room.stream2[some],
            layer.gain2,
            room.means2[some],
            room.shares2[some],
            d_branch,
            grad.gain2,
            grad.shift2,
            grad.proj_bias,
        )


def attend_backward(
    packed: Packed, layer: Layer, grad: Layer, heads: int, room: Room, d_stream: Float, get: Buffers
) -> Float:
    """Through attention; gives the gradient of all rows of `normed1`."""
    (rows, C), begin = d_stream.shape, room.begin
    accumulate(room.mixed[begin:], d_stream[begin:], grad.proj, get)
    d_mixed = get("d_mixed", rows, C)
    times_turned(d_stream[begin:], layer.proj, d_mixed[begin:], get)
    d_qkv = get("d_qkv", rows, 3 * C)
    d_qkv[:, C:] = 0
    turned = get("turned", *nn.turned_shape(C // heads, packed.longest))
    slopes = get("slopes", nn.with_room(packed.widest, packed.longest))
    nn.attention_backward_jit(d_mixed, room.qkv, room.weights, room.spans, heads, turned, slopes, d_qkv)
    d_normed = get("d_normed", rows, C)
    if begin:
        accumulate(room.normed1[:begin], d_qkv[:begin], grad.qkv, get, skip=C)
        times_turned(d_qkv[:begin], layer.qkv, d_normed[:begin], get, skip=C)
    accumulate(room.normed1[begin:], d_qkv[begin:], grad.qkv, get)
    times_turned(d_qkv[begin:], layer.qkv, d_normed[begin:], get)
    return d_normed
