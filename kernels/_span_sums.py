# mypy: allow-untyped-defs, allow-untyped-calls
"""Sums of rows that a span sees, several at a time: each row is loaded once for all of them."""

from __future__ import annotations

from contextlib import ExitStack

from numba import types
from numba.core import cgutils

from ._lanemath import fma
from ._registers import Registers, instead_of, integer
from ._row import narrow
from ._turned import KEYS, QUERIES

__all__ = ["gather_narrow", "gather_wide", "mix_narrow", "mix_wide"]

_A, _I = types.Array, types.Integer


def _row_of_key(j, first, before, prefix):
    return before + j if j < prefix else first + j - prefix


def _mixing(half):
    """A function for sums of no more numbers than half a register holds, or of any number."""

    def mix(table, base, step, rows, seen, x, column, first, before, prefix, out, n, start, size):
        """Writes rows n to n + rows of out: sums of rows of x that a span sees, each times its entry of `table`.

        From table[base] on: the first has `seen` of them, and each one more than the one before.
        """
        for k in range(rows):
            lanes = narrow(0.0, out)
            for j in range(seen + k):
                row = _row_of_key(j, first, before, prefix)
                lanes = fma(x[row, column : column + size], table[base + k * step + j], lanes)
            out[n + k, start : start + size] = lanes

    @instead_of(mix, _A, *[_I] * 4, _A, *[_I] * 4, _A, *[_I] * 3)
    def write_mix(context, builder, kinds, args):
        table, base, step, rows, seen, x, column, first, before, prefix, out, n, start, size = args
        code = Registers(context, builder, kinds[5], half)
        table, x = code.array(kinds[0], table), code.array(kinds[5], x)
        shares = [table(place) for place in code.steps(base, step, rows, QUERIES)]
        mixed = code.rows(kinds[10], out, n, start, rows, QUERIES)
        own = builder.sub(first, prefix)
        sums = code.names(QUERIES)
        with code.pieces(size) as (v, mask):

            def add(j, start, some):
                row = code.load(x(builder.add(start, j), builder.add(column, v)), mask)
                for k in some:
                    code.add_to(sums[k], row, code.at(code.moved(shares[k], j)))

            for name in sums:
                builder.store(code.splat(0.0), name)
            with cgutils.for_range_slice(builder, integer(0), seen, integer(1)) as (j, _):
                add(j, builder.select(builder.icmp_signed("<", j, prefix), before, own), range(QUERIES))
            with ExitStack() as stack:
                for k in range(1, QUERIES):
                    more = builder.icmp_signed("<", integer(k), rows)
                    stack.enter_context(builder.if_then(more, likely=True))
                    add(builder.add(seen, integer(k - 1)), own, range(k, QUERIES))
            for name, place in zip(sums, mixed, strict=True):
                code.store(builder.load(name), code.moved(place, v), mask)

    return mix


def _gathering(half):
    """A function for sums of no more numbers than half a register holds, or of any number."""

    def gather(
        slopes,
        at,
        weights,
        base,
        x,
        column,
        d_out,
        start,
        first,
        count,
        before,
        prefix,
        j,
        d_x,
        key,
        value,
        size,
    ):
        """Adds to four rows of d_x, those of the keys from j on, what the queries that see them say.

        From slopes[at] on its row of x times the slope: to the key. From weights[base] on its row of d_out times the
        weight: to the value.
        """
        J = prefix + count
        for k in range(j, min(j + KEYS, J)):
            row = _row_of_key(k, first, before, prefix)
            keys, values = d_x[row, key : key + size], d_x[row, value : value + size]
            for i in range(max(k - prefix, 0), count):
                keys = fma(x[first + i, column : column + size], slopes[at + i * J + k], keys)
                values = fma(d_out[first + i, start : start + size], weights[base + i * J + k], values)
            d_x[row, key : key + size], d_x[row, value : value + size] = keys, values

    @instead_of(gather, _A, _I, _A, _I, _A, _I, _A, *[_I] * 6, _A, *[_I] * 3)
    def write_gather(context, builder, kinds, args):
        slopes, at, weights, base, x, column, d_out, start = args[:8]
        first, count, before, prefix, j, d_x, key, value, size = args[8:]
        code = Registers(context, builder, kinds[4], half)
        step = code.step(kinds[13], d_x)
        slopes, weights, x, d_out, d_x = (code.array(kinds[i], args[i]) for i in (0, 2, 4, 6, 13))
        J, zero = builder.add(prefix, count), integer(0)
        begins = [builder.sub(builder.add(j, integer(k)), prefix) for k in range(KEYS)]
        prefixed = d_x(before, key)
        own = code.if_any(count, d_x(builder.sub(first, prefix), key), prefixed)
        offsets = code.steps(builder.mul(j, step), step, builder.sub(J, j), KEYS)
        rows = []
        for offset, begin in zip(offsets, begins, strict=True):
            row = builder.select(builder.icmp_signed("<", begin, zero), prefixed, own)
            rows.append(cgutils.pointer_add(builder, row, offset, row.type))
        begins = [builder.select(builder.icmp_signed(">", one, zero), one, zero) for one in begins]
        values = builder.sub(value, key)
        with code.pieces(size) as (v, mask):
            places = [[code.moved(row, c) for row in rows] for c in (v, builder.add(values, v))]
            sums = code.names(2, KEYS)
            for names, some in zip(sums, places, strict=True):
                for name, place in zip(names, some, strict=True):
                    builder.store(code.load(place, mask), name)

            def add(i, seen):
                n, entry = builder.add(first, i), builder.add(builder.mul(i, J), j)
                queries = [x(n, builder.add(column, v)), d_out(n, builder.add(start, v))]
                tables = [slopes(builder.add(at, entry)), weights(builder.add(base, entry))]
                for names, table, query in zip(sums, tables, queries, strict=True):
                    row = code.load(query, mask)
                    for k, (name, lanes) in enumerate(zip(names, seen, strict=True)):
                        code.add_to(name, row, code.at(code.moved(table, integer(k))), lanes)

            stop = code.least(begins[-1], count)
            with cgutils.for_range_slice(builder, begins[0], stop, integer(1)) as (i, _):
                add(i, [None, *(code.all_if(builder.icmp_signed(">=", i, one)) for one in begins[1:])])
            with cgutils.for_range_slice(builder, begins[-1], count, integer(1)) as (i, _):
                add(i, [None] * KEYS)
            # Keys that are missing take the last one's place, which therefore comes after them.
            for names, some in zip(sums, places, strict=True):
                for name, place in zip(reversed(names), reversed(some), strict=True):
                    code.store(builder.load(name), place, mask)

    return gather


mix_narrow, mix_wide = _mixing(True), _mixing(False)
gather_narrow, gather_wide = _gathering(True), _gathering(False)
