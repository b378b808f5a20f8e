# mypy: allow-untyped-defs, allow-untyped-calls
"""Several short rows abreast: of each a register, all of them one vector of `_lanes`.

What one row's sums wait for, another's fill. In a C-contiguous array rows are told by places: the first one's first
element, and how many elements each lies behind the one before. Where there are fewer rows than registers, the last one
is computed, and written, several times.

Each function is also a plain Python function: there a vector is (rows, elements), and what each row has one of is
(rows, 1).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, register_model, type_callable

from ._lanemath import _fmuladd, fma
from ._lanes import Lanes, _first, _LanesModel, broadcast, masked_load, masked_store, suffix
from ._row import Row, number

__all__ = [
    "ABREAST",
    "add_products",
    "add_rows",
    "at_each",
    "load_each",
    "put_each",
    "root",
    "spread",
    "store_each",
    "total_each",
]

ABREAST = Row.registers
_I32, _I64 = ir.IntType(32), ir.IntType(64)


class Totals(Lanes):
    """Numba type of a number of each row, in float64."""

    def __init__(self):
        self.dtype, self.count = types.float64, ABREAST
        types.Type.__init__(self, "Totals")


register_model(Totals)(_LanesModel)


def _lanes(x):
    return Lanes(x.dtype) if isinstance(x, types.Array) and x.layout == "C" and number(x) else None


def _register(context, x):
    """LLVM type of one row's lanes, and bytes of each."""
    whole = context.get_value_type(_lanes(x))
    return ir.VectorType(whole.element, whole.count // ABREAST), x.dtype.bitwidth // 8


def _places(context, builder, sig, args, kind):
    """Where each row's elements are; of the arguments the first four are the array, `start`, `step`, `rows`."""
    x, start, step, rows, *_ = args
    data = builder.gep(context.make_array(sig.args[0])(context, builder, x).data, [start])
    last = builder.sub(rows, _I64(1))
    for k in range(ABREAST):
        row = builder.select(builder.icmp_signed("<", last, _I64(k)), last, _I64(k))
        yield builder.bitcast(builder.gep(data, [builder.mul(row, step)]), kind.as_pointer())


def _chosen(builder, x, lanes, other=None):
    """A vector of these lanes, of x and another as if one."""
    index = ir.Constant(ir.VectorType(_I32, len(lanes)), [_I32(lane) for lane in lanes])
    return builder.shuffle_vector(x, other or ir.Constant(x.type, ir.Undefined), index)


def _joined(builder, registers):
    while len(registers) > 1:
        lanes = range(2 * registers[0].type.count)
        pairs = zip(registers[::2], registers[1::2], strict=True)
        registers = [_chosen(builder, one, lanes, other) for one, other in pairs]
    return registers[0]


def _registers(builder, x):
    size = x.type.count // ABREAST
    return [_chosen(builder, x, range(k * size, k * size + size)) for k in range(ABREAST)]


def load_each(x, start, step, rows, count, fill):
    """Of each row `count` elements, or a register of them, and `fill`, a number or lanes, in the lanes after them."""
    flat = x.reshape(-1)
    return np.stack([flat[start + k * step : start + k * step + count] for k in range(rows)])


@type_callable(load_each)
def _type_load(context):
    return lambda x, start, step, rows, count, fill: _lanes(x) if fill in (number(x), _lanes(x)) else None


@lower_builtin(load_each, types.Array, *(types.Integer,) * 4, types.Float)
@lower_builtin(load_each, types.Array, *(types.Integer,) * 4, Lanes)
def _lower_load(context, builder, sig, args):
    *_, count, fill = args
    kind, size = _register(context, sig.args[0])
    mask = _first(builder, kind, _I64(0), count)
    places = _places(context, builder, sig, args, kind)
    fills = _registers(builder, broadcast(builder, fill, context.get_value_type(sig.return_type)))
    pairs = zip(places, fills, strict=True)
    return _joined(builder, [masked_load(builder, place, mask, size, rest) for place, rest in pairs])


def at_each(x, start, step, rows):
    """Of each row one element, in all its lanes."""
    return x.reshape(-1)[start : start + (rows - 1) * step + 1 : step].reshape(rows, 1)


@type_callable(at_each)
def _type_at(context):
    return lambda x, start, step, rows: _lanes(x)


@lower_builtin(at_each, types.Array, *(types.Integer,) * 3)
def _lower_at(context, builder, sig, args):
    kind, _ = _register(context, sig.args[0])
    places = _places(context, builder, sig, args, kind.element)
    return _joined(builder, [broadcast(builder, builder.load(place), kind) for place in places])


def store_each(x, start, step, rows, count, lanes):
    """Write each row's first `count` lanes."""
    flat = x.reshape(-1)
    for k in range(rows):
        flat[start + k * step : start + k * step + count] = lanes[k, :count]


@type_callable(store_each)
def _type_store(context):
    return lambda x, start, step, rows, count, lanes: types.none if lanes == _lanes(x) else None


@lower_builtin(store_each, types.Array, *(types.Integer,) * 4, Lanes)
def _lower_store(context, builder, sig, args):
    *_, count, lanes = args
    kind, size = _register(context, sig.args[0])
    mask, places = _first(builder, kind, _I64(0), count), _places(context, builder, sig, args, kind)
    for register, place in zip(_registers(builder, lanes), places, strict=True):
        masked_store(builder, register, place, mask, size)
    return context.get_dummy_value()


def total_each(x):
    """The sum of each row's lanes, in float64 at the end."""
    sums = x.sum(axis=1, keepdims=True)
    return sums if x.dtype.kind == "O" else np.asarray(sums, np.float64)


@type_callable(total_each)
def _type_total(context):
    return lambda x: Totals() if isinstance(x, Lanes) else None


@lower_builtin(total_each, Lanes)
def _lower_total(context, builder, sig, args):
    sums, half = args[0], args[0].type.count // ABREAST // 2
    while half:  # in the order in which `_lanemath` joins a vector's
        sums = builder.fadd(sums, _chosen(builder, sums, [lane ^ half for lane in range(sums.type.count)]))
        half //= 2
    each = _chosen(builder, sums, range(0, sums.type.count, sums.type.count // ABREAST))
    kind = context.get_value_type(sig.return_type)
    return each if each.type == kind else builder.fpext(each, kind)


def root(totals):
    """The square root of each."""
    return np.sqrt(totals)


@type_callable(root)
def _type_root(context):
    return lambda totals: totals if totals == Totals() else None


@lower_builtin(root, Totals)
def _lower_root(context, builder, sig, args):
    kind = args[0].type
    function = ir.FunctionType(kind, [kind])
    name = f"llvm.sqrt.{suffix(kind)}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


def _rounded(context, builder, totals, x):
    """In the type of an array's elements."""
    element = context.get_data_type(x.dtype)
    return builder.fptrunc(totals, ir.VectorType(element, ABREAST)) if x.dtype == types.float32 else totals


def spread(totals, x):
    """Each row's number in all its lanes, of the kind that x has."""
    return totals if x.dtype.kind == "O" else np.asarray(totals, x.dtype)


@type_callable(spread)
def _type_spread(context):
    return lambda totals, x: _lanes(x) if totals == Totals() else None


@lower_builtin(spread, Totals, types.Array)
def _lower_spread(context, builder, sig, args):
    kind, _ = _register(context, sig.args[1])
    rounded = _rounded(context, builder, args[0], sig.args[1])
    return _chosen(builder, rounded, [row for row in range(ABREAST) for _ in range(kind.count)])


def put_each(x, start, step, rows, totals):
    """Write one number of each row."""
    for k in range(rows):
        x.reshape(-1)[start + k * step] = totals[k, 0]


@type_callable(put_each)
def _type_put(context):
    return lambda x, start, step, rows, totals: types.none if _lanes(x) and totals == Totals() else None


@lower_builtin(put_each, types.Array, *(types.Integer,) * 3, Totals)
def _lower_put(context, builder, sig, args):
    rounded = _rounded(context, builder, args[-1], sig.args[0])
    places = _places(context, builder, sig, args, rounded.type.element)
    for k, place in enumerate(places):
        builder.store(builder.extract_element(rounded, _I32(k)), place)
    return context.get_dummy_value()


def add_rows(x, start, rows, count, lanes):
    """Add each row's first `count` lanes to the same elements, one row after the other."""
    to = x.reshape(-1)[start : start + count]
    for k in range(rows):
        to[...] = to + lanes[k]


def add_products(x, start, rows, count, lanes, factors):
    """`add_rows` of products."""
    to = x.reshape(-1)[start : start + count]
    for k in range(rows):
        to[...] = fma(lanes[k], factors[k], to)


@type_callable(add_rows)
def _type_add(context):
    return lambda x, start, rows, count, lanes: types.none if lanes == _lanes(x) else None


@type_callable(add_products)
def _type_add_products(context):
    return lambda x, start, rows, count, lanes, factors: types.none if lanes == factors == _lanes(x) else None


@lower_builtin(add_rows, types.Array, *(types.Integer,) * 3, Lanes)
@lower_builtin(add_products, types.Array, *(types.Integer,) * 3, Lanes, Lanes)
def _lower_add(context, builder, sig, args):
    x, start, rows, count, *lanes = args
    kind, size = _register(context, sig.args[0])
    place, *_ = _places(context, builder, sig, (x, start, _I64(0), rows), kind)
    mask = _first(builder, kind, _I64(0), count)
    sums = masked_load(builder, place, mask, size)
    for k, row in enumerate(zip(*(_registers(builder, each) for each in lanes), strict=True)):
        more = builder.fadd(sums, *row) if len(row) == 1 else _fmuladd(builder, row[0], row[1], sums)
        sums = builder.select(builder.icmp_signed("<", _I64(k), rows), more, sums)
    masked_store(builder, sums, place, mask, size)
    return context.get_dummy_value()
