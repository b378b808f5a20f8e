"""NumPy at its best: float32, ufuncs in place, rows by blocks that stay in the cache, buffers made before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import Idiom, blocks
from benchmarks.peers.numpy_arrays import ARRAYS

Call = Callable[[], Any]


def _buffer(array: Any, copies: int = 1) -> list[Any]:
    first = blocks(array)[0]
    return [np.empty((first.stop - first.start, array.shape[1]), array.dtype) for _ in range(copies)]


def _shifted(block: Any, out: Any) -> Any:
    """row - max(row)."""
    return np.subtract(block, block.max(-1, keepdims=True), out=out)


def token_logprobs(logits: Any, tokens: Any) -> Call:
    (buffer,), out = _buffer(logits), np.empty(len(logits), logits.dtype)
    parts, index = blocks(logits), tokens[:, np.newaxis]

    def call() -> Any:
        for s in parts:
            work = _shifted(logits[s], buffer[: s.stop - s.start])
            out[s] = np.take_along_axis(work, index[s], -1)[:, 0]
            out[s] -= np.log(np.exp(work, out=work).sum(-1))
        return out

    return call


def log_softmax(logits: Any) -> Call:
    (buffer,), out, parts = _buffer(logits), np.empty_like(logits), blocks(logits)

    def call() -> Any:
        for s in parts:
            work = _shifted(logits[s], out[s])
            e = np.exp(work, out=buffer[: len(work)])
            work -= np.log(e.sum(-1, keepdims=True))
        return out

    return call


def entropy(logits: Any) -> Call:
    (one, two), out, parts = _buffer(logits, 2), np.empty(len(logits), logits.dtype), blocks(logits)

    def call() -> Any:
        for s in parts:
            n = s.stop - s.start
            work = _shifted(logits[s], one[:n])
            e = np.exp(work, out=two[:n])
            total = e.sum(-1)
            out[s] = np.log(total) - np.vecdot(e, work) / total
        return out

    return call


def _divergence(logits: Any, ref_logits: Any, one: Any, two: Any, three: Any) -> tuple[Any, Any, Any, Any]:
    """KL, and sum w, the weights w and gaps g that it is made of: g in `two`, w in `three`."""
    x, y = _shifted(logits, one), _shifted(ref_logits, two)
    log_ref = np.log(np.exp(y, out=three).sum(-1))
    gap = np.subtract(x, y, out=two)
    weights = np.exp(x, out=three)
    total = weights.sum(-1)
    return np.vecdot(weights, gap) / total - np.log(total) + log_ref, total, weights, gap


def kl_divergence(logits: Any, ref_logits: Any) -> Call:
    buffers, out, parts = _buffer(logits, 3), np.empty(len(logits), logits.dtype), blocks(logits)

    def call() -> Any:
        for s in parts:
            out[s] = _divergence(logits[s], ref_logits[s], *[b[: s.stop - s.start] for b in buffers])[0]
        return out

    return call


def sample(logits: Any, uniforms: Any) -> Call:
    (buffer,), out, parts = _buffer(logits), np.empty(len(logits), np.int64), blocks(logits)

    def call() -> Any:
        for s in parts:
            work = _shifted(logits[s], buffer[: s.stop - s.start])
            np.cumsum(np.exp(work, out=work), axis=-1, out=work)
            for n, row in enumerate(work, s.start):
                out[n] = np.searchsorted(row, uniforms[n] * row[-1], side="right")
        return out

    return call


def token_logprobs_both(logits: Any, tokens: Any, d_logprobs: Any) -> Call:
    out, d_logits = np.empty(len(logits), logits.dtype), np.empty_like(logits)
    parts, index = blocks(logits), tokens[:, np.newaxis]

    def call() -> Any:
        for s in parts:
            work = _shifted(logits[s], d_logits[s])
            out[s] = np.take_along_axis(work, index[s], -1)[:, 0]
            total = np.exp(work, out=work).sum(-1)
            out[s] -= np.log(total)
            work *= (-d_logprobs[s] / total)[:, np.newaxis]
            work[np.arange(len(work)), tokens[s]] += d_logprobs[s]
        return out, d_logits

    return call


def kl_both(logits: Any, ref_logits: Any, d_kl: Any) -> Call:
    out, d_logits = np.empty(len(logits), logits.dtype), np.empty_like(logits)
    (one, two), parts = _buffer(logits, 2), blocks(logits)

    def call() -> Any:
        for s in parts:
            n = s.stop - s.start
            kl, total, w, gap = _divergence(logits[s], ref_logits[s], one[:n], two[:n], d_logits[s])
            out[s] = kl
            gap -= (np.vecdot(w, gap) / total)[:, np.newaxis]
            w *= gap
            w *= (d_kl[s] / total)[:, np.newaxis]
        return out, d_logits

    return call


def adamw(params: Any, grads: Any, m: Any, v: Any, step: int, rate: float) -> Call:
    """By blocks that stay in the cache with their five arrays."""
    p, first, second = params.copy(), m.copy(), v.copy()
    size = 1 << 14
    one, two = np.empty(size, p.dtype), np.empty(size, p.dtype)
    f = np.float32
    step_size, root = f(rate / (1 - 0.9**step)), f(1 / np.sqrt(1 - 0.999**step))

    def call() -> Any:
        for n in range(0, len(p), size):
            s = slice(n, min(n + size, len(p)))
            g, a, b = grads[s], one[: s.stop - n], two[: s.stop - n]
            np.subtract(g, first[s], out=a)
            np.multiply(a, f(0.1), out=a)
            first[s] += a
            np.multiply(g, g, out=a)
            np.multiply(a, f(0.001), out=a)
            second[s] *= f(0.999)
            second[s] += a
            np.sqrt(second[s], out=a)
            np.multiply(a, root, out=a)
            np.add(a, f(1e-8), out=a)
            np.divide(first[s], a, out=b)
            np.multiply(b, step_size, out=b)
            p[s] -= b
        return p, first, second

    return call


IDIOMS: dict[str, dict[str, Idiom]] = {
    "token_logprobs": {"numpy blocks": token_logprobs},
    "log_softmax": {"numpy blocks": log_softmax},
    "entropy": {"numpy blocks": entropy},
    "kl_divergence": {"numpy blocks": kl_divergence},
    "sample": {"numpy blocks": sample},
    "token log-probs, forward + backward": {"numpy blocks": token_logprobs_both},
    "KL, forward + backward": {"numpy blocks": kl_both},
    "adamw": {"numpy blocks": adamw},
    **{name: {"numpy": idiom} for name, idiom in ARRAYS.items()},
}
