"""The transformer's work, from what was packed: the sum over the products and kernels that run."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from kernels.flops import Work, work

from ._packed import Packed
from ._weights import Sizes

NOTHING = Work(0, 0)


def _sum(*parts: Work) -> Work:
    return sum(parts, start=NOTHING)


def _layers(packed: Packed, sizes: Sizes) -> list[tuple[int, int, tuple[int, int]]]:
    """(rows that pass the whole block, rows of which only keys and values are needed, what is seen) of each block."""
    early = (packed.rows, 0, packed.seen)
    last = (packed.rows - packed.prompt_rows, packed.prompt_rows, packed.seen_last)
    return [early] * (sizes.layers - 1) + [last]


class _Row(NamedTuple):
    """Work of one row, of which there is so much for each: `keys` where only keys and values are needed."""

    start: Work
    block: Work
    keys: Work
    start_backward: Work
    block_backward: Work
    keys_backward: Work
    norm_backward: Work


@cache
def _row(sizes: Sizes) -> _Row:
    C, F = sizes.width, sizes.hidden
    return _Row(
        start=_sum(work("embedding", 1, C), work("layer_norm", 1, C)),
        block=_sum(
            work("matmul", 1, C, 3 * C),
            work("matmul", 1, C, C),
            work("matmul", 1, C, F),
            work("matmul", 1, F, C),
            work("gelu", 1, F),
            work("residual_norm", 1, C).times(2),
        ),
        keys=work("matmul", 1, C, 2 * C),
        start_backward=work("embedding_backward", 1, C),
        block_backward=_sum(
            _accumulated(1, F, C),
            work("matmul", 1, C, F),
            work("gelu_backward", 1, F),
            _accumulated(1, C, F),
            work("matmul", 1, F, C),
            work("layer_norm_backward", 1, C),
            _accumulated(1, C, C),
            work("matmul", 1, C, C),
            _accumulated(1, C, 3 * C),
            work("matmul", 1, 3 * C, C),
        ),
        keys_backward=_accumulated(1, C, 2 * C).plus(work("matmul", 1, 2 * C, C)),
        norm_backward=work("layer_norm_backward", 1, C),
    )


def _attention(kernel: str, sizes: Sizes, seen: tuple[int, int]) -> Work:
    return work(kernel, sizes.heads, sizes.width // sizes.heads, *seen)


def forward(packed: Packed, sizes: Sizes) -> Work:
    """`_backbone.forward`."""
    row = _row(sizes)
    done = row.start.times(packed.rows)
    for rows, keys_only, seen in _layers(packed, sizes):
        done += row.block.times(rows) + row.keys.times(keys_only)
        done += _attention("attention", sizes, seen)
    return done


def prefill(rows: int, seen: tuple[int, int], sizes: Sizes) -> Work:
    """Keys and values of prompts, in all blocks."""
    row = _row(sizes)
    inner = row.block.times(rows) + _attention("attention", sizes, seen)
    return (row.start + row.keys).times(rows) + inner.times(sizes.layers - 1)


def step(rows: int, pairs: int, sizes: Sizes, vocab_size: int) -> Work:
    """One more token of `rows` sequences that see `pairs` keys altogether, drawn and all."""
    row = _row(sizes)
    inner = row.block.times(rows) + _attention("attention", sizes, (pairs, pairs))
    return _sum(
        row.start.times(rows),
        inner.times(sizes.layers),
        work("matmul", rows, sizes.width, vocab_size),
        work("draw", rows, vocab_size),
    )


def _accumulated(rows: int, inputs: int, outputs: int) -> Work:
    """A gradient's product, added to what was there."""
    if not rows:
        return NOTHING
    return work("matmul", inputs, rows, outputs).plus(work("elementwise", inputs, outputs))


def backward(packed: Packed, sizes: Sizes) -> Work:
    """`_backbone.backward`."""
    row, own = _row(sizes), packed.rows - packed.prompt_rows
    done = row.norm_backward.times(own) + row.start_backward.times(packed.rows)
    for rows, keys_only, seen in _layers(packed, sizes):
        done += row.block_backward.times(rows) + row.keys_backward.times(keys_only)
        done += row.norm_backward.times(packed.rows)
        done += _attention("attention_backward", sizes, seen)
    return done


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
