# mypy: allow-untyped-defs, allow-untyped-calls
"""Exponential, maximum and sum for inner loops, in a form that LLVM turns into vector instructions.

Numba calls the C library for each exponential, keeps a running maximum by branches, and adds strictly from left to
right; none of that packs. Each function here is a plain Python function, which also works without the JIT and on any
kind of number, and has an overload for float32 and float64 that packs. Which order a sum takes depends on the CPU, so
that last bits may differ between machines; they do not between runs or numbers of threads.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types

from ._jit import jit

__all__ = ["BLOCK", "add", "exp", "fused", "inlined", "larger", "plus", "vector_loops", "wide"]

# So many numbers are added up in their own type, by `add`, and the sums of such blocks in float64. A loop that adds in
# float64 from the start would compute everything else in half as many lanes as well.
BLOCK = 2048

# `@fused` lets LLVM round a * b + c once instead of twice; NaN and infinity keep their meaning. `@inlined` is for what
# a loop calls: by itself LLVM inlines only small functions, and a loop with a call does not pack.
fused = jit(fastmath={"contract"})
inlined = jit(fastmath={"contract"}, forceinline=True)

intrinsic: Any = extending.intrinsic  # its own annotations leave out what Numba passes by itself


def exp(x):
    """Exponential to 2 units in the last place; below the smallest normal number it is 0."""
    return np.exp(x)


def larger(a, b):
    """Maximum; of a number and NaN either."""
    return b if b > a else a


def plus(total, x):
    """total + x in float64, where a loop may add up in any order."""
    return total + x


def add(total, x):
    """total + x, both of one type, where a loop may add up in any order."""
    return total + x


def wide(x):
    """x in float64; other kinds of number as they are."""
    return np.float64(x) if isinstance(x, np.floating) else x


def vector_loops():
    """Of the function that says so: what it writes overlaps none of its other arrays, and its vectors may be wide.

    LLVM need not compare addresses then. Where it does, short arrays that merely lie side by side take another path,
    and their sums another order, from run to run. And it would prefer 256 bits where registers have 512.
    """


def _is_float(*kinds):
    return all(kind in (types.float32, types.float64) for kind in kinds)


@extending.type_callable(larger)
def _type_larger(context):
    return lambda a, b: a if _is_float(a) and a == b else None


@extending.lower_builtin(larger, types.Float, types.Float)
def _lower_larger(context, builder, signature, arguments):
    kind = arguments[0].type
    name = "llvm.maxnum.f32" if kind == ir.FloatType() else "llvm.maxnum.f64"
    function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(kind, [kind, kind]))
    return builder.call(function, arguments)


@extending.type_callable(plus)
def _type_plus(context):
    return lambda total, x: total if total == types.float64 and _is_float(x) else None


@extending.type_callable(add)
def _type_add(context):
    return lambda total, x: total if _is_float(total) and total == x else None


@extending.lower_builtin(plus, types.Float, types.Float)
@extending.lower_builtin(add, types.Float, types.Float)
def _lower_add(context, builder, signature, arguments):
    total, x = arguments
    x = context.cast(builder, x, signature.args[1], signature.args[0])
    return builder.fadd(total, x, flags=("reassoc",))


@extending.type_callable(wide)
def _type_wide(context):
    return lambda x: types.float64 if _is_float(x) else None


@extending.lower_builtin(wide, types.Float)
def _lower_wide(context, builder, signature, arguments):
    return context.cast(builder, arguments[0], signature.args[0], types.float64)


@extending.type_callable(vector_loops)
def _type_vector_loops(context):
    return lambda: types.none


@extending.lower_builtin(vector_loops)
def _lower_vector_loops(context, builder, signature, arguments):
    function = builder.function
    set.add(function.attributes, '"prefer-vector-width"="512"')  # llvmlite knows no attributes in quotes
    for argument in function.args:
        if isinstance(argument.type, ir.PointerType) and argument.type.pointee in (
            ir.FloatType(),
            ir.DoubleType(),
        ):
            argument.add_attribute("noalias")
    return context.get_dummy_value()


@intrinsic
def _nearest(typingctx, x):
    """The nearest whole number, as a float."""

    def codegen(context, builder, signature, arguments):
        kind = arguments[0].type
        name = "llvm.rint.f32" if kind == ir.FloatType() else "llvm.rint.f64"
        return builder.call(
            builder.module.declare_intrinsic(name, fnty=ir.FunctionType(kind, [kind])), arguments
        )

    return x(x), codegen


@intrinsic
def _power_of_two(typingctx, n):
    """2**n of a whole float n, by writing the exponent's bits; 0 one step below the smallest normal number."""

    def codegen(context, builder, signature, arguments):
        single = arguments[0].type == ir.FloatType()
        mantissa, bias = (23, 127) if single else (52, 1023)
        # Through 32 bits: AVX2 has no packed conversion to 64.
        whole = builder.fptosi(arguments[0], ir.IntType(32))
        biased = builder.add(whole, whole.type(bias))
        wide = biased if single else builder.sext(biased, ir.IntType(64))
        return builder.bitcast(builder.shl(wide, wide.type(mantissa)), arguments[0].type)

    return n(n), codegen


# exp(x) = 2**n exp(r), n = rint(x / log 2), |r| <= log(2)/2. log 2 is taken off in two steps (Cody and Waite): n times
# the first part is exact. The powers of two go as 2 * 2**(n-1), since 2**128 is no float32 although exp(88.7) is.
# At the lower bound 2**(n-1) comes out as 0, at the upper one the product overflows to inf.
_ONE32, _TWO32 = np.float32(1.0), np.float32(2.0)
_LOW32, _HIGH32 = np.float32(-87.3), np.float32(89.0)
_LOG2E32 = np.float32(1.44269504088896341)
_FIRST32, _SECOND32 = np.float32(0.693359375), np.float32(-2.12194440e-4)
# Minimax on |r| <= log(2)/2 (Cephes expf), from the highest power down to r**2.
_C7, _C6, _C5, _C4, _C3, _C2 = (
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)

_LOW64, _HIGH64 = -708.3, 709.9
_LOG2E64 = 1.4426950408889634
_FIRST64, _SECOND64 = 6.93145751953125e-1, 1.42860682030941723212e-6
# Taylor to r**13: the rest is below 5e-18.
_T13, _T12, _T11, _T10, _T9, _T8, _T7, _T6, _T5, _T4, _T3 = (1 / factorial(n) for n in range(13, 2, -1))


def _exp32(x):
    inside = x if x > _LOW32 else _LOW32  # NaN goes here, and comes back at the end
    inside = inside if inside < _HIGH32 else _HIGH32
    n = _nearest(inside * _LOG2E32)
    r = (inside - n * _FIRST32) - n * _SECOND32
    p = ((((_C7 * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
    value = (p * (r * r) + r + _ONE32) * _power_of_two(n - _ONE32) * _TWO32
    return value if x == x else x


def _exp64(x):
    inside = x if x > _LOW64 else _LOW64
    inside = inside if inside < _HIGH64 else _HIGH64
    n = _nearest(inside * _LOG2E64)
    r = (inside - n * _FIRST64) - n * _SECOND64
    p = ((((_T13 * r + _T12) * r + _T11) * r + _T10) * r + _T9) * r + _T8
    p = (((((p * r + _T7) * r + _T6) * r + _T5) * r + _T4) * r + _T3) * r + 0.5
    value = (p * (r * r) + r + 1.0) * _power_of_two(n - 1.0) * 2.0
    return value if x == x else x


@extending.overload(exp)
def _exp(x):
    if x == types.float32:
        return _exp32
    return _exp64 if x == types.float64 else None
