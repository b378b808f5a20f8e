# mypy: allow-untyped-defs, allow-untyped-calls
"""Vectors in registers, for loops over one row: `Lanes`, several neighbouring elements that are computed with at once.

LLVM's vectoriser takes half of what the processor has (128 bits wherever a sum is kept in float64), and no prefetch.
Here the vectors are spelled out. A `Row` is an address and a length; unlike a view of an array it holds no reference,
whose counting would cost more than a short row's computation. Its elements are neighbours in memory: float32, float64,
or half precision as its bits, int16 for float16 and uint16 for bfloat16, which is computed with in float32.

Each function is also a plain Python function on slices of arrays: there a row is one vector (`width` is longer than
any row), so that operations on numbers of any kind are executed, and counted, once an element.
"""

from __future__ import annotations

import operator

import llvmlite.binding  # type: ignore[import-untyped]
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model, type_callable

from . import _half

__all__ = [
    "BUFFER",
    "Lanes",
    "Row",
    "as_row",
    "at",
    "buffer",
    "fma",
    "is_half",
    "larger",
    "length",
    "load",
    "load_part",
    "narrow",
    "prefetch",
    "put",
    "row_of",
    "splat",
    "store",
    "store_part",
    "where_positive",
    "width",
]

# Four registers a vector hide the latency of one; with half as many registers to be had, two do.
_BYTES = 256 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 128
_LINE = 64
_AHEAD = 8192  # bytes: time enough for memory to answer, short enough to stay in the first-level cache
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_LONGEST = 1 << 40
BUFFER = 32


class Lanes(types.Type):
    """Numba type of a vector of float32 or float64."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.count = _BYTES * 8 // dtype.bitwidth
        super().__init__(f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(_ir_float(kind.dtype), kind.count))


class Row(types.Type):
    """Numba type of neighbouring elements in memory that somebody else keeps alive."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Row({dtype})")


@register_model(Row)
class _RowModel(models.StructModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, [("data", types.CPointer(kind.dtype)), ("length", types.intp)])


def _ir_float(kind):
    return ir.FloatType() if kind == types.float32 else ir.DoubleType()


def _number(row):
    """The type that elements of a row, or of an array, are computed with."""
    if not isinstance(row, (Row, types.Array)):
        return None
    if row.dtype in (types.int16, types.uint16):
        return types.float32
    return row.dtype if row.dtype in (types.float32, types.float64) else None


def _lanes(row):
    kind = _number(row) if isinstance(row, Row) else None
    return None if kind is None else Lanes(kind)


def _constant(like, value):
    """A constant of the LLVM type `like`, in every lane if it has lanes."""
    if isinstance(like, ir.VectorType):
        return ir.Constant(like, [ir.Constant(like.element, value)] * like.count)
    return ir.Constant(like, value)


def _like(kind, element):
    """LLVM type with the lanes of `kind`, if it has any, and another element."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _name(kind):
    """The suffix of an LLVM intrinsic for this type."""
    lanes, element = (f"v{kind.count}", kind.element) if isinstance(kind, ir.VectorType) else ("", kind)
    if isinstance(element, ir.IntType):
        return f"{lanes}i{element.width}"
    return f"{lanes}f{32 if element == ir.FloatType() else 64}"


def _broadcast(builder, value, kind):
    """`value` in every lane, unless it has lanes already."""
    if value.type == kind:
        return value
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, value, _I32(0))
    return builder.shuffle_vector(first, empty, _constant(ir.VectorType(_I32, kind.count), 0))


def _address(context, builder, row, value, index, kind):
    data = cgutils.create_struct_proxy(row)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


# Rows and scalars


def row_of(x, n):
    """Row n of a 2-D array whose last axis has no gaps."""
    return x[n]


@type_callable(row_of)
def _type_row_of(context):
    return lambda x, n: Row(x.dtype) if isinstance(x, types.Array) and x.ndim == 2 and _number(x) else None


@lower_builtin(row_of, types.Array, types.Integer)
def _lower_row_of(context, builder, sig, args):
    array = context.make_array(sig.args[0])(context, builder, args[0])
    step, *_ = cgutils.unpack_tuple(builder, array.strides)
    _, count = cgutils.unpack_tuple(builder, array.shape)
    row = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    row.data = cgutils.pointer_add(builder, array.data, builder.mul(args[1], step), array.data.type)
    row.length = count
    return row._getvalue()


def as_row(x):
    """All of a 1-D array without gaps."""
    return x


@type_callable(as_row)
def _type_as_row(context):
    return lambda x: Row(x.dtype) if isinstance(x, types.Array) and x.layout == "C" and x.ndim == 1 else None


@lower_builtin(as_row, types.Array)
def _lower_as_row(context, builder, sig, args):
    array = context.make_array(sig.args[0])(context, builder, args[0])
    row = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    row.data, row.length = array.data, array.nitems
    return row._getvalue()


def buffer(x, kind):
    """A row of `BUFFER` numbers on the stack, of the kind `kind` is, to be written before it is read."""
    return np.empty(BUFFER, object if x.dtype.kind == "O" else type(kind))


@type_callable(buffer)
def _type_buffer(context):
    return lambda x, kind: Row(kind) if isinstance(kind, types.Float) else None


@lower_builtin(buffer, types.Array, types.Float)
def _lower_buffer(context, builder, sig, args):
    row = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    row.data = cgutils.alloca_once(builder, args[1].type, size=BUFFER)
    row.length = _I64(BUFFER)
    return row._getvalue()


def is_half(row):
    """Whether the elements are half precision."""
    return row.dtype in (np.int16, np.uint16)


@type_callable(is_half)
def _type_is_half(context):
    return lambda row: types.boolean if isinstance(row, (Row, types.Array)) else None


@lower_builtin(is_half, Row)
@lower_builtin(is_half, types.Array)
def _lower_is_half(context, builder, sig, args):
    return context.get_constant(types.boolean, sig.args[0].dtype in (types.int16, types.uint16))


def length(row):
    """Elements of a row."""
    return len(row)


@type_callable(length)
def _type_length(context):
    return lambda row: types.intp if isinstance(row, Row) else None


@lower_builtin(length, Row)
def _lower_length(context, builder, sig, args):
    return cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0]).length


def width(row):
    """Elements of a row that make a vector."""
    return _LONGEST


@type_callable(width)
def _type_width(context):
    return lambda row: None if _lanes(row) is None else types.intp


@lower_builtin(width, Row)
def _lower_width(context, builder, sig, args):
    return _I64(_lanes(sig.args[0]).count)


def at(row, v):
    """One element of a row, as a number."""
    return _half.widen(row[v : v + 1])[0]


@type_callable(at)
def _type_at(context):
    return lambda row, v: _number(row) if isinstance(row, Row) else None


@lower_builtin(at, Row, types.Integer)
def _lower_at(context, builder, sig, args):
    stored = context.get_data_type(sig.args[0].dtype)
    value = builder.load(_address(context, builder, sig.args[0], args[0], args[1], stored))
    return _half.widened(builder, value, sig.args[0].dtype)


def narrow(x, row):
    """The number x in the type that elements of the row are computed with."""
    if row.dtype.kind == "O":
        return x
    return np.float64(x) if row.dtype == np.float64 else np.float32(x)


@type_callable(narrow)
def _type_narrow(context):
    return lambda x, row: _number(row)


@lower_builtin(narrow, types.Float, types.Array)
@lower_builtin(narrow, types.Float, Row)
def _lower_narrow(context, builder, sig, args):
    return context.cast(builder, args[0], sig.args[0], sig.return_type)


def splat(x, row):
    """x, a number of the row's kind, in every lane."""
    return x


@type_callable(splat)
def _type_splat(context):
    return lambda x, row: _lanes(row) if x == _number(row) else None


@lower_builtin(splat, types.Float, Row)
def _lower_splat(context, builder, sig, args):
    return _broadcast(builder, args[0], context.get_value_type(sig.return_type))


# Memory


def load(row, v):
    """Elements v to v + width(row), all inside the row."""
    return _half.widen(row[v : v + width(row)])


@type_callable(load)
def _type_load(context):
    return lambda row, v: _lanes(row)


def _stored(context, row):
    """LLVM type of a vector of the row as it lies in memory, and bytes of an element."""
    return ir.VectorType(context.get_data_type(row.dtype), _lanes(row).count), row.dtype.bitwidth // 8


@lower_builtin(load, Row, types.Integer)
def _lower_load(context, builder, sig, args):
    kind, size = _stored(context, sig.args[0])
    value = builder.load(_address(context, builder, sig.args[0], args[0], args[1], kind), align=size)
    return _half.widened(builder, value, sig.args[0].dtype)


def load_part(row, v, stop, fill):
    """Elements v to stop, fewer than a vector, and `fill` in the lanes after them."""
    return _half.widen(row[v:stop])


@type_callable(load_part)
def _type_load_part(context):
    return lambda row, v, stop, fill: _lanes(row) if fill == _number(row) else None


def _first(builder, kind, start, stop):
    """Mask of the first stop - start lanes."""
    count = builder.trunc(builder.sub(stop, start), _I32)
    index = ir.VectorType(_I32, kind.count)
    numbers = ir.Constant(index, [_I32(lane) for lane in range(kind.count)])
    return builder.icmp_signed("<", numbers, _broadcast(builder, count, index))


@lower_builtin(load_part, Row, types.Integer, types.Integer, types.Float)
def _lower_load_part(context, builder, sig, args):
    row, start, stop, fill = args
    kind, size = _stored(context, sig.args[0])
    mask = _first(builder, kind, start, stop)
    address = _address(context, builder, sig.args[0], row, start, kind)
    load = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [address.type, _I32, mask.type, kind]),
        f"llvm.masked.load.{_name(kind)}.p0",
    )
    value = builder.call(load, [address, _I32(size), mask, ir.Constant(kind, None)])
    value = _half.widened(builder, value, sig.args[0].dtype)
    return builder.select(mask, value, _broadcast(builder, fill, value.type))


def store(row, v, x):
    """Write a vector to elements v to v + width(row), all inside the row."""
    row[v : v + width(row)] = _half.shorten(x, row)


def store_part(row, v, stop, x):
    """Write the first lanes of a vector to elements v to stop."""
    row[v:stop] = _half.shorten(x, row)


@type_callable(store)
def _type_store(context):
    return lambda row, v, x: types.none if x == _lanes(row) else None


@type_callable(store_part)
def _type_store_part(context):
    return lambda row, v, stop, x: types.none if x == _lanes(row) else None


@lower_builtin(store, Row, types.Integer, Lanes)
def _lower_store(context, builder, sig, args):
    kind, size = _stored(context, sig.args[0])
    value = _half.shortened(builder, args[2], sig.args[0].dtype)
    builder.store(value, _address(context, builder, sig.args[0], args[0], args[1], kind), align=size)
    return context.get_dummy_value()


@lower_builtin(store_part, Row, types.Integer, types.Integer, Lanes)
def _lower_store_part(context, builder, sig, args):
    row, start, stop, x = args
    kind, size = _stored(context, sig.args[0])
    mask = _first(builder, kind, start, stop)
    address = _address(context, builder, sig.args[0], row, start, kind)
    store = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [kind, address.type, _I32, mask.type]),
        f"llvm.masked.store.{_name(kind)}.p0",
    )
    builder.call(store, [_half.shortened(builder, x, sig.args[0].dtype), address, _I32(size), mask])
    return context.get_dummy_value()


def put(row, v, x):
    """Write one number."""
    row[v : v + 1] = _half.shorten(np.full(1, x), row)


@type_callable(put)
def _type_put(context):
    return lambda row, v, x: types.none if x == _number(row) else None


@lower_builtin(put, Row, types.Integer, types.Float)
def _lower_put(context, builder, sig, args):
    row, v, x = args
    value = _half.shortened(builder, x, sig.args[0].dtype)
    builder.store(value, _address(context, builder, sig.args[0], row, v, value.type))
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
    start = builder.bitcast(_address(context, builder, sig.args[0], args[0], args[1], kind), pointer)
    for offset in range(_AHEAD, _AHEAD + kind.count * size, _LINE):
        builder.call(ask, [builder.gep(start, [_I64(offset)]), _I32(0), _I32(3), _I32(1)])
    return context.get_dummy_value()


# Arithmetic


def _lower_operator(instruction):
    def lower(context, builder, sig, args):
        kind = context.get_value_type(sig.return_type)
        return getattr(builder, instruction)(*(_broadcast(builder, x, kind) for x in args))

    return lower


class _Arithmetic(AbstractTemplate):
    def generic(self, args, kws):
        for lanes in args:
            if isinstance(lanes, Lanes) and all(x in (lanes, lanes.dtype) for x in args):
                return signature(lanes, *args)
        return None


for _operator, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    infer_global(_operator)(type(f"_Lanes_{_instruction}", (_Arithmetic,), {}))
    for _pair in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(_operator, *_pair)(_lower_operator(_instruction))


def fma(a, b, c):
    """a * b + c, rounded once where the processor can."""
    return a * b + c


@type_callable(fma)
def _type_fma(context):
    return lambda a, b, c: a if isinstance(a, Lanes) and {b, c} <= {a, a.dtype} else None


def _fmuladd(builder, a, b, c):
    kind = a.type
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fmuladd.{_name(kind)}"
    )
    return builder.call(function, [a, b, c])


for _b in (Lanes, types.Float):
    for _c in (Lanes, types.Float):

        @lower_builtin(fma, Lanes, _b, _c)
        def _lower_fma(context, builder, sig, args):
            return _fmuladd(builder, *(_broadcast(builder, x, args[0].type) for x in args))


def larger(a, b):
    """Maximum in each lane; of b and NaN in a either, of a and NaN in b: a."""
    return np.maximum(a, b)


@type_callable(larger)
def _type_larger(context):
    return lambda a, b: a if isinstance(a, Lanes) and a == b else None


@lower_builtin(larger, Lanes, Lanes)
def _lower_larger(context, builder, sig, args):
    a, b = args
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def where_positive(weight, x):
    """x where the weight is above 0, else the weight: 0, or NaN."""
    return np.where(weight > 0, x, weight)


@type_callable(where_positive)
def _type_where_positive(context):
    return lambda weight, x: x if isinstance(x, Lanes) and x == weight else None


@lower_builtin(where_positive, Lanes, Lanes)
def _lower_where_positive(context, builder, sig, args):
    weight, x = args
    return builder.select(builder.fcmp_ordered(">", weight, _constant(x.type, 0.0)), x, weight)
