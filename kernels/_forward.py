# mypy: allow-untyped-defs, allow-untyped-calls
"""Forward through a transformer's blocks: see `passes`."""

from __future__ import annotations

from typing import Any

from ._attention import attention_jit
from ._blocks import embedding_jit, gelu_jit, gelu_over_jit, layer_norm_jit, residual_norm_jit
from ._jit import jit
from ._linked import Call, addresses, arrays, call
from ._products import TIMES, product_jit
from ._rows import START
from ._shapes import block, cut, piece
from ._tensors import (
    CHUNK,
    DOWN,
    DOWN_BIAS,
    GAIN1,
    GAIN2,
    PROJ,
    PROJ_BIAS,
    QKV,
    SHIFT1,
    SHIFT2,
    UP,
    UP_BIAS,
    Room,
    Rows,
    Tensors,
)

__all__ = ["calls", "forward", "forward_jit", "seen"]

PRODUCT, EMBED, NORM, ATTEND, RESIDUAL, GELU, GELU_OVER = range(7)


def calls(dtype: Any) -> tuple[Call, ...]:
    """What `forward_jit` calls for arrays of this type."""
    x1, x2, i1, i2, i = arrays(dtype)
    return (
        (product_jit, (x2, x2, i, i, x1, x2)),
        (embedding_jit, (i1, i1, x2, x2, x2)),
        (layer_norm_jit, (x2, x1, x1, x1, x1, x2)),
        (attention_jit, (x2, i2, i, x2, x1, x2)),
        (residual_norm_jit, (x2, x2, x1, x1, x1, x1, x1, x2, x2)),
        (gelu_jit, (x1, x2, x2)),
        (gelu_over_jit, (x1, x2)),
    )


def forward(tensors: Tensors, heads: int, rows: Rows, room: Room) -> None:
    """Fills the room."""
    forward_jit(addresses(calls, tensors.table.dtype), tensors, heads, rows, room)


@jit(inline="always")
def seen(rows, room, begin):
    """The spans that attend: where nothing is kept, weights of each take the place of those before."""
    first = rows.prompts if begin > 0 else START
    count = rows.spans.shape[0] // 5
    if room.kept:
        return block(rows.spans, first * 5, count - first, 5)
    for s in range(first, count):
        for k in range(4):
            room.spans[s * 5 + k] = rows.spans[s * 5 + k]
        room.spans[s * 5 + 4] = 0
    return block(room.spans, first * 5, count - first, 5)


@jit
def forward_jit(code, tensors, heads, rows, room):
    """As `forward`; `code` has the addresses of `calls` for the arrays' type."""
    N, L, C = rows.tokens.shape[0], tensors.blocks.shape[0], tensors.table.shape[1]
    stream, normed = cut(room.memory, room.stream, START, N, C), cut(room.memory, room.normed, START, N, C)
    call(embedding_jit, code[EMBED], (rows.tokens, rows.places, tensors.table, tensors.places, stream))
    gain, shift = (
        piece(tensors.blocks[0], tensors.starts[GAIN1], C),
        piece(tensors.blocks[0], tensors.starts[SHIFT1], C),
    )
    means, shares = piece(room.memory, room.means, N), piece(room.memory, room.shares, N)
    call(layer_norm_jit, code[NORM], (stream, gain, shift, means, shares, normed))
    for i in range(L):
        begin = rows.prompt_rows if i + 1 == L else START
        _attend(code, tensors, heads, rows, room, i, begin)
        _feed_forward(code, tensors, room, N, i, begin)


@jit(inline="always")
def _attend(code, tensors, heads, rows, room, i, begin):
    """A block's first half; of the rows before `begin` keys and values alone are needed."""
    N, C = rows.tokens.shape[0], tensors.table.shape[1]
    at = i * N if room.kept else START
    inside = at if room.kept else begin
    own, queried = N - begin, i * N if room.qkv.shape[0] > 3 * C * N else START
    w, panel = block(tensors.blocks[i], tensors.starts[QKV], C, 3 * C), room.panel
    if begin > 0:
        x, y = cut(room.memory, room.normed, at, begin, C), cut(room.qkv, START, queried, begin, 3 * C)
        call(product_jit, code[PRODUCT], (x, w, TIMES, C, panel, y))
    if own > 0:
        x, y = (
            cut(room.memory, room.normed, at + begin, own, C),
            cut(room.qkv, START, queried + begin, own, 3 * C),
        )
        call(product_jit, code[PRODUCT], (x, w, TIMES, START, panel, y))
        qkv, mixed = cut(room.qkv, START, queried, N, 3 * C), cut(room.memory, room.mixed, at, N, C)
        weights = piece(room.memory, room.weights + (i * room.step if room.kept else START), room.step)
        turned = block(room.scratch, N * C, rows.turned[0], rows.turned[1])
        spans = seen(rows, room, begin)
        call(attention_jit, code[ATTEND], (qkv, spans, heads, turned, weights, mixed))
        x, branch = cut(room.memory, room.mixed, at + begin, own, C), cut(room.scratch, START, START, own, C)
        call(
            product_jit,
            code[PRODUCT],
            (x, block(tensors.blocks[i], tensors.starts[PROJ], C, C), TIMES, START, panel, branch),
        )
        call(
            residual_norm_jit,
            code[RESIDUAL],
            (
                cut(room.memory, room.stream, at + begin, own, C),
                branch,
                piece(tensors.blocks[i], tensors.starts[PROJ_BIAS], C),
                piece(tensors.blocks[i], tensors.starts[GAIN2], C),
                piece(tensors.blocks[i], tensors.starts[SHIFT2], C),
                piece(room.memory, room.inside_means + inside, own),
                piece(room.memory, room.inside_shares + inside, own),
                cut(room.memory, room.inside, inside, own, C),
                cut(room.memory, room.inside_normed, inside, own, C),
            ),
        )


@jit(inline="always")
def _feed_forward(code, tensors, room, N, i, begin):
    """A block's second half, up to the norm after it."""
    C, panel = tensors.table.shape[1], room.panel
    up, down = (
        block(tensors.blocks[i], tensors.starts[UP], C, 4 * C),
        block(tensors.blocks[i], tensors.starts[DOWN], 4 * C, C),
    )
    up_bias, down_bias = (
        piece(tensors.blocks[i], tensors.starts[UP_BIAS], 4 * C),
        piece(tensors.blocks[i], tensors.starts[DOWN_BIAS], C),
    )
    if i + 1 < tensors.blocks.shape[0]:
        gain, shift = (
            piece(tensors.blocks[i + 1], tensors.starts[GAIN1], C),
            piece(tensors.blocks[i + 1], tensors.starts[SHIFT1], C),
        )
    else:
        gain, shift = tensors.gain, tensors.shift
    for row in range(begin, N, CHUNK):
        n = min(CHUNK, N - row)
        at, after = row, row
        if room.kept:
            at, after = i * N + row - begin, (i + 1) * N + row - begin
        active_at = at if room.kept else START
        slopes, active = (
            cut(room.memory, room.slopes, active_at, n, 4 * C),
            cut(room.memory, room.active, active_at, n, 4 * C),
        )
        branch = cut(room.scratch, START, START, n, C)
        x = cut(room.memory, room.inside_normed, at, n, C)
        call(product_jit, code[PRODUCT], (x, up, TIMES, START, panel, slopes))
        if room.kept:
            call(gelu_jit, code[GELU], (up_bias, slopes, active))
        else:
            call(gelu_over_jit, code[GELU_OVER], (up_bias, slopes))
        call(product_jit, code[PRODUCT], (active, down, TIMES, START, panel, branch))
        call(
            residual_norm_jit,
            code[RESIDUAL],
            (
                cut(room.memory, room.inside, at, n, C),
                branch,
                down_bias,
                gain,
                shift,
                piece(room.memory, room.means + after, n),
                piece(room.memory, room.shares + after, n),
                cut(room.memory, room.stream, after, n, C),
                cut(room.memory, room.normed, after, n, C),
            ),
        )
