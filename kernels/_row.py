# mypy: allow-untyped-defs, allow-untyped-calls
"""`Row`, Numba's type of one row in memory: an address and a length.

Unlike a view of an array it holds no reference, whose counting would cost more than a short row's computation. Its
elements are neighbours: float32, float64, or half precision as its bits, int16 for float16 and uint16 for bfloat16,
which is computed with in float32. Each function is also a plain Python function on arrays.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, models, register_model, type_callable

from . import _half

__all__ = [
    "BUFFER",
    "Row",
    "address",
    "as_row",
    "at",
    "buffer",
    "is_half",
    "length",
    "narrow",
    "number",
    "put",
    "row_of",
]

BUFFER = 32
_I64 = ir.IntType(64)


class Row(types.Type):
    """Numba type of neighbouring elements in memory that somebody else keeps alive."""

    registers = 4  # that a vector of them takes

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"{type(self).__name__}({dtype})")


@register_model(Row)
class _RowModel(models.StructModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, [("data", types.CPointer(kind.dtype)), ("length", types.intp)])


def number(row):
    """The type that elements of a row, or of an array, are computed with."""
    if not isinstance(row, (Row, types.Array)):
        return None
    if row.dtype in (types.int16, types.uint16):
        return types.float32
    return row.dtype if row.dtype in (types.float32, types.float64) else None


def address(context, builder, row, value, index, kind):
    data = cgutils.create_struct_proxy(row)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def row_of(x, n):
    """Row n of a 2-D array whose last axis has no gaps."""
    return x[n]


@type_callable(row_of)
def _type_row_of(context):
    return lambda x, n: Row(x.dtype) if isinstance(x, types.Array) and x.ndim == 2 and number(x) else None


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
    """All elements of an array without gaps."""
    return x.reshape(-1)


@type_callable(as_row)
def _type_as_row(context):
    return lambda x: Row(x.dtype) if isinstance(x, types.Array) and x.layout == "C" else None


@lower_builtin(as_row, types.Array)
def _lower_as_row(context, builder, sig, args):
    array = context.make_array(sig.args[0])(context, builder, args[0])
    row = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    row.data, row.length = array.data, array.nitems
    return row._getvalue()


def buffer(x, kind):
    """A row of `BUFFER` numbers on the stack, of the kind `kind` is, each 1.

    What is left of an earlier call may be subnormal, and a logarithm of that, even if nobody asks for it, takes seven
    times as long.
    """
    return np.ones(BUFFER, object if x.dtype.kind == "O" else type(kind))


@type_callable(buffer)
def _type_buffer(context):
    return lambda x, kind: Row(kind) if isinstance(kind, types.Float) else None


@lower_builtin(buffer, types.Array, types.Float)
def _lower_buffer(context, builder, sig, args):
    row = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    row.data = cgutils.alloca_once(builder, args[1].type, size=BUFFER)
    kind = ir.VectorType(args[1].type, BUFFER)
    ones = ir.Constant(kind, [ir.Constant(args[1].type, 1.0)] * BUFFER)
    builder.store(ones, builder.bitcast(row.data, kind.as_pointer()), align=8)
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


def at(row, v):
    """One element of a row, as a number."""
    return _half.widen(row[v : v + 1])[0]


@type_callable(at)
def _type_at(context):
    return lambda row, v: number(row) if isinstance(row, Row) else None


@lower_builtin(at, Row, types.Integer)
def _lower_at(context, builder, sig, args):
    stored = context.get_data_type(sig.args[0].dtype)
    value = builder.load(address(context, builder, sig.args[0], args[0], args[1], stored))
    return _half.widened(builder, value, sig.args[0].dtype)


def narrow(x, row):
    """The number x in the type that elements of the row are computed with."""
    if row.dtype.kind == "O":
        return x
    return np.float64(x) if row.dtype == np.float64 else np.float32(x)


@type_callable(narrow)
def _type_narrow(context):
    return lambda x, row: number(row)


@lower_builtin(narrow, types.Float, types.Array)
@lower_builtin(narrow, types.Float, Row)
def _lower_narrow(context, builder, sig, args):
    return context.cast(builder, args[0], sig.args[0], sig.return_type)


def put(row, v, x):
    """Write one number."""
    row[v : v + 1] = _half.shorten(np.full(1, x), row)


@type_callable(put)
def _type_put(context):
    return lambda row, v, x: types.none if x == number(row) else None


@lower_builtin(put, Row, types.Integer, types.Float)
def _lower_put(context, builder, sig, args):
    row, v, x = args
    value = _half.shortened(builder, x, sig.args[0].dtype)
    builder.store(value, address(context, builder, sig.args[0], row, v, value.type))
    return context.get_dummy_value()
