"""Arrays of logits for kernels that take (N, V) rows: half precision as bits, rows with gaps, shares for threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.lib.stride_tricks import as_strided

from . import _check
from ._check import F32, F64, Array

__all__ = [
    "as_rows",
    "batches",
    "flat",
    "gradient",
    "logits",
    "number",
    "over_rows",
    "some_rows",
    "stored",
    "temperature",
]

_I16, _U16 = np.dtype(np.int16), np.dtype(np.uint16)


def number(x: Array) -> np.dtype[Any]:
    """The type that stored logits are computed with, and results have."""
    dtype = x.dtype
    return F32 if dtype is _I16 or dtype is _U16 else dtype


def stored(array: Array) -> Array:
    """float16 as int16, bfloat16 as uint16, the same memory; other arrays as they are."""
    if array.dtype == np.float16:
        return array.view(_I16)
    if _check.is_bfloat16(array.dtype) or array.dtype == _U16:
        return array.view(_U16)
    return array


def temperature(value: Any) -> float:
    """A temperature at which float32 logits divided by it, and their exponentials, stay numbers."""
    return _check.number("temperature", value, 1e-30, 1e30)


def logits(names: tuple[str, ...], *values: Any) -> tuple[Array, ...]:
    """The values as arrays of one type whose rows have no gaps: float32, float64, or half precision as its bits.

    No copy is made of an array that has that already, however its rows lie to each other.
    """
    dtype = getattr(values[0], "dtype", None)
    if (
        dtype is F32 or dtype is F64
    ):  # what most calls bring, at a fraction of the price of finding out what to do
        for value in values:
            if type(value) is not ndarray or value.dtype is not dtype or not value.flags.carray:
                break
            if not value.size or not value.ndim:
                break
        else:
            return values
    arrays = [_read(name, value) for name, value in zip(names, values, strict=True)]
    dtype = arrays[0].dtype
    if any(a.dtype is not dtype for a in arrays):
        dtype = F64 if any(a.dtype is F64 for a in arrays) else F32
        arrays = [_widened(a).astype(dtype, copy=False) for a in arrays]
    return tuple([a if _has_whole_rows(a) else a.copy() for a in arrays])


def _read(name: str, value: Any) -> Array:
    if type(value) is ndarray and (value.dtype is F32 or value.dtype is F64):
        array = value
    else:
        array = _check.read(name, value)
        if array.dtype.kind in "fu" and array.dtype.itemsize == 2:
            array = stored(array.astype(array.dtype.newbyteorder("="), copy=False))
        elif _check.is_bfloat16(array.dtype):
            array = stored(array)
        else:
            array = _check.real(name, array)
            if array.dtype.kind != "O":
                single = array.dtype.kind == "f" and array.dtype.itemsize == 4
                array = np.asarray(array, F32 if single else F64)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name}: came with shape {array.shape}, a last axis of at least 1 is needed")
    return array


def _widened(x: Array) -> Array:
    """Stored logits as floats."""
    if x.dtype is _I16:
        return x.view(np.float16)
    return (x.astype(np.uint32) << 16).view(F32) if x.dtype is _U16 else x


def _has_whole_rows(x: Array) -> bool:
    return x.flags.aligned and (x.flags.c_contiguous or x.strides[-1] == x.itemsize or x.shape[-1] == 1)


def gradient(out: Any, x: Array, inputs: tuple[Any, ...]) -> tuple[Array, Array]:
    """`out`, or a new array for the gradient of the logits x: as the caller sees it, and as stored.

    It may be the logits' own memory, which it then replaces. Of half precision it has x's type, or float32.
    """
    if out is None:
        dtype = x.dtype
        new = np.empty(x.shape, dtype if dtype is F32 or dtype is F64 else number(x))
        return new, new
    if type(out) is ndarray and out.dtype is x.dtype and x.dtype.kind == "f":
        return out, _check.output(out, x.shape, x.dtype, *inputs, rows=True)
    if isinstance(out, ndarray) and out.dtype.kind in "fVu" and stored(out).dtype == x.dtype:
        return out, _check.output(stored(out), x.shape, x.dtype, *inputs, rows=True)
    checked = _check.output(out, x.shape, number(x), *inputs, rows=True)
    return checked, checked


def numbers(out: Any, x: Array, *inputs: Any) -> Array:
    """`out`, or a new array for one number a row of the logits x."""
    if out is None:
        return np.empty(x.shape[:-1], number(x))
    return _check.output(out, x.shape[:-1], number(x), *inputs)


def over_rows(kernel: Callable[..., Any], threads: Any, *arrays: Array) -> int:
    """Call `kernel` with the rows of all arrays, and add up what it returns.

    The first array is (..., V); those with as many axes are given as (N, V), the others, (...) in C order, as (N,).
    Rows are independent of each other, so that neither the number of threads nor that of the calls changes a bit.
    """
    rows = as_rows(arrays)
    if type(threads) is int and threads == 1 and rows[0].ndim == 2:
        return (kernel(*rows) or 0) if len(rows[0]) else 0
    return _share_out(kernel, threads, rows)


def _share_out(kernel: Callable[..., Any], threads: Any, arrays: Sequence[Array]) -> int:
    rows = arrays[0].size // arrays[0].shape[-1]
    share = -(-rows // min(_check.whole("threads", threads, 1), os.cpu_count() or 1))
    if rows == 0:
        return 0

    def work(start: int) -> int:
        return sum(kernel(*part) or 0 for part in _pieces(arrays, start, min(start + share, rows)))

    starts = range(share, rows, share)
    if not starts:
        return work(0)
    with ThreadPoolExecutor(len(starts)) as pool:
        others = [pool.submit(work, start) for start in starts]
        return work(0) + sum(other.result() for other in others)


def flat(x: Array) -> Array:
    """What is (...) in C order as (N,)."""
    return x if x.ndim == 1 else x.ravel()


def as_rows(arrays: Sequence[Array]) -> Sequence[Array]:
    """What is (...) as (N,), and what is (..., V), like the first, as (N, V) if views of all can be that."""
    ndim = arrays[0].ndim
    if ndim == 2:
        return arrays
    V = arrays[0].shape[-1]
    rows: list[Array] = []
    for a in arrays:
        if a.ndim != ndim:
            rows.append(a.ravel())
        elif a.flags.c_contiguous:
            rows.append(a.reshape(-1, V))
        elif (view := _rows_of(a)) is not None:
            rows.append(view)
        else:
            return [a if a.ndim == ndim else a.ravel() for a in arrays]
    return rows


def some_rows(arrays: Sequence[Array]) -> list[Array]:
    """Of arrays from `as_rows`, what is (..., V) as (1, n, V): of the same types as what `over_rows` hands on."""
    ndim = arrays[0].ndim
    first = (0,) * (ndim - 2)
    return [a[first][None] for a in arrays]


def batches(x: Array, d: Array) -> tuple[Array, ...]:
    """Both, (..., V), as (B, T, V) in C order or else as (1, N, V); nothing if views cannot be that."""
    if x.ndim == 3 and x.flags.c_contiguous and d.flags.c_contiguous:
        return x, d
    rows = as_rows((x, d))
    return (rows[0][None], rows[1][None]) if rows[0].ndim == 2 else ()


def _pieces(arrays: Sequence[Array], start: int, stop: int) -> Iterator[list[Array]]:
    """Rows start to stop of all arrays, (N, V) or more axes and (N,), in as few pieces as views allow."""
    ndim = arrays[0].ndim
    if ndim == 2:
        yield [a[start:stop] for a in arrays]
        return
    inner = arrays[0][0].size // arrays[0].shape[-1]
    for i in range(start // inner, -(-stop // inner)):
        first, last = max(start - i * inner, 0), min(stop - i * inner, inner)
        part = [a[i] if a.ndim == ndim else a[i * inner : (i + 1) * inner] for a in arrays]
        yield from _pieces(as_rows(part), first, last)


def _rows_of(x: Array) -> Array | None:
    """x, (..., V), as (N, V) without a copy; None if that cannot be."""
    axes = [(n, step) for n, step in zip(x.shape[:-1], x.strides, strict=False) if n != 1]
    count, stride = axes.pop() if axes else (1, x.itemsize)
    for n, step in reversed(axes):
        if step != stride * count:
            return None
        count *= n
    return as_strided(x, (count, x.shape[-1]), (stride, x.strides[-1]))
