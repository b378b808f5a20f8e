# mypy: allow-untyped-defs, allow-untyped-calls
"""Backward through a transformer's blocks: see `passes`."""

from __future__ import annotations

from typing import Any

from ._attention_gradient import attention_backward_jit
from ._blocks import embedding_backward_jit, gelu_backward_jit, layer_norm_backward_jit
from ._check import Array
from ._forward import seen
from ._jit import jit
from ._linked import Call, addresses, arrays, call
from ._products import TIMES_TURNED, TURNED_TIMES, product_jit
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
    Back,
    Room,
    Rows,
    Tensors,
)

__all__ = ["backward", "backward_jit", "calls"]

ATTEND, NORM, GELU, EMBED, PRODUCT = range(5)


def calls(dtype: Any) -> tuple[Call, ...]:
    """What `backward_jit` calls for arrays of this type."""
    x1, x2, i1, i2, i = arrays(dtype)
    return (
        (attention_backward_jit, (x2, x2, x1, i2, i, x2, x1, x2)),
        (layer_norm_backward_jit, (x2, x2, x1, x1, x1, x2, x1, x1, x1)),
        (gelu_backward_jit, (x2, x2, x1)),
        (embedding_backward_jit, (i1, i1, x2, x2, x2)),
        # Last: where another process compiles what `_forward` calls meanwhile, it is in the cache by now.
        (product_jit, (x2, x2, i, i, x1, x2)),
    )


def backward(
    tensors: Tensors, grads: Tensors, heads: int, rows: Rows, room: Room, back: Back, d_hidden: Array
) -> None:
    """Accumulates into `grads`, from the gradient (R, C) of the last norm of what `forward` has kept."""
    code = addresses(calls, tensors.table.dtype)
    backward_jit(code, tensors, grads, heads, rows, room, back, d_hidden)


@jit
def backward_jit(code, tensors, grads, heads, rows, room, back, d_hidden):
    """As `backward`; `code` has the addresses of `calls` for the arrays' type."""
    N, L, C = rows.tokens.shape[0], tensors.blocks.shape[0], tensors.table.shape[1]
    R = N - rows.prompt_rows
    nothing = piece(back.memory, back.nothing, C)
    nothing[:] = 0
    piece(back.memory, back.stream + rows.prompt_rows * C, R * C)[:] = 0
    norm = tensors.gain, grads.gain, grads.shift, piece(grads.blocks[L - 1], grads.starts[DOWN_BIAS], C)
    _norm_backward(code, room, back, d_hidden, norm, L * N, rows.prompt_rows, R, C)
    for i in range(L - 1, -1, -1):
        begin = rows.prompt_rows if i + 1 == L else START
        _feed_forward_backward(code, tensors, grads, room, back, N, i, begin)
        _attend_backward(code, tensors, grads, heads, rows, room, back, i, begin)
        piece(back.memory, back.stream, begin * C)[:] = 0
        # The embedding is no branch: it has no bias.
        d_bias = piece(grads.blocks[i - 1], grads.starts[DOWN_BIAS], C) if i > 0 else nothing
        norm = (
            piece(tensors.blocks[i], tensors.starts[GAIN1], C),
            piece(grads.blocks[i], grads.starts[GAIN1], C),
            piece(grads.blocks[i], grads.starts[SHIFT1], C),
            d_bias,
        )
        _norm_backward(code, room, back, cut(back.memory, back.normed, START, N, C), norm, i * N, START, N, C)
    d_stream = cut(back.memory, back.stream, START, N, C)
    call(
        embedding_backward_jit,
        code[EMBED],
        (rows.tokens, rows.places, d_stream, grads.table, grads.places),
    )


@jit(inline="always")
def _norm_backward(code, room, back, d_out, norm, at, begin, n, C):
    """Through a block's first norm, or the last, of n rows: into `back.stream` from `begin` on."""
    gain, d_gain, d_shift, d_bias = norm
    x, d_x = cut(room.memory, room.stream, at, n, C), cut(back.memory, back.stream, begin, n, C)
    means, shares = piece(room.memory, room.means + at, n), piece(room.memory, room.shares + at, n)
    call(
        layer_norm_backward_jit,
        code[NORM],
        (d_out, x, gain, means, shares, d_x, d_gain, d_shift, d_bias),
    )


@jit(inline="always")
def _feed_forward_backward(code, tensors, grads, room, back, N, i, begin):
    """Through the perceptron and the norm before it."""
    C, panel = tensors.table.shape[1], room.panel
    up, down = (
        block(tensors.blocks[i], tensors.starts[UP], C, 4 * C),
        block(tensors.blocks[i], tensors.starts[DOWN], 4 * C, C),
    )
    d_up, d_down = (
        block(grads.blocks[i], grads.starts[UP], C, 4 * C),
        block(grads.blocks[i], grads.starts[DOWN], 4 * C, C),
    )
    for row in range(begin, N, CHUNK):
        n, at = min(CHUNK, N - row), i * N + row - begin
        d_branch, active = (
            cut(back.memory, back.stream, row, n, C),
            cut(room.memory, room.active, at, n, 4 * C),
        )
        d_active, d_normed = (
            cut(back.memory, back.active, START, n, 4 * C),
            cut(back.memory, back.normed, START, n, C),
        )
        call(product_jit, code[PRODUCT], (active, d_branch, TURNED_TIMES, START, panel, d_down))
        call(product_jit, code[PRODUCT], (d_branch, down, TIMES_TURNED, START, panel, d_active))
        slopes, d_bias = (
            cut(room.memory, room.slopes, at, n, 4 * C),
            piece(grads.blocks[i], grads.starts[UP_BIAS], 4 * C),
        )
        call(gelu_backward_jit, code[GELU], (slopes, d_active, d_bias))
        x = cut(room.memory, room.inside_normed, at, n, C)
        call(product_jit, code[PRODUCT], (x, d_active, TURNED_TIMES, START, panel, d_up))
        call(product_jit, code[PRODUCT], (d_active, up, TIMES_TURNED, START, panel, d_normed))
        call(
            layer_norm_backward_jit,
            code[NORM],
            (
                d_normed,
                cut(room.memory, room.inside, at, n, C),
                piece(tensors.blocks[i], tensors.starts[GAIN2], C),
                piece(room.memory, room.inside_means + at, n),
                piece(room.memory, room.inside_shares + at, n),
                d_branch,
                piece(grads.blocks[i], grads.starts[GAIN2], C),
                piece(grads.blocks[i], grads.starts[SHIFT2], C),
                piece(grads.blocks[i], grads.starts[PROJ_BIAS], C),
            ),
        )


@jit(inline="always")
def _attend_backward(code, tensors, grads, heads, rows, room, back, i, begin):
    """Through attention, to the gradient of all rows of what came after the first norm."""
    N, C, panel = rows.tokens.shape[0], tensors.table.shape[1], room.panel
    at, own = i * N, N - begin
    d_stream, d_mixed = (
        cut(back.memory, back.stream, begin, own, C),
        cut(back.memory, back.mixed, begin, own, C),
    )
    x = cut(room.memory, room.mixed, at + begin, own, C)
    d_proj = block(grads.blocks[i], grads.starts[PROJ], C, C)
    call(product_jit, code[PRODUCT], (x, d_stream, TURNED_TIMES, START, panel, d_proj))
    w = block(tensors.blocks[i], tensors.starts[PROJ], C, C)
    call(product_jit, code[PRODUCT], (d_stream, w, TIMES_TURNED, START, panel, d_mixed))
    d_qkv = cut(back.memory, back.qkv, START, N, 3 * C)
    for n in range(N):
        d_qkv[n, C:] = 0
    weights = piece(room.memory, room.weights + i * room.step, room.step)
    turned = block(back.memory, back.turned, rows.turned[0], rows.turned[1])
    qkv, d_all, spans = (
        cut(room.qkv, START, at, N, 3 * C),
        cut(back.memory, back.mixed, START, N, C),
        seen(rows, room, begin),
    )
    slopes = piece(back.memory, back.slopes, rows.slopes)
    attend = d_all, qkv, weights, spans, heads, turned, slopes, d_qkv
    call(attention_backward_jit, code[ATTEND], attend)
    w, d_w = (
        block(tensors.blocks[i], tensors.starts[QKV], C, 3 * C),
        block(grads.blocks[i], grads.starts[QKV], C, 3 * C),
    )
    if begin > 0:
        x, d_x = cut(room.memory, room.normed, at, begin, C), cut(back.memory, back.normed, START, begin, C)
        d_y = cut(back.memory, back.qkv, START, begin, 3 * C)
        call(product_jit, code[PRODUCT], (x, d_y, TURNED_TIMES, C, panel, d_w))
        call(product_jit, code[PRODUCT], (d_y, w, TIMES_TURNED, C, panel, d_x))
    x, d_x = cut(room.memory, room.normed, at + begin, own, C), cut(back.memory, back.normed, begin, own, C)
    d_y = cut(back.memory, back.qkv, begin, own, 3 * C)
    call(product_jit, code[PRODUCT], (x, d_y, TURNED_TIMES, START, panel, d_w))
    call(product_jit, code[PRODUCT], (d_y, w, TIMES_TURNED, START, panel, d_x))
