# mypy: allow-untyped-defs, allow-untyped-calls
"""Arrays seen in another shape by jitted code: a view made there costs a tenth of one made in Python.

Numba's own `reshape` would do, but takes some tenths of a second to compile for each kind of array. Each function is
also a plain Python function.
"""

from __future__ import annotations

from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import lower_builtin, type_callable

__all__ = ["block", "cut", "flat", "matrix", "piece"]


def flat(x):
    """All elements of an array in C order, (N,)."""
    return x.reshape(-1)


def matrix(x):
    """(B, T, V) as (B * T, V): an array in C order, or one of B = 1, whose rows may lie apart."""
    return x[0] if x.shape[0] == 1 else x.reshape(-1, x.shape[2])


@type_callable(flat)
def _type_flat(context):
    return lambda x: x.copy(ndim=1) if isinstance(x, types.Array) and x.layout == "C" else None


@type_callable(matrix)
def _type_matrix(context):
    return lambda x: x.copy(ndim=2) if isinstance(x, types.Array) and x.ndim == 3 else None


def _view(context, builder, sig, value, shape, strides):
    """The array's memory in another shape."""
    (kind,) = sig.args
    source = context.make_array(kind)(context, builder, value)
    view = context.make_array(sig.return_type)(context, builder)
    for field in ("meminfo", "parent", "nitems", "itemsize", "data"):
        setattr(view, field, getattr(source, field))
    view.shape, view.strides = cgutils.pack_array(builder, shape), cgutils.pack_array(builder, strides)
    return impl_ret_borrowed(context, builder, sig.return_type, view._getvalue())


@lower_builtin(flat, types.Array)
def _lower_flat(context, builder, sig, args):
    x = context.make_array(sig.args[0])(context, builder, args[0])
    return _view(context, builder, sig, args[0], [x.nitems], [x.itemsize])


@lower_builtin(matrix, types.Array)
def _lower_matrix(context, builder, sig, args):
    x = context.make_array(sig.args[0])(context, builder, args[0])
    B, T, V = cgutils.unpack_tuple(builder, x.shape)
    _, step, inner = cgutils.unpack_tuple(builder, x.strides)
    if sig.args[0].layout == "C":  # where T is 1, its stride may be any number
        step, inner = builder.mul(V, x.itemsize), x.itemsize
    return _view(context, builder, sig, args[0], [builder.mul(B, T), V], [step, inner])


def piece(x, start, size):
    """Elements from `start` on of a flat array."""
    return x[start : start + size]


def block(x, start, rows, columns):
    """Elements from `start` on of a flat array, as (rows, columns)."""
    return x[start : start + rows * columns].reshape(rows, columns)


def cut(x, start, row, rows, columns):
    """Some rows, from one on, of a table (..., columns) that lies in a flat array from `start` on."""
    return block(x, start + row * columns, rows, columns)


@type_callable(piece)
def _type_piece(context):
    return lambda x, start, size: x if isinstance(x, types.Array) and x.ndim == 1 else None


@type_callable(block)
def _type_block(context):
    def typed(x, start, rows, columns):
        return x.copy(ndim=2) if isinstance(x, types.Array) and x.ndim == 1 else None

    return typed


@type_callable(cut)
def _type_cut(context):
    def typed(x, start, row, rows, columns):
        return x.copy(ndim=2) if isinstance(x, types.Array) and x.ndim == 1 else None

    return typed


@lower_builtin(cut, types.Array, types.Integer, types.Integer, types.Integer, types.Integer)
def _lower_rows(context, builder, sig, args):
    start, row, columns = (context.cast(builder, args[n], sig.args[n], types.intp) for n in (1, 2, 4))
    begin = builder.add(start, builder.mul(row, columns))
    kinds = sig.args[0], types.intp, *sig.args[3:]
    return _lower_cut(context, builder, sig.replace(args=kinds), (args[0], begin, *args[3:]))


@lower_builtin(piece, types.Array, types.Integer, types.Integer)
@lower_builtin(block, types.Array, types.Integer, types.Integer, types.Integer)
def _lower_cut(context, builder, sig, args):
    x = context.make_array(sig.args[0])(context, builder, args[0])
    start, *shape = (
        context.cast(builder, value, kind, types.intp)
        for value, kind in zip(args[1:], sig.args[1:], strict=True)
    )
    strides = [x.itemsize] if len(shape) == 1 else [builder.mul(shape[1], x.itemsize), x.itemsize]
    view = context.make_array(sig.return_type)(context, builder)
    for field in ("meminfo", "parent", "itemsize"):
        setattr(view, field, getattr(x, field))
    view.nitems = shape[0] if len(shape) == 1 else builder.mul(*shape)
    view.data = builder.gep(x.data, [start])
    view.shape, view.strides = cgutils.pack_array(builder, shape), cgutils.pack_array(builder, strides)
    return impl_ret_borrowed(context, builder, sig.return_type, view._getvalue())
