# mypy: allow-untyped-defs, allow-untyped-calls
"""A batch of prompts and responses as rows without padding, each prompt once: for `rlhfbench.policies`.

The functions here are jitted forms.
"""

from __future__ import annotations

from ._jit import jit

SHARED = 3
"""Responses of one prompt from which on the start token's row, of two rows then, costs less than theirs."""


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
def _measure(mask, each):
    """Writes of each response up to where it counts, and which ones are not empty; gives these, and all that counts."""
    live, cells = 0, 0
    for b in range(mask.shape[0]):
        length = 0
        for t in range(mask.shape[1]):
            if mask[b, t] > 0:
                cells += 1
                length = t + 1
        each[1, b] = length
        if length > 0:
            each[0, live] = b
            live += 1
    return live, cells


@jit
def _write_keys(prompts, responses, each, live, width, wide, start, offset, keys):
    """Writes what comes before each response, padded."""
    P = prompts.shape[1]
    for i in range(live):
        b = each[0, i]
        for p in range(width):
            token = prompts[b, P - width + p]
            keys[b, p] = token + offset if token >= 0 else -1
        for t in range(wide - width):
            before = responses[b, t - 1] if t > 0 else start
            keys[b, width + t] = before if t + 1 < each[1, b] else -1


@jit
def _write_span(spans, s, first, stop, before, prefix):
    spans[s, 0], spans[s, 1], spans[s, 2], spans[s, 3] = first, stop - first, before, prefix


@jit
def _write_sizes(spans, known, span, heads, sizes):
    """Writes where each span's weights begin, and all sizes that come of spans."""
    for i in range(sizes.shape[0]):
        sizes[i] = 0
    weights, longest, widest = 0, 1, 1
    for s in range(span):
        count, prefix, seen = spans[s, 1], spans[s, 3], 9 if s < known else 11
        keyed = prefix + count
        spans[s, 4] = weights
        weights += heads * count * keyed
        longest = keyed if keyed > longest else longest
        widest = count * keyed if count * keyed > widest else widest
        sizes[seen] += count * prefix + count * (count + 1) // 2
        sizes[seen + 1] += 6 * (count // 4)  # four queries are scored against as many keys
    sizes[2], sizes[3], sizes[4], sizes[5], sizes[6] = known, span, weights, longest, widest


@jit
def pack_jit(
    prompts, responses, mask, context, start, offset, heads, keys, each, rows, counted, spans, sizes
):
    """Rows of prompts (B, P), padded with -1, and of responses (B, T) up to the last that the mask counts.

    Of a prompt the last `context` tokens count, each plus `offset`; the last stands at place ``context - 1``. A
    response's rows are `start` and its tokens but the last: the row before a token is the one that predicts it. Where
    one token of each response counts, the row before it is all of the response, and what comes before the prompt's.

    Prompts that are the same become one, in the order of their bytes. Where `SHARED` responses or more follow one, the
    start token is the prompt's last row; and if a response's first token counts, one more row behind the prompts, of a
    span of its own, predicts it for all of them.

    Writes rows (2,), token and place; spans (S, 5) as `_attention` takes them, those of prompts first, then those of
    start tokens; of each token that counts, in the order of the rows that predict them, counted (3,): of these rows in
    turn, how many rows of responses come before each; where the token stands in the flattened (B, T); and which of
    these rows predicts it. And sizes (13,): rows, those of prompts, spans of prompts, all spans, attention weights,
    most keys and most weights of a span and head, rows that predict, counted, and twice, of prompts and of responses,
    pairs of a query and a key that it sees, and pairs scored beside these. The arrays have room for B (W + T) rows,
    2 B spans and B T counted, where W is the lesser of P and context; keys (B, W + T) and each (4, B), what is sorted,
    lengths and prompts of responses, and whether prompts share a start, are scratch.
    """
    B, P = prompts.shape
    T = responses.shape[1]
    width = P if context > P else context
    live, cells = _measure(mask, each)
    single = cells == live
    wide = width + T if single else width
    _write_keys(prompts, responses, each, live, width, wide, start, offset, keys)
    _sort(keys, wide, each, live)

    row, known, starts, i, n = 0, 0, 0, 0, 0
    while i < live:
        b, first, place = each[0, i], row, context
        for p in range(width):
            if keys[b, p] >= 0:
                place -= 1
        for p in range(wide):
            if keys[b, p] >= 0:
                rows[0, row], rows[1, row] = keys[b, p], place
                row += 1
                place += 1
        begin = i
        while i < live and (i == begin or not _comes_before(keys, b, each[0, i], wide)):
            each[2, each[0, i]] = known
            i += 1
        share = i - begin >= SHARED and not single
        each[3, known] = share
        if share:
            rows[0, row], rows[1, row] = start, context
            row += 1
            others = n
            for k in range(begin, i):
                if mask[each[0, k], 0] > 0:
                    counted[1, n], counted[2, n] = each[0, k] * T, starts
                    n += 1
            if n > others:
                each[0, starts] = known
                starts += 1
        _write_span(spans, known, first, row, 0, 0)
        known += 1

    prompt_rows, span = row, known
    for k in range(starts):
        before = each[0, k]
        rows[0, row], rows[1, row], counted[0, k] = start, context, k
        _write_span(spans, span, row, row + 1, spans[before, 0], spans[before, 1] - 1)
        row += 1
        span += 1
    picked = starts
    for b in range(B):
        length = each[1, b]
        if length > 0:
            first, before = row, each[2, b]
            for t in range(length - 1 if single else each[3, before], length):
                rows[0, row] = responses[b, t - 1] if t > 0 else start
                rows[1, row] = context + t
                if mask[b, t] > 0:
                    counted[0, picked], counted[1, n], counted[2, n] = row - prompt_rows, b * T + t, picked
                    picked += 1
                    n += 1
                row += 1
            if row > first:
                _write_span(spans, span, first, row, spans[before, 0], spans[before, 1])
                span += 1

    _write_sizes(spans, known, span, heads, sizes)
    sizes[0], sizes[1], sizes[7], sizes[8] = row, prompt_rows, picked, n


@jit
def move_jit(rows, first, origins, targets, n, out):
    """Writes rows (N, V), of which the first has the number `first`, from their origins to their targets in `out`.

    From the nth on, as far as these rows go; gives the first behind. Rows of one target, side by side, are added up.
    """
    while n < origins.shape[0] and origins[n] < first + rows.shape[0]:
        origin, target = origins[n] - first, targets[n]
        if n > 0 and targets[n - 1] == target:
            for v in range(rows.shape[1]):
                out[target, v] += rows[origin, v]
        else:
            for v in range(rows.shape[1]):
                out[target, v] = rows[origin, v]
        n += 1
    return n
