"""Arrays of logits for kernels that take (N, V) rows: half precision as bits, rows with gaps, shares for threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import _check
from ._check import F32, F64, Array

__all__ = ["gradient", "logits", "number", "over_rows", "stored", "temperature"]

_I16, _U16 = np.dtype(np.int16), np.dtype(np.uint16)


def number(x: Array) -> np.dtype[Any]:
    """The type that stored logits are computed with, and results have."""
    return F32 if x.dtype is _I16 or x.dtype is _U16 else x.dtype


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


def logits(names: tuple[str, ...], *values: Any) -> list[Array]:
    """The values as arrays of one type whose rows have no gaps: float32, float64, or half precision as its bits.

    No copy is made of an array that has that already, however its rows lie to each other.
    """
    if all(map(_is_plain, values)) and values[0].dtype is values[-1].dtype:
        return list(values)
    arrays = [_read(name, value) for name, value in zip(names, values, strict=True)]
    dtype = arrays[0].dtype
    if any(a.dtype is not dtype for a in arrays):
        dtype = F64 if any(a.dtype is F64 for a in arrays) else F32
        arrays = [_widened(a).astype(dtype, copy=False) for a in arrays]
    return [a if _has_whole_rows(a) else a.copy() for a in arrays]


def _is_plain(value: Any) -> bool:
    """Whether nothing has to be done: what most calls bring, at a fraction of the price of finding that out."""
    if type(value) is not np.ndarray or (value.dtype is not F32 and value.dtype is not F64):
        return False
    flags = value.flags
    return flags.c_contiguous and flags.aligned and value.ndim > 0 and value.shape[-1] > 0


def _read(name: str, value: Any) -> Array:
    if type(value) is np.ndarray and (value.dtype is F32 or value.dtype is F64):
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


def gradient(out: Any, x: Array, *inputs: Any) -> tuple[Array, Array]:
    """`out`, or a new array for the gradient of the logits x: as the caller sees it, and as stored.

    It may be the logits' own memory, which it then replaces. Of half precision it has x's type, or float32.
    """
    if out is None:
        new = np.empty(x.shape, number(x))
        return new, new
    if isinstance(out, np.ndarray) and out.dtype.kind in "fVu" and stored(out).dtype == x.dtype:
        return out, _check.output(stored(out), x.shape, x.dtype, *inputs, replaces=True)
    checked = _check.output(out, x.shape, number(x), *inputs, replaces=True)
    return checked, checked


def over_rows(kernel: Callable[..., Any], threads: Any, *arrays: Array) -> int:
    """Call `kernel` with the rows of all arrays, and add up what it returns.

    The first array is (..., V); those with as many axes are given as (N, V), the others, (...), as (N,). Rows are
    independent of each other, so that neither the number of threads nor that of the calls changes a bit.
    """
    ndim, V = arrays[0].ndim, arrays[0].shape[-1]
    if type(threads) is int and threads == 1 and _all_contiguous(arrays):
        if ndim != 2:
            arrays = tuple([a.reshape(-1, V) if a.ndim == ndim else a.reshape(-1) for a in arrays])
        return kernel(*arrays) or 0
    rows = arrays[0].size // arrays[0].shape[-1]
    share = -(-rows // min(_check.whole("threads", threads, 1), os.cpu_count() or 1))
    if rows == 0:
        return 0

    def work(start: int) -> int:
        return sum(kernel(*part) or 0 for part in _pieces(arrays, ndim, start, min(start + share, rows)))

    starts = range(share, rows, share)
    if not starts:
        return work(0)
    with ThreadPoolExecutor(len(starts)) as pool:
        others = [pool.submit(work, start) for start in starts]
        return work(0) + sum(other.result() for other in others)


def _all_contiguous(arrays: tuple[Array, ...]) -> bool:
    for a in arrays:  # noqa: SIM110 (a generator takes twice as long)
        if not a.flags.c_contiguous:
            return False
    return True


def _pieces(arrays: tuple[Array, ...], ndim: int, start: int, stop: int) -> Iterator[list[Array]]:
    """Rows start to stop of all arrays, in as few pieces as views allow."""
    views = [_flat(a, 1 if a.ndim == ndim else 0) for a in arrays]
    if all(view is not None for view in views):
        yield [view[start:stop] for view in views if view is not None]
        return
    inner = arrays[0][0].size // arrays[0].shape[-1]
    for i in range(start // inner, -(-stop // inner)):
        first, last = max(start - i * inner, 0), min(stop - i * inner, inner)
        yield from _pieces(tuple(a[i] for a in arrays), ndim - 1, first, last)


def _flat(x: Array, kept: int) -> Array | None:
    """x with all axes but the last `kept` made one, without a copy; None if that cannot be."""
    last = x.shape[x.ndim - kept :]
    if x.flags.c_contiguous:
        return x.reshape(-1, *last)
    axes = [(n, step) for n, step in zip(x.shape[: x.ndim - kept], x.strides, strict=False) if n != 1]
    count, stride = axes.pop() if axes else (1, x.itemsize)
    for n, step in reversed(axes):
        if step != stride * count:
            return None
        count *= n
    return as_strided(x, (count, *last), (stride, *x.strides[x.ndim - kept :]))
