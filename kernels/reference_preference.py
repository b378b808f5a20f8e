"""The float64 twins of `preference`; the rules of `reference` hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from .preference import DPO, IPO, KTO, BradleyTerry, Hinge, PairLoss, PlackettLuce


def _f64(*values: Any) -> list[Any]:
    return [np.asarray(value, np.float64) for value in values]


def _into(out: Any, result: Any) -> Any:
    if out is None:
        return result
    out[...] = result
    return out


def _times(weight: float, x: Any) -> Any:
    """weight x, and 0 without the term, even where x is infinite."""
    return weight * x if weight else 0.0


def _sigmoid(x: Any) -> Any:
    return np.exp(-np.logaddexp(0.0, -x))


def log_sigmoid(x: Any, out: Any = None) -> Any:
    """-log(1 + exp(-x))."""
    return _into(out, -np.logaddexp(0.0, -np.asarray(x, np.float64)))


def bradley_terry(
    chosen: Any,
    rejected: Any,
    *,
    margin: Any = None,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    noise: float = 0.0,
    centering: float = 0.0,
) -> BradleyTerry:
    """-log P + c (r_w + r_l)^2, with D = (r_w - r_l - m) / temperature.

    Noise e: P = (1-e) sigma(D) + e/2. Smoothing e: -(1-e) log sigma(D) - e log sigma(-D).
    """
    c, r = _f64(chosen, rejected)
    gap = (c - r - (0.0 if margin is None else np.asarray(margin, np.float64))) / temperature
    p = _sigmoid(gap)
    if noise:
        seen = (1 - noise) * p + noise / 2
        losses = -np.log(seen)
        d_gap = -(1 - noise) * p * (1 - p) / seen
    else:
        losses = -(1 - label_smoothing) * log_sigmoid(gap) - _times(label_smoothing, log_sigmoid(-gap))
        d_gap = -(1 - label_smoothing) * _sigmoid(-gap) + label_smoothing * p
    d_centre = _times(2 * centering, c + r)
    d = d_gap / temperature
    loss = np.mean(losses + _times(centering, (c + r) ** 2))
    return BradleyTerry(float(loss), (d + d_centre) / c.size, (-d + d_centre) / c.size)


def plackett_luce(scores: Any) -> PlackettLuce:
    """-sum_{k<K} (s_k - logsumexp_{j>=k} s_j), mean over rows."""
    (s,) = _f64(scores)
    K = s.shape[-1]
    rows = s.size // K
    loss, d = 0.0, np.zeros_like(s)
    for k in range(K - 1):
        rest = s[..., k:]
        total = np.logaddexp.reduce(rest, axis=-1)
        loss += float(np.sum(total - s[..., k]))
        d[..., k:] += np.exp(rest - total[..., np.newaxis])
        d[..., k] -= 1
    return PlackettLuce(loss / rows, d / rows)


def dpo(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    label_smoothing: float = 0.0,
) -> DPO:
    """-(1-e) log sigma(beta h) - e log sigma(-beta h), h = log pi/ref chosen - log pi/ref rejected."""
    pi_c, pi_r, ref_c, ref_r = _f64(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    up, down = beta * (pi_c - ref_c), beta * (pi_r - ref_r)
    e = label_smoothing
    loss = np.mean(-(1 - e) * log_sigmoid(up - down) - _times(e, log_sigmoid(down - up)))
    d = beta * (e * _sigmoid(up - down) - (1 - e) * _sigmoid(down - up)) / up.size
    return DPO(float(loss), d, -d, up, down)


def ipo(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    tau: float,
    chosen_lengths: Any = None,
    rejected_lengths: Any = None,
) -> IPO:
    """(h - 1/(2 tau))^2, h per token where lengths are given."""
    pi_c, pi_r, ref_c, ref_r = _f64(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    n_c, n_r = (1.0 if n is None else np.asarray(n, np.float64) for n in (chosen_lengths, rejected_lengths))
    residual = (pi_c - ref_c) / n_c - (pi_r - ref_r) / n_r - 1 / (2 * tau)
    d = 2 * residual / residual.size
    return IPO(float(np.mean(residual**2)), d / n_c, -d / n_r)


def hinge(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> Hinge:
    """max(0, 1 - beta h)."""
    pi_c, pi_r, ref_c, ref_r = _f64(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    short = 1 - beta * (pi_c - ref_c - pi_r + ref_r)
    d = np.where(short > 0, -beta, 0.0) / short.size
    return Hinge(float(np.mean(np.maximum(short, 0.0))), d, -d)


def _log_ratios(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any) -> tuple[Any, Any]:
    """a and b: log pi/ref of the chosen and of the rejected response."""
    pi_c, pi_r, ref_c, ref_r = _f64(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    return pi_c - ref_c, pi_r - ref_r


def _mean(losses: Any, d_chosen: Any, d_rejected: Any) -> PairLoss:
    """Of losses and their derivatives, one a pair."""
    n = losses.size
    return PairLoss(float(np.mean(losses)), d_chosen / n, d_rejected / n)


def robust(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    label_smoothing: float = 0.0,
) -> PairLoss:
    """(-(1-e) log sigma(s) + e log sigma(-s)) / (1-2e), s = beta (a - b)."""
    a, b = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    s, e = beta * (a - b), label_smoothing
    losses = (-(1 - e) * log_sigmoid(s) + _times(e, log_sigmoid(-s))) / (1 - 2 * e)
    d = -beta * ((1 - e) * _sigmoid(-s) + e * _sigmoid(s)) / (1 - 2 * e)
    return _mean(losses, d, -d)


def exo_pair(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    label_smoothing: float = 1e-3,
) -> PairLoss:
    """q log q/(1-e) + (1-q) log (1-q)/e, q = sigma(s)."""
    a, b = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    s, e = beta * (a - b), label_smoothing
    q, p = _sigmoid(s), _sigmoid(-s)
    log_q, log_p = log_sigmoid(s), log_sigmoid(-s)
    losses = q * (log_q - np.log1p(-e)) + p * (log_p - np.log(e))
    d = beta * q * p * (s - np.log((1 - e) / e))
    return _mean(losses, d, -d)


def discopop(
    pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float, tau: float = 0.05
) -> PairLoss:
    """-(1-m) log sigma(s) + m e^-s, m = sigma(s / tau)."""
    a, b = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    s = beta * (a - b)
    m, rest = _sigmoid(s / tau), _sigmoid(-s / tau)
    steep = np.exp(log_sigmoid(s / tau) - s)  # m e^-s
    losses = -rest * log_sigmoid(s) + steep
    d_mixture = (rest * steep + m * rest * log_sigmoid(s)) / tau
    d = beta * (d_mixture - rest * _sigmoid(-s) - steep)
    return _mean(losses, d, -d)


def aot(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    label_smoothing: float = 0.0,
) -> PairLoss:
    """-(1-e) log sigma(beta g) - e log sigma(-beta g), g the k-th margin of pi less the k-th of the reference."""
    pi_c, pi_r, ref_c, ref_r = _f64(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    margins, e = (pi_c - pi_r).ravel(), label_smoothing
    order = np.argsort(margins)
    gap = beta * (margins[order] - np.sort((ref_c - ref_r).ravel()))
    losses = -(1 - e) * log_sigmoid(gap) - _times(e, log_sigmoid(-gap))
    d = np.empty(margins.shape)
    d[order] = beta * (e * _sigmoid(gap) - (1 - e) * _sigmoid(-gap))
    return _mean(losses, d.reshape(pi_c.shape), -d.reshape(pi_c.shape))


def sigmoid_norm(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    chosen_lengths: Any,
    rejected_lengths: Any,
    beta: float,
) -> PairLoss:
    """-log sigma(beta (a / |y_w| - b / |y_l|))."""
    a, b = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    n_c, n_r = _f64(chosen_lengths, rejected_lengths)
    s = beta * (a / n_c - b / n_r)
    d = -beta * _sigmoid(-s)
    return _mean(-log_sigmoid(s), d / n_c, -d / n_r)


def nca_pair(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> PairLoss:
    """-log sigma(beta a) - log sigma(-beta a) / 2 - log sigma(-beta b) / 2."""
    a, b = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    up, down = beta * a, beta * b
    losses = -log_sigmoid(up) - log_sigmoid(-up) / 2 - log_sigmoid(-down) / 2
    return _mean(losses, beta * (_sigmoid(up) / 2 - _sigmoid(-up)), beta * _sigmoid(down) / 2)


def bco_pair(
    pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float, delta: float = 0.0
) -> PairLoss:
    """-log sigma(beta a - delta) - log sigma(delta - beta b)."""
    a, b = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    up, down = beta * a - delta, beta * b - delta
    return _mean(-log_sigmoid(up) - log_sigmoid(-down), -beta * _sigmoid(-up), beta * _sigmoid(down))


def sppo_hard(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> PairLoss:
    """(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2."""
    a, b = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    short, over = a - 0.5 / beta, b + 0.5 / beta
    return _mean(short**2 + over**2, 2 * short, 2 * over)


def apo_zero(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> PairLoss:
    """1 - sigma(beta a) + sigma(beta b)."""
    a, b = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    losses = _sigmoid(-beta * a) + _sigmoid(beta * b)
    return _mean(losses, -beta * _bump(beta * a), beta * _bump(beta * b))


def apo_down(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> PairLoss:
    """sigma(beta a) + 1 - sigma(beta (a - b))."""
    a, b = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    s = beta * (a - b)
    return _mean(_sigmoid(beta * a) + _sigmoid(-s), beta * (_bump(beta * a) - _bump(s)), beta * _bump(s))


def _bump(x: Any) -> Any:
    """The sigmoid's derivative."""
    return _sigmoid(x) * _sigmoid(-x)


def kto(
    logps: Any,
    ref_logps: Any,
    desirable: Any,
    kl: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> KTO:
    """w_D (1 - sigma(beta (r - z))) where desirable, w_U (1 - sigma(beta (z - r))) elsewhere; r = log pi/ref."""
    pi, ref, good = _f64(logps, ref_logps, desirable)
    gain = beta * (pi - ref - kl)
    losses = np.where(good > 0, desirable_weight * _sigmoid(-gain), undesirable_weight * _sigmoid(gain))
    d = beta * _bump(gain) * np.where(good > 0, -desirable_weight, undesirable_weight)
    return KTO(float(np.mean(losses)), d / losses.size)


def simpo(
    pi_chosen: Any,
    pi_rejected: Any,
    chosen_lengths: Any,
    rejected_lengths: Any,
    beta: float,
    gamma: float,
) -> PairLoss:
    """-log sigma(beta log pi(y_w) / |y_w| - beta log pi(y_l) / |y_l| - gamma)."""
    pi_c, pi_r, n_c, n_r = _f64(pi_chosen, pi_rejected, chosen_lengths, rejected_lengths)
    s = beta * (pi_c / n_c - pi_r / n_r) - gamma
    d = -beta * _sigmoid(-s)
    return _mean(-log_sigmoid(s), d / n_c, -d / n_r)


def orpo(
    pi_chosen: Any, pi_rejected: Any, chosen_lengths: Any, rejected_lengths: Any, beta: float
) -> PairLoss:
    """-sum log pi(y_w) / sum |y_w| - beta log sigma(log odds(y_w) - log odds(y_l)), log p a mean over tokens."""
    pi_c, pi_r, n_c, n_r = _f64(pi_chosen, pi_rejected, chosen_lengths, rejected_lengths)
    up, down = np.minimum(pi_c / n_c, -(2.0**-23)), np.minimum(pi_r / n_r, -(2.0**-23))
    odds = up - np.log(-np.expm1(up)) - down + np.log(-np.expm1(down))
    d = -beta * _sigmoid(-odds)
    pairs = _mean(-beta * log_sigmoid(odds), d / -np.expm1(up) / n_c, d / np.expm1(down) / n_r)
    tokens = np.sum(n_c)
    loss = pairs.loss - float(np.sum(pi_c) / tokens)
    return PairLoss(loss, pairs.d_chosen - 1 / tokens, pairs.d_rejected)


def cpo(
    pi_chosen: Any,
    pi_rejected: Any,
    beta: float,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    chosen_lengths: Any = None,
) -> PairLoss:
    """DPO's loss for a reference of 0, and -alpha log pi(y_w), a mean over responses or, with lengths, tokens."""
    pi_c, pi_r = _f64(pi_chosen, pi_rejected)
    plain = dpo(pi_c, pi_r, 0 * pi_c, 0 * pi_r, beta, label_smoothing)
    count = pi_c.size if chosen_lengths is None else np.sum(np.asarray(chosen_lengths, np.float64))
    loss = plain.loss - float(alpha * np.sum(pi_c) / count)
    return PairLoss(loss, plain.d_chosen - alpha / count, plain.d_rejected)
