"""Arguments for the public functions of `kernels.nn`: (name, make, shape[, work[, kernel]]), for `kernel_cases`.

Batches are (B, T), of rows of V numbers, or of some heads of V numbers each.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from nn_cases import _pairs

from kernels import reference_nn

TOKENS, PLACES = 4, 3


def _normal(rng, *shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def _rows(rng, *shape, dtype):
    """Numbers far enough apart for a norm."""
    return (rng.standard_normal(shape) + 3.0 * (np.arange(shape[-1]) % 2)).astype(dtype)


def _indices(rng, B, T):
    return {"tokens": rng.integers(0, TOKENS, (B, T)), "places": rng.integers(0, PLACES, (B, T))}


def _embedding(rng, B, T, V, dtype):
    tables = {"table": TOKENS, "position_table": PLACES}
    return {**_indices(rng, B, T), **{name: _normal(rng, n, V, dtype=dtype) for name, n in tables.items()}}


def _embedding_backward(rng, B, T, V, dtype):
    d_out = _normal(rng, B, T, V, dtype=dtype)
    return {**_indices(rng, B, T), "d_out": d_out, "vocab_size": TOKENS, "positions": PLACES}


def _vectors(rng, V, dtype, *names):
    return {name: _normal(rng, V, dtype=dtype) for name in names}


def _layer_norm(rng, B, T, V, dtype):
    return {"x": _rows(rng, B, T, V, dtype=dtype), **_vectors(rng, V, dtype, "gain", "shift")}


def _layer_norm_backward(rng, B, T, V, dtype):
    kwargs = _layer_norm(rng, B, T, V, dtype)
    norm = reference_nn.layer_norm(**kwargs)
    del kwargs["shift"]
    moments = {"means": norm.means.astype(dtype), "shares": norm.shares.astype(dtype)}
    return {"d_out": _normal(rng, B, T, V, dtype=dtype), **kwargs, **moments}


def _residual_norm(rng, B, T, V, dtype):
    branch = {"branch": _normal(rng, B, T, V, dtype=dtype), **_vectors(rng, V, dtype, "bias")}
    return {**_layer_norm(rng, B, T, V, dtype), **branch}


def _residual_norm_backward(rng, B, T, V, dtype):
    kwargs = _layer_norm_backward(rng, B, T, V, dtype)
    return {"stream": kwargs.pop("x"), "d_stream": _normal(rng, B, T, V, dtype=dtype), **kwargs}


def _gelu(rng, B, T, V, dtype):
    return {"x": 2 * _normal(rng, B, T, V, dtype=dtype), **_vectors(rng, V, dtype, "bias")}


def _gelu_without_bias(rng, B, T, V, dtype):
    return {"x": 2 * _normal(rng, B, T, V, dtype=dtype)}


def _gelu_backward(rng, B, T, V, dtype):
    return {name: _normal(rng, B, T, V, dtype=dtype) for name in ("slopes", "d_out")}


def _product(rng, B, T, V, dtype):
    return {"a": _normal(rng, B, T, dtype=dtype), "b": _normal(rng, T, V, dtype=dtype)}


def _product_a(rng, B, T, V, dtype):
    return {"a": _normal(rng, B, T, dtype=dtype), "b": _normal(rng, B, V, dtype=dtype), "turned": "a"}


def _product_b(rng, B, T, V, dtype):
    return {"a": _normal(rng, B, T, dtype=dtype), "b": _normal(rng, V, T, dtype=dtype), "turned": "b"}


def _draw(rng, B, T, V, dtype):
    return {"logits": 4 * _normal(rng, B, T, V, dtype=dtype), "uniforms": rng.random((B, T))}


def spans(B, T):
    """Row b begins with b % T of padding; all but the first continue half of the first."""
    b = np.arange(B)
    prefix = np.where(b > 0, T // 2, 0)
    return np.column_stack([b * T + b % T, T - b % T, 0 * b, prefix])


def heads(B):
    return 1 + B % 2


def _attention(rng, B, T, V, dtype):
    qkv = _normal(rng, B, T, 3 * heads(B) * V, dtype=dtype)
    return {"qkv": qkv, "spans": spans(B, T), "heads": heads(B)}


def _attention_backward(rng, B, T, V, dtype):
    kwargs = _attention(rng, B, T, V, dtype)
    weights = reference_nn.attention(**kwargs).weights.astype(dtype)
    return {"d_out": _normal(rng, B, T, heads(B) * V, dtype=dtype), **kwargs, "weights": weights}


def _caches(rng, B, C, J, dtype):
    return {
        "key_cache": _normal(rng, B, -(-J // 4), C, 4, dtype=dtype),
        "value_cache": _normal(rng, B, J, C, dtype=dtype),
    }


def _fill_cache(rng, B, T, V, dtype):
    prefix = np.arange(B) % (T + 1)
    before = np.where(prefix > 1, 1, 0) * (B * T > T)  # several share a prompt
    return {
        "qkv": _normal(rng, B * T, 3 * V, dtype=dtype),
        "before": before,
        "prefix": prefix,
        **_caches(rng, B, V, T + 2, dtype),
    }


def ends(B, T):
    return (np.arange(B) * 3) % (T + 2)


def _attention_step(rng, B, T, V, dtype):
    C = heads(B) * V
    qkv = _normal(rng, B, 3 * C, dtype=dtype)
    slots = rng.permutation(B + 1)[:B]
    caches = _caches(rng, B + 1, C, T + 2, dtype)
    return {"qkv": qkv, "slots": slots, "ends": ends(B, T), "heads": heads(B), **caches}


def _btv(B, T, V):
    return (B, T, V)


def _attention_shape(B, T, V):
    return (heads(B), V, *_pairs(SimpleNamespace(spans=spans(B, T))))


def _step_shape(B, T, V):
    seen = int((ends(B, T) + 1).sum())
    return (heads(B), V, seen, seen)


CASES = (
    ("embedding", _embedding, _btv),
    ("embedding_backward", _embedding_backward, _btv),
    ("layer_norm", _layer_norm, _btv),
    ("layer_norm_backward", _layer_norm_backward, _btv),
    ("residual_norm", _residual_norm, _btv),
    ("residual_norm_backward", _residual_norm_backward, _btv, "layer_norm_backward"),
    ("gelu", _gelu, _btv),
    ("gelu_without_bias", _gelu_without_bias, _btv, "gelu", "gelu"),
    ("gelu_backward", _gelu_backward, _btv),
    ("product", _product, lambda B, T, V: (B, T, V), "matmul"),
    ("product_a", _product_a, lambda B, T, V: (T, B, V), "added_matmul", "product"),
    ("product_b", _product_b, lambda B, T, V: (B, T, V), "matmul", "product"),
    ("draw", _draw, _btv),
    ("attention", _attention, _attention_shape),
    ("attention_backward", _attention_backward, _attention_shape),
    ("fill_cache", _fill_cache, _btv),
    ("attention_step", _attention_step, _step_shape, "attention"),
)
