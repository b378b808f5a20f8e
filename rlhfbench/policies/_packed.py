"""A batch as rows of tokens, without padding: every prompt once, then every response.

Where one state of each response is asked for, after its last token, that token alone is a response here, and all that
comes before it a prompt: so the last block has nothing else to do (`_backbone`). Otherwise, where three responses or
more follow a prompt, they share the start token's row as well: as the prompt's last, for its key and value, and as a
response of its own, for what it predicts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels import packing

from ..types import Float, Int
from ._buffers import Buffers


class Packed(NamedTuple):
    """Tokens: first those of the distinct prompts, then those of the responses, of which some predict one that counts.

    Attributes
    ----------
    rows : int
        How many tokens.
    tokens, places : (rows,)
        Rows of the token table and of the position table.
    prompt_rows : int
        How many of the rows are prompts'.
    spans : (spans, 5)
        As `kernels.nn` takes them: prompts, then responses after their prompts.
    prompts : int
        How many of the spans are prompts'.
    weights, longest, widest : int
        Attention weights of all spans and heads; most keys of a span; most weights of a span and head.
    picks : (picked,)
        Which of the response rows predict tokens that count.
    cells : (counted,)
        Where these tokens stand in the flattened (B, T), in the order of the rows that predict them.
    sources : (counted,)
        Which of the picked rows predicts each.
    whole : bool
        Whether each of (B, T) counts, and has a row of its own, in order.
    seen_first, seen_last : (int, int)
        `seen` of the prompts, and of the responses.
    """

    rows: int
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
    sources: Int
    whole: bool
    seen_first: tuple[int, int]
    seen_last: tuple[int, int]

    @property
    def seen(self) -> tuple[int, int]:
        """(pairs of a query and a key that it sees, pairs scored) of all spans, as `kernels.flops` counts them."""
        (pairs, scored), (pairs_last, scored_last) = self.seen_first, self.seen_last
        return pairs + pairs_last, scored + scored_last


_NONE = np.zeros(0, np.int64)
NOTHING = Packed(
    0, _NONE, _NONE, 0, np.zeros((0, 5), np.int64), 0, 0, 1, 1, _NONE, _NONE, _NONE, True, (0, 0), (0, 0)
)
"""No sequence."""


def pack(
    prompts: Int,
    responses: Int,
    mask: Float,
    heads: int,
    context: int,
    start: int,
    offset: int,
    ints: Buffers,
) -> Packed:
    """Rows of `prompts` (B, P), padded with -1, and of `responses` (B, T) up to the last that counts.

    The last `context` tokens of a prompt count, and its last one always stands at the same place, so that padding
    changes nothing; `offset` is added to each. A response's rows are `start` and its tokens but the last: the row
    before a token is the one that predicts it. The arrays lie in `ints`.
    """
    (B, P), T = prompts.shape, responses.shape[1]
    wide = min(P, context) + T
    tokens, counted = ints("tokens", 2, B * wide), ints("counted", 3, B * T)
    spans, sizes = ints("spans", 2 * B, 5), ints("sizes", 13)
    packing.pack_jit(
        np.ascontiguousarray(prompts, np.int64),
        np.ascontiguousarray(responses, np.int64),
        np.ascontiguousarray(mask),
        context,
        start,
        offset,
        heads,
        ints("keys", B, wide),
        ints("of each", 4, B),
        tokens,
        counted,
        spans,
        sizes,
    )
    rows, prompt_rows, known, count, weights, longest, widest, picked, counting, *seen = sizes.tolist()
    return Packed(
        rows,
        tokens[0, :rows],
        tokens[1, :rows],
        prompt_rows,
        spans[:count],
        known,
        weights,
        longest,
        widest,
        counted[0, :picked],
        counted[1, :counting],
        counted[2, :counting],
        picked == B * T,
        (seen[0], seen[0] + seen[1]),
        (seen[2], seen[2] + seen[3]),
    )
