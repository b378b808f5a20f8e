"""The transformer's work, from what was packed: the sum over the products and kernels that run."""

from __future__ import annotations

from kernels.flops import Work, work

from ..types import Int
from ._packed import Packed
from ._weights import Sizes

NOTHING = Work(0, 0)


def _sum(*parts: Work) -> Work:
    return sum(parts, start=NOTHING)


def _per_layer(packed: Packed, sizes: Sizes) -> list[tuple[int, int, Int]]:
    """(rows that pass the whole block, rows of which only keys and values are needed, spans) of each block."""
    early = (packed.rows, 0, packed.spans)
    last = (packed.rows - packed.prompt_rows, packed.prompt_rows, packed.spans[packed.prompts :])
    return [early] * (sizes.layers - 1) + [last]


def block(sizes: Sizes, rows: int, keys_only: int) -> Work:
    """One block's forward pass without attention."""
    C, F = sizes.width, sizes.hidden
    return _sum(
        work("matmul", rows, C, 3 * C),
        work("matmul", keys_only, C, 2 * C),
        work("matmul", rows, C, C),
        work("matmul", rows, C, F),
        work("matmul", rows, F, C),
        work("gelu", rows, F),
        work("residual_norm", rows, C).times(2),
    )


def forward(packed: Packed, sizes: Sizes) -> Work:
    """`_backbone.forward`."""
    C = sizes.width
    done = [work("embedding", packed.rows, C), work("layer_norm", packed.rows, C)]
    for rows, keys_only, spans in _per_layer(packed, sizes):
        done += [
            block(sizes, rows, keys_only),
            work("attention", sizes.heads, C // sizes.heads, *packed.seen(spans)),
        ]
    return _sum(*done)


def prefill(rows: int, seen: tuple[int, int], sizes: Sizes) -> Work:
    """Keys and values of prompts, in all blocks."""
    C = sizes.width
    inner = block(sizes, rows, 0).plus(work("attention", sizes.heads, C // sizes.heads, *seen))
    start = [work("embedding", rows, C), work("layer_norm", rows, C), work("matmul", rows, C, 2 * C)]
    return _sum(*start, inner.times(sizes.layers - 1))


def step(rows: int, pairs: int, sizes: Sizes, vocab_size: int) -> Work:
    """One more token of `rows` sequences that see `pairs` keys altogether, drawn and all."""
    C = sizes.width
    inner = block(sizes, rows, 0).plus(work("attention", sizes.heads, C // sizes.heads, pairs, pairs))
    return _sum(
        work("embedding", rows, C),
        work("layer_norm", rows, C),
        inner.times(sizes.layers),
        work("matmul", rows, C, vocab_size),
        work("draw", rows, vocab_size),
    )


def _accumulated(rows: int, inputs: int, outputs: int) -> Work:
    """A gradient's product, added to what was there."""
    if not rows:
        return NOTHING
    return work("matmul", inputs, rows, outputs).plus(work("elementwise", inputs, outputs))


def backward(packed: Packed, sizes: Sizes) -> Work:
    """`_backbone.backward`."""
    C, F, rows = sizes.width, sizes.hidden, packed.rows
    done = [
        work("layer_norm_backward", rows - packed.prompt_rows, C),
        work("embedding_backward", rows, C),
    ]
    for whole, keys_only, spans in _per_layer(packed, sizes):
        done += [
            _accumulated(whole, F, C),
            work("matmul", whole, C, F),
            work("gelu_backward", whole, F),
            _accumulated(whole, C, F),
            work("matmul", whole, F, C),
            work("layer_norm_backward", whole, C),
            _accumulated(whole, C, C),
            work("matmul", whole, C, C),
            work("attention_backward", sizes.heads, C // sizes.heads, *packed.seen(spans)),
            _accumulated(whole, C, 3 * C),
            work("matmul", whole, 3 * C, C),
            _accumulated(keys_only, C, 2 * C),
            work("matmul", keys_only, 2 * C, C),
            work("layer_norm_backward", rows, C),
        ]
    return _sum(*done)


def head(rows: int, width: int, vocab_size: int) -> Work:
    """Logits of so many rows."""
    return work("matmul", rows, width, vocab_size)


def head_backward(rows: int, width: int, vocab_size: int) -> Work:
    return work("matmul", rows, vocab_size, width).plus(_accumulated(rows, vocab_size, width))


def value(rows: int, width: int) -> Work:
    return work("matmul", rows, width, 1).plus(work("elementwise", rows))


def value_backward(rows: int, width: int, added: bool) -> Work:
    """`added`: to the gradient that comes from the logits."""
    outer = work("elementwise", rows, width).times(2 if added else 1)
    own = _accumulated(rows, width, 1)
    return _sum(outer, own, work("sum", rows), work("elementwise", 1))
