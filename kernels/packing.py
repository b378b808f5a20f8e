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
            while (one >> shift) & 255 == (other >> shift) & 255:
                shift += 8
            return (one >> shift) & 255 < (other >> shift) & 255
    return False


@jit
def _sort(keys, wide, order, spare, count):
    """Puts the first `count` of order, which are rows of keys, into their order; equal ones stay as they are."""
    step = 1
    while step < count:
        for begin in range(0, count, 2 * step):
            middle, end = min(begin + step, count), min(begin + 2 * step, count)
            i, j = begin, middle
            for k in range(begin, end):
                if j < end and (i >= middle or _comes_before(keys, order[j], order[i], wide)):
                    spare[k] = order[j]
                    j += 1
                else:
                    spare[k] = order[i]
                    i += 1
        for k in range(count):
            order[k] = spare[k]
        step *= 2


@jit
def _put(spans, s, first, count, before, prefix, heads, sizes, seen):
    """Writes span s, and adds to sizes what it needs, and from `seen` on what it sees and scores beside that."""
    size = count * (prefix + count)
    spans[s, 0], spans[s, 1], spans[s, 2], spans[s, 3], spans[s, 4] = first, count, before, prefix, sizes[4]
    sizes[4] += heads * size
    sizes[5] = max(sizes[5], prefix + count)
    sizes[6] = max(sizes[6], size)
    sizes[seen] += count * prefix + count * (count + 1) // 2
    sizes[seen + 1] += 6 * (count // 4)  # four queries are scored against as many keys


@jit
def pack_jit(
    prompts,
    responses,
    mask,
    context,
    start,
    offset,
    heads,
    keys,
    order,
    spare,
    lengths,
    tokens,
    places,
    spans,
    picks,
    cells,
    sizes,
):
    """Rows of prompts (B, P), padded with -1, and of responses (B, T) up to the last that the mask counts.

    Of a prompt the last `context` tokens count, each plus `offset`; the last stands at place ``context - 1``. A
    response's rows are `start` and its tokens but the last: the row before a token is the one that predicts it. Where
    one token of each response counts, the row before it is all of the response, and what comes before the prompt's.

    Prompts that are the same become one, in the order of their bytes. Writes tokens and places (rows,); spans (S, 5)
    as `_attention` takes them, those of prompts first; of the rows that predict a token which counts, picks, how many
    rows of responses come before, and cells, where it stands in the flattened (B, T); and sizes (12,): rows, those of
    prompts, spans of prompts, all spans, attention weights, most keys and most weights of a span and head, picks, and
    twice, of prompts and of responses, pairs of a query and a key that it sees, and pairs scored beside these. The
    arrays have room for B (W + T) rows, 2 B spans and B T picks, where W is the lesser of P and context; keys
    (B, W + T), order, spare and lengths (B,) are scratch.
    """
    B, P = prompts.shape
    T = responses.shape[1]
    width = min(P, context)
    live, counted = 0, 0
    for b in range(B):
        lengths[b] = 0
        for t in range(T):
            if mask[b, t] > 0:
                cells[counted] = b * T + t
                counted += 1
                lengths[b] = t + 1
        if lengths[b] > 0:
            order[live] = b
            live += 1
    single = counted == live
    wide = width + T if single else width
    for i in range(live):
        b = order[i]
        for p in range(width):
            token = prompts[b, P - width + p]
            keys[b, p] = token + offset if token >= 0 else -1
        for t in range(wide - width):
            before = responses[b, t - 1] if t > 0 else start
            keys[b, width + t] = before if t + 1 < lengths[b] else -1
    _sort(keys, wide, order, spare, live)

    for i in range(sizes.shape[0]):
        sizes[i] = 0
    sizes[5], sizes[6] = 1, 1
    rows, known, group = 0, 0, spare
    for i in range(live):
        b = order[i]
        if i == 0 or _comes_before(keys, order[i - 1], b, wide):
            first, place = rows, context
            for p in range(width):
                if keys[b, p] >= 0:
                    place -= 1
            for p in range(wide):
                if keys[b, p] >= 0:
                    tokens[rows], places[rows] = keys[b, p], place
                    rows += 1
                    place += 1
            _put(spans, known, first, rows - first, 0, 0, heads, sizes, 8)
            known += 1
        group[b] = known - 1
    prompt_rows, span, picked = rows, known, 0
    for b in range(B):
        if lengths[b] > 0:
            first = rows
            for t in range(lengths[b] - 1 if single else 0, lengths[b]):
                tokens[rows] = responses[b, t - 1] if t > 0 else start
                places[rows] = context + t
                if mask[b, t] > 0:
                    picks[picked] = rows - prompt_rows
                    picked += 1
                rows += 1
            before = group[b]
            _put(spans, span, first, rows - first, spans[before, 0], spans[before, 1], heads, sizes, 10)
            span += 1
    sizes[0], sizes[1], sizes[2], sizes[3], sizes[7] = rows, prompt_rows, known, span, picked
