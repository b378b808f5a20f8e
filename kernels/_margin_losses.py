"""What `preference` has for losses of the margin between two responses, relative to a reference. Its rules hold.

Throughout a = log pi/ref of the chosen response, b of the rejected, s = beta (a - b), sp(x) = log(1 + e**x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._alike import POLICIES, flat, lengths_like, pairs
from ._check import Array
from ._pair_losses import discopop_jit, exo_pair_jit, robust_jit, sigmoid_norm_jit
from ._preference import dpo_jit

__all__ = [
    "PairLoss",
    "aot",
    "discopop",
    "discopop_jit",
    "exo_pair",
    "exo_pair_jit",
    "robust",
    "robust_jit",
    "sigmoid_norm",
    "sigmoid_norm_jit",
]


class PairLoss(NamedTuple):
    """Mean loss, and its gradient with respect to pi's log-probabilities."""

    loss: float
    d_chosen: Array
    d_rejected: Array


def of_pairs(kernel: Callable[..., float], values: tuple[Any, ...], beta: Any, *scalars: float) -> PairLoss:
    """What a jitted loss gives for log-probabilities that are yet to be checked and scalars that are not."""
    arrays = pairs(POLICIES, *values)
    strength = _check.number("beta", beta, above=0.0)
    outs = np.empty(arrays[0].shape, arrays[0].dtype), np.empty(arrays[0].shape, arrays[0].dtype)
    return PairLoss(kernel(*flat(*arrays), strength, *scalars, *flat(*outs)), *outs)


def robust(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    label_smoothing: float = 0.0,
) -> PairLoss:
    """Robust DPO: ``((1-e) sp(-s) - e sp(s)) / (1 - 2e)``, in the mean over flips of labels DPO's on right ones.

    It has no lower bound, and its gradient no end: beyond any margin it pulls with e / (1 - 2e).

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.
    label_smoothing : float in [0, .5)
        Share e of wrong labels.

    Returns
    -------
    PairLoss
        loss, d_chosen, d_rejected (with respect to pi_chosen, pi_rejected).

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no pair.

    References
    ----------
    Chowdhury et al. 2024 (arXiv 2403.00409), section 3.

    Examples
    --------
    >>> loss, d_chosen, _ = robust([-1.0], [-2.0], [-1.0], [-2.0], beta=0.1, label_smoothing=0.25)
    >>> round(loss, 4), d_chosen
    (0.6931, array([-0.1]))
    """
    e = _share(label_smoothing, 0.5, least=0.0)
    return of_pairs(robust_jit, (pi_chosen, pi_rejected, ref_chosen, ref_rejected), beta, e)


def _share(label_smoothing: Any, below: float, least: float | None = None) -> float:
    """A share of labels in [least, below), or in (0, below)."""
    e = _check.number("label_smoothing", label_smoothing)
    if e >= below or (e <= 0 if least is None else e < least):
        bounds = f"{'above 0' if least is None else 'at least 0'} and below {below:g}"
        raise ValueError(f"label_smoothing: came as {label_smoothing!r}, a number {bounds} is needed")
    return e


def exo_pair(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    label_smoothing: float = 1e-3,
) -> PairLoss:
    """EXO on pairs: the KL divergence of (q, 1-q), q = sigma(s), from (1-e, e), where DPO has the reverse one.

    It is least at s = log((1-e)/e), and its gradient vanishes at both ends.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.
    label_smoothing : float in (0, 1)
        Share e of labels taken as reversed; with 0 the divergence would be infinite.

    Returns
    -------
    PairLoss
        loss, d_chosen, d_rejected (with respect to pi_chosen, pi_rejected).

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no pair.

    References
    ----------
    Ji et al. 2024 (arXiv 2402.00856), eq. 16.

    Examples
    --------
    >>> loss, d_chosen, _ = exo_pair([-1.0], [-2.0], [-1.0], [-2.0], beta=0.1, label_smoothing=0.1)
    >>> round(loss, 4), d_chosen.round(4)
    (0.5108, array([-0.0549]))
    """
    e = _share(label_smoothing, 1.0)
    return of_pairs(exo_pair_jit, (pi_chosen, pi_rejected, ref_chosen, ref_rejected), beta, e)


def discopop(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    tau: float = 0.05,
) -> PairLoss:
    """DiscoPOP: ``(1-m) sp(-s) + m e**-s`` with m = sigma(s / tau), a loss that a language model proposed.

    It is not convex: with the paper's constants it rises at s = 0, where training starts, and has a minimum below.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.
    tau : float
        Temperature of the mixture; above 0.

    Returns
    -------
    PairLoss
        loss, d_chosen, d_rejected (with respect to pi_chosen, pi_rejected).

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no pair.

    References
    ----------
    Lu et al. 2024 (arXiv 2406.08414), eq. 5.

    Examples
    --------
    >>> loss, d_chosen, _ = discopop([-1.0], [-2.0], [-1.0], [-2.0], beta=0.05)
    >>> round(loss, 4), d_chosen.round(4)
    (0.8466, array([0.0392]))
    """
    heat = _check.number("tau", tau, above=0.0)
    return of_pairs(discopop_jit, (pi_chosen, pi_rejected, ref_chosen, ref_rejected), beta, heat)


def aot(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    label_smoothing: float = 0.0,
) -> PairLoss:
    """Alignment via optimal transport, paired: DPO's loss on the policy's and the reference's margins, each sorted.

    The k-th largest ``log pi(chosen) - log pi(rejected)`` is held against the reference's k-th largest, so that
    the whole distribution of margins is raised. The result depends on which pairs come together.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.
    label_smoothing : float in [0, 1]
        Share e of labels taken as reversed.

    Returns
    -------
    PairLoss
        loss, d_chosen, d_rejected (with respect to pi_chosen, pi_rejected), in the order of the pairs.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no pair.

    References
    ----------
    Melnyk et al. 2024 (arXiv 2406.05882), the paired form.

    Examples
    --------
    >>> loss, d_chosen, _ = aot([-1.0, -4.0], [-2.0, -3.0], [-3.0, -1.0], [-2.0, -2.0], beta=0.1)
    >>> round(loss, 4), d_chosen
    (0.6931, array([-0.025, -0.025]))
    """
    arrays = pairs(POLICIES, pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    strength = _check.number("beta", beta, above=0.0)
    smoothing = _check.number("label_smoothing", label_smoothing, 0.0, 1.0)
    chosen, rejected, ref_higher, ref_lower = flat(*arrays)
    # DPO, where the reference's margin of a pair is the one of the same rank.
    ranked = np.empty_like(chosen)
    ranked[np.argsort(chosen - rejected)] = np.sort(ref_higher - ref_lower)
    shape, dtype = arrays[0].shape, arrays[0].dtype
    outs = np.empty(shape, dtype), np.empty(shape, dtype), np.empty(shape, dtype), np.empty(shape, dtype)
    zeros = np.zeros_like(ranked)
    loss = dpo_jit(chosen, rejected, ranked, zeros, strength, smoothing, *flat(*outs))
    return PairLoss(loss, *outs[:2])


def sigmoid_norm(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    chosen_lengths: Any,
    rejected_lengths: Any,
    beta: float,
) -> PairLoss:
    """Length-normalised DPO: ``sp(-beta (a / |y_w| - b / |y_l|))``, of means per token where DPO has sums.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    chosen_lengths, rejected_lengths : array_like, that shape
        Tokens of each response.
    beta : float
        Above 0; means per token need a larger one than sums.

    Returns
    -------
    PairLoss
        loss, d_chosen, d_rejected (with respect to pi_chosen, pi_rejected).

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no pair.

    References
    ----------
    Lambert et al. 2024 (Tulu 3, arXiv 2411.15124), section 5.

    Examples
    --------
    >>> sums = [-1.0], [-2.0], [-1.0], [-2.0]
    >>> sigmoid_norm(*sums, chosen_lengths=[2], rejected_lengths=[4], beta=4.0).d_chosen
    array([-1.])
    """
    arrays = pairs(POLICIES, pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    lengths = (
        lengths_like("chosen_lengths", chosen_lengths, arrays[0]),
        lengths_like("rejected_lengths", rejected_lengths, arrays[0]),
    )
    strength = _check.number("beta", beta, above=0.0)
    outs = np.empty(arrays[0].shape, arrays[0].dtype), np.empty(arrays[0].shape, arrays[0].dtype)
    return PairLoss(sigmoid_norm_jit(*flat(*arrays), *lengths, strength, *flat(*outs)), *outs)
