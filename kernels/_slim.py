# mypy: allow-untyped-defs, allow-untyped-calls
"""`Slim`, a `Row` whose vectors take one register: for a head's few numbers, where four would be mostly empty.

What is in `_lanes` and `_lanemath` works on it unchanged. Each function is also a plain Python function on arrays.
"""

from __future__ import annotations

from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, register_model, type_callable

from ._row import Row, _RowModel, number

__all__ = ["Slim", "part", "stretch"]


class Slim(Row):
    """Numba type of neighbouring elements in memory, computed with one register at a time."""

    registers = 1


register_model(Slim)(_RowModel)


def stretch(x, start, stop):
    """Elements start to stop of a 1-D array without gaps."""
    return x[start:stop]


def part(x, n, start, stop):
    """Elements start to stop of row n of a 2-D array whose last axis has no gaps."""
    return x[n, start:stop]


def _slim(x, ndim):
    return Slim(x.dtype) if isinstance(x, types.Array) and x.ndim == ndim and number(x) else None


@type_callable(stretch)
def _type_stretch(context):
    return lambda x, start, stop: _slim(x, 1)


@type_callable(part)
def _type_part(context):
    return lambda x, n, start, stop: _slim(x, 2)


def _piece(context, builder, sig, data, start, stop):
    row = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    row.data = builder.gep(data, [start])
    row.length = builder.sub(stop, start)
    return row._getvalue()


@lower_builtin(stretch, types.Array, types.Integer, types.Integer)
def _lower_stretch(context, builder, sig, args):
    x, start, stop = args
    array = context.make_array(sig.args[0])(context, builder, x)
    return _piece(context, builder, sig, array.data, start, stop)


@lower_builtin(part, types.Array, types.Integer, types.Integer, types.Integer)
def _lower_part(context, builder, sig, args):
    x, n, start, stop = args
    array = context.make_array(sig.args[0])(context, builder, x)
    step, _ = cgutils.unpack_tuple(builder, array.strides)
    data = cgutils.pointer_add(builder, array.data, builder.mul(n, step), array.data.type)
    return _piece(context, builder, sig, data, start, stop)
