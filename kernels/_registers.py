# mypy: allow-untyped-defs, allow-untyped-calls
"""What code that is written in LLVM's instructions has in common: vectors of one register, and rows in memory.

For functions on several rows at once, whose vectors all have to stay in registers: in jitted code each of them would
be a name of its own. Where four rows are enough, and one vector of each at a time, `_abreast` has them in jitted code.
"""

from __future__ import annotations

from contextlib import contextmanager
from copy import copy
from functools import wraps

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from ._lanemath import _fmuladd
from ._lanes import _BYTES, _first, broadcast, masked_load, masked_store

__all__ = ["Registers", "instead_of", "integer"]

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def integer(n):
    """A constant."""
    return _I64(n)


def instead_of(function, *kinds):
    """Decorates what writes instructions in place of a call of `function`, which returns nothing.

    It gets Numba's context, LLVM's builder, and types and values of the arguments, which are of these kinds.
    """

    @wraps(function)  # Numba asks for the names of the arguments
    def typed(*args):
        return types.none

    type_callable(function)(lambda context: typed)

    def register(write):
        def lower(context, builder, sig, args):
            write(context, builder, sig.args, args)
            return context.get_dummy_value()

        lower_builtin(function, *kinds)(lower)
        return write

    return register


class Registers:
    """Loads, stores and arithmetic of vectors of one register, or half of one, of the numbers that an array holds."""

    def __init__(self, context, builder, array, half=False):
        element = context.get_data_type(array.dtype)
        self.context, self.builder = context, builder
        self.bytes = 4 if element == ir.FloatType() else 8
        self.width = _BYTES // (8 if half else 4) // self.bytes
        self.kind = ir.VectorType(element, self.width)

    def with_lanes(self, count):
        """The same for vectors of so many lanes, in as many registers as that takes."""
        other = copy(self)
        other.width, other.kind = count, ir.VectorType(self.kind.element, count)
        return other

    def array(self, kind, value):
        """Where element c of row n of an array of two dimensions lies, or element n of one of one dimension."""
        array = self.context.make_array(kind)(self.context, self.builder, value)
        if kind.ndim == 1:
            return lambda n: self.moved(array.data, n)
        step = self.step(kind, value)

        def place(n, c):
            row = cgutils.pointer_add(self.builder, array.data, self.builder.mul(n, step), array.data.type)
            return self.moved(row, c)

        return place

    def step(self, kind, value):
        """Bytes from a row to the next."""
        array = self.context.make_array(kind)(self.context, self.builder, value)
        return cgutils.unpack_tuple(self.builder, array.strides)[0]

    def moved(self, place, elements):
        return self.builder.gep(place, [elements])

    def steps(self, start, step, count, most):
        """start + k step of k from 0 to count, and then the last one again, `most` in all; nothing is multiplied."""
        values = [start]
        for k in range(1, most):
            more = self.builder.icmp_signed("<", integer(k), count)
            values.append(self.builder.select(more, self.builder.add(values[-1], step), values[-1]))
        return values

    def rows(self, kind, value, n, c, count, most):
        """Where element c of `steps` of the rows from n on lies."""
        place = self.array(kind, value)(n, c)
        offsets = self.steps(integer(0), self.step(kind, value), count, most)
        return [cgutils.pointer_add(self.builder, place, offset, place.type) for offset in offsets]

    def first(self, start, stop, lanes=None):
        """Mask of the first stop - start lanes."""
        return _first(self.builder, ir.VectorType(self.kind.element, lanes or self.width), start, stop)

    @contextmanager
    def pieces(self, size):
        """A loop over vectors of `size` numbers: where each begins, and the mask of what there is of it."""
        width = integer(self.width)
        with cgutils.for_range_slice(self.builder, integer(0), size, width) as (v, _):
            yield v, self.first(v, size)

    def parts(self, size):
        """What follows is written twice: for whole vectors of `size` numbers, without a mask, and for the rest."""
        whole = self.builder.and_(size, integer(-self.width))
        with cgutils.for_range_slice(self.builder, integer(0), whole, integer(self.width)) as (v, _):
            yield v, None
        with self.builder.if_then(self.builder.icmp_signed("<", whole, size)):
            yield whole, self.first(whole, size)

    def splat(self, number):
        """A number, or a constant, in every lane."""
        if not isinstance(number, ir.Value):
            number = ir.Constant(self.kind.element, number)
        return broadcast(self.builder, number, self.kind)

    def at(self, place):
        """The number there, in every lane."""
        return self.splat(self.builder.load(place))

    def load(self, place, mask=None):
        """A vector; without a mask all of it is there, else 0 in the lanes left out."""
        kind = self.kind if mask is None else ir.VectorType(self.kind.element, mask.type.count)
        place = self.builder.bitcast(place, kind.as_pointer())
        if mask is None:
            return self.builder.load(place, align=self.bytes)
        return masked_load(self.builder, place, mask, self.bytes)

    def store(self, x, place, mask=None):
        place = self.builder.bitcast(place, self.kind.as_pointer())
        if mask is None:
            self.builder.store(x, place, align=self.bytes)
        else:
            masked_store(self.builder, x, place, mask, self.bytes)

    def fma(self, a, b, c):
        return _fmuladd(self.builder, a, b, c)

    def larger(self, a, b):
        return self.builder.select(self.builder.fcmp_ordered(">", b, a), b, a)

    def first_of(self, start, stop, begin):
        """`first` of begin + stop, a constant and a number: one vector of numbers does for many masks."""
        index = ir.VectorType(_I32, self.width)
        numbers = ir.Constant(index, [_I32(start + lane - begin) for lane in range(self.width)])
        stop = broadcast(self.builder, self.builder.trunc(stop, _I32), index)
        return self.builder.icmp_signed("<", numbers, stop)

    def ranked(self, order, rank, count):
        """Mask of the lanes whose rank among each `count` is in that order to a number."""
        index = ir.VectorType(_I32, self.width)
        ranks = ir.Constant(index, [_I32(lane % count) for lane in range(self.width)])
        return self.builder.icmp_signed(
            order, ranks, broadcast(self.builder, self.builder.trunc(rank, _I32), index)
        )

    def all_if(self, condition):
        """A mask of all lanes, or none."""
        return broadcast(self.builder, condition, ir.VectorType(ir.IntType(1), self.width))

    def where(self, mask, x, rest):
        """x in the lanes of the mask, else a constant or a vector."""
        return self.builder.select(mask, x, rest if isinstance(rest, ir.Value) else self.splat(rest))

    def least(self, a, b):
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def if_any(self, count, x, rest):
        """x, or where count is 0 the rest."""
        return self.builder.select(self.builder.icmp_signed(">", count, integer(0)), x, rest)

    def shuffled(self, a, b, lanes):
        """Those lanes of a, and behind them b."""
        index = ir.Constant(ir.VectorType(_I32, len(lanes)), [_I32(lane) for lane in lanes])
        return self.builder.shuffle_vector(a, b, index)

    def names(self, *shape):
        """Vectors that change: names of their own, as nested lists."""
        if not shape:
            return cgutils.alloca_once(self.builder, self.kind)
        return [self.names(*shape[1:]) for _ in range(shape[0])]

    def add_to(self, name, a, b, mask=None):
        """name += a b, in the lanes of the mask."""
        before = self.builder.load(name)
        after = self.fma(a, b, before)
        self.builder.store(after if mask is None else self.where(mask, after, before), name)

    def halved(self, rows, part, join):
        """Of each row every 2 `part` lanes joined to `part`; two rows that were neighbours make one."""
        low = [start + lane for start in range(0, 2 * self.width, 2 * part) for lane in range(part)]
        high = [lane + part for lane in low]
        pairs = zip(rows[::2], rows[1::2], strict=True)
        return [join(self.shuffled(a, b, low), self.shuffled(a, b, high)) for a, b in pairs]

    def folded(self, rows, join):
        """Of each vector all lanes joined, in vectors of equal parts for `spread`; the order is always the same."""
        if len(rows) > self.width:
            half = len(rows) // 2
            return self.folded(rows[:half], join) + self.folded(rows[half:], join)
        part = self.width
        while len(rows) > 1:
            part //= 2
            rows = self.halved(rows, part, join)
        (x,) = rows
        while part > 1:
            part //= 2
            x = join(x, self.shuffled(x, x, [lane ^ part for lane in range(self.width)]))
        return [x]

    def spread(self, vectors, count):
        """A vector for each of the `count` parts of what `folded` gave."""
        each = count // len(vectors)
        starts = [part * self.width // each for part in range(each)]
        return [self.shuffled(x, x, [start] * self.width) for x in vectors for start in starts]
