"""Numbers that count their own arithmetic: the recount of the kernels' work shares nothing with its formulas.

`Counted` is deliberately not a float: whatever would convert it silently (``math.exp``, ``float``) fails instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Counted", "counted", "counts", "plain", "reset"]

flops = 0
transcendentals = 0


def reset() -> None:
    """Set both counters to zero."""
    global flops, transcendentals
    flops = transcendentals = 0


def counts() -> tuple[int, int]:
    """(operations, transcendental functions among them) since `reset`."""
    return flops, transcendentals


def _count(transcendental: bool = False) -> None:
    global flops, transcendentals
    flops += 1
    transcendentals += transcendental


def value(x: Any) -> Any:
    return x.value if isinstance(x, Counted) else x


def _binary(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(self: Any, other: Any) -> Any:
        if isinstance(other, np.ndarray):  # NumPy leaves the whole array to us
            return _map(lambda x: apply(self, x), other)
        _count()
        return Counted(operation(self.value, value(other)))

    return apply


def _map(function: Callable[[Any], Any], array: Any) -> Any:
    result = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        result[index] = function(array[index])
    return result


def _comparison(operation: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda self, other: bool(operation(self.value, value(other)))


def _function(operation: Callable[[float], float]) -> Callable[[Any], Any]:
    def apply(self: Any) -> Any:
        _count(transcendental=True)
        return Counted(operation(self.value))

    return apply


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


class Counted:
    """A number. Each + - * / and negation counts 1, each function 1 (as transcendental too), comparisons 0."""

    __slots__ = ("value",)
    __array_priority__ = 1000.0  # NumPy scalars leave the operation to us

    def __init__(self, x: Any) -> None:
        self.value = value(x)

    def __repr__(self) -> str:
        return f"Counted({self.value!r})"

    def __neg__(self) -> Counted:
        _count()
        return Counted(-self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __hash__(self) -> int:
        return hash(self.value)

    __add__ = _binary(lambda a, b: a + b)
    __radd__ = _binary(lambda a, b: b + a)
    __sub__ = _binary(lambda a, b: a - b)
    __rsub__ = _binary(lambda a, b: b - a)
    __mul__ = _binary(lambda a, b: a * b)
    __rmul__ = _binary(lambda a, b: b * a)
    __truediv__ = _binary(lambda a, b: a / b)
    __rtruediv__ = _binary(lambda a, b: b / a)

    __lt__ = _comparison(lambda a, b: a < b)
    __le__ = _comparison(lambda a, b: a <= b)
    __gt__ = _comparison(lambda a, b: a > b)
    __ge__ = _comparison(lambda a, b: a >= b)
    __eq__ = _comparison(lambda a, b: a == b)  # type: ignore[assignment]
    __ne__ = _comparison(lambda a, b: a != b)  # type: ignore[assignment]

    # NumPy calls these methods for np.exp(x) and its like.
    exp = _function(math.exp)
    exp2 = _function(lambda x: 2.0**x)
    log = _function(_log)
    log2 = _function(lambda x: _log(x) / math.log(2.0))
    log1p = _function(math.log1p)
    sqrt = _function(math.sqrt)
    tanh = _function(math.tanh)


def counted(array: Any) -> Any:
    """An object array of `Counted` with the values of `array`."""
    source = np.asarray(array, dtype=np.float64)
    return _map(lambda x: Counted(float(x)), source)


def plain(array: Any) -> Any:
    """The values of an object array of numbers, as float64."""
    return np.array([float(value(x)) for x in array.ravel()], dtype=np.float64).reshape(array.shape)
