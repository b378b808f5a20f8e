# mypy: allow-untyped-defs, allow-untyped-calls
"""Logarithms, hyperbolic tangent and what the exponential has above its tangent, for inner loops that LLVM packs.

As in `_vecmath` each is a plain Python function with an overload for float32 and float64. NaN stays NaN. Errors are in
units in the last place of the result, over all numbers, subnormal ones too; tests hold them against extended precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types

from . import _vecmath as _v
from ._vecmath import _nearest, _power_of_two, intrinsic

__all__ = ["exp_remainder", "log", "log1p", "tanh"]

inlined: Any = extending.register_jitable(forceinline=True)


def log(x):
    """Natural logarithm, to 1 unit in the last place; of 0: -inf, of what is below: NaN."""
    return np.log(x)


def log1p(x):
    """log(1 + x), to 2 units in the last place; of -1: -inf, of what is below: NaN."""
    return np.log1p(x)


def tanh(x):
    """Hyperbolic tangent, to 3 units in the last place."""
    return np.tanh(x)


def exp_remainder(x):
    """e**x - 1 - x, to 8 units in the last place; never below 0.

    It is the KL estimate k3 of a log-ratio -x. Near 0, where it is about x**2 / 2, the formula would be all rounding.
    """
    if isinstance(x, np.floating):
        wide = np.longdouble(x)
        return type(x)(np.expm1(wide) - wide) if x < np.inf else x
    return np.exp(x) - 1.0 - x


# x = 2**k m with m between about sqrt(1/2) and sqrt(2): the bits of 0.7 are taken off before the exponent is read, so
# that 1 has exponent 0. Half of the number's bits are enough to tell.
_POINT_SEVEN = {32: 0x3F330000, 64: 0x3FE6600000000000}
_MANTISSA = {32: 23, 64: 52}


def _bits(builder, x):
    width = 32 if x.type == ir.FloatType() else 64
    whole = ir.IntType(width)
    bits = builder.bitcast(x, whole)
    return bits, builder.sub(bits, whole(_POINT_SEVEN[width])), whole(_MANTISSA[width])


@intrinsic
def _exponent(typingctx, x):
    """k, as a float, of a normal positive number 2**k m."""

    def codegen(context, builder, signature, arguments):
        _, shifted, mantissa = _bits(builder, arguments[0])
        k = builder.lshr(shifted, mantissa)
        # Through 32 bits: AVX2 can neither shift nor convert signed integers of 64.
        k = k if k.type.width == 32 else builder.trunc(k, ir.IntType(32))
        unused = k.type(32 - (signature.return_type.bitwidth - mantissa.constant))
        return builder.sitofp(builder.ashr(builder.shl(k, unused), unused), arguments[0].type)

    return x(x), codegen


@intrinsic
def _significand(typingctx, x):
    """m of a normal positive number 2**k m."""

    def codegen(context, builder, signature, arguments):
        bits, shifted, mantissa = _bits(builder, arguments[0])
        exponent = builder.shl(builder.lshr(shifted, mantissa), mantissa)
        return builder.bitcast(builder.sub(bits, exponent), arguments[0].type)

    return x(x), codegen


@intrinsic
def _fma(typingctx, a, b, c):
    """a b + c, rounded once where the processor can."""

    def codegen(context, builder, signature, arguments):
        kind = arguments[0].type
        name = "llvm.fmuladd.f32" if kind == ir.FloatType() else "llvm.fmuladd.f64"
        function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(kind, [kind] * 3))
        return builder.call(function, arguments)

    return a(a, b, c), codegen


# log(1 + f) = f - f**2/2 + s (f**2/2 + R(s**2)) with s = f / (2 + f), and log 2 in two parts (fdlibm's log and logf).
_L4, _L3, _L2, _L1 = (np.float32(c) for c in (0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693))
_LN2_HIGH32, _LN2_LOW32 = np.float32(6.9313812256e-01), np.float32(9.0580006145e-06)
_ZERO32, _HALF32, _ONE32, _TWO32 = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
_INF32, _NAN32 = np.float32(np.inf), np.float32(np.nan)
_NORMAL32, _LIFT32, _LIFTED32 = np.finfo(np.float32).smallest_normal, np.float32(2.0**23), np.float32(23.0)

_M7, _M6, _M5 = 1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01
_M4, _M3 = 2.222219843214978396e-01, 2.857142874366239149e-01
_M2, _M1 = 3.999999999940941908e-01, 6.666666666666735130e-01
_LN2_HIGH64, _LN2_LOW64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_NORMAL64, _LIFT64, _LIFTED64 = float(np.finfo(np.float64).smallest_normal), 2.0**52, 52.0


@inlined
def _log_of32(f, k, c):
    """log(1 + f) + k log 2 + c, for a small c."""
    s = f / (_TWO32 + f)
    z = s * s
    rest = z * _fma(_fma(_fma(_L4, z, _L3), z, _L2), z, _L1)
    half = _HALF32 * f * f
    return _fma(k, _LN2_HIGH32, f - (half - _fma(s, half + rest, _fma(k, _LN2_LOW32, c))))


@inlined
def _log_of64(f, k, c):
    s = f / (2.0 + f)
    z = s * s
    rest = _fma(_fma(_fma(_M7, z, _M6), z, _M5), z, _M4)
    rest = z * _fma(_fma(_fma(rest, z, _M3), z, _M2), z, _M1)
    half = 0.5 * f * f
    return _fma(k, _LN2_HIGH64, f - (half - _fma(s, half + rest, _fma(k, _LN2_LOW64, c))))


def _log32(x):
    low = x < _NORMAL32
    normal = x * _LIFT32 if low else x
    k = _exponent(normal) - (_LIFTED32 if low else _ZERO32)
    value = _log_of32(_significand(normal) - _ONE32, k, _ZERO32)
    value = value if x > _ZERO32 else (-_INF32 if x == _ZERO32 else _NAN32)
    return value if x < _INF32 else x


def _log64(x):
    low = x < _NORMAL64
    normal = x * _LIFT64 if low else x
    k = _exponent(normal) - (_LIFTED64 if low else 0.0)
    value = _log_of64(_significand(normal) - 1.0, k, 0.0)
    value = value if x > 0.0 else (-np.inf if x == 0.0 else np.nan)
    return value if x < np.inf else x


# 1 + x is rounded to u; what that loses, divided by u, is added to log u.
def _log1p32(x):
    u = _ONE32 + x
    lost = _ONE32 - (u - x) if x > _ONE32 else x - (u - _ONE32)
    value = _log_of32(_significand(u) - _ONE32, _exponent(u), lost / u)
    value = value if u > _ZERO32 else (-_INF32 if u == _ZERO32 else _NAN32)
    return value if (x < _INF32) & (x != _ZERO32) else x


def _log1p64(x):
    u = 1.0 + x
    lost = 1.0 - (u - x) if x > 1.0 else x - (u - 1.0)
    value = _log_of64(_significand(u) - 1.0, _exponent(u), lost / u)
    value = value if u > 0.0 else (-np.inf if u == 0.0 else np.nan)
    return value if (x < np.inf) & (x != 0.0) else x


# e**x = 2**n (1 + r + r**2 p(r)) as in `_vecmath.exp`, here as (2**(n-1), r, r**2 p(r)): 2**128 is no float32.
@inlined
def _parts32(x):
    n = _nearest(x * _v._LOG2E32)
    r = _fma(n, -_v._SECOND32, _fma(n, -_v._FIRST32, x))
    p = _fma(_fma(_fma(_v._C7, r, _v._C6), r, _v._C5), r, _v._C4)
    p = _fma(_fma(p, r, _v._C3), r, _v._C2)
    return _power_of_two(n - _ONE32), r, r * r * p


@inlined
def _parts64(x):
    n = _nearest(x * _v._LOG2E64)
    r = _fma(n, -_v._SECOND64, _fma(n, -_v._FIRST64, x))
    p = _fma(_fma(_fma(_v._T13, r, _v._T12), r, _v._T11), r, _v._T10)
    p = _fma(_fma(_fma(_fma(p, r, _v._T9), r, _v._T8), r, _v._T7), r, _v._T6)
    p = _fma(_fma(_fma(_fma(p, r, _v._T5), r, _v._T4), r, _v._T3), r, 0.5)
    return _power_of_two(n - 1.0), r, r * r * p


# Where n is 0, 2**n r cancels x exactly and r**2 p is left.
def _exp_remainder32(x):
    below = x if x < _v._HIGH32 else _v._HIGH32  # NaN goes here, and comes back at the end
    power, r, bend = _parts32(below if below > _v._LOW32 else _v._LOW32)
    rest = _fma(power, r, (power - _HALF32) - _HALF32 * below)
    value = _fma(power, bend, rest) * _TWO32
    return value if x == x else x


def _exp_remainder64(x):
    below = x if x < _v._HIGH64 else _v._HIGH64
    power, r, bend = _parts64(below if below > _v._LOW64 else _v._LOW64)
    rest = _fma(power, r, (power - 0.5) - 0.5 * below)
    value = _fma(power, bend, rest) * 2.0
    return value if x == x else x


# tanh |x| = -t / (1 + t) with t = (e**(-2|x|) - 1) / 2, which goes to -1/2 and never overflows.
def _tanh32(x):
    y = -_TWO32 * abs(x)
    power, r, bend = _parts32(y if y > _v._LOW32 else _v._LOW32)
    t = _fma(power, r + bend, power - _HALF32)
    size = -t / (_ONE32 + t)
    value = -size if x < _ZERO32 else size
    return value if (x == x) & (x != _ZERO32) else x


def _tanh64(x):
    y = -2.0 * abs(x)
    power, r, bend = _parts64(y if y > _v._LOW64 else _v._LOW64)
    t = _fma(power, r + bend, power - 0.5)
    size = -t / (1.0 + t)
    value = -size if x < 0.0 else size
    return value if (x == x) & (x != 0.0) else x


def _overload(function, single, double):
    """Lower `function` of a float32 or float64 to one of the two."""

    @extending.overload(function, jit_options={"forceinline": True})
    def choose(x):
        if x == types.float32:
            return single
        return double if x == types.float64 else None


_overload(log, _log32, _log64)
_overload(log1p, _log1p32, _log1p64)
_overload(tanh, _tanh32, _tanh64)
_overload(exp_remainder, _exp_remainder32, _exp_remainder64)
