"""A transformer's tensors, a batch, and what forward and backward through the blocks leave and need."""

from __future__ import annotations

from typing import NamedTuple

from ._check import Array

__all__ = ["CHUNK", "TENSORS", "Back", "Room", "Rows", "Tensors"]

CHUNK = 512
"""Rows whose products and activations of the perceptron fill a second-level cache of 1 MiB at width 64."""
TENSORS = GAIN1, SHIFT1, QKV, PROJ, PROJ_BIAS, GAIN2, SHIFT2, UP, UP_BIAS, DOWN, DOWN_BIAS = range(11)
"""Of a block: x + proj(attention(qkv(norm1 x))), then x + down(gelu(up(norm2 x)))."""


class Tensors(NamedTuple):
    """Parameters of a transformer of L blocks and width C, or their gradients; perceptrons are 4 C wide.

    Attributes
    ----------
    table, places : (tokens, C), (places, C)
        What a token and its place are embedded as; logits are made of the table's rows, too.
    gain, shift : (C,)
        Of the last norm.
    blocks : (L, size)
        All tensors of a block, one after the other.
    starts : (11,)
        Where each of `TENSORS` begins.
    """

    table: Array
    places: Array
    gain: Array
    shift: Array
    blocks: Array
    starts: Array


class Rows(NamedTuple):
    """A batch of N tokens.

    Attributes
    ----------
    tokens, places : (N,)
        Rows of the token table and of the position table.
    spans : (S * 5,)
        As `_attention` takes them: prompts, then responses after their prompts.
    prompts, prompt_rows : int
        How many of the spans, and of the rows, are prompts'.
    turned, slopes : (int, int), int
        Shape of the scratch of attention (`turned_shape`), and size of that of its gradient.
    """

    tokens: Array
    places: Array
    spans: Array
    prompts: int
    prompt_rows: int
    turned: tuple[int, int]
    slopes: int


class Room(NamedTuple):
    """What the blocks work on, row after row, and block after block if all is `kept` for `backward`.

    Of N rows R are responses'. What stands before attention, and `mixed`, has L N rows if it is kept, `stream` and
    `normed` R more, of the last norm; what stands after attention has R less. Otherwise there are N rows of each, of
    `active` as many as go together, `slopes` is `active`, and `mixed`, `inside` and `inside_normed` may be `normed`,
    `stream` and `normed`, as moments may.

    Attributes
    ----------
    kept : bool
    step : int
        Room for the weights of attention of each block (`with_room`); not kept, of each head and span.
    spans : (S * 5,)
        Scratch, if it is not kept.
    panel : (PANEL,)
        Scratch.
    scratch : (size,)
        N * C numbers, and `Rows.turned`.
    qkv : (L * N * 3 C,) or, if it is not kept, (N * 3 C,)
        Queries, keys and values.
    memory : (size,)
        All that follows, of which it is said where it begins.
    stream, normed : of C numbers a row
        What a block gets, and its norm; the last norm's is what all is for.
    means, shares : of one
        For the gradient of the norm.
    mixed : of C
        What attention makes of `qkv`.
    inside, inside_normed, inside_means, inside_shares : of C, C, 1, 1
        What the perceptron gets.
    weights : step * L if kept, else step
        Of attention.
    slopes, active : of 4 C
        GELU's slopes and results.
    """

    kept: bool
    step: int
    spans: Array
    panel: Array
    scratch: Array
    qkv: Array
    memory: Array
    stream: int
    normed: int
    means: int
    shares: int
    mixed: int
    inside: int
    inside_normed: int
    inside_means: int
    inside_shares: int
    weights: int
    slopes: int
    active: int


class Back(NamedTuple):
    """Scratch of `backward` for N rows, all in one `memory`, and where each thing begins.

    `stream`, `mixed`, `normed` (N * C,) and `qkv` (N * 3 C,) are gradients of these, `active` (CHUNK * 4 C,) too;
    `slopes` and `turned` as `Rows` says; `nothing` (C,).
    """

    memory: Array
    stream: int
    mixed: int
    normed: int
    qkv: int
    active: int
    slopes: int
    nothing: int
    turned: int
