# mypy: allow-untyped-defs, allow-untyped-calls
"""A batch of prompts and responses as rows without padding, each prompt once: for `rlhfbench.policies`.

The functions here are jitted forms on integers.
"""

from __future__ import annotations

from ._jit import jit


@jit
def _comes_before(keys, a, b, wide):
    """Whether the bytes of row a, as they lie in memory from the lowest on, come before those of row b."""
    for w in range(wide):
        one, other = keys[a, w], keys[b, w]
        if one != other:
            shift = 0
            while ((one ^ other) >> shift) & 255 == 0:
                shift += 8
            return (one >> shift) & 255 < (other >> shift) & 255
    return False


@jit
def _sort(keys, wide, each, count):
    """Puts the first `count` of each[0], which are rows of keys, into their order, by Shell's method."""
    gap = count // 2
    while gap > 0:
        for i in range(gap, count):
            row, j = each[0, i], i
            while j >= gap and _comes_before(keys, row, each[0, j - gap], wide):
                each[0, j] = each[0, j - gap]
                j -= gap
            each[0, j] = row
        gap = 1 if gap == 2 else gap * 5 // 11


@jit
def pack_jit(
    prompts, responses, mask, context, start, offset, heads, keys, each, rows, counted, spans, sizes
):
    """Rows of prompts (B, P), padded with -1, and of responses (B, T) up to the last that the mask counts.

    Of a prompt the last `context` tokens count, each plus `offset`; the last stands at place ``context - 1``. A
    response's rows are `start` and its tokens but the last: the row before a token is the one that predicts it. Where
    one token of each response counts, the row before it is all of the response, and what comes before the prompt's.

    Prompts that are the same become one, in the order of their bytes. Writes rows (2,), token and place; spans (S, 5)
    as `_attention` takes them, those of prompts first; of the rows that predict a token which counts, counted (2,), how
    many rows of responses come before, and where it stands in the flattened (B, T); and sizes (12,): rows, those of
    prompts, spans of prompts, all spans, attention weights, most keys and most weights of a span and head, counted, and
    twice, of prompts and of responses, pairs of a query and a key that it sees, and pairs scored beside these. The
    arrays have room for B (W + T) rows, 2 B spans and B T counted, where W is the lesser of P and context; keys
    (B, W + T) and each (3, B), what is sorted, lengths and prompts of responses, are scratch.
    """
    B, P = prompts.shape
    T = responses.shape[1]
    width = P if context > P else context
    live, cells = 0, 0
    for b in range(B):
        length = 0
        for t in range(T):
            if mask[b, t] > 0:
                counted[1, cells] = b * T + t
                cells += 1
                length = t + 1
        each[1, b] = length
        if length > 0:
            each[0, live] = b
            live += 1
    single = cells == live
    wide = width + T if single else width
    for i in range(live):
        b = each[0, i]
        for p in range(width):
            token = prompts[b, P - width + p]
            keys[b, p] = token + offset if token >= 0 else -1
        for t in range(wide - width):
            before = responses[b, t - 1] if t > 0 else start
            keys[b, width + t] = before if t + 1 < each[1, b] else -1
    _sort(keys, wide, each, live)

    row, known = 0, 0
    for i in range(live):
        b = each[0, i]
        if i == 0 or _comes_before(keys, each[0, i - 1], b, wide):
            first, place = row, context
            for p in range(width):
                if keys[b, p] >= 0:
                    place -= 1
            for p in range(wide):
                if keys[b, p] >= 0:
                    rows[0, row], rows[1, row] = keys[b, p], place
                    row += 1
                    place += 1
            spans[known, 0], spans[known, 1], spans[known, 2], spans[known, 3] = first, row - first, 0, 0
            known += 1
        each[2, b] = known - 1
    prompt_rows, span, picked = row, known, 0
    for b in range(B):
        length = each[1, b]
        if length > 0:
            first, before = row, each[2, b]
            for t in range(length - 1 if single else 0, length):
                rows[0, row] = responses[b, t - 1] if t > 0 else start
                rows[1, row] = context + t
                if mask[b, t] > 0:
                    counted[0, picked] = row - prompt_rows
                    picked += 1
                row += 1
            spans[span, 0], spans[span, 1] = first, row - first
            spans[span, 2], spans[span, 3] = spans[before, 0], spans[before, 1]
            span += 1

    for i in range(sizes.shape[0]):
        sizes[i] = 0
    weights, longest, widest = 0, 1, 1
    for s in range(span):
        count, prefix, seen = spans[s, 1], spans[s, 3], 8 if s < known else 10
        keyed = prefix + count
        spans[s, 4] = weights
        weights += heads * count * keyed
        longest = keyed if keyed > longest else longest
        widest = count * keyed if count * keyed > widest else widest
        sizes[seen] += count * prefix + count * (count + 1) // 2
        sizes[seen + 1] += 6 * (count // 4)  # four queries are scored against as many keys
    sizes[0], sizes[1], sizes[2], sizes[3] = row, prompt_rows, known, span
    sizes[4], sizes[5], sizes[6], sizes[7] = weights, longest, widest, picked
