"""A batch as rows of tokens, without padding: every prompt once, then every response.

Where one state of each response is asked for, after its last token, that token alone is a response here, and all that
comes before it a prompt: so the last block has nothing else to do (`_backbone`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..types import Float, Int


@dataclass(frozen=True)
class Packed:
    """`rows` tokens: first those of the distinct prompts, then those of the responses, of which some have a logit.

    Attributes
    ----------
    tokens, places : (rows,)
        Rows of the token table and of the position table.
    prompt_rows : int
        How many of the rows are prompts'.
    spans : (spans, 5)
        As `kernels.nn` takes them: prompts, then responses after their prompts.
    prompts : int
        How many of the spans are prompts'.
    weights, longest, widest : int
        Attention weights of a head, summed over spans; most keys of a span; most weights of a span.
    picks : (logits,)
        Which of the response rows have a logit.
    cells : (logits,)
        Where these stand in the flattened (B, T).
    whole : bool
        Whether they are all of it, in order.
    """

    tokens: Int
    places: Int
    prompt_rows: int
    spans: Int
    prompts: int
    weights: int
    longest: int
    widest: int
    picks: Int
    cells: Int
    whole: bool

    @property
    def rows(self) -> int:
        return len(self.tokens)

    @cached_property
    def seen(self) -> tuple[int, int]:
        """(pairs of a query and a key that it sees, pairs scored) of all spans, as `kernels.flops` counts them."""
        return _seen(self.spans)

    @cached_property
    def seen_last(self) -> tuple[int, int]:
        """Those of the responses."""
        return _seen(self.spans[self.prompts :])


def _seen(spans: Int) -> tuple[int, int]:
    count, prefix = spans[:, 1], spans[:, 3]
    pairs = int((count * prefix + count * (count + 1) // 2).sum())
    return pairs, pairs + 6 * int((count // 4).sum())


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts as rows: `tokens`, `places` (rows,), `lengths` (prompts,), and `group` of each that came."""

    tokens: Int
    places: Int
    lengths: Int
    group: Int


def pack_prompts(prompts: Int, context: int, offset: int) -> Prompts:
    """The distinct ones of `prompts` (B, P), padded with -1; the last `context` tokens of each count.

    The last token of every prompt stands at the same place, so that padding changes nothing. `offset` is added to
    each token.
    """
    prompts = _known(prompts, context, offset)
    return _distinct(prompts, prompts.shape[1], context)


def _known(prompts: Int, context: int, offset: int) -> Int:
    prompts = prompts[:, -context:] if context else prompts[:, :0]
    return np.where(prompts >= 0, prompts + offset, -1)


def _distinct(tokens: Int, width: int, context: int) -> Prompts:
    """The distinct rows of `tokens`, without -1; of the first `width` columns the last token's place is context - 1."""
    group = np.zeros(len(tokens), np.int64)
    if len(tokens) and tokens.shape[1]:
        # As strings of bytes rows are sorted twice as fast as by `np.unique`.
        whole = np.ascontiguousarray(tokens).view(f"S{tokens.itemsize * tokens.shape[1]}").reshape(-1)
        order = whole.argsort(kind="stable")
        new = np.ones(len(order), bool)
        np.not_equal(whole[order[1:]], whole[order[:-1]], out=new[1:])
        group[order] = new.cumsum() - 1
        tokens = tokens[order[new]]
    else:
        tokens = tokens[:1]
    real = tokens >= 0
    begin = context - 1 - real[:, :width].sum(axis=1)
    places = begin[:, None] + real.cumsum(axis=1)
    return Prompts(tokens[real], places[real], real.sum(axis=1), group)


def pack(
    prompts: Int, responses: Int, mask: Float, heads: int, context: int, start: int, offset: int
) -> Packed:
    """Rows of `prompts` (B, P) and of `responses` (B, T) up to the last that counts.

    A response's rows are `start` and its tokens but the last: the row before a token is the one that predicts it.
    """
    B, T = responses.shape
    counts = mask > 0
    lengths = (counts * np.arange(1, T + 1)).max(axis=1, initial=0)
    live = np.flatnonzero(lengths)
    lengths = lengths[live]
    known = _known(prompts[live], context, offset)
    inputs = np.empty((len(live), T), np.int64)
    inputs[:, :1] = start
    inputs[:, 1:] = responses[live, :-1]
    inside = np.arange(T) < lengths[:, None]
    cells = np.flatnonzero(counts)
    width = known.shape[1]
    if len(cells) == len(live):  # one of each
        body = np.where(np.arange(1, T + 1) < lengths[:, None], inputs, -1)
        known = np.concatenate([known, body], axis=1)
        inside &= counts[live]
        lengths = np.ones_like(lengths)
    picks = np.flatnonzero(counts[live][inside])
    places = context + np.nonzero(inside)[1]
    before = _distinct(known, width, context)
    return _joined(before, lengths, inputs[inside], places, picks, cells, len(cells) == B * T, heads)


def prompts_alone(known: Prompts, heads: int) -> Packed:
    """Rows of prompts without any response."""
    none = np.zeros(0, np.int64)
    return _joined(
        Prompts(known.tokens, known.places, known.lengths, none), none, none, none, none, none, True, heads
    )


def _joined(
    known: Prompts, lengths: Int, tokens: Int, places: Int, picks: Int, cells: Int, whole: bool, heads: int
) -> Packed:
    """Prompts, and responses of `lengths` rows after them."""
    rows, prompts = len(known.tokens), len(known.lengths)
    spans = np.zeros((prompts + len(lengths), 5), np.int64)
    first, count, before, prefix, weights = spans.T
    count[:prompts], count[prompts:] = known.lengths, lengths
    first[1:] = count[:-1].cumsum()
    before[prompts:], prefix[prompts:] = first[known.group], known.lengths[known.group]
    keys = count + prefix
    size = count * keys
    weights[1:] = heads * size[:-1].cumsum()
    return Packed(
        np.concatenate([known.tokens, tokens]),
        np.concatenate([known.places, places]),
        rows,
        spans,
        prompts,
        heads * int(size.sum()),
        int(keys.max(initial=1)),
        int(size.max(initial=1)),
        picks,
        cells,
        whole,
    )
