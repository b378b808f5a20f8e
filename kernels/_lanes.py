# mypy: allow-untyped-defs, allow-untyped-calls
"""`Lanes`, Numba's type of a vector in registers: several neighbouring elements of a row, computed with at once.

LLVM's vectoriser takes half of what the processor has (128 bits wherever a sum is kept in float64), and no prefetch.
Here the vectors are spelled out.

Each function is also a plain Python function on slices of arrays: there a row is one vector (`width` is longer than
any row), so that operations on numbers of any kind are executed, and counted, once an element.
"""

from __future__ import annotations

import llvmlite.binding  # type: ignore[import-untyped]
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, models, register_model, type_callable

from . import _half
from ._row import Row, address, number

__all__ = [
    "Lanes",
    "broadcast",
    "lanes_of",
    "load",
    "load_part",
    "masked_load",
    "masked_store",
    "prefetch",
    "splat",
    "store",
    "store_part",
    "suffix",
    "width",
]

# Four registers a vector hide the latency of one; with half as many registers to be had, two do.
_BYTES = 256 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 128
_LINE = 64
_AHEAD = 8192  # bytes: time enough for memory to answer, short enough to stay in the first-level cache
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_LONGEST = 1 << 40


class Lanes(types.Type):
    """Numba type of a vector of float32 or float64."""

    def __init__(self, dtype, registers=Row.registers):
        self.dtype = dtype
        self.count = _BYTES * registers // Row.registers * 8 // dtype.bitwidth
        super().__init__(f"Lanes({dtype}, {self.count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(_ir_float(kind.dtype), kind.count))


def _ir_float(kind):
    return ir.FloatType() if kind == types.float32 else ir.DoubleType()


def lanes_of(row):
    kind = number(row) if isinstance(row, Row) else None
    return None if kind is None else Lanes(kind, row.registers)


def suffix(kind):
    """The suffix of an LLVM intrinsic for this type."""
    lanes, element = (f"v{kind.count}", kind.element) if isinstance(kind, ir.VectorType) else ("", kind)
    if isinstance(element, ir.IntType):
        return f"{lanes}i{element.width}"
    return f"{lanes}f{32 if element == ir.FloatType() else 64}"


def broadcast(builder, value, kind):
    """`value` in every lane, unless it has lanes already."""
    if value.type == kind:
        return value
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, value, _I32(0))
    return builder.shuffle_vector(
        first, empty, ir.Constant(ir.VectorType(_I32, kind.count), [_I32(0)] * kind.count)
    )


def width(row):
    """Elements of a row that make a vector."""
    return _LONGEST


@type_callable(width)
def _type_width(context):
    return lambda row: None if lanes_of(row) is None else types.intp


@lower_builtin(width, Row)
def _lower_width(context, builder, sig, args):
    return _I64(lanes_of(sig.args[0]).count)


def splat(x, row):
    """x, a number of the row's kind, in every lane."""
    return x


@type_callable(splat)
def _type_splat(context):
    return lambda x, row: lanes_of(row) if x == number(row) else None


@lower_builtin(splat, types.Float, Row)
def _lower_splat(context, builder, sig, args):
    return broadcast(builder, args[0], context.get_value_type(sig.return_type))


def load(row, v):
    """Elements v to v + width(row), all inside the row."""
    return _half.widen(row[v : v + width(row)])


@type_callable(load)
def _type_load(context):
    return lambda row, v: lanes_of(row)


def _stored(context, row):
    """LLVM type of a vector of the row as it lies in memory, and bytes of an element."""
    return ir.VectorType(context.get_data_type(row.dtype), lanes_of(row).count), row.dtype.bitwidth // 8


@lower_builtin(load, Row, types.Integer)
def _lower_load(context, builder, sig, args):
    kind, size = _stored(context, sig.args[0])
    value = builder.load(address(context, builder, sig.args[0], args[0], args[1], kind), align=size)
    return _half.widened(builder, value, sig.args[0].dtype)


def load_part(row, v, stop, fill):
    """Elements v to stop, fewer than a vector, and `fill` in the lanes after them."""
    return _half.widen(row[v:stop])


@type_callable(load_part)
def _type_load_part(context):
    return lambda row, v, stop, fill: lanes_of(row) if fill == number(row) else None


def _first(builder, kind, start, stop):
    """Mask of the first stop - start lanes."""
    count = builder.trunc(builder.sub(stop, start), _I32)
    index = ir.VectorType(_I32, kind.count)
    numbers = ir.Constant(index, [_I32(lane) for lane in range(kind.count)])
    return builder.icmp_signed("<", numbers, broadcast(builder, count, index))


def masked_load(builder, place, mask, size, rest=None):
    """The lanes of the mask, from a place in memory, and in the others `rest`, or 0; elements have `size` bytes."""
    kind = place.type.pointee
    load = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [place.type, _I32, mask.type, kind]),
        f"llvm.masked.load.{suffix(kind)}.p0",
    )
    return builder.call(load, [place, _I32(size), mask, ir.Constant(kind, None) if rest is None else rest])


def masked_store(builder, x, place, mask, size):
    """Write the lanes of the mask."""
    store = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [x.type, place.type, _I32, mask.type]),
        f"llvm.masked.store.{suffix(x.type)}.p0",
    )
    builder.call(store, [x, place, _I32(size), mask])


@lower_builtin(load_part, Row, types.Integer, types.Integer, types.Float)
def _lower_load_part(context, builder, sig, args):
    row, start, stop, fill = args
    kind, size = _stored(context, sig.args[0])
    mask = _first(builder, kind, start, stop)
    place = address(context, builder, sig.args[0], row, start, kind)
    rest = broadcast(builder, fill, context.get_value_type(sig.return_type))
    if rest.type == kind:
        return masked_load(builder, place, mask, size, rest)
    value = _half.widened(builder, masked_load(builder, place, mask, size), sig.args[0].dtype)
    return builder.select(mask, value, rest)


def store(row, v, x):
    """Write a vector to elements v to v + width(row), all inside the row."""
    row[v : v + width(row)] = _half.shorten(x, row)


def store_part(row, v, stop, x):
    """Write the first lanes of a vector to elements v to stop."""
    row[v:stop] = _half.shorten(x, row)


@type_callable(store)
def _type_store(context):
    return lambda row, v, x: types.none if x == lanes_of(row) else None


@type_callable(store_part)
def _type_store_part(context):
    return lambda row, v, stop, x: types.none if x == lanes_of(row) else None


@lower_builtin(store, Row, types.Integer, Lanes)
def _lower_store(context, builder, sig, args):
    kind, size = _stored(context, sig.args[0])
    value = _half.shortened(builder, args[2], sig.args[0].dtype)
    builder.store(value, address(context, builder, sig.args[0], args[0], args[1], kind), align=size)
    return context.get_dummy_value()


@lower_builtin(store_part, Row, types.Integer, types.Integer, Lanes)
def _lower_store_part(context, builder, sig, args):
    row, start, stop, x = args
    kind, size = _stored(context, sig.args[0])
    mask = _first(builder, kind, start, stop)
    place = address(context, builder, sig.args[0], row, start, kind)
    masked_store(builder, _half.shortened(builder, x, sig.args[0].dtype), place, mask, size)
    return context.get_dummy_value()


def prefetch(row, v):
    """Ask for what lies some way behind the vector at v; also behind the row's end, where the next one lies."""


@type_callable(prefetch)
def _type_prefetch(context):
    return lambda row, v: types.none


@lower_builtin(prefetch, Row, types.Integer)
def _lower_prefetch(context, builder, sig, args):
    pointer = ir.IntType(8).as_pointer()
    kind, size = _stored(context, sig.args[0])
    ask = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32]), "llvm.prefetch.p0"
    )
    start = builder.bitcast(address(context, builder, sig.args[0], args[0], args[1], kind), pointer)
    for offset in range(_AHEAD, _AHEAD + kind.count * size, _LINE):
        builder.call(ask, [builder.gep(start, [_I64(offset)]), _I32(0), _I32(3), _I32(1)])
    return context.get_dummy_value()
