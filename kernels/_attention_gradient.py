# mypy: allow-untyped-defs, allow-untyped-calls
"""The gradient of `_attention`, from the weights that it left."""

from __future__ import annotations

import math

from ._attention import dots_of_four
from ._jit import jit
from ._lanemath import fma, total
from ._lanes import load, load_part, splat, store, store_part, width
from ._queries import slope_both, slope_eight, slope_four, slope_four_long
from ._row import length, narrow
from ._rows import START
from ._slim import stretch
from ._span_sums import gather_narrow, gather_wide, mix_narrow, mix_wide
from ._turned import FEW, KEYS, QUERIES, turn

__all__ = ["attention_backward_jit"]


@jit(forceinline=True)
def _through_softmax(weights, slopes, scale):
    """Turns the slopes of a query's weights into those of its scores."""
    J = length(weights)
    nothing = narrow(0.0, weights)
    moments = splat(nothing, weights)
    v = 0
    while v + width(weights) <= J:
        moments = fma(load(weights, v), load(slopes, v), moments)
        v += width(weights)
    moment = total(moments)
    if v < J:
        moment = moment + total(load_part(weights, v, J, nothing) * load_part(slopes, v, J, nothing))
    mean = narrow(moment, weights)
    v = 0
    while v + width(weights) <= J:
        store(slopes, v, (load(slopes, v) - mean) * (load(weights, v) * scale))
        v += width(weights)
    if v < J:
        rest = load_part(weights, v, J, nothing) * scale
        store_part(slopes, v, J, (load_part(slopes, v, J, nothing) - mean) * rest)


@jit(forceinline=True)
def _slope_four(x, n, rows, start, size, turned, seen, scale, weights, base, step, slopes, place):
    """Slopes of scores of queries n to n + rows, four at most, from slopes[place] on; the first sees `seen` keys."""
    keys, lanes = seen + rows - 1, width(stretch(weights, 0, 0))
    if keys <= lanes:
        slope_four(x, n, rows, start, size, turned, seen, scale, weights, base, step, slopes, place)
    elif keys <= 2 * lanes:
        slope_four_long(x, n, rows, start, size, turned, seen, scale, weights, base, step, slopes, place)
    else:
        dots_of_four(x, n, rows, start, size, turned, keys, slopes, place, step)
        for k in range(rows):
            own, found = base + k * step, place + k * step
            weighted = stretch(weights, own, own + seen + k)
            _through_softmax(weighted, stretch(slopes, found, found + seen + k), scale)


@jit(forceinline=True)
def _slope(x, n, rows, start, size, turned, seen, scale, weights, base, step, slopes, place):
    """`_slope_four` of `QUERIES` at most."""
    if rows > 4 and seen + rows - 1 <= width(stretch(weights, 0, 0)):
        slope_eight(x, n, rows, start, size, turned, seen, scale, weights, base, step, slopes, place)
    else:
        for k in range(0, rows, 4):
            own, to = base + k * step, place + k * step
            some = min(rows - k, 4), start, size, turned, seen + k
            _slope_four(x, n + k, *some, scale, weights, own, step, slopes, to)


@jit
def attention_backward_jit(d_out, qkv, weights, spans, heads, turned, slopes, d_qkv):
    """Accumulates into the keys and values of d_qkv (N, 3 C), and overwrites the queries of the spans.

    Scratch: turned (`turned_shape`), and slopes, `with_room` for the most weights of one span and head. Behind the last
    weight there has to be room as well: what stands there is read, and not used.
    """
    C = d_out.shape[1]
    D = C // heads
    scale = narrow(1.0 / math.sqrt(D), qkv)
    lanes = width(stretch(weights, 0, 0))
    for s in range(spans.shape[0]):
        first, count, before, prefix, start = spans[s, 0], spans[s, 1], spans[s, 2], spans[s, 3], spans[s, 4]
        J = prefix + count
        together = 2 if 0 < count <= FEW and lanes >= J else 1
        begin = 0
        while begin < heads:
            some = min(together, heads - begin)
            turn(qkv, 2 * C + begin * D, some * D, first, count, before, prefix, turned)
            if some == 2:
                weighed = prefix + 1, scale, weights, start + begin * count * J, J
                slope_both(d_out, first, count, begin * D, D, turned, *weighed, slopes, START)
            for h in range(begin, begin + some):
                base, own = start + h * count * J, (h - begin) * count * J
                for i in range(0, count, QUERIES):
                    n, rows, seen, place = first + i, min(QUERIES, count - i), prefix + i + 1, i * J
                    if some == 1:
                        weighed = seen, scale, weights, base + place, J
                        _slope(d_out, n, rows, h * D, D, turned, *weighed, slopes, place)
                    keys, place = (first, before, prefix), own + place
                    if lanes >= 2 * D:
                        mix_narrow(slopes, place, J, rows, seen, qkv, C + h * D, *keys, d_qkv, n, h * D, D)
                    else:
                        mix_wide(slopes, place, J, rows, seen, qkv, C + h * D, *keys, d_qkv, n, h * D, D)
                for j in range(0, J, KEYS):
                    some_keys = h * D, first, count, before, prefix, j
                    to = d_qkv, C + h * D, 2 * C + h * D, D
                    if lanes >= 2 * D:
                        gather_narrow(slopes, own, weights, base, qkv, h * D, d_out, *some_keys, *to)
                    else:
                        gather_wide(slopes, own, weights, base, qkv, h * D, d_out, *some_keys, *to)
            begin += some
