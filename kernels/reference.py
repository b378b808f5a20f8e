"""A readable float64 twin of each public kernel: same name, same parameters, the equation in NumPy.

The twins share no code with the kernels and take no care of speed; tests hold the kernels against them. Like the
kernels they return arrays or the kernels' named tuples. Some live in `reference_preference`, `reference_bag` and
`reference_loglinear`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .policy_gradient import GAE, GRPO, PPOClip, ValueClip
from .reference_bag import bag_difference as bag_difference
from .reference_bag import bag_scores as bag_scores
from .reference_bag import bradley_terry_bag as bradley_terry_bag
from .reference_bag import fit_bradley_terry as fit_bradley_terry
from .reference_preference import _f64, _into, _times
from .reference_preference import aot as aot
from .reference_preference import apo_down as apo_down
from .reference_preference import apo_zero as apo_zero
from .reference_preference import bco_pair as bco_pair
from .reference_preference import bradley_terry as bradley_terry
from .reference_preference import cpo as cpo
from .reference_preference import discopop as discopop
from .reference_preference import dpo as dpo
from .reference_preference import exo_pair as exo_pair
from .reference_preference import hinge as hinge
from .reference_preference import ipo as ipo
from .reference_preference import kto as kto
from .reference_preference import log_sigmoid as log_sigmoid
from .reference_preference import nca_pair as nca_pair
from .reference_preference import orpo as orpo
from .reference_preference import plackett_luce as plackett_luce
from .reference_preference import robust as robust
from .reference_preference import sigmoid_norm as sigmoid_norm
from .reference_preference import simpo as simpo
from .reference_preference import sppo_hard as sppo_hard


def _keep(forward: Any, function: Any, *inputs: Any) -> None:
    """Put the result that a backward pass has anyway where it is asked for."""
    if forward is not None:
        function(*inputs, out=forward)


def _zero_where_masked(mask: Any, *values: Any) -> list[Any]:
    return [np.where(mask > 0, value, 0.0) for value in values]


def _masked_mean(x: Any, mask: Any) -> float:
    total = float(np.sum(mask))
    return float(np.sum(x * mask)) / total if total else 0.0


# categorical


def _logsumexp(x: Any) -> Any:
    return np.logaddexp.reduce(x, axis=-1, keepdims=True)


def _softmax(x: Any) -> Any:
    return np.exp(log_softmax(x))


def log_softmax(logits: Any, out: Any = None, *, threads: int = 1) -> Any:
    """x - log sum exp x."""
    (x,) = _f64(logits)
    return _into(out, x - _logsumexp(x))


def token_logprobs(logits: Any, tokens: Any, out: Any = None, *, threads: int = 1) -> Any:
    """log_softmax(x)[token]."""
    index = np.asarray(tokens)[..., np.newaxis]
    return _into(out, np.take_along_axis(log_softmax(logits), index, axis=-1)[..., 0])


def token_logprobs_backward(
    logits: Any, tokens: Any, d_logprobs: Any, out: Any = None, *, forward: Any = None, threads: int = 1
) -> Any:
    """d (1[v = token] - p_v)."""
    _keep(forward, token_logprobs, logits, tokens)
    p = _softmax(logits)
    one_hot = np.arange(p.shape[-1]) == np.asarray(tokens)[..., np.newaxis]
    return _into(out, np.asarray(d_logprobs, np.float64)[..., np.newaxis] * (one_hot - p))


def _expectation(p: Any, x: Any) -> Any:
    """sum p x, where 0 times an infinity is 0."""
    return np.sum(np.multiply(p, x, where=p > 0, out=np.zeros_like(p)), axis=-1)


def entropy(logits: Any, out: Any = None, *, threads: int = 1) -> Any:
    """-sum p log p."""
    return _into(out, -_expectation(_softmax(logits), log_softmax(logits)))


def entropy_backward(
    logits: Any, d_entropy: Any, out: Any = None, *, forward: Any = None, threads: int = 1
) -> Any:
    """-d p (log p + H)."""
    _keep(forward, entropy, logits)
    p, log_p = _softmax(logits), log_softmax(logits)
    lean = np.add(log_p, np.asarray(entropy(logits))[..., np.newaxis], where=p > 0, out=np.zeros_like(p))
    return _into(out, -np.asarray(d_entropy, np.float64)[..., np.newaxis] * p * lean)


def _log_ratio(logits: Any, ref_logits: Any) -> Any:
    """log p/q, and 0 where p is 0."""
    p = _softmax(logits)
    return np.subtract(log_softmax(logits), log_softmax(ref_logits), where=p > 0, out=np.zeros_like(p))


def kl_divergence(logits: Any, ref_logits: Any, out: Any = None, *, threads: int = 1) -> Any:
    """sum p log p/q."""
    return _into(out, _expectation(_softmax(logits), _log_ratio(logits, ref_logits)))


def kl_divergence_backward(
    logits: Any, ref_logits: Any, d_kl: Any, out: Any = None, *, forward: Any = None, threads: int = 1
) -> Any:
    """d p (log p/q - KL)."""
    _keep(forward, kl_divergence, logits, ref_logits)
    kl = np.asarray(kl_divergence(logits, ref_logits))[..., np.newaxis]
    d = np.asarray(d_kl, np.float64)[..., np.newaxis]
    return _into(out, d * _softmax(logits) * (_log_ratio(logits, ref_logits) - kl))


def sample(logits: Any, uniforms: Any, temperature: float = 1.0, out: Any = None, *, threads: int = 1) -> Any:
    """The first v whose cumulative probability exceeds u; for u at the very end the last v that moves it."""
    p = _softmax(np.asarray(logits, np.float64) / temperature)
    reached = np.cumsum(p, axis=-1)
    exceeds = reached > np.asarray(uniforms, np.float64)[..., np.newaxis]
    first = np.argmax(exceeds, axis=-1)
    last = np.argmax(reached == reached[..., -1:], axis=-1)
    return _into(out, np.where(exceeds.any(axis=-1), first, last))


# policy_gradient


def kl_estimate(logprobs: Any, ref_logprobs: Any, kind: str = "k1", out: Any = None) -> Any:
    """r = log pi/ref: k1 = r, k2 = r^2/2, k3 = exp(-r) - 1 + r."""
    x, y = _f64(logprobs, ref_logprobs)
    r = x - y
    estimates = {"k1": lambda: r, "k2": lambda: r**2 / 2, "k3": lambda: np.expm1(-r) + r}
    return _into(out, estimates[kind]())


def k1(logprobs: Any, ref_logprobs: Any, out: Any = None) -> Any:
    """log pi/ref."""
    return kl_estimate(logprobs, ref_logprobs, "k1", out)


def k2(logprobs: Any, ref_logprobs: Any, out: Any = None) -> Any:
    """(log pi/ref)^2 / 2."""
    return kl_estimate(logprobs, ref_logprobs, "k2", out)


def k3(logprobs: Any, ref_logprobs: Any, out: Any = None) -> Any:
    """ref/pi - 1 + log pi/ref."""
    return kl_estimate(logprobs, ref_logprobs, "k3", out)


def gae(
    rewards: Any,
    values: Any,
    mask: Any,
    gamma: float,
    lam: float,
    out: tuple[Any, Any] = (None, None),
) -> GAE:
    """A_t = sum_l (gamma lam)^l delta_{t+l} over the tokens that count, delta_t = r_t + gamma V_{t+1} - V_t."""
    r, v, m = _f64(rewards, values, mask)
    advantages, returns = np.zeros_like(r), np.zeros_like(r)
    for row in np.ndindex(r.shape[:-1]):
        on = np.flatnonzero(m[row] > 0)
        reward, value = r[row][on], v[row][on]
        delta = reward + gamma * np.append(value[1:], 0.0)[: len(on)] - value
        for i, t in enumerate(on):
            advantages[row][t] = np.sum((gamma * lam) ** np.arange(len(on) - i) * delta[i:])
            returns[row][t] = advantages[row][t] + value[i]
    return GAE(_into(out[0], advantages), _into(out[1], returns))


def whiten(x: Any, mask: Any, out: Any = None, *, shift_mean: bool = True) -> Any:
    """(x - mean) / sqrt(population variance + 1e-8) over the tokens that count."""
    values, m = _f64(x, mask)
    (values,) = _zero_where_masked(m, values)
    mean = _masked_mean(values, m)
    variance = _masked_mean((values - mean) ** 2, m)
    return _into(out, m * ((values - mean) / np.sqrt(variance + 1e-8) + (0.0 if shift_mean else mean)))


def ppo_clip(
    logprobs: Any, old_logprobs: Any, advantages: Any, mask: Any, cliprange: float, out: Any = None
) -> PPOClip:
    """max(-A rho, -A clip(rho, 1 - e, 1 + e)), mean over the tokens that count."""
    lp, old, A, m = _f64(logprobs, old_logprobs, advantages, mask)
    lp, old, A = _zero_where_masked(m, lp, old, A)
    rho = np.exp(lp - old)
    plain, clipped = -A * rho, -A * np.clip(rho, 1 - cliprange, 1 + cliprange)
    d = _into(out, np.where(clipped > plain, 0.0, plain) * m / (np.sum(m) or 1.0))
    loss = _masked_mean(np.maximum(plain, clipped), m)
    return PPOClip(loss, d, _masked_mean(clipped > plain, m), _masked_mean((lp - old) ** 2, m) / 2)


def grpo(
    logprobs: Any,
    old_logprobs: Any,
    advantages: Any,
    mask: Any,
    cliprange: float,
    cliprange_high: float | None = None,
    beta: float = 0.0,
    ref_logprobs: Any = None,
    loss_type: str = "grpo",
) -> GRPO:
    """max(-A rho, -A clip(rho, 1 - e, 1 + e')) + beta (ref/pi - 1 - log ref/pi), averaged as loss_type says."""
    lp, old, A, m = _f64(logprobs, old_logprobs, advantages, mask)
    (ref,) = _f64(lp if ref_logprobs is None else ref_logprobs)
    lp, old, ref = _zero_where_masked(m, lp, old, ref)
    high = cliprange if cliprange_high is None else cliprange_high
    rho = np.exp(lp - old)
    plain, clipped = -A[..., None] * rho, -A[..., None] * np.clip(rho, 1 - cliprange, 1 + high)
    kl = k3(lp, ref)
    d_kl = -np.expm1(ref - lp)
    tokens = np.sum(m, axis=-1, keepdims=True)
    divisor = {
        "grpo": np.where(tokens > 0, tokens, 1.0) * np.prod(A.shape),
        "bnpo": np.sum(m) or 1.0,
        "dr_grpo": lp.size,
    }[loss_type]
    loss = np.sum(m * (np.maximum(plain, clipped) + _times(beta, kl)) / divisor)
    d = m * (np.where(clipped > plain, 0.0, plain) + _times(beta, d_kl)) / divisor
    mean_kl = np.nan if ref_logprobs is None else _masked_mean(kl, m)
    return GRPO(float(loss), d, _masked_mean(clipped > plain, m), mean_kl)


def value_clip(
    values: Any, old_values: Any, returns: Any, mask: Any, cliprange_value: float, out: Any = None
) -> ValueClip:
    """max((V - R)^2, (clip(V, V_old - e, V_old + e) - R)^2) / 2, mean over the tokens that count."""
    V, old, R, m = _f64(values, old_values, returns, mask)
    V, old, R = _zero_where_masked(m, V, old, R)
    plain = (V - R) ** 2
    clipped = (np.clip(V, old - cliprange_value, old + cliprange_value) - R) ** 2
    d = _into(out, np.where(clipped > plain, 0.0, V - R) * m / (np.sum(m) or 1.0))
    return ValueClip(_masked_mean(np.maximum(plain, clipped), m) / 2, d, _masked_mean(clipped > plain, m))


def group_advantages(rewards: Any, group_size: int, scale: bool = True) -> Any:
    """(r - mean) / (sample deviation + 1e-4) in each group."""
    (r,) = _f64(rewards)
    groups = r.reshape(-1, group_size)
    centred = groups - groups.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.sum(centred**2, axis=1, keepdims=True) / max(group_size - 1, 1))
    return (centred / (deviation + 1e-4) if scale else centred).reshape(r.shape)


def rloo_advantages(rewards: Any, group_size: int) -> Any:
    """G/(G-1) (r - mean), which is r minus the mean of the others."""
    (r,) = _f64(rewards)
    groups = r.reshape(-1, group_size)
    centred = groups - groups.mean(axis=1, keepdims=True)
    return (group_size / (group_size - 1) * centred).reshape(r.shape)


# optim


def adamw(
    params: Any,
    grads: Any,
    m: Any,
    v: Any,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """p <- (1 - lr wd) p - lr m^ / (sqrt(v^) + eps), with the bias-corrected m^ and v^; in place."""
    g = np.asarray(grads, np.float64)
    m[...] = beta1 * np.asarray(m, np.float64) + (1 - beta1) * g
    v[...] = beta2 * np.asarray(v, np.float64) + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    params[...] = (1 - learning_rate * weight_decay) * params - learning_rate * m_hat / (np.sqrt(v_hat) + eps)


def global_norm(grads: Any) -> float:
    """sqrt(sum g^2)."""
    return float(np.sqrt(np.sum(np.asarray(grads, np.float64) ** 2)))
