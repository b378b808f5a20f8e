# mypy: allow-untyped-defs, allow-untyped-calls
"""Weights of some queries of a span, and the slopes of their scores, where what they see fits one or two registers.

Each row is one chain of operations that wait for each other; several side by side fill the gaps, and nothing goes
through memory between them. Where fewer are left the last one is computed several times.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
from numba import types
from numba.core import cgutils

from ._lanemath import _bounded_power, largest, power, total
from ._registers import Registers, instead_of, integer
from ._row import narrow

__all__ = [
    "slope_both",
    "slope_eight",
    "slope_four",
    "slope_four_long",
    "weigh_both",
    "weigh_eight",
    "weigh_four",
    "weigh_four_long",
]


def _scores(x, n, rows, start, size, turned, seen, heads):
    """Of each query of each head its products with the keys that it sees.

    Four share a loop over the numbers of a key, so that all of them are scored against what the last one sees.
    """
    for head, k in product(range(heads), range(rows)):
        four = k - k % 4 + 4
        keys = seen + (four - 1 if four <= rows else k)
        begin, query = head * size, x[n + k, start + head * size :]
        scores = turned[begin, :keys] * query[0]
        for d in range(1, size):
            scores = turned[begin + d, :keys] * query[d] + scores
        yield head * rows + k, scores[: seen + k]


class _Queries:
    """As many queries as there may be of each head, and so many registers for what each of them sees."""

    def __init__(self, code, most, vectors, heads):
        self.code, self.builder = code, code.builder
        self.most, self.vectors, self.heads = most, vectors, heads

    def rows(self, kind, x, n, start, rows, size):
        """Where the queries lie in x."""
        starts = [
            self.builder.add(start, self.builder.mul(size, integer(head))) for head in range(self.heads)
        ]
        return [row for own in starts for row in self.code.rows(kind, x, n, own, rows, self.most)]

    def bases(self, base, step, rows):
        """Where the rows of each head begin in a table."""
        each = self.builder.mul(rows, step)
        return [self.builder.add(base, self.builder.mul(each, integer(head))) for head in range(self.heads)]

    def masks(self, seen):
        """What each query sees; of those that are missing, too much."""
        starts = [v * self.code.width for v in range(self.vectors)]
        return self.heads * [[self.code.first_of(v, seen, k) for v in starts] for k in range(self.most)]

    def exact_masks(self, seen, rows):
        """What each query sees; of those that are missing, what the last one does."""
        keys = self.code.steps(seen, integer(1), rows, self.most)
        return self.heads * [
            [self.code.first(self.begin(v), own) for v in range(self.vectors)] for own in keys
        ]

    def begin(self, v):
        """Of a register: its first key."""
        return integer(v * self.code.width)

    def each(self, do, *values):
        """`do` to all registers, and what belongs to them."""
        return [[do(*one) for one in zip(*rows, strict=True)] for rows in zip(*values, strict=True)]

    def scores(self, queries, turned, size):
        """Products with all that there is in the keys' registers."""
        code, builder = self.code, self.builder
        sums = code.names(len(queries), self.vectors)

        def products(d):
            """Of number d: what to add to, a query's number, and the register of keys."""
            for head in range(self.heads):
                row = builder.add(builder.mul(size, integer(head)), d)
                keys = [code.load(turned(row, self.begin(v))) for v in range(self.vectors)]
                own = slice(head * self.most, (head + 1) * self.most)
                for query, names in zip(queries[own], sums[own], strict=True):
                    number = code.at(code.moved(query, d))
                    yield from ((name, key, number) for name, key in zip(names, keys, strict=True))

        for name, key, number in products(integer(0)):
            builder.store(builder.fmul(key, number), name)
        with cgutils.for_range_slice(builder, integer(1), size, integer(1)) as (d, _):
            for one in products(d):
                code.add_to(*one)
        return self.each(builder.load, sums)

    def joined(self, rows, join):
        """Of each query all lanes joined, in all lanes of as many registers as it has."""
        if self.vectors == 2:
            rows = [[join(*row)] for row in rows]
        return self.code.folded([row[0] for row in rows], join)

    def spread(self, joined):
        """The parts of `joined`, each as often as a query has registers."""
        return [[part] * self.vectors for part in self.code.spread(joined, self.heads * self.most)]

    def write(self, rows, table, base, step, count):
        """Whole registers, in order: a row overwrites what stands behind the one before it."""
        bases, ranks = self.bases(base, step, count), range(self.most)
        places = [self.builder.add(own, self.builder.mul(step, integer(k))) for own in bases for k in ranks]
        for place, row in zip(places, rows, strict=True):
            for v, lanes in enumerate(row):
                self.code.store(lanes, table(self.builder.add(place, self.begin(v))))


_A, _I, _F = types.Array, types.Integer, types.Float


def _weighing(most, vectors, heads=1):
    """A function for so many queries, or fewer, that see no more than so many registers hold.

    Of two heads: the second one's numbers, weights and turned keys come right after the first one's.
    """

    def weigh(x, n, rows, start, size, turned, seen, scale, weights, base, step):
        """Writes, from weights[base] on, rows of the softmax of queries n to n + rows: the first sees `seen` keys.

        Rubbish is written behind each row, and to the rows of queries that are missing.
        """
        for k, scores in _scores(x, n, rows, start, size, turned, seen, heads):
            lanes = power(scores - largest(scores), scale)
            own = base + k * step
            weights[own : own + len(lanes)] = lanes * narrow(1.0 / total(lanes), x)

    @instead_of(weigh, _A, *[_I] * 4, _A, _I, _F, _A, _I, _I)
    def write_weigh(context, builder, kinds, args):
        x, n, rows, start, size, turned, seen, scale, weights, base, step = args
        code = Registers(context, builder, kinds[0])
        some = _Queries(code, most, vectors, heads)
        queries = some.rows(kinds[0], x, n, start, rows, size)
        scores = some.scores(queries, code.array(kinds[5], turned), size)
        lanes = some.each(partial(code.where, rest=-np.inf), some.masks(seen), scores)
        tops = some.spread(some.joined(lanes, code.larger))
        lanes = some.each(builder.fsub, lanes, tops)
        lanes = some.each(lambda x: _bounded_power(builder, x, scale), lanes)
        shares = [builder.fdiv(code.splat(1.0), x) for x in some.joined(lanes, builder.fadd)]
        lanes = some.each(builder.fmul, lanes, some.spread(shares))
        some.write(lanes, code.array(kinds[8], weights), base, step, rows)

    return weigh


def _sloping(most, vectors, heads=1):
    """A function for as many queries and heads as one of `_weighing`."""

    def slope(x, n, rows, start, size, turned, seen, scale, weights, base, step, slopes, place):
        """Writes, from slopes[place] on, rows of the slopes of scores: from those of the result, rows of x, and values.

        Rubbish is written behind each row, and to the rows of queries that are missing.
        """
        for k, found in _scores(x, n, rows, start, size, turned, seen, heads):
            own, to = base + k * step, place + k * step
            shares = weights[own : own + len(found)]
            mean = narrow(np.float64(0.0) + total(shares * found), x)
            slopes[to : to + len(found)] = (found - mean) * (shares * scale)

    @instead_of(slope, _A, *[_I] * 4, _A, _I, _F, _A, _I, _I, _A, _I)
    def write_slope(context, builder, kinds, args):
        x, n, rows, start, size, turned, seen, scale, weights, base, step, slopes, place = args
        code = Registers(context, builder, kinds[0])
        some = _Queries(code, most, vectors, heads)
        masks, table = some.exact_masks(seen, rows), code.array(kinds[8], weights)
        bases = some.bases(base, step, rows)
        places = [place for own in bases for place in code.steps(own, step, rows, most)]
        shares = [
            [code.load(table(builder.add(own, some.begin(v))), mask) for v, mask in enumerate(row)]
            for own, row in zip(places, masks, strict=True)
        ]
        queries = some.rows(kinds[0], x, n, start, rows, size)
        found = some.scores(queries, code.array(kinds[5], turned), size)
        found = some.each(partial(code.where, rest=0.0), masks, found)
        means = some.spread(some.joined(some.each(builder.fmul, shares, found), builder.fadd))
        scaled = some.each(lambda x: builder.fmul(x, code.splat(scale)), shares)
        found = some.each(builder.fmul, some.each(builder.fsub, found, means), scaled)
        some.write(found, code.array(kinds[11], slopes), place, step, rows)

    return slope


weigh_four, weigh_eight, weigh_four_long = _weighing(4, 1), _weighing(8, 1), _weighing(4, 2)
slope_four, slope_eight, slope_four_long = _sloping(4, 1), _sloping(8, 1), _sloping(4, 2)
weigh_both, slope_both = _weighing(4, 1, heads=2), _sloping(4, 1, heads=2)
