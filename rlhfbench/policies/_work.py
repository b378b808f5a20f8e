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


def _total(*parts: tuple[int, Work]) -> Work:
    """So many of each, added up in one go: records in between would take longer than the sums."""
    flops = transcendentals = 0
    for n, (each, transcendental) in parts:
        flops += n * each
        transcendentals += n * transcendental
    return Work(flops, transcendentals)


class _One(NamedTuple):
    """Work of one row, or of one pair of a query and a key, of which there is so much for each.

    `keys` where only keys and values are needed; `block_over` where no gradient will be; `pair` that is seen, `scored`
    whether it is seen or not.
    """

    start: Work
    block: Work
    block_over: Work
    keys: Work
    pair: Work
    scored: Work
    start_backward: Work
    block_backward: Work
    keys_backward: Work
    norm_backward: Work
    pair_backward: Work
    scored_backward: Work


@cache
def _one(sizes: Sizes) -> _One:
    C, F = sizes.width, sizes.hidden

    def attention(kernel: str, *seen: int) -> Work:
        return work(kernel, sizes.heads, C // sizes.heads, *seen)

    products_and_norms = _sum(
        work("matmul", 1, C, 3 * C),
        work("matmul", 1, C, C),
        work("matmul", 1, C, F),
        work("matmul", 1, F, C),
        work("residual_norm", 1, C).times(2),
    )
    return _One(
        start=_sum(work("embedding", 1, C), work("layer_norm", 1, C)),
        block=products_and_norms + work("gelu", 1, F),
        block_over=products_and_norms + work("gelu_over", 1, F),
        keys=work("matmul", 1, C, 2 * C),
        pair=attention("attention", 1, 0),
        scored=attention("attention", 0, 1),
        start_backward=work("embedding_backward", 1, C),
        block_backward=_sum(
            _accumulated(F, C),
            work("matmul", 1, C, F),
            work("gelu_backward", 1, F),
            _accumulated(C, F),
            work("matmul", 1, F, C),
            work("layer_norm_backward", 1, C),
            _accumulated(C, C),
            work("matmul", 1, C, C),
            _accumulated(C, 3 * C),
            work("matmul", 1, 3 * C, C),
        ),
        keys_backward=_accumulated(C, 2 * C).plus(work("matmul", 1, 2 * C, C)),
        norm_backward=work("layer_norm_backward", 1, C),
        pair_backward=attention("attention_backward", 1, 0),
        scored_backward=attention("attention_backward", 0, 1),
    )


def _accumulated(inputs: int, outputs: int) -> Work:
    """A row's share of a gradient's product, added to what was there."""
    return work("added_matmul", inputs, 1, outputs)


def _in_blocks(packed: Packed, sizes: Sizes) -> tuple[int, int, int]:
    """Of all blocks: rows that pass the whole of one, pairs seen, pairs scored. The last has responses alone."""
    early = sizes.layers - 1
    (pairs, scored), (pairs_last, scored_last) = packed.seen, packed.seen_last
    rows = early * packed.rows + packed.rows - packed.prompt_rows
    return rows, early * pairs + pairs_last, early * scored + scored_last


def forward(packed: Packed, sizes: Sizes, keep: bool) -> Work:
    """`_backbone.forward`."""
    one, (rows, pairs, scored) = _one(sizes), _in_blocks(packed, sizes)
    return _total(
        (packed.rows, one.start),
        (rows, one.block if keep else one.block_over),
        (packed.prompt_rows, one.keys),
        (pairs, one.pair),
        (scored, one.scored),
    )


def sample(packed: Packed, tokens: int, keys: int, sizes: Sizes, vocab_size: int) -> Work:
    """Keys and values of the prompts, in all blocks, and as many tokens that see so many keys altogether."""
    one, L, rows, (pairs, scored) = _one(sizes), sizes.layers, packed.prompt_rows, packed.seen_first
    return _total(
        (rows + tokens, one.start),
        (rows, one.keys),
        ((L - 1) * rows + L * tokens, one.block_over),
        ((L - 1) * pairs + L * keys, one.pair),
        ((L - 1) * scored + L * keys, one.scored),
        (tokens, _ends(sizes.width, vocab_size).drawn),
    )


def backward(packed: Packed, sizes: Sizes) -> Work:
    """`_backbone.backward`."""
    one, (rows, pairs, scored) = _one(sizes), _in_blocks(packed, sizes)
    return _total(
        (packed.rows, one.start_backward),
        (rows, one.block_backward),
        (packed.prompt_rows, one.keys_backward),
        (packed.rows - packed.prompt_rows + sizes.layers * packed.rows, one.norm_backward),
        (pairs, one.pair_backward),
        (scored, one.scored_backward),
    )


class _Ends(NamedTuple):
    """Work of one row after the last block; `beside`: where the head's gradient is added to the logits'."""

    head: Work
    drawn: Work
    head_backward: Work
    value: Work
    value_backward: Work
    value_backward_beside: Work


@cache
def _ends(width: int, vocab_size: int) -> _Ends:
    logits, outer = work("matmul", 1, width, vocab_size), work("elementwise", 1, width)
    slope = _accumulated(width, 1) + work("elementwise", 1)  # the bias's is a sum, added to what was there
    return _Ends(
        head=logits,
        drawn=logits + work("draw", 1, vocab_size),
        head_backward=work("matmul", 1, vocab_size, width) + _accumulated(vocab_size, width),
        value=work("matmul", 1, width, 1) + work("elementwise", 1),
        value_backward=outer + slope,
        value_backward_beside=outer.times(2) + slope,
    )


def head(rows: int, width: int, vocab_size: int) -> Work:
    """Logits of so many rows."""
    return _ends(width, vocab_size).head.times(rows)


def head_backward(rows: int, width: int, vocab_size: int) -> Work:
    return _ends(width, vocab_size).head_backward.times(rows)


def collect(more: int, width: int) -> Work:
    """Gradients of so many numbers, added up beyond one for each row."""
    return work("elementwise", more, width)


def value(rows: int, width: int) -> Work:
    return _ends(width, 1).value.times(rows)


def value_backward(rows: int, width: int, added: bool) -> Work:
    """`added`: to the gradient that comes from the logits."""
    ends = _ends(width, 1)
    return (ends.value_backward_beside if added else ends.value_backward).times(rows)
