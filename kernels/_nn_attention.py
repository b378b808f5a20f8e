"""Causal attention of packed rows, its gradient, and its decoding step with a cache; checked and converted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._attention import attention_jit
from ._attention_gradient import attention_backward_jit
from ._attention_step import attention_step_jit, fill_cache_jit, step_room
from ._check import F32, F64, Array
from ._fours import SIDE, keys_shape
from ._nn_tokens import inside
from ._spans import Spans, clear_unseen_jit
from ._turned import turned_shape, with_room

__all__ = ["Attention", "attention", "attention_backward", "attention_step", "fill_cache"]


class Attention(NamedTuple):
    """`out` (..., C), and for the gradient the weights: span after span (heads, count, prefix + count), flat."""

    out: Array
    weights: Array


def _width(x: Array) -> int:
    """C of rows of query, key and value."""
    wide = _check.last_axis("qkv", x)
    if wide % 3:
        raise ValueError(
            f"qkv: came with shape {x.shape}, a last axis of query, key and value is needed: 3 C"
        )
    return wide // 3


def _heads(heads: Any, C: int) -> int:
    count = _check.whole("heads", heads, 1)
    if C % count:
        raise ValueError(f"heads: came as {count}, a divisor of the width {C} is needed")
    return count


def attention(qkv: Any, spans: Any, heads: int, out: Array | None = None) -> Attention:
    """Causal self-attention of sequences that lie as spans of rows, without padding between them.

    Parameters
    ----------
    qkv : array_like, (..., 3 C)
        Of each token query, key and value, each C numbers: head by head C / heads. Rows are numbered in C order.
    spans : array_like of int, (S, 4)
        ``first, count, before, prefix`` of each sequence: its rows are ``count`` from ``first`` on, and it continues
        the ``prefix`` rows from ``before`` on, which others may continue as well (a prompt; 0, 0 for none). No row
        belongs to two spans. `spans_of` gives them for a padded batch.
    heads : int
        A divisor of C.
    out : ndarray, (..., C), optional

    Returns
    -------
    Attention
        ``out = softmax(q @ k.T / sqrt(C / heads)) @ v`` in each head, where token i of a span sees all of the prefix,
        and the span's tokens up to i; 0 in rows of no span. ``weights`` are the softmax, 0 where nothing is seen.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, out of range, or does not fit.

    References
    ----------
    Vaswani et al. 2017 (arXiv:1706.03762), equation 1 and section 3.2.3.

    Examples
    --------
    >>> qkv = [[0.0, 0.0, 1.0], [0.0, 0.0, 3.0], [0.0, 0.0, 8.0]]
    >>> attention(qkv, spans=[[0, 2, 0, 0], [2, 1, 0, 1]], heads=1).out.T
    array([[1. , 2. , 4.5]])
    """
    (x,) = _check.floats(("qkv",), qkv)
    C = _width(x)
    H = _heads(heads, C)
    read = Spans(spans, x.size // (3 * C), H)
    result = _check.output(out, (*x.shape[:-1], C), x.dtype, qkv, spans)
    if not read.everywhere:
        result[...] = 0
    weights = np.empty(with_room(read.weights, read.longest), x.dtype)
    turned = np.empty(turned_shape(C // H, read.longest), x.dtype)
    attention_jit(x.reshape(-1, 3 * C), read.table, H, turned, weights, result.reshape(-1, C))
    clear_unseen_jit(weights, read.table, H)
    return Attention(result, weights[: read.weights])


def attention_backward(
    d_out: Any, qkv: Any, weights: Any, spans: Any, heads: int, out: Array | None = None
) -> Array:
    """Gradient of `attention`, from the weights that it left.

    Parameters
    ----------
    d_out : array_like, (..., C)
        Gradient with respect to the result; what stands in rows of no span is not read.
    qkv : array_like, (..., 3 C)
    weights : array_like
        From `attention`.
    spans : array_like of int, (S, 4)
    heads : int
    out : ndarray, (..., 3 C), optional

    Returns
    -------
    d_qkv : ndarray, (..., 3 C)
        Overwritten, not accumulated.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, out of range, or does not fit.

    Examples
    --------
    >>> qkv, spans = [[0.0, 0.0, 1.0], [0.0, 0.0, 3.0]], [[0, 2, 0, 0]]
    >>> weights = attention(qkv, spans, heads=1).weights
    >>> attention_backward([[0.0], [2.0]], qkv, weights, spans, heads=1)
    array([[0., 0., 1.],
           [0., 0., 1.]])
    """
    (x,) = _check.floats(("qkv",), qkv)
    C = _width(x)
    H = _heads(heads, C)
    read = Spans(spans, x.size // (3 * C), H)
    d = _check.shaped("d_out", d_out, x.dtype, (*x.shape[:-1], C), "a row a token")
    kept = np.empty(with_room(read.weights, read.longest), x.dtype)
    kept[: read.weights] = _check.shaped(
        "weights", weights, x.dtype, (read.weights,), "as `attention` left them"
    )
    result = _check.output(out, x.shape, x.dtype, d_out, qkv, weights, spans)
    result[...] = 0
    turned = np.empty(turned_shape(C // H, read.longest), x.dtype)
    slopes = np.empty(with_room(read.widest, read.longest), x.dtype)
    rows, written = x.reshape(-1, 3 * C), result.reshape(-1, 3 * C)
    attention_backward_jit(d.reshape(-1, C), rows, kept, read.table, H, turned, slopes, written)
    return result


def _caches(key_cache: Any, value_cache: Any) -> tuple[int, int, int]:
    """(B, J, C) of caches that will be written."""
    if not isinstance(key_cache, np.ndarray):
        _check.in_place("key_cache", key_cache, (), F64)
    if key_cache.dtype not in (F32, F64) and key_cache.dtype.kind != "O":
        raise TypeError(f"key_cache: came with dtype {key_cache.dtype}, float32 or float64 is needed")
    if key_cache.ndim != 4 or not key_cache.shape[2]:
        raise ValueError(f"key_cache: came with shape {key_cache.shape}, (B, K, C, 4) is needed")
    B, K, C, _ = key_cache.shape
    _check.in_place("key_cache", key_cache, (B, K, C, SIDE), key_cache.dtype)
    J = SIDE * K
    if isinstance(value_cache, np.ndarray) and value_cache.ndim == 3:
        J = min(max(value_cache.shape[1], J - SIDE + 1), J)  # as many as may be in K fours
    _check.in_place("value_cache", value_cache, (B, J, C), key_cache.dtype)
    return B, J, C


def _apart(key_cache: Array, value_cache: Array, *inputs: Any) -> None:
    """That caches share no memory with what is read, nor with each other."""
    others = [np.asarray(array) for array in inputs]
    if any(_check.may_overlap(key_cache, other) for other in others):
        raise ValueError("key_cache: overlaps an input, memory of its own is needed")
    if any(_check.may_overlap(value_cache, other) for other in (key_cache, *others)):
        raise ValueError("value_cache: overlaps an input or key_cache, memory of its own is needed")


def _like_cache(qkv: Any, key_cache: Array) -> Array:
    """Rows of query, key and value as the cache's type."""
    x, C = _check.like("qkv", qkv, key_cache.dtype), key_cache.shape[2]
    if x.shape[-1:] != (3 * C,):
        raise ValueError(f"qkv: came with shape {x.shape}, a last axis of {3 * C} is needed as for key_cache")
    return x


def fill_cache(qkv: Any, before: Any, prefix: Any, key_cache: Array, value_cache: Array) -> None:
    """Copy keys and values of prompts into the caches that `attention_step` reads.

    Parameters
    ----------
    qkv : array_like, (..., 3 C)
        Of the prompts' tokens, as `attention` takes them.
    before, prefix : array_like of int, (B,)
        Of each sequence the first row of its prompt, and how many rows that has; several may share one.
    key_cache : ndarray, (B, K, C, 4)
        Changed in place, like value_cache: of sequence b the first ``prefix[b]`` of J places. Place j is
        ``key_cache[b, j // 4, :, j % 4]``, so that K is J / 4, rounded up.
    value_cache : ndarray, (B, J, C)

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; arrays to be changed are never converted, and may overlap no other.

    Examples
    --------
    >>> keys, values = np.zeros((2, 1, 1, 4)), np.zeros((2, 4, 1))
    >>> fill_cache([[0.0, 1.0, 2.0], [0.0, 3.0, 4.0]], [0, 1], [2, 1], keys, values)
    >>> keys[:, 0, 0], values[:, :, 0]
    (array([[1., 3., 0., 0.],
           [3., 0., 0., 0.]]), array([[2., 4., 0., 0.],
           [4., 0., 0., 0.]]))
    """
    B, J, C = _caches(key_cache, value_cache)
    rows = _like_cache(qkv, key_cache).reshape(-1, 3 * C)
    firsts, counts = _check.integers("before", before), _check.integers("prefix", prefix)
    _check.shape_is("before", firsts, (B,), "one a sequence of key_cache")
    _check.shape_is("prefix", counts, (B,), "one a sequence of key_cache")
    inside("prefix", counts, min(J, len(rows)) + 1)
    if ((firsts < 0) | (firsts > len(rows) - counts)).any():
        raise ValueError(
            f"before: came with values from {firsts.min()} to {firsts.max()}, "
            f"prompts within {len(rows)} rows are needed"
        )
    _apart(key_cache, value_cache, qkv, before, prefix)
    fill_cache_jit(rows, firsts, counts, key_cache.reshape(B, *keys_shape(J, C)), value_cache)


def attention_step(
    qkv: Any,
    slots: Any,
    ends: Any,
    heads: int,
    key_cache: Array,
    value_cache: Array,
    out: Array | None = None,
) -> Array:
    """Attention of one more token of each sequence, with keys and values of what went before from a cache.

    Parameters
    ----------
    qkv : array_like, (..., 3 C)
        Of the new tokens, which are taken in order.
    slots, ends : array_like of int, (...)
        The sequence of each, in [0, B), and its place in it, in [0, J). What comes before that is in the cache.
    heads : int
        A divisor of C.
    key_cache : ndarray, (B, K, C, 4)
        Changed in place, like value_cache: each token's key and value are added at its place, as `fill_cache` says.
    value_cache : ndarray, (B, J, C)
    out : ndarray, (..., C), optional

    Returns
    -------
    ndarray, (..., C)
        The rows that `attention` of the whole sequences has for these tokens. The work is that of `attention` with
        ``sum(ends + 1)`` pairs.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; arrays to be changed are never converted, and may overlap no other.

    Examples
    --------
    >>> keys, values = np.zeros((1, 1, 1, 4)), np.zeros((1, 2, 1))
    >>> attention_step([[0.0, 0.0, 1.0]], [0], [0], 1, keys, values)
    array([[1.]])
    >>> attention_step([[0.0, 0.0, 3.0]], [0], [1], 1, keys, values)
    array([[2.]])
    """
    B, J, C = _caches(key_cache, value_cache)
    x, H = _like_cache(qkv, key_cache), _heads(heads, C)
    of, at = _check.integers("slots", slots), _check.integers("ends", ends)
    _check.shape_is("slots", of, x.shape[:-1], "one a token")
    _check.shape_is("ends", at, x.shape[:-1], "one a token")
    inside("slots", of, B)
    inside("ends", at, J)
    _apart(key_cache, value_cache, qkv, slots, ends)
    result = _check.output(out, (*x.shape[:-1], C), x.dtype, qkv, slots, ends, key_cache, value_cache)
    keys, weights = key_cache.reshape(B, *keys_shape(J, C)), np.empty(step_room(J), x.dtype)
    rows, written = x.reshape(-1, 3 * C), result.reshape(-1, C)
    attention_step_jit(rows, of.reshape(-1), at.reshape(-1), H, keys, value_cache, weights, written)
    return result
