# mypy: allow-untyped-defs, allow-untyped-calls
"""Keys of a cache, four tokens side by side: a row of (C, 4) for each four tokens.

Vectors run along four keys and some of their numbers, so that four heads' products with them end in one vector with
few steps, and one more token's key touches a quarter of the cache lines that it would if keys were turned.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
from numba import types
from numba.core import cgutils

from ._abreast import ABREAST
from ._lanemath import _bounded_power, largest, power, total
from ._registers import Registers, instead_of, integer
from ._row import narrow

__all__ = ["SIDE", "fours", "keys_shape", "put_key", "weigh_fours"]

SIDE = 4
"""Keys side by side."""
_A, _I, _F = types.Array, types.Integer, types.Float


def fours(J: int) -> int:
    """How many fours J places are in."""
    return -(-J // SIDE)


def keys_shape(J: int, C: int) -> tuple[int, int]:
    """Of J places for a sequence's keys: rows of four."""
    return fours(J), SIDE * C


def put_key(x, n, start, size, keys, row, side):
    """Writes x[n, start : start + size] to a row of keys, on that side."""
    keys[row].reshape(-1, SIDE)[:size, side] = x[n, start : start + size]


@instead_of(put_key, _A, _I, _I, _I, _A, _I, _I)
def _write_put(context, builder, kinds, args):
    x, n, start, size, keys, row, side = args
    code = Registers(context, builder, kinds[0])
    numbers, to = code.array(kinds[0], x)(n, start), code.array(kinds[4], keys)
    own = code.ranked("==", side, SIDE)
    for v, mask in code.parts(builder.mul(size, integer(SIDE))):
        lanes = _repeated(code, numbers, v, size, mask)
        code.store(lanes, to(row, v), own if mask is None else builder.and_(mask, own))


def _repeated(code, numbers, v, size, part):
    """A row's numbers as lanes, each as often as there are keys side by side, from lane v on; `part`: not all are."""
    first, few = code.builder.udiv(v, integer(SIDE)), code.with_lanes(code.width // SIDE)
    place = code.moved(numbers, first)
    if few.width == 1:
        return code.at(place)
    x = few.load(place, part and few.first(first, size))
    return code.shuffled(x, x, [lane // SIDE for lane in range(code.width)])


def weigh_fours(x, n, start, size, heads, keys, seen, scale, weights):
    """Writes the softmax of `heads` heads' products of query n with `seen` keys.

    There are `ABREAST` heads at most, the first from column `start` on. Of each four keys the weights of a head are
    side by side, and behind them the next head's. Where keys or heads are missing, rubbish is written.
    """
    for head in range(heads):
        begin = start + head * size
        query, some = x[n, begin : begin + size], slice(SIDE * begin, SIDE * (begin + size))
        turned = keys[: fours(seen), some].reshape(-1, size, SIDE).swapaxes(0, 1).reshape(size, -1)
        scores = turned[0, :seen] * query[0]
        for d in range(1, size):
            scores = turned[d, :seen] * query[d] + scores
        lanes = power(scores - largest(scores), scale)
        lanes = lanes * narrow(1.0 / total(lanes), x)
        for key in range(seen):
            weights[(key // SIDE * ABREAST + head) * SIDE + key % SIDE] = lanes[key]


@instead_of(weigh_fours, _A, *[_I] * 4, _A, _I, _F, _A)
def _write_weigh(context, builder, kinds, args):
    x, n, start, size, heads, keys, seen, scale, weights = args
    code = Registers(context, builder, kinds[0])
    some = code.with_lanes(ABREAST * SIDE)
    table, weights = code.array(kinds[5], keys), code.array(kinds[8], weights)
    starts = code.steps(start, size, heads, ABREAST)
    queries = [code.array(kinds[0], x)(n, begin) for begin in starts]
    columns = [builder.mul(begin, integer(SIDE)) for begin in starts]

    @contextmanager
    def each_four():
        """A loop over all fours: the first key of each, and where its weights are."""
        with cgutils.for_range_slice(builder, integer(0), seen, integer(SIDE)) as (key, _):
            yield key, weights(builder.mul(key, integer(ABREAST)))

    tops, masses = some.names(2)
    builder.store(some.splat(-np.inf), tops)
    with each_four() as (key, to):
        own = builder.udiv(key, integer(SIDE))
        sums = code.names(ABREAST)
        for name in sums:
            builder.store(code.splat(0.0), name)
        for v, mask in code.parts(builder.mul(size, integer(SIDE))):
            for query, column, name in zip(queries, columns, sums, strict=True):
                lanes = code.load(table(own, builder.add(column, v)), mask)
                code.add_to(name, _repeated(code, query, v, size, mask), lanes)
        scores = _gathered(code, [builder.load(name) for name in sums])
        scores = some.where(some.ranked("<", builder.sub(seen, key), SIDE), scores, -np.inf)
        some.store(scores, to)
        builder.store(some.larger(builder.load(tops), scores), tops)
    top = _joined(some, builder.load(tops), some.larger)
    builder.store(some.splat(0.0), masses)
    with each_four() as (_, to):
        lanes = _bounded_power(builder, builder.fsub(some.load(to), top), scale)
        some.store(lanes, to)
        builder.store(builder.fadd(builder.load(masses), lanes), masses)
    share = builder.fdiv(some.splat(1.0), _joined(some, builder.load(masses), builder.fadd))
    with each_four() as (_, to):
        some.store(builder.fmul(some.load(to), share), to)


def _gathered(code, rows):
    """Of each row the sums over lanes of the same key, side by side, and the rows one behind the other."""
    part = code.width
    while part > SIDE:
        part //= 2
        rows = code.halved(rows, part, code.builder.fadd)
    while len(rows) > 1:
        rows = [
            code.shuffled(a, b, range(2 * a.type.count)) for a, b in zip(rows[::2], rows[1::2], strict=True)
        ]
    return rows[0]


def _joined(some, x, join):
    """The lanes of keys side by side, joined, in all of them."""
    part = SIDE
    while part > 1:
        part //= 2
        x = join(x, some.shuffled(x, x, [lane ^ part for lane in range(some.width)]))
    return x
