"""Forward and backward through the blocks: what `kernels.passes` works on, and room for it."""

from __future__ import annotations

from math import prod

from kernels import nn, passes
from kernels.passes import CHUNK, Back, Room, Rows, Tensors

from ..types import Float
from ._buffers import LINE, Buffers
from ._packed import Packed
from ._weights import Sizes


def forward(
    packed: Packed, tensors: Tensors, sizes: Sizes, keep: Buffers | None, get: Buffers
) -> tuple[Float, Room]:
    """(response rows, C), what the logits and values of the responses are made of, and all that was made before.

    What `backward` reads again lies in `keep`; without it, nothing is kept.
    """
    C, own = sizes.width, packed.rows - packed.prompt_rows
    room = passing(packed, packed.rows, sizes, get) if keep is None else kept(packed, sizes, keep, get)
    passes.forward(tensors, sizes.heads, rows_of(packed, sizes), room)
    if keep is not None:  # scratch is the thread's, and may be another one's by the time of `backward`
        room = room._replace(panel=room.panel[:0].copy(), scratch=room.scratch[:0].copy())
    start = room.normed + C * (packed.prompt_rows if keep is None else sizes.layers * packed.rows)
    return room.memory[start : start + own * C].reshape(own, C), room


def backward(
    d_hidden: Float, packed: Packed, tensors: Tensors, grads: Tensors, sizes: Sizes, room: Room, get: Buffers
) -> None:
    """Accumulates into `grads`, from the gradient of what `forward` gave."""
    N, C = packed.rows, sizes.width
    rows, each = rows_of(packed, sizes), (N * C, N * C, N * C, N * 3 * C, min(CHUNK, N) * 4 * C)
    starts, size = laid_out(*each, rows.slopes, C, prod(rows.turned))
    back = Back(get("backward", size), *starts)
    room = room._replace(panel=get.panel)
    passes.backward(tensors, grads, sizes.heads, rows, room, back, d_hidden)


def keys_and_values(packed: Packed, tensors: Tensors, sizes: Sizes, get: Buffers) -> Float:
    """(L, rows, 3 C): queries, keys and values of the prompts alone; of the last block no queries."""
    L, N, C = sizes.layers, packed.prompt_rows, sizes.width
    qkv = get("prompts", L, N, 3 * C)
    if N:
        spans, scratch = packed.spans[: packed.prompts].reshape(-1), scratch_sizes(packed, sizes)
        rows = Rows(packed.tokens[:N], packed.places[:N], spans, packed.prompts, N, *scratch)
        passes.forward(tensors, sizes.heads, rows, passing(packed, N, sizes, get, qkv.reshape(-1)))
    return qkv


def rows_of(packed: Packed, sizes: Sizes) -> Rows:
    """As the kernels take it."""
    spans = packed.spans.reshape(-1)
    scratch = scratch_sizes(packed, sizes)
    return Rows(packed.tokens, packed.places, spans, packed.prompts, packed.prompt_rows, *scratch)


def scratch_sizes(packed: Packed, sizes: Sizes) -> tuple[tuple[int, int], int]:
    """Of what attention turns, and of a span's slopes."""
    return turned(packed, sizes), nn.with_room(packed.widest, packed.longest)


def kept(packed: Packed, sizes: Sizes, keep: Buffers, get: Buffers) -> Room:
    """Room of its own for all that `backward` reads again."""
    N, C, L = packed.rows, sizes.width, sizes.layers
    before, ends, step = L * N, N - packed.prompt_rows, nn.with_room(packed.weights, packed.longest)
    entries, after = before + ends, before - N + ends
    starts, size = laid_out(
        *(entries * C, entries * C, entries, entries),
        before * C,
        *(after * C, after * C, after, after),
        L * step,
        *(after * 4 * C, after * 4 * C),
    )
    spans, qkv, memory = packed.spans.reshape(-1), keep("qkv", before * 3 * C), keep("activations", size)
    return Room(True, step, spans, get.panel, scratch(packed, N, sizes, get), qkv, memory, *starts)


def passing(packed: Packed, N: int, sizes: Sizes, get: Buffers, qkv: Float | None = None) -> Room:
    """Room that blocks take one after the other, where no pass backward follows: most things share a place.

    For the first N rows; with `qkv` each block's queries, keys and values have a place of their own there.
    """
    C, some = sizes.width, min(CHUNK, N)
    step = nn.with_room(sizes.heads * packed.widest, packed.longest)
    (*entry, weights, active), size = laid_out(N * C, N * C, N, N, step, some * 4 * C)
    spans, memory = get.ints("own spans", packed.spans.size), get("forward", size)
    qkv = get("qkv", N * 3 * C) if qkv is None else qkv
    places = *entry, entry[1], *entry, weights, active, active
    return Room(False, step, spans, get.panel, scratch(packed, N, sizes, get), qkv, memory, *places)


def scratch(packed: Packed, N: int, sizes: Sizes, get: Buffers) -> Float:
    return get("scratch", N * sizes.width + prod(turned(packed, sizes)))


def turned(packed: Packed, sizes: Sizes) -> tuple[int, int]:
    return nn.turned_shape(sizes.width // sizes.heads, packed.longest)


def laid_out(*sizes: int) -> tuple[list[int], int]:
    """Where arrays of these sizes begin in one that has room for all, each at a cache line's beginning; its size."""
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end -= size // -LINE * LINE
    return starts, end
