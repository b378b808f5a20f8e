"""NumPy at its best on arrays of one entry a token or a pair: float32, ufuncs in place, gradients by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import Idiom

Call = Callable[[], Any]


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


def log_sigmoid(x: Any) -> Call:
    low, work = np.empty_like(x), np.empty_like(x)

    def call() -> Any:
        np.log1p(np.exp(np.negative(np.abs(x, out=work), out=work), out=work), out=work)
        return np.subtract(np.minimum(x, 0, out=low), work, out=low)

    return call


def global_norm(grads: Any) -> Call:
    return lambda: float(np.sqrt(np.vdot(grads, grads)))


ARRAYS: dict[str, Idiom] = {
    "gae": gae,
    "whiten": whiten,
    "ppo_clip": ppo_clip,
    "value_clip": value_clip,
    "bradley_terry": bradley_terry,
    "dpo": dpo,
    "ipo": ipo,
    "log_sigmoid": log_sigmoid,
    "global_norm": global_norm,
}
