# mypy: allow-untyped-defs, allow-untyped-calls
"""More functions for inner loops that LLVM packs, in the manner of `_vecmath`."""

from __future__ import annotations

from math import factorial

import numpy as np
from numba import extending, types

from ._vecmath import _nearest, _power_of_two

__all__ = ["exp_remainder"]


def exp_remainder(x):
    """e**x - 1 - x, what the exponential has above its tangent at 0, to 8 units in the last place; never below 0.

    The KL estimate k3 of a log-ratio -x. It is the small difference of large numbers near 0, where it is x**2 / 2.
    """
    if isinstance(x, np.floating):
        return type(x)(np.expm1(np.longdouble(x)) - np.longdouble(x))
    return np.exp(x) - 1.0 - x


# e**x = 2**n (1 + r + r**2 p(r)) as in `_vecmath.exp`. Where n is 0, 2**n r cancels x exactly and r**2 p is left.
# All terms are halved until the end, since 2**128 is no float32.
_LOG2E32 = np.float32(1.44269504088896341)
_FIRST32, _SECOND32 = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOW32, _HIGH32 = np.float32(-87.3), np.float32(89.0)
_HALF32, _ONE32, _TWO32 = np.float32(0.5), np.float32(1.0), np.float32(2.0)
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

_LOG2E64 = 1.4426950408889634
_FIRST64, _SECOND64 = 6.93145751953125e-1, 1.42860682030941723212e-6
_LOW64, _HIGH64 = -708.3, 709.9
_T13, _T12, _T11, _T10, _T9, _T8, _T7, _T6, _T5, _T4, _T3 = (1 / factorial(n) for n in range(13, 2, -1))


def _exp_remainder32(x):
    below = x if x < _HIGH32 else _HIGH32  # NaN goes here, and comes back at the end
    inside = below if below > _LOW32 else _LOW32
    n = _nearest(inside * _LOG2E32)
    r = (inside - n * _FIRST32) - n * _SECOND32
    p = ((((_C7 * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
    power = _power_of_two(n - _ONE32)
    rest = power * r + ((power - _HALF32) - _HALF32 * below)
    value = (power * (p * (r * r)) + rest) * _TWO32
    return value if x == x else x


def _exp_remainder64(x):
    below = x if x < _HIGH64 else _HIGH64
    inside = below if below > _LOW64 else _LOW64
    n = _nearest(inside * _LOG2E64)
    r = (inside - n * _FIRST64) - n * _SECOND64
    p = ((((_T13 * r + _T12) * r + _T11) * r + _T10) * r + _T9) * r + _T8
    p = (((((p * r + _T7) * r + _T6) * r + _T5) * r + _T4) * r + _T3) * r + 0.5
    power = _power_of_two(n - 1.0)
    rest = power * r + ((power - 0.5) - 0.5 * below)
    value = (power * (p * (r * r)) + rest) * 2.0
    return value if x == x else x


@extending.overload(exp_remainder)
def _exp_remainder(x):
    if x == types.float32:
        return _exp_remainder32
    return _exp_remainder64 if x == types.float64 else None
