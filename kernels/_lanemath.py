# mypy: allow-untyped-defs, allow-untyped-calls
"""Arithmetic of `_lanes`, and the power of two, to which all exponentials here are brought: e**x = 2**(x log2 e)."""

from __future__ import annotations

import operator
from itertools import product
from math import factorial, log

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, type_callable

from ._lanes import Lanes, broadcast, suffix

__all__ = [
    "at_most",
    "exp",
    "fma",
    "larger",
    "largest",
    "nothing",
    "power",
    "total",
    "where_less",
    "where_positive",
]

_I32 = ir.IntType(32)


def _constant(like, value):
    """A constant of the LLVM type `like`, in every lane if it has lanes."""
    if isinstance(like, ir.VectorType):
        return ir.Constant(like, [ir.Constant(like.element, value)] * like.count)
    return ir.Constant(like, value)


def _like(kind, element):
    """LLVM type with the lanes of `kind`, if it has any, and another element."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _lower_operator(instruction):
    def lower(context, builder, sig, args):
        kind = context.get_value_type(sig.return_type)
        return getattr(builder, instruction)(*(broadcast(builder, x, kind) for x in args))

    return lower


class _Arithmetic(AbstractTemplate):
    def generic(self, args, kws):
        for lanes in args:
            if isinstance(lanes, Lanes) and all(x in (lanes, lanes.dtype) for x in args):
                return signature(lanes, *args)
        return None


for _operator, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
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
        builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fmuladd.{suffix(kind)}"
    )
    return builder.call(function, [a, b, c])


for _b in (Lanes, types.Float):
    for _c in (Lanes, types.Float):

        @lower_builtin(fma, Lanes, _b, _c)
        def _lower_fma(context, builder, sig, args):
            return _fmuladd(builder, *(broadcast(builder, x, args[0].type) for x in args))


def larger(a, b):
    """Maximum in each lane; of b and NaN in a either, of a and NaN in b: a."""
    return np.where(b > a, b, a)


@type_callable(larger)
def _type_larger(context):
    return lambda a, b: a if isinstance(a, Lanes) and a == b else None


@lower_builtin(larger, Lanes, Lanes)
def _lower_larger(context, builder, sig, args):
    a, b = args
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def at_most(a, bound):
    """The smaller of a lane and a number; of NaN the number."""
    return np.where(a < bound, a, bound)


@type_callable(at_most)
def _type_at_most(context):
    return lambda a, bound: a if isinstance(a, Lanes) and bound == a.dtype else None


@lower_builtin(at_most, Lanes, types.Float)
def _lower_at_most(context, builder, sig, args):
    a, bound = args
    bound = broadcast(builder, bound, a.type)
    return builder.select(builder.fcmp_ordered("<", a, bound), a, bound)


def where_positive(weight, x):
    """x where the weight is above 0, else the weight: 0, or NaN."""
    return np.where(weight > 0, x, weight)[()]


@type_callable(where_positive)
def _type_where_positive(context):
    return lambda weight, x: x if isinstance(x, (Lanes, types.Float)) and x == weight else None


@lower_builtin(where_positive, Lanes, Lanes)
@lower_builtin(where_positive, types.Float, types.Float)
def _lower_where_positive(context, builder, sig, args):
    weight, x = args
    return builder.select(builder.fcmp_ordered(">", weight, _constant(x.type, 0.0)), x, weight)


def nothing(like):
    """0 of that kind, in every lane."""
    return type(like.flat[0] if isinstance(like, np.ndarray) else like)(0.0)


@type_callable(nothing)
def _type_nothing(context):
    return lambda like: like if isinstance(like, (Lanes, types.Float)) else None


@lower_builtin(nothing, Lanes)
@lower_builtin(nothing, types.Float)
def _lower_nothing(context, builder, sig, args):
    return _constant(args[0].type, 0.0)


def where_less(a, b, x, y):
    """x where a < b, else y: also where a or b is NaN. Each is a vector, or one number for all lanes."""
    return np.where(a < b, x, y)[()]


@type_callable(where_less)
def _type_where_less(context):
    def result(*args):
        lanes = [x for x in args if isinstance(x, Lanes)]
        alike = len({getattr(x, "dtype", x) for x in args}) == 1
        return (lanes or args)[0] if alike else None

    return lambda a, b, x, y: result(a, b, x, y)


def _lower_where_less(context, builder, sig, args):
    kind = context.get_value_type(sig.return_type)
    a, b, x, y = (broadcast(builder, arg, kind) for arg in args)
    return builder.select(builder.fcmp_ordered("<", a, b), x, y)


for _kinds in product((Lanes, types.Float), repeat=4):
    lower_builtin(where_less, *_kinds)(_lower_where_less)


def largest(x):
    """The largest lane."""
    return x.max()


@type_callable(largest)
def _type_largest(context):
    return lambda x: x.dtype if isinstance(x, Lanes) else None


def _fold(builder, x, join):
    """One value out of all lanes, halving their number; the order is always the same."""
    while x.type.count > 1:
        half = x.type.count // 2
        index = ir.VectorType(_I32, half)
        empty = ir.Constant(x.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(x, empty, ir.Constant(index, [_I32(start + i) for i in range(half)]))
            for start in (0, half)
        )
        x = join(low, high)
    return builder.extract_element(x, _I32(0))


@lower_builtin(largest, Lanes)
def _lower_largest(context, builder, sig, args):
    return _fold(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", b, a), b, a))


def total(x):
    """The sum of the lanes, in float64 at the end."""
    return x.sum() if x.dtype.kind == "O" else np.float64(x.sum())


@type_callable(total)
def _type_total(context):
    return lambda x: types.float64 if isinstance(x, Lanes) else None


@lower_builtin(total, Lanes)
def _lower_total(context, builder, sig, args):
    return context.cast(builder, _fold(builder, args[0], builder.fadd), sig.args[0].dtype, types.float64)


def power(x, scale):
    """2**(x scale) of x scale up to 127 (float32) or 1023 (float64); 0 from -126.5 or -1022.5 down.

    To 2.2 units in the last place of the result (float64: 1), for scale is exact here. NaN stays, and minus infinity
    gives 0. What lies above comes out wrong: exponents here are of numbers divided by the largest.
    """
    return np.exp2(x * scale)


@type_callable(power)
def _type_power(context):
    return lambda x, scale: x if scale in (x, getattr(x, "dtype", x)) else None


# 2**x = 2**n 2**r with n = rint(x), |r| <= 1/2. Polynomials from the highest power down to r**0; float32: minimax in
# relative error (a linear programme over 4,001 Chebyshev points), 9.2e-8; float64: Taylor, the rest is below 5e-18.
_SINGLE = (
    0.0013264727490195792,
    0.009671512641765285,
    0.055507337423080616,
    0.24022242085357715,
    0.6931469775997525,
    1.0,
)
_DOUBLE = tuple(log(2.0) ** k / factorial(k) for k in range(13, -1, -1))


@lower_builtin(power, Lanes, types.Float)
@lower_builtin(power, types.Float, types.Float)
def _lower_power(context, builder, sig, args):
    return _bounded_power(builder, *args)


def _bounded_power(builder, x, scale):
    """2**(x scale), as `power` says."""
    bias = 127 if scale.type == ir.FloatType() else 1023
    lowest = broadcast(builder, builder.fdiv(ir.Constant(scale.type, float(-bias)), scale), x.type)
    x = builder.select(builder.fcmp_ordered("<", x, lowest), lowest, x)  # of NaN: NaN
    return _power(builder, x, broadcast(builder, scale, x.type), None)


def _power(builder, x, scale, rest):
    """2**(x (scale + rest)), without a look at the bounds."""
    single = getattr(x.type, "element", x.type) == ir.FloatType()
    mantissa, bias, powers = (23, 127, _SINGLE) if single else (52, 1023, _DOUBLE)
    # Added to 1.5 * 2**mantissa a number loses its fraction, and its last bits are the whole part: here the biased
    # exponent, which stands in its place after a shift. At the lower bound that is 0, and so is the result.
    magic = _constant(x.type, 1.5 * 2.0**mantissa + bias)
    shifted = _fmuladd(builder, x, scale, magic)
    fraction = _fmuladd(builder, x, scale, builder.fsub(magic, shifted))
    if rest is not None:
        fraction = _fmuladd(builder, x, rest, fraction)
    value = _constant(x.type, powers[0])
    for coefficient in powers[1:]:
        value = _fmuladd(builder, value, fraction, _constant(x.type, coefficient))
    whole = _like(x.type, ir.IntType(32 if single else 64))
    exponent = builder.shl(builder.bitcast(shifted, whole), _constant(whole, mantissa))
    return builder.fmul(value, builder.bitcast(exponent, x.type))


def exp(x):
    """e**x to 2.5 units in the last place, infinite from 2**127.5 (float64: 2**1023.5) on; 0 and NaN as of `power`."""
    return np.exp(x)


@type_callable(exp)
def _type_exp(context):
    return lambda x: x if isinstance(x, (Lanes, types.Float)) else None


# log2(e) in the numbers' own precision, and what that leaves out.
_LOG2E32 = float(np.float32(1 / log(2.0)))
_LOG2E = {True: (_LOG2E32, 1 / log(2.0) - _LOG2E32), False: (1 / log(2.0), 2.0355273740931033e-17)}


@lower_builtin(exp, Lanes)
@lower_builtin(exp, types.Float)
def _lower_exp(context, builder, sig, args):
    (x,) = args
    single = getattr(x.type, "element", x.type) == ir.FloatType()
    scale, rest = (_constant(x.type, part) for part in _LOG2E[single])
    # The exponents of 0 and of infinity, which the bounds lead to, hold whatever stands beside them.
    low, high = (
        _constant(x.type, bound * log(2.0)) for bound in ((-127.0, 128.0) if single else (-1023.0, 1024.0))
    )
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)  # of NaN: NaN
    x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
    return _power(builder, x, scale, rest)
