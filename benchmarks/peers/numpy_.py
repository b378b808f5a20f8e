"""NumPy at its best: float32, ufuncs in place, rows by blocks that stay in the cache, buffers made before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import Idiom, blocks

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


def gae(rewards: Any, values: Any, mask: Any, gamma: float, lam: float) -> Call:
    """Vectorised over the batch, on (T, B) copies: columns of a (B, T) array would miss the cache at every step.

    Padding stands at the end, as in these arguments.
    """
    B, T = rewards.shape
    following, advantages = np.empty((T, B), rewards.dtype), np.empty((T, B), rewards.dtype)
    carry = np.float32(gamma * lam)

    def call() -> Any:
        r, v, m = (np.ascontiguousarray(a.T) for a in (rewards, values, mask))
        np.multiply(v[1:], m[1:], out=following[:-1])
        following[-1] = 0
        np.multiply(following, np.float32(gamma), out=advantages)
        np.add(advantages, r, out=advantages)
        np.subtract(advantages, v, out=advantages)
        np.multiply(advantages, m, out=advantages)
        for t in range(T - 2, -1, -1):
            np.multiply(advantages[t + 1], carry, out=following[t])
            advantages[t] += following[t]
        np.multiply(advantages, m, out=advantages)
        np.multiply(v, m, out=v)
        return np.ascontiguousarray(advantages.T), np.ascontiguousarray(np.add(advantages, v, out=v).T)

    return call


def whiten(x: Any, mask: Any) -> Call:
    out = np.empty_like(x)

    def call() -> Any:
        count = mask.sum()
        np.subtract(x, np.vdot(x, mask) / count, out=out)
        np.multiply(out, mask, out=out)
        return np.multiply(out, 1 / np.sqrt(np.vdot(out, out) / count + 1e-8, dtype=x.dtype), out=out)

    return call


def ppo_clip(logprobs: Any, old: Any, advantages: Any, mask: Any, cliprange: float) -> Call:
    ratio, clipped, d = (np.empty_like(logprobs) for _ in range(3))
    binds = np.empty(logprobs.shape, bool)
    low, high = np.float32(1 - cliprange), np.float32(1 + cliprange)

    def call() -> Any:
        count = mask.sum()
        np.subtract(logprobs, old, out=ratio)
        np.multiply(ratio, mask, out=d)
        approxkl = 0.5 * np.vdot(d, ratio) / count
        np.exp(ratio, out=ratio)
        np.clip(ratio, low, high, out=clipped)
        np.multiply(ratio, advantages, out=ratio)
        np.multiply(clipped, advantages, out=clipped)
        np.less(clipped, ratio, out=binds)
        np.minimum(ratio, clipped, out=clipped)
        loss = -np.vdot(clipped, mask) / count
        clipfrac = np.vdot(binds, mask) / count
        np.multiply(ratio, mask, out=d)
        np.multiply(d, ~binds, out=d)
        return loss, np.multiply(d, -1 / count, out=d), clipfrac, approxkl

    return call


def value_clip(values: Any, old: Any, returns: Any, mask: Any, cliprange: float) -> Call:
    error, clipped, d = (np.empty_like(values) for _ in range(3))
    binds = np.empty(values.shape, bool)
    reach = np.float32(cliprange)

    def call() -> Any:
        count = mask.sum()
        np.clip(values, np.subtract(old, reach, out=clipped), np.add(old, reach, out=error), out=clipped)
        np.subtract(clipped, returns, out=clipped)
        np.multiply(clipped, clipped, out=clipped)
        np.subtract(values, returns, out=error)
        np.multiply(error, error, out=d)
        np.greater(clipped, d, out=binds)
        np.maximum(clipped, d, out=d)
        loss = 0.5 * np.vdot(d, mask) / count
        np.multiply(error, mask, out=d)
        np.multiply(d, ~binds, out=d)
        return loss, np.multiply(d, 1 / count, out=d), np.vdot(binds, mask) / count

    return call


def _log_loss(z: Any, work: Any) -> tuple[Any, Any]:
    """Mean of log(1 + exp(-z)), and -sigma(-z) in place of z."""
    np.abs(z, out=work)
    np.exp(np.negative(work, out=work), out=work)
    e = work.copy()
    loss = np.log1p(work, out=work).sum() - np.minimum(z, 0).sum()
    np.divide(np.where(z < 0, np.float32(1), e), np.add(e, 1, out=e), out=z)
    return loss / z.size, np.negative(z, out=z)


def bradley_terry(chosen: Any, rejected: Any) -> Call:
    z, work, d_rejected = (np.empty_like(chosen) for _ in range(3))

    def call() -> Any:
        loss, slope = _log_loss(np.subtract(chosen, rejected, out=z), work)
        slope *= np.float32(1 / z.size)
        return loss, slope, np.negative(slope, out=d_rejected)

    return call


def _preference(pi_c: Any, pi_r: Any, ref_c: Any, ref_r: Any, a: Any, b: Any) -> tuple[Any, Any]:
    return np.subtract(pi_c, ref_c, out=a), np.subtract(pi_r, ref_r, out=b)


def dpo(pi_c: Any, pi_r: Any, ref_c: Any, ref_r: Any, beta: float) -> Call:
    chosen, rejected, z, work, d_rejected = (np.empty_like(pi_c) for _ in range(5))
    strength = np.float32(beta)

    def call() -> Any:
        _preference(pi_c, pi_r, ref_c, ref_r, chosen, rejected)
        np.multiply(chosen, strength, out=chosen)
        np.multiply(rejected, strength, out=rejected)
        loss, slope = _log_loss(np.subtract(chosen, rejected, out=z), work)
        slope *= np.float32(beta / z.size)
        return loss, slope, np.negative(slope, out=d_rejected), chosen, rejected

    return call


def ipo(pi_c: Any, pi_r: Any, ref_c: Any, ref_r: Any, tau: float) -> Call:
    z, other, d_rejected = (np.empty_like(pi_c) for _ in range(3))
    target = np.float32(1 / (2 * tau))

    def call() -> Any:
        _preference(pi_c, pi_r, ref_c, ref_r, z, other)
        np.subtract(z, other, out=z)
        np.subtract(z, target, out=z)
        loss = np.vdot(z, z) / z.size
        np.multiply(z, np.float32(2 / z.size), out=z)
        return loss, z, np.negative(z, out=d_rejected)

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


def log_sigmoid(x: Any) -> Call:
    low, work = np.empty_like(x), np.empty_like(x)

    def call() -> Any:
        np.log1p(np.exp(np.negative(np.abs(x, out=work), out=work), out=work), out=work)
        return np.subtract(np.minimum(x, 0, out=low), work, out=low)

    return call


def global_norm(grads: Any) -> Call:
    return lambda: float(np.sqrt(np.vdot(grads, grads)))


IDIOMS: dict[str, dict[str, Idiom]] = {
    **{
        name: {"numpy blocks": idiom}
        for name, idiom in {
            "token_logprobs": token_logprobs,
            "log_softmax": log_softmax,
            "entropy": entropy,
            "kl_divergence": kl_divergence,
            "sample": sample,
            "token log-probs, forward + backward": token_logprobs_both,
            "KL, forward + backward": kl_both,
            "adamw": adamw,
        }.items()
    },
    **{
        idiom.__name__: {"numpy": idiom}
        for idiom in (
            gae,
            whiten,
            ppo_clip,
            value_clip,
            bradley_terry,
            dpo,
            ipo,
            log_sigmoid,
            global_norm,
        )
    },
}
