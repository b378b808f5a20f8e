# mypy: allow-untyped-defs, allow-untyped-calls
"""Several heads of attention side by side: of each a register, all of them one vector of `_lanes`.

What one head's sums wait for, another's fill. In a C-contiguous array heads are told by places: the first one's first
element, and how many elements each lies behind the one before. Where there are fewer heads than registers, the last
one is computed, and written, several times.

Each function is also a plain Python function: there a vector is (heads, elements), and what each head has one of is
(heads, 1).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import lower_builtin, models, register_model, type_callable

from ._lanes import Lanes, _first, broadcast, masked_load, masked_store
from ._row import Row, number

__all__ = [
    "HEADS",
    "at_heads",
    "largest_of_heads",
    "load_heads",
    "plus",
    "shares_of_heads",
    "store_heads",
    "store_heads_over",
    "totals_of_heads",
]

HEADS = Row.registers
_I32, _I64 = ir.IntType(32), ir.IntType(64)


class Totals(types.Type):
    """Numba type of a number of each head, in float64."""

    def __init__(self):
        super().__init__("Totals")


@register_model(Totals)
class _TotalsModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(ir.DoubleType(), HEADS))


def _lanes(x):
    return Lanes(x.dtype) if isinstance(x, types.Array) and x.layout == "C" and number(x) else None


def _register(context, x):
    """LLVM type of one head's lanes, and bytes of each."""
    whole = context.get_value_type(_lanes(x))
    return ir.VectorType(whole.element, whole.count // HEADS), x.dtype.bitwidth // 8


def _places(context, builder, sig, args, kind):
    """Where each head's elements are; of the arguments the first four are the array, `start`, `step`, `heads`."""
    x, start, step, heads, *_ = args
    data = builder.gep(context.make_array(sig.args[0])(context, builder, x).data, [start])
    last = builder.sub(heads, _I64(1))
    for k in range(HEADS):
        head = builder.select(builder.icmp_signed("<", last, _I64(k)), last, _I64(k))
        yield builder.bitcast(builder.gep(data, [builder.mul(head, step)]), kind.as_pointer())


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
    size = x.type.count // HEADS
    return [_chosen(builder, x, range(k * size, k * size + size)) for k in range(HEADS)]


def load_heads(x, start, step, heads, count, fill):
    """Of each head `count` elements, if a register has so many, and `fill` in the lanes after them."""
    flat = x.reshape(-1)
    return np.stack([flat[start + k * step : start + k * step + count] for k in range(heads)])


@type_callable(load_heads)
def _type_load(context):
    return lambda x, start, step, heads, count, fill: _lanes(x) if fill == number(x) else None


@lower_builtin(load_heads, types.Array, *(types.Integer,) * 4, types.Float)
def _lower_load(context, builder, sig, args):
    *_, count, fill = args
    kind, size = _register(context, sig.args[0])
    mask, rest = _first(builder, kind, _I64(0), count), broadcast(builder, fill, kind)
    places = _places(context, builder, sig, args, kind)
    loads = [masked_load(builder, place, mask, size) for place in places]
    return _joined(builder, [builder.select(mask, each, rest) for each in loads])


def at_heads(x, start, step, heads):
    """Of each head one element, in all its lanes."""
    return x.reshape(-1)[start : start + (heads - 1) * step + 1 : step].reshape(heads, 1)


@type_callable(at_heads)
def _type_at(context):
    return lambda x, start, step, heads: _lanes(x)


@lower_builtin(at_heads, types.Array, *(types.Integer,) * 3)
def _lower_at(context, builder, sig, args):
    kind, _ = _register(context, sig.args[0])
    places = _places(context, builder, sig, args, kind.element)
    return _joined(builder, [broadcast(builder, builder.load(place), kind) for place in places])


def store_heads(x, start, step, heads, count, lanes):
    """Write each head's first `count` lanes."""
    flat = x.reshape(-1)
    for k in range(heads):
        flat[start + k * step : start + k * step + count] = lanes[k, :count]


def store_heads_over(x, start, step, heads, count, lanes):
    """`store_heads` that may write rubbish behind: a whole register is read again without waiting for it."""
    store_heads(x, start, step, heads, count, lanes)


@type_callable(store_heads)
@type_callable(store_heads_over)
def _type_store(context):
    return lambda x, start, step, heads, count, lanes: types.none if lanes == _lanes(x) else None


@lower_builtin(store_heads, types.Array, *(types.Integer,) * 4, Lanes)
def _lower_store(context, builder, sig, args):
    *_, count, lanes = args
    kind, size = _register(context, sig.args[0])
    mask, places = _first(builder, kind, _I64(0), count), _places(context, builder, sig, args, kind)
    for register, place in zip(_registers(builder, lanes), places, strict=True):
        masked_store(builder, register, place, mask, size)
    return context.get_dummy_value()


@lower_builtin(store_heads_over, types.Array, *(types.Integer,) * 4, Lanes)
def _lower_store_over(context, builder, sig, args):
    kind, size = _register(context, sig.args[0])
    places = _places(context, builder, sig, args, kind)
    for register, place in zip(_registers(builder, args[-1]), places, strict=True):
        builder.store(register, place, align=size)
    return context.get_dummy_value()


def _folded(builder, x, join):
    """In all lanes of each head one value out of them, joined in the order in which `_lanemath` joins a vector's."""
    half = x.type.count // HEADS // 2
    while half:
        x = join(x, _chosen(builder, x, [lane ^ half for lane in range(x.type.count)]))
        half //= 2
    return x


def largest_of_heads(x):
    """The largest lane of each head, in all its lanes."""
    return x.max(axis=1, keepdims=True)


@type_callable(largest_of_heads)
def _type_largest(context):
    return lambda x: x if isinstance(x, Lanes) else None


@lower_builtin(largest_of_heads, Lanes)
def _lower_largest(context, builder, sig, args):
    return _folded(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", b, a), b, a))


def totals_of_heads(x):
    """The sum of each head's lanes, in float64 at the end."""
    sums = x.sum(axis=1, keepdims=True)
    return sums if x.dtype.kind == "O" else np.asarray(sums, np.float64)


@type_callable(totals_of_heads)
def _type_totals(context):
    return lambda x: Totals() if isinstance(x, Lanes) else None


@lower_builtin(totals_of_heads, Lanes)
def _lower_totals(context, builder, sig, args):
    sums = _folded(builder, args[0], builder.fadd)
    each = _chosen(builder, sums, range(0, sums.type.count, sums.type.count // HEADS))
    kind = context.get_value_type(sig.return_type)
    return each if each.type == kind else builder.fpext(each, kind)


def plus(totals, others):
    """The sum of both, of each head."""
    return totals + others


@type_callable(plus)
def _type_plus(context):
    return lambda totals, others: totals if totals == others == Totals() else None


@lower_builtin(plus, Totals, Totals)
def _lower_plus(context, builder, sig, args):
    return builder.fadd(*args)


def shares_of_heads(totals, x):
    """1 over each head's total, in all its lanes, of the kind that x has."""
    return 1.0 / totals if x.dtype.kind == "O" else np.asarray(1.0 / totals, x.dtype)


@type_callable(shares_of_heads)
def _type_shares(context):
    return lambda totals, x: _lanes(x) if totals == Totals() else None


@lower_builtin(shares_of_heads, Totals, types.Array)
def _lower_shares(context, builder, sig, args):
    kind, _ = _register(context, sig.args[1])
    one = ir.Constant(args[0].type, [ir.Constant(ir.DoubleType(), 1.0)] * HEADS)
    shares = builder.fdiv(one, args[0])
    if kind.element == ir.FloatType():
        shares = builder.fptrunc(shares, ir.VectorType(kind.element, HEADS))
    return _chosen(builder, shares, [head for head in range(HEADS) for _ in range(kind.count)])
