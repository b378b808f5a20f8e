# mypy: allow-untyped-defs, allow-untyped-calls
"""Half precision as bits: int16 holds a float16, uint16 a bfloat16. Other numbers pass through.

Numba has no half precision on a CPU. The conversions are arithmetic on integers, in LLVM's terms, so that they need
no instruction set and hold for one number and for a vector alike. Narrowing rounds to the nearest, ties to even.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

__all__ = ["shorten", "shortened", "widen", "widened"]

_FLOAT, _I16, _I32 = ir.FloatType(), ir.IntType(16), ir.IntType(32)
_INFINITY = 0x7F800000


def widen(array):
    """An array as numbers to compute with: half precision as float32."""
    if array.dtype == np.int16:
        return array.view(np.float16).astype(np.float32)
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def shorten(x, row):
    """Numbers as the bits that the row holds."""
    if row.dtype == np.int16:
        with np.errstate(over="ignore"):
            return np.asarray(x, np.float32).astype(np.float16).view(np.int16)
    if row.dtype == np.uint16:
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)
    return x


class _Values:
    """Constants and types with the lanes of one value, if it has any."""

    def __init__(self, value):
        self.lanes = value.type.count if isinstance(value.type, ir.VectorType) else 0

    def kind(self, element):
        return ir.VectorType(element, self.lanes) if self.lanes else element

    def constant(self, element, x):
        one = ir.Constant(element, x)
        return ir.Constant(self.kind(element), [one] * self.lanes) if self.lanes else one


def widened(builder, value, dtype):
    """`widen` on LLVM values; dtype is the Numba type that was stored."""
    if dtype not in (types.int16, types.uint16):
        return value
    like = _Values(value)

    def number(x):
        return like.constant(_I32, x)

    bits = builder.zext(value, like.kind(_I32))
    if dtype == types.uint16:
        return builder.bitcast(builder.shl(bits, number(16)), like.kind(_FLOAT))
    sign = builder.shl(builder.and_(bits, number(0x8000)), number(16))
    size = builder.and_(bits, number(0x7FFF))
    shifted = builder.shl(size, number(13))
    # The exponent is 112 too small; a product sets it right, for subnormal numbers too.
    scaled = builder.fmul(builder.bitcast(shifted, like.kind(_FLOAT)), like.constant(_FLOAT, 2.0**112))
    unbounded = builder.icmp_unsigned(">=", size, number(0x7C00))
    found = builder.select(
        unbounded, builder.or_(shifted, number(_INFINITY)), builder.bitcast(scaled, like.kind(_I32))
    )
    return builder.bitcast(builder.or_(found, sign), like.kind(_FLOAT))


def shortened(builder, value, dtype):
    """`shorten` on LLVM values."""
    if dtype not in (types.int16, types.uint16):
        return value
    like = _Values(value)

    def number(x):
        return like.constant(_I32, x)

    bits = builder.bitcast(value, like.kind(_I32))
    convert = _to_bfloat16 if dtype == types.uint16 else _to_float16
    return builder.trunc(convert(builder, value, bits, number, like), like.kind(_I16))


def _round_off(builder, bits, number, places):
    """bits without the last places, rounded to the nearest even."""
    odd = builder.and_(builder.lshr(bits, number(places)), number(1))
    half = number((1 << (places - 1)) - 1)
    return builder.lshr(builder.add(builder.add(bits, half), odd), number(places))


def _to_bfloat16(builder, value, bits, number, like):
    unordered = builder.fcmp_unordered("uno", value, value)
    quiet = builder.or_(builder.lshr(bits, number(16)), number(0x40))
    return builder.select(unordered, quiet, _round_off(builder, bits, number, 16))


def _to_float16(builder, value, bits, number, like):
    sign = builder.and_(builder.lshr(bits, number(16)), number(0x8000))
    size = builder.and_(bits, number(0x7FFFFFFF))
    normal = _round_off(builder, builder.sub(size, number(112 << 23)), number, 13)
    # Below the smallest normal number: added to 1/2, whose last place is float16's smallest step, the sum is rounded.
    magnitude = builder.bitcast(size, like.kind(_FLOAT))
    sum_ = builder.bitcast(builder.fadd(magnitude, like.constant(_FLOAT, 0.5)), like.kind(_I32))
    subnormal = builder.sub(sum_, number(0x3F000000))
    small = builder.icmp_unsigned("<", size, number(113 << 23))
    found = builder.select(small, subnormal, normal)
    found = builder.select(builder.icmp_unsigned(">=", size, number(143 << 23)), number(0x7C00), found)
    found = builder.select(builder.icmp_unsigned(">", size, number(_INFINITY)), number(0x7E00), found)
    return builder.or_(found, sign)
