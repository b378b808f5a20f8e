"""Forward and backward through the blocks: what `kernels.passes` works on, and room for it."""

from __future__ import annotations

from kernels import passes
from kernels.passes import CHUNK, Back, Room, Rows, Tensors

from ..types import Float
from ._buffers import Buffers
from ._packed import Packed
from ._weights import Sizes


def forward(
    packed: Packed, tensors: Tensors, sizes: Sizes, keep: Buffers | None, get: Buffers
) -> tuple[Float, Room]:
    """(response rows, C), what the logits and values of the responses are made of, and all that was made before.

    What `backward` reads again lies in `keep`; without it, nothing is kept.
    """
    room = passing(packed, sizes, get) if keep is None else kept(packed, sizes, keep, get)
    passes.forward(tensors, sizes.heads, rows_of(packed), room)
    first = packed.prompt_rows if keep is None else sizes.layers * packed.rows
    responses = packed.rows - packed.prompt_rows
    return room.normed.reshape(-1, sizes.width)[first : first + responses], room


def backward(
    d_hidden: Float, packed: Packed, tensors: Tensors, grads: Tensors, sizes: Sizes, room: Room, get: Buffers
) -> None:
    """Accumulates into `grads`, from the gradient of what `forward` gave."""
    N, C = packed.rows, sizes.width
    back = Back(
        get("d_stream", N * C),
        get("d_mixed", N * C),
        get("d_normed", N * C),
        get("d_qkv", N * 3 * C),
        get("d_active", min(CHUNK, N) * 4 * C),
        get("slopes of weights", packed.widest),
        get("nothing", C),
    )
    # Scratch of the pass forward may be another call's by now.
    room = room._replace(turned=get("turned", C // sizes.heads * packed.longest))
    passes.backward(tensors, grads, sizes.heads, rows_of(packed), room, back, d_hidden)


def keys_and_values(packed: Packed, tensors: Tensors, sizes: Sizes, get: Buffers) -> Float:
    """(L, rows, 3 C): queries, keys and values of prompts without responses; of the last block no queries."""
    L, N, C = sizes.layers, packed.rows, sizes.width
    qkv = get("prompts", L, N, 3 * C)
    if N:
        room = passing(packed, sizes, get)._replace(qkv=qkv.reshape(-1))
        passes.forward(tensors, sizes.heads, rows_of(packed), room)
    return qkv


def rows_of(packed: Packed) -> Rows:
    """As the kernels take it."""
    return Rows(packed.tokens, packed.places, packed.spans.reshape(-1), packed.prompts, packed.prompt_rows)


def kept(packed: Packed, sizes: Sizes, keep: Buffers, get: Buffers) -> Room:
    """Room of its own for all that `backward` reads again."""
    N, C, L = packed.rows, sizes.width, sizes.layers
    ends = N - packed.prompt_rows
    before, after = L * N, (L - 1) * N + ends
    entries = before + ends
    return Room(
        True,
        packed.weights,
        packed.spans.reshape(-1),
        get.panel,
        keep("stream", entries * C),
        keep("normed", entries * C),
        keep("means", entries),
        keep("shares", entries),
        keep("qkv", before * 3 * C),
        keep("mixed", before * C),
        keep("weights", L * packed.weights),
        keep("inside", after * C),
        keep("inside normed", after * C),
        keep("inside means", after),
        keep("inside shares", after),
        keep("slopes", after * 4 * C),
        keep("active", after * 4 * C),
        get("branch", N * C),
        get("turned", C // sizes.heads * packed.longest),
    )


def passing(packed: Packed, sizes: Sizes, get: Buffers) -> Room:
    """Room that blocks take one after the other, where no pass backward follows: most things share a place."""
    N, C, step, some = packed.rows, sizes.width, sizes.heads * packed.widest, min(CHUNK, packed.rows)
    entry = get("stream", N * C), get("normed", N * C), get("means", N), get("shares", N)
    return Room(
        False,
        step,
        get.ints("own spans", packed.spans.size),
        get.panel,
        *entry,
        get("qkv", N * 3 * C),
        entry[1],
        get("weights", step),
        *entry,
        get("slopes", some * 4 * C),
        get("active", some * 4 * C),
        get("branch", N * C),
        get("turned", C // sizes.heads * packed.longest),
    )
