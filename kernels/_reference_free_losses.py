"""What `preference` has for losses without a reference: SimPO, ORPO, CPO. Its rules hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check
from ._alike import flat, lengths_like, nothing, pairs
from ._check import Array
from ._likelihood_losses import cpo_jit, orpo_jit
from ._margin_losses import PairLoss
from ._pair_losses import simpo_jit

__all__ = ["cpo", "cpo_jit", "orpo", "orpo_jit", "simpo", "simpo_jit"]

_RESPONSES = ("pi_chosen", "pi_rejected")


def _with_lengths(responses: tuple[Any, Any], lengths: tuple[Any, Any]) -> tuple[Array, Array, Array, Array]:
    chosen, rejected = pairs(_RESPONSES, *responses)
    return (
        chosen,
        rejected,
        lengths_like("chosen_lengths", lengths[0], chosen),
        lengths_like("rejected_lengths", lengths[1], chosen),
    )


def simpo(
    pi_chosen: Any,
    pi_rejected: Any,
    chosen_lengths: Any,
    rejected_lengths: Any,
    beta: float,
    gamma: float,
) -> PairLoss:
    """SimPO: ``-log sigma(beta log pi(y_w) / |y_w| - beta log pi(y_l) / |y_l| - gamma)``, and nothing else.

    Parameters
    ----------
    pi_chosen, pi_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    chosen_lengths, rejected_lengths : array_like, that shape
        Tokens of each response.
    beta : float
        Above 0; of means per token.
    gamma : float
        Margin that the difference of rewards is to reach. The paper tunes gamma / beta.

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
    Meng et al. 2024 (arXiv 2405.14734), eq. 6.

    Examples
    --------
    >>> simpo([-2.0], [-4.0], chosen_lengths=[2], rejected_lengths=[4], beta=2.0, gamma=0.0).d_chosen
    array([-0.5])
    """
    chosen, rejected, *lengths = _with_lengths((pi_chosen, pi_rejected), (chosen_lengths, rejected_lengths))
    strength, margin = _check.number("beta", beta, above=0.0), _check.number("gamma", gamma)
    outs = np.empty(chosen.shape, chosen.dtype), np.empty(chosen.shape, chosen.dtype)
    loss = simpo_jit(*flat(chosen, rejected), *lengths, strength, margin, *flat(*outs))
    return PairLoss(loss, *outs)


def orpo(
    pi_chosen: Any, pi_rejected: Any, chosen_lengths: Any, rejected_lengths: Any, beta: float
) -> PairLoss:
    """ORPO: the chosen response's negative log-likelihood, and beta times ``-log sigma`` of a log odds ratio.

    Odds are p / (1-p), with log p the mean over a response's tokens; a mean above -2**-23 counts as that, since
    odds of a probability of 1 are infinite. The likelihood is averaged over all tokens of the batch.

    Parameters
    ----------
    pi_chosen, pi_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    chosen_lengths, rejected_lengths : array_like, that shape
        Tokens of each response.
    beta : float
        Weight of the odds ratio, lambda in the paper; above 0.

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
    Hong et al. 2024 (arXiv 2403.07691), eq. 6 and 7.

    Examples
    --------
    >>> loss, d_chosen, _ = orpo([-2.0], [-2.0], chosen_lengths=[2], rejected_lengths=[2], beta=0.1)
    >>> round(loss, 4), d_chosen.round(4)
    (1.0693, array([-0.5395]))
    """
    chosen, rejected, *lengths = _with_lengths((pi_chosen, pi_rejected), (chosen_lengths, rejected_lengths))
    weight = _check.number("beta", beta, above=0.0)
    outs = np.empty(chosen.shape, chosen.dtype), np.empty(chosen.shape, chosen.dtype)
    return PairLoss(orpo_jit(*flat(chosen, rejected), *lengths, weight, *flat(*outs)), *outs)


def cpo(
    pi_chosen: Any,
    pi_rejected: Any,
    beta: float,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    chosen_lengths: Any = None,
) -> PairLoss:
    """Contrastive preference optimisation: DPO's loss without a reference, and alpha times the chosen's likelihood.

    Parameters
    ----------
    pi_chosen, pi_rejected : array_like, one shape
        Log-probabilities of whole responses, summed over their tokens.
    beta : float
        Above 0.
    alpha : float, at least 0
        Weight of the chosen responses' negative log-likelihood.
    label_smoothing : float in [0, 1]
        Share e of labels taken as reversed.
    chosen_lengths : array_like, that shape, optional
        Tokens of the chosen responses. With them the likelihood is averaged over all tokens of the batch, as in
        TRL; without, over responses, as in the paper.

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
    Xu et al. 2024 (arXiv 2401.08417), eq. 3 and 4.

    Examples
    --------
    >>> cpo([-1.0], [-1.0], beta=0.5).d_chosen
    array([-1.25])
    """
    chosen, rejected = pairs(_RESPONSES, pi_chosen, pi_rejected)
    lengths = (
        nothing(chosen) if chosen_lengths is None else lengths_like("chosen_lengths", chosen_lengths, chosen)
    )
    strength, weight = _check.number("beta", beta, above=0.0), _check.number("alpha", alpha, 0.0)
    smoothing = _check.number("label_smoothing", label_smoothing, 0.0, 1.0)
    outs = np.empty(chosen.shape, chosen.dtype), np.empty(chosen.shape, chosen.dtype)
    loss = cpo_jit(*flat(chosen, rejected), lengths, strength, weight, smoothing, *flat(*outs))
    return PairLoss(loss, *outs)
