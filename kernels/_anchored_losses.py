"""What `preference` has for losses that move each response by itself, relative to a reference. Its rules hold.

Throughout up = beta log pi/ref of the chosen response, down of the rejected, sp(x) = log(1 + e**x).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._alike import flat, mask_like, pairs
from ._check import Array
from ._likelihood_losses import kto_jit
from ._margin_losses import PairLoss, of_pairs
from ._pair_losses import apo_down_jit, apo_zero_jit, bco_pair_jit, nca_pair_jit, sppo_hard_jit

__all__ = [
    "KTO",
    "apo_down",
    "apo_down_jit",
    "apo_zero",
    "apo_zero_jit",
    "bco_pair",
    "bco_pair_jit",
    "kto",
    "kto_jit",
    "nca_pair",
    "nca_pair_jit",
    "sppo_hard",
    "sppo_hard_jit",
]


class KTO(NamedTuple):
    """Mean loss over examples, and its gradient with respect to pi's log-probabilities."""

    loss: float
    d_logps: Array


def nca_pair(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> PairLoss:
    """Noise-contrastive alignment on pairs: ``sp(-up) + sp(up)/2 + sp(down)/2``, least at up = log 2.

    The chosen response has a target of its own, so that its likelihood cannot fall beside a rejected one's that
    falls faster.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.

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
    Chen et al. 2024 (arXiv 2402.05369), the pairwise NCA loss.

    Examples
    --------
    >>> nca_pair([-1.0], [-2.0], [-1.0], [-2.0], beta=0.1).d_chosen
    array([-0.025])
    """
    return of_pairs(nca_pair_jit, (pi_chosen, pi_rejected, ref_chosen, ref_rejected), beta)


def bco_pair(
    pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float, delta: float = 0.0
) -> PairLoss:
    """Binary classifier optimisation on pairs: ``sp(-(up - d)) + sp(down - d)``, each response told apart by itself.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.
    delta : float
        Threshold d between the two. In the paper a running mean of the rewards, which is the caller's to keep.

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
    Jung et al. 2024 (arXiv 2404.04656).

    Examples
    --------
    >>> bco_pair([-1.0], [-2.0], [-1.0], [-2.0], beta=0.1).d_chosen
    array([-0.05])
    """
    threshold = _check.number("delta", delta)
    return of_pairs(bco_pair_jit, (pi_chosen, pi_rejected, ref_chosen, ref_rejected), beta, threshold)


def sppo_hard(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> PairLoss:
    """Self-play preference optimisation with hard labels: ``(a - 1/(2 beta))**2 + (b + 1/(2 beta))**2``.

    a and b are log-ratios, up / beta and down / beta: each is pulled to a finite value.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.

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
    Wu et al. 2024 (arXiv 2405.00675), eq. 4.7 with preferences of 1 and 0.

    Examples
    --------
    >>> sppo_hard([-1.0], [-2.0], [-1.0], [-2.0], beta=0.5)
    PairLoss(loss=2.0, d_chosen=array([-2.]), d_rejected=array([2.]))
    """
    return of_pairs(sppo_hard_jit, (pi_chosen, pi_rejected, ref_chosen, ref_rejected), beta)


def apo_zero(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> PairLoss:
    """Anchored preference optimisation, zero: ``1 - sigma(up) + sigma(down)`` raises the chosen, lowers the rejected.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.

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
    D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 7.

    Examples
    --------
    >>> apo_zero([-1.0], [-2.0], [-1.0], [-2.0], beta=0.1).d_chosen
    array([-0.025])
    """
    return of_pairs(apo_zero_jit, (pi_chosen, pi_rejected, ref_chosen, ref_rejected), beta)


def apo_down(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> PairLoss:
    """Anchored preference optimisation, down: ``sigma(up) + 1 - sigma(up - down)`` lowers both, the rejected more.

    For chosen responses that are worse than the policy's own.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.

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
    D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 8.

    Examples
    --------
    >>> apo_down([-1.0], [-2.0], [-1.0], [-2.0], beta=0.1)
    PairLoss(loss=1.0, d_chosen=array([0.]), d_rejected=array([0.025]))
    """
    return of_pairs(apo_down_jit, (pi_chosen, pi_rejected, ref_chosen, ref_rejected), beta)


def kto(
    logps: Any,
    ref_logps: Any,
    desirable: Any,
    kl: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> KTO:
    """Kahneman-Tversky optimisation, of single responses: ``w_D (1 - sigma(beta (r - z)))`` where one is desirable.

    Where it is not, ``w_U (1 - sigma(beta (z - r)))``; r = log pi/ref. The reference point z is a constant: no
    gradient goes through it.

    Parameters
    ----------
    logps, ref_logps : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens, under pi and the reference.
    desirable : array_like, that shape
        A mask: above 0 where a response is desirable.
    kl : float, at least 0
        z, an estimate of KL(pi || ref): the mean log-ratio of responses to prompts that are not theirs, or 0 where
        that is negative.
    beta : float
        Above 0.
    desirable_weight, undesirable_weight : float, at least 0
        w_D and w_U.

    Returns
    -------
    KTO
        loss, d_logps.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no response.

    References
    ----------
    Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 7.

    Examples
    --------
    >>> kto([-1.0, -2.0], [-1.0, -2.0], [1, 0], kl=0.0, beta=0.1)
    KTO(loss=0.5, d_logps=array([-0.0125,  0.0125]))
    """
    pi, ref = pairs(("logps", "ref_logps"), logps, ref_logps)
    good = mask_like(desirable, pi, "desirable", "response")
    point = _check.number("kl", kl, 0.0)
    strength = _check.number("beta", beta, above=0.0)
    weights = (
        _check.number("desirable_weight", desirable_weight, 0.0),
        _check.number("undesirable_weight", undesirable_weight, 0.0),
    )
    d = np.empty(pi.shape, pi.dtype)
    arrays = flat(pi, ref, good)
    return KTO(kto_jit(*arrays, point, strength, *weights, *flat(d)), d)
