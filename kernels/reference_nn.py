"""Readable float64 twins of `kernels.nn`, in plain NumPy: same names, same parameters, the equation of each."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np

from .nn import (
    GELU,
    Attention,
    Draw,
    EmbeddingGradients,
    GELUGradients,
    LayerNorm,
    LayerNormGradients,
    ResidualNorm,
    ResidualNormGradients,
)
from .reference import sample, token_logprobs

EPS = 1e-5


def _f64(*values: Any) -> list[Any]:
    return [np.asarray(value, np.float64) for value in values]


def _into(out: Any, result: Any) -> Any:
    if out is None:
        return result
    out[...] = result
    return out


def _sum(x: Any) -> Any:
    """Over all rows."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0)


# embedding


def embedding(tokens: Any, places: Any, table: Any, position_table: Any, out: Any = None) -> Any:
    """Row of the one table plus row of the other."""
    rows, positions = _f64(table, position_table)
    return _into(out, rows[np.asarray(tokens)] + positions[np.asarray(places)])


def embedding_backward(
    tokens: Any, places: Any, d_out: Any, vocab_size: int, positions: int, out: Any = None
) -> EmbeddingGradients:
    """One-hot matrices times d_out."""
    (d,) = _f64(d_out)
    rows = d.reshape(-1, d.shape[-1])
    of_token, of_place = (
        np.arange(count)[:, np.newaxis] == np.asarray(index).ravel()
        for index, count in ((tokens, vocab_size), (places, positions))
    )
    return EmbeddingGradients(_into(out, of_token @ rows), of_place @ rows)


# layer norm


def layer_norm(x: Any, gain: Any, shift: Any, out: Any = None) -> LayerNorm:
    """(x - mean) / sqrt(variance + eps) gain + shift."""
    a, g, s = _f64(x, gain, shift)
    mean = a.mean(axis=-1, keepdims=True)
    share = 1 / np.sqrt(((a - mean) ** 2).mean(axis=-1, keepdims=True) + EPS)
    return LayerNorm(_into(out, (a - mean) * share * g + s), mean[..., 0], share[..., 0])


def layer_norm_backward(
    d_out: Any, x: Any, gain: Any, means: Any, shares: Any, out: Any = None
) -> LayerNormGradients:
    """share (d - mean(d) - unit mean(d unit)), with d = d_out gain and unit = (x - mean) share."""
    d_y, a, g, mean, share = _f64(d_out, x, gain, means, shares)
    unit, d = (a - mean[..., np.newaxis]) * share[..., np.newaxis], d_y * g
    along = (d * unit).mean(axis=-1, keepdims=True)
    d_x = share[..., np.newaxis] * (d - d.mean(axis=-1, keepdims=True) - unit * along)
    return LayerNormGradients(_into(out, d_x), _sum(d_y * unit), _sum(d_y))


def residual_norm(x: Any, branch: Any, bias: Any, gain: Any, shift: Any, out: Any = None) -> ResidualNorm:
    """layer_norm(x + branch + bias)."""
    a, b, more = _f64(x, branch, bias)
    normed = layer_norm(a + b + more, gain, shift, out)
    return ResidualNorm(normed.out, a + b + more, normed.means, normed.shares)


def residual_norm_backward(
    d_out: Any, d_stream: Any, stream: Any, gain: Any, means: Any, shares: Any, out: Any = None
) -> ResidualNormGradients:
    """What comes through the norm plus what comes along the stream."""
    through = layer_norm_backward(d_out, stream, gain, means, shares)
    d_x = through.d_x + np.asarray(d_stream, np.float64)
    return ResidualNormGradients(_into(out, d_x), _sum(d_x), through.d_gain, through.d_shift)


# GELU


def gelu(x: Any, bias: Any = None, out: Any = None) -> GELU:
    """z / 2 (1 + tanh u) of z = x + bias, with u = sqrt(2 / pi) (z + .044715 z^3)."""
    (z,) = _f64(x)
    if bias is not None:
        z = z + np.asarray(bias, np.float64)
    bend = np.tanh(sqrt(2 / pi) * (z + 0.044715 * z**3))
    d_bend = (1 - bend**2) * sqrt(2 / pi) * (1 + 3 * 0.044715 * z**2)
    return GELU(_into(out, z / 2 * (1 + bend)), (1 + bend) / 2 + z / 2 * d_bend)


def gelu_backward(slopes: Any, d_out: Any, out: Any = None) -> GELUGradients:
    """d_out times the slope."""
    slope, d = _f64(slopes, d_out)
    return GELUGradients(_into(out, slope * d), _sum(slope * d))


# products


def product(a: Any, b: Any, turned: str = "", out: Any = None) -> Any:
    """a b, a' b or a b'."""
    left, right = _f64(a, b)
    left, right = left.T if turned == "a" else left, right.T if turned == "b" else right
    return _into(out, (left[:, :, np.newaxis] * right).sum(axis=1))


# attention


def _seen(span: Any) -> tuple[Any, Any]:
    """Rows of a span's queries and of its keys, in order; the span is (first, count, before, prefix, ...)."""
    first, count, before, prefix = span[:4]
    own = np.arange(first, first + count)
    return own, np.concatenate([np.arange(before, before + prefix), own])


def _blind(count: int, keys: int) -> Any:
    """(count, keys): where the key comes after the query."""
    return np.triu(np.ones((count, keys), bool), keys - count + 1)


def _heads(x: Any, heads: int, parts: int) -> Any:
    """Rows of `parts` times C numbers as (parts, heads, rows, C / heads)."""
    return x.reshape(-1, parts, heads, x.shape[-1] // parts // heads).transpose(1, 2, 0, 3)


def _softmax(scores: Any) -> Any:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attention(qkv: Any, spans: Any, heads: int, out: Any = None) -> Attention:
    """softmax(q k' / sqrt(D)) v of each span and head, causal; rows of no span are 0."""
    (x,) = _f64(qkv)
    q, k, v = _heads(x, heads, 3)
    mixed, kept = np.zeros_like(q), [np.zeros(0)]
    for span in np.asarray(spans):
        own, keys = _seen(span)
        if len(own):
            scores = q[:, own] @ k[:, keys].transpose(0, 2, 1) / sqrt(q.shape[-1])
            weights = _softmax(np.where(_blind(len(own), len(keys)), -np.inf, scores))
            mixed[:, own] = weights @ v[:, keys]
            kept.append(weights.ravel())
    result = mixed.transpose(1, 0, 2).reshape(*x.shape[:-1], x.shape[-1] // 3)
    return Attention(_into(out, result), np.concatenate(kept))


def attention_backward(d_out: Any, qkv: Any, weights: Any, spans: Any, heads: int, out: Any = None) -> Any:
    """d_v = w' d; d_scores = w (d v' - sum over keys of w d v') / sqrt(D); d_q = d_scores k; d_k = d_scores' q."""
    x, d_y, kept = _f64(qkv, d_out, weights)
    (q, k, v), (d,) = _heads(x, heads, 3), _heads(d_y, heads, 1)
    d_x = np.zeros((3, *q.shape))
    start = 0
    for span in np.asarray(spans):
        own, keys = _seen(span)
        shape = (heads, len(own), len(keys))
        w = kept[start : start + heads * len(own) * len(keys)].reshape(shape)
        start += w.size
        d_w = np.where(_blind(*shape[1:]), 0, d[:, own] @ v[:, keys].transpose(0, 2, 1))
        d_scores = w * (d_w - (w * d_w).sum(axis=-1, keepdims=True)) / sqrt(q.shape[-1])
        d_x[0][:, own] += d_scores @ k[:, keys]
        d_x[1][:, keys] += d_scores.transpose(0, 2, 1) @ q[:, own]
        d_x[2][:, keys] += w.transpose(0, 2, 1) @ d[:, own]
    return _into(out, d_x.transpose(2, 0, 1, 3).reshape(x.shape))


def fill_cache(qkv: Any, before: Any, prefix: Any, key_cache: Any, value_cache: Any) -> None:
    """Keys and values of rows before to before + prefix, at the beginning of each sequence's places."""
    (x,) = _f64(qkv)
    _, keys, values = x.reshape(-1, 3, x.shape[-1] // 3).transpose(1, 0, 2)
    for b, (first, count) in enumerate(zip(np.asarray(before), np.asarray(prefix), strict=True)):
        for j in range(count):
            key_cache[b, j // 4, :, j % 4] = keys[first + j]
        value_cache[b, :count] = values[first : first + count]


def attention_step(
    qkv: Any, slots: Any, ends: Any, heads: int, key_cache: Any, value_cache: Any, out: Any = None
) -> Any:
    """`attention` of one query, over the keys and values up to its place."""
    (x,) = _f64(qkv)
    C = x.shape[-1] // 3
    mixed = np.empty((x.size // (3 * C), C))
    tokens = zip(x.reshape(-1, 3, C), np.ravel(slots), np.ravel(ends), strict=True)
    for n, ((query, key, value), slot, end) in enumerate(tokens):
        key_cache[slot, end // 4, :, end % 4], value_cache[slot, end] = key, value
        keys = np.asarray(key_cache[slot]).swapaxes(1, 2).reshape(-1, C)[: end + 1]
        values = np.asarray(value_cache[slot, : end + 1])
        for part in np.split(np.arange(C), heads):
            mixed[n, part] = _softmax(keys[:, part] @ query[part] / sqrt(len(part))) @ values[:, part]
    return _into(out, mixed.reshape(*x.shape[:-1], C))


# sampling


def draw(logits: Any, uniforms: Any, out: Any = None) -> Draw:
    """Inverse CDF, and the token's log-probability."""
    tokens = _into(out, sample(logits, uniforms))
    return Draw(tokens, token_logprobs(logits, tokens))
