"""A batch as rows of tokens, without padding: every prompt once, then every response."""

from __future__ import annotations

from dataclasses import dataclass

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

    def seen(self, spans: Int) -> tuple[int, int]:
        """(pairs of a query and a key that it sees, pairs scored) of these spans, as `kernels.flops` counts them."""
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
    prompts = prompts[:, -context:] if context else prompts[:, :0]
    if len(prompts) and prompts.shape[1]:
        whole = np.ascontiguousarray(prompts).view(f"V{prompts.itemsize * prompts.shape[1]}").reshape(-1)
        _, first, group = np.unique(whole, return_index=True, return_inverse=True)
        distinct = prompts[first]
    else:
        distinct, group = prompts[:1], np.zeros(len(prompts), np.int64)
    real = distinct >= 0
    lengths = np.count_nonzero(real, axis=1)
    places = context - lengths[:, None] + np.cumsum(real, axis=1) - 1
    return Prompts(distinct[real] + offset, places[real], lengths, group.reshape(-1))


def pack(
    prompts: Int, responses: Int, mask: Float, heads: int, context: int, start: int, offset: int
) -> Packed:
    """Rows of `prompts` (B, P) and of `responses` (B, T) up to the last that counts.

    A response's rows are `start` and its tokens but the last: the row before a token is the one that predicts it.
    """
    B, T = responses.shape
    counts = mask > 0
    lengths = np.where(counts.any(axis=1), T - np.argmax(counts[:, ::-1], axis=1), 0)
    live = np.flatnonzero(lengths)
    lengths = lengths[live]
    known = pack_prompts(prompts[live], context, offset)
    inside = np.arange(T) < lengths[:, None]
    inputs = np.empty((len(live), T), np.int64)
    inputs[:, :1] = start
    inputs[:, 1:] = responses[live, :-1]
    places = np.broadcast_to(np.arange(context, context + T), inputs.shape)
    picks = np.flatnonzero((counts[live] & inside)[inside])
    cells = np.flatnonzero(counts)
    return _joined(known, lengths, inputs[inside], places[inside], picks, cells, len(cells) == B * T, heads)


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
    rows = len(known.tokens)
    own = np.cumsum(known.lengths) - known.lengths
    first = rows + np.cumsum(lengths) - lengths
    alone = np.stack([own, known.lengths, 0 * own, 0 * own], axis=1)
    after = np.stack([first, lengths, own[known.group], known.lengths[known.group]], axis=1)
    spans = np.concatenate([alone, after])
    keys = spans[:, 1] + spans[:, 3]
    size = spans[:, 1] * keys
    return Packed(
        np.concatenate([known.tokens, tokens]),
        np.concatenate([known.places, places]),
        rows,
        np.column_stack([spans, heads * (np.cumsum(size) - size)]),
        len(alone),
        heads * int(size.sum()),
        int(keys.max(initial=1)),
        int(size.max(initial=1)),
        picks,
        cells,
        whole,
    )
