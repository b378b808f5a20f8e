"""What the public functions do before they call a jitted one: check once, name what is wrong, convert.

Every message reads `<parameter>: <what came>, <what is needed>`. Arrays of another type or layout are converted;
float32 and float64 in C order pass without a copy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.core import config as _config
from numpy import ndarray
from numpy.typing import NDArray

Array = NDArray[Any]

_config_any: Any = _config
F32 = np.dtype(np.float32)
F64 = np.dtype(np.float64)
I64 = np.dtype(np.int64)
_LARGEST = 2**63 - 1
# Without the JIT the bodies are plain Python, which also works on arrays of numbers that count their operations.
_OBJECTS = bool(_config_any.DISABLE_JIT)


def read(name: str, value: Any) -> Array:
    """`value` as an array of whatever it holds."""
    try:
        return np.asarray(value)
    except Exception as error:  # ragged lists, tensors that require grad or live on a GPU, ...
        raise TypeError(
            f"{name}: cannot be read as an array ({error}), an array of numbers is needed"
        ) from None


def real(name: str, value: Any) -> Array:
    """`value` as an array of real numbers, of whatever type that NumPy has; bfloat16 as float32."""
    array = read(name, value)
    if is_bfloat16(array.dtype):
        array = array.astype(F32)
    if array.dtype.kind not in "fiub" and not (_OBJECTS and _holds_numbers(array)):
        raise TypeError(f"{name}: came with dtype {array.dtype}, real numbers are needed")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        raise TypeError(f"{name}: came with dtype {array.dtype}, float64 or narrower is needed")
    return array


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether this is the type that `ml_dtypes` adds to NumPy."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def _holds_numbers(array: Array) -> bool:
    """Whether an array of objects holds numbers that NumPy's functions can be applied to."""
    return array.dtype.kind == "O" and array.size > 0 and hasattr(array.flat[0], "exp")


def _common(arrays: list[Array]) -> np.dtype[Any]:
    """float64 if any array of floats is, or if none is of floats; else float32. Half precision widens to float32."""
    dtypes = [a.dtype for a in arrays if a.dtype.kind in "fO"]
    if not dtypes:
        return F64
    if any(d.kind == "O" for d in dtypes):
        return np.dtype(object)
    return F32 if all(d.itemsize <= 4 for d in dtypes) else F64


def floats(names: tuple[str, ...], *values: Any) -> list[Array]:
    """The values as C-ordered arrays of one common dtype, float32 or float64."""
    arrays = [
        v if type(v) is ndarray and (v.dtype is F64 or v.dtype is F32) else real(n, v)
        for n, v in zip(names, values, strict=True)
    ]
    dtype = arrays[0].dtype
    if (dtype is not F32 and dtype is not F64) or any(a.dtype is not dtype for a in arrays):
        dtype = _common(arrays)
    return [a if a.dtype is dtype and a.flags.carray else _plain(a, dtype) for a in arrays]


def _plain(array: Array, dtype: np.dtype[Any]) -> Array:
    """`array` C-ordered and aligned: Numba takes others too, but compiles everything anew."""
    array = np.asarray(array, dtype, order="C")
    return array if array.flags.aligned else array.copy()


def like(name: str, value: Any, dtype: np.dtype[Any]) -> Array:
    """`value` as a C-ordered array of `dtype`: for masks and uniforms, which do not decide the result's dtype."""
    if type(value) is ndarray and value.dtype is dtype and value.flags.carray:
        return value
    array = real(name, value)
    if array.dtype.kind == "O":
        return np.asarray(array, order="C")
    try:
        with np.errstate(over="raise"):
            return _plain(array, dtype)
    except FloatingPointError:
        raise ValueError(f"{name}: came with numbers too large for {dtype}, which is needed") from None


def shaped(name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], why: str) -> Array:
    """`integers`, if dtype is int64, or else `like`, of this shape."""
    if type(value) is ndarray and value.dtype is dtype and value.shape == shape and value.flags.carray:
        return value
    array = integers(name, value) if dtype is I64 else like(name, value, dtype)
    shape_is(name, array, shape, why)
    return array


def integers(name: str, value: Any) -> Array:
    """`value` as a C-ordered int64 array."""
    if type(value) is ndarray and value.dtype is I64 and value.flags.carray:
        return value
    array = real(name, value)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name}: came with dtype {array.dtype}, integers are needed")
    if array.dtype == np.uint64 and array.size and array.max() > _LARGEST:
        raise ValueError(f"{name}: came with values up to {array.max()}, at most {_LARGEST} is needed")
    return _plain(array, I64)


def same_shape(names: tuple[str, ...], *arrays: Array) -> None:
    """All shapes equal the first one's."""
    shape = arrays[0].shape
    for name, array in zip(names, arrays, strict=True):
        if array.shape != shape:
            raise ValueError(f"{name}: came with shape {array.shape}, {shape} is needed as for {names[0]}")


def shape_is(name: str, array: Array, shape: tuple[int, ...], why: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: came with shape {array.shape}, {shape} is needed: {why}")


def last_axis(name: str, array: Array) -> int:
    """Length of the last axis, which has to be there and not to be empty."""
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name}: came with shape {array.shape}, a last axis of at least 1 is needed")
    return int(array.shape[-1])


def sums(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums over numbers of this one are kept in."""
    return dtype if dtype.kind == "O" else F64


def not_empty(name: str, array: Array) -> None:
    if array.size == 0:
        raise ValueError(f"{name}: came with shape {array.shape}, at least one element is needed for a mean")


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf
) -> float:
    """`value` as a finite float in [low, high], or in (above, high]."""
    if type(value) is float and low <= value <= high and above < value < math.inf:
        return value
    try:
        result = _float(value)
    except OverflowError:  # an int of hundreds of digits
        result = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name}: came as {value!r}, a number is needed") from None
    if low <= result <= high and above < result < math.inf:
        return result
    bounds = f"in [{low:g}, {high:g}]" if above == -math.inf else f"above {above:g}"
    needed = "finite" if low == above == -high == -math.inf else f"finite and {bounds}"
    raise ValueError(f"{name}: came as {value!r}, a number {needed} is needed")


def _float(value: Any) -> float:
    """float() of numbers alone: of no text, no array of one element, no complex number, no duration."""
    if isinstance(value, (str, bytes, bytearray, np.complexfloating, np.timedelta64)):
        raise TypeError
    if getattr(value, "ndim", 0):
        raise TypeError
    return float(value)


def whole(name: str, value: Any, low: int) -> int:
    """`value` as an int of at least `low`."""
    if type(value) is int and low <= value <= _LARGEST:
        return value
    if isinstance(value, (bool, np.bool_, np.timedelta64)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: came as {value!r}, an integer is needed")
    if value < low:
        raise ValueError(f"{name}: came as {value!r}, at least {low} is needed")
    if value > _LARGEST:
        raise ValueError(f"{name}: came as {value!r}, at most {_LARGEST} is needed")
    return int(value)


def output(
    out: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *inputs: Any,
    rows: bool = False,
    name: str = "out",
) -> Array:
    """`out` if it fits and overlaps no input, or a new array if it is None.

    With `rows` it may be an input itself, element by element in the same place, and its rows may lie apart.
    """
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name}: came as {type(out).__name__}, a NumPy array is needed")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"{name}: came with shape {out.shape} and dtype {out.dtype}, {shape} and {dtype} is needed"
        )
    flags = out.flags
    if not flags.carray:
        if not (flags.aligned and (flags.c_contiguous or (rows and _has_rows(out)))):
            needed = "rows without gaps, apart from each other, are" if rows else "C order is"
            raise ValueError(f"{name}: came with gaps or in another order, {needed} needed")
        if not flags.writeable:
            raise ValueError(f"{name}: came read-only, a writable array is needed")
    for value in inputs:
        array = value if type(value) is ndarray else np.asarray(value)
        if may_overlap(out, array) and not (rows and (array is out or _is_same(out, array))):
            raise ValueError(f"{name}: overlaps an input, memory of its own is needed")
    return out


def may_overlap(a: Array, b: Array) -> bool:
    """Whether two arrays may share memory; two that own theirs do not, which is known at a tenth of the price."""
    if a is not b and a.flags.owndata and b.flags.owndata:
        return False
    return np.may_share_memory(a, b)


def _has_rows(x: Array) -> bool:
    """Whether the elements of each row are neighbours, and no two elements of the array share memory."""
    if x.strides[-1] != x.itemsize and x.shape[-1] != 1:
        return False
    extent = x.itemsize
    for step, count in sorted((abs(step), count) for step, count in zip(x.strides, x.shape, strict=True)):
        if step < extent and count != 1:
            return False
        extent += step * (count - 1)
    return True


def _is_same(a: Array, b: Array) -> bool:
    """Whether two arrays are the same elements in the same places."""
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides and a.shape == b.shape


def in_place(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array that the kernel will change: never converted, since a copy would be changed instead."""
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name}: came as {type(array).__name__}, a NumPy array is needed: it is changed in place"
        )
    if array.shape != shape or array.dtype != dtype:  # equal is enough: unpickling makes dtypes of its own
        raise ValueError(
            f"{name}: came with shape {array.shape} and dtype {array.dtype}, {shape} and {dtype} is needed"
        )
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise ValueError(f"{name}: came read-only or not in C order, a writable array in C order is needed")
    return array
