"""Losses on preference pairs with their gradients: Bradley-Terry, Plackett-Luce, and the DPO family.

Scores and log-probabilities have any shape, one pair an element; losses are means over all pairs, and `d_<x>` is the
gradient of that mean with respect to x. The `_jit` forms take 1-D arrays of one dtype, check nothing, write the
arrays that stand last and return the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _check
from ._alike import POLICIES, flat, lengths_like, nothing, pairs
from ._check import Array
from ._preference import dpo_jit, hinge_jit, ipo_jit
from ._score_losses import (
    BradleyTerry,
    PlackettLuce,
    bradley_terry,
    bradley_terry_jit,
    log_sigmoid,
    log_sigmoid_jit,
    noisy_bradley_terry_jit,
    plackett_luce,
    plackett_luce_jit,
)

if TYPE_CHECKING:
    from ._anchored_losses import (
        KTO,
        apo_down,
        apo_down_jit,
        apo_zero,
        apo_zero_jit,
        bco_pair,
        bco_pair_jit,
        kto,
        kto_jit,
        nca_pair,
        nca_pair_jit,
        sppo_hard,
        sppo_hard_jit,
    )
    from ._margin_losses import (
        PairLoss,
        aot,
        discopop,
        discopop_jit,
        exo_pair,
        exo_pair_jit,
        robust,
        robust_jit,
        sigmoid_norm,
        sigmoid_norm_jit,
    )
    from ._reference_free_losses import (
        cpo,
        cpo_jit,
        orpo,
        orpo_jit,
        simpo,
        simpo_jit,
    )

__all__ = [
    "DPO",
    "IPO",
    "KTO",
    "BradleyTerry",
    "Hinge",
    "PairLoss",
    "PlackettLuce",
    "aot",
    "apo_down",
    "apo_down_jit",
    "apo_zero",
    "apo_zero_jit",
    "bco_pair",
    "bco_pair_jit",
    "bradley_terry",
    "bradley_terry_jit",
    "cpo",
    "cpo_jit",
    "discopop",
    "discopop_jit",
    "dpo",
    "dpo_jit",
    "exo_pair",
    "exo_pair_jit",
    "hinge",
    "hinge_jit",
    "ipo",
    "ipo_jit",
    "kto",
    "kto_jit",
    "log_sigmoid",
    "log_sigmoid_jit",
    "nca_pair",
    "nca_pair_jit",
    "noisy_bradley_terry_jit",
    "orpo",
    "orpo_jit",
    "plackett_luce",
    "plackett_luce_jit",
    "robust",
    "robust_jit",
    "sigmoid_norm",
    "sigmoid_norm_jit",
    "simpo",
    "simpo_jit",
    "sppo_hard",
    "sppo_hard_jit",
]


def __getattr__(name: str) -> Any:
    """Load the other losses of the family when one of them is first asked for."""
    if name in __all__:
        from . import _anchored_losses, _margin_losses, _reference_free_losses

        for module in (_anchored_losses, _margin_losses, _reference_free_losses):
            if name in module.__all__:
                return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class DPO(NamedTuple):
    """Mean loss, its gradient with respect to pi's log-probabilities, and the implicit rewards."""

    loss: float
    d_chosen: Array
    d_rejected: Array
    chosen_rewards: Array
    rejected_rewards: Array


class IPO(NamedTuple):
    """Mean loss, and its gradient with respect to pi's log-probabilities."""

    loss: float
    d_chosen: Array
    d_rejected: Array


class Hinge(NamedTuple):
    """Mean loss, and its gradient with respect to pi's log-probabilities."""

    loss: float
    d_chosen: Array
    d_rejected: Array


def dpo(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float,
    label_smoothing: float = 0.0,
) -> DPO:
    """Direct preference optimisation: ``-log sigma(beta h)``, h = log pi/ref of chosen minus that of rejected.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Strength of the implicit KL penalty; above 0.
    label_smoothing : float in [0, 1]
        Share e of labels taken as reversed (cDPO): ``-(1-e) log sigma(beta h) - e log sigma(-beta h)``.

    Returns
    -------
    DPO
        loss, d_chosen, d_rejected (with respect to pi_chosen, pi_rejected), and the implicit rewards
        ``beta log pi/ref``: chosen_rewards, rejected_rewards.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no pair.

    References
    ----------
    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; Mitchell 2023, "A note on DPO with noisy preferences".

    Examples
    --------
    >>> result = dpo([-1.0], [-2.0], [-1.0], [-2.0], beta=0.1)
    >>> round(result.loss, 4), result.d_chosen
    (0.6931, array([-0.05]))
    """
    arrays = pairs(POLICIES, pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    strength = _check.number("beta", beta, above=0.0)
    smoothing = _check.number("label_smoothing", label_smoothing, 0.0, 1.0)
    shape, dtype = arrays[0].shape, arrays[0].dtype
    outs = np.empty(shape, dtype), np.empty(shape, dtype), np.empty(shape, dtype), np.empty(shape, dtype)
    loss = dpo_jit(*flat(*arrays), strength, smoothing, *flat(*outs))
    return DPO(loss, *outs)


def ipo(
    pi_chosen: Any,
    pi_rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    tau: float,
    chosen_lengths: Any = None,
    rejected_lengths: Any = None,
) -> IPO:
    """Identity preference optimisation: ``(h - 1/(2 tau))**2``, which pulls h to a finite value.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    tau : float
        Strength of the penalty; above 0.
    chosen_lengths, rejected_lengths : array_like, that shape, optional
        Tokens of each response, both or neither. With them h is the difference of means per token, as in TRL;
        without, of sums, as in the paper.

    Returns
    -------
    IPO
        loss, d_chosen, d_rejected (with respect to pi_chosen, pi_rejected).

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no pair.

    References
    ----------
    Azar et al. 2023 (arXiv 2310.12036), eq. 17.

    Examples
    --------
    >>> ipo([-1.0], [-2.0], [-1.0], [-2.0], tau=0.5)
    IPO(loss=1.0, d_chosen=array([-2.]), d_rejected=array([2.]))
    """
    arrays = pairs(POLICIES, pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    strength = _check.number("tau", tau, above=0.0)
    lengths = _lengths(chosen_lengths, rejected_lengths, arrays[0])
    shape, dtype = arrays[0].shape, arrays[0].dtype
    outs = np.empty(shape, dtype), np.empty(shape, dtype)
    loss = ipo_jit(*flat(*arrays), *lengths, strength, *flat(*outs))
    return IPO(loss, *outs)


def _lengths(chosen: Any, rejected: Any, like: Array) -> tuple[Array, Array]:
    if chosen is None and rejected is None:
        none = nothing(like)
        return none, none
    arrays = []
    for name, value in (("chosen_lengths", chosen), ("rejected_lengths", rejected)):
        if value is None:
            raise ValueError(f"{name}: came as None, lengths of both responses or of neither are needed")
        arrays.append(lengths_like(name, value, like))
    return arrays[0], arrays[1]


def hinge(pi_chosen: Any, pi_rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> Hinge:
    """Hinge loss ``max(0, 1 - beta h)``: no gradient beyond the margin 1 / beta.

    Parameters
    ----------
    pi_chosen, pi_rejected, ref_chosen, ref_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.

    Returns
    -------
    Hinge
        loss, d_chosen, d_rejected (with respect to pi_chosen, pi_rejected).

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no pair.

    References
    ----------
    Zhao et al. 2023 (SLiC, arXiv 2305.10425); Liu et al. 2023 (RSO, 2309.06657), with the reference normalised.

    Examples
    --------
    >>> hinge([-1.0], [-2.0], [-1.0], [-2.0], beta=0.5)
    Hinge(loss=1.0, d_chosen=array([-0.5]), d_rejected=array([0.5]))
    """
    arrays = pairs(POLICIES, pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    strength = _check.number("beta", beta, above=0.0)
    shape, dtype = arrays[0].shape, arrays[0].dtype
    outs = np.empty(shape, dtype), np.empty(shape, dtype)
    loss = hinge_jit(*flat(*arrays), strength, *flat(*outs))
    return Hinge(loss, *outs)
