"""Losses on preference pairs with their gradients: Bradley-Terry, Plackett-Luce, and the DPO family.

Scores and log-probabilities have any shape, one pair an element; losses are means over all pairs, and `d_<x>` is the
gradient of that mean with respect to x. The `_jit` forms take 1-D arrays of one dtype, check nothing, write the
arrays that stand last and return the loss.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._alike import alike, flat
from ._check import Array
from ._preference import (
    bradley_terry_jit,
    dpo_jit,
    hinge_jit,
    ipo_jit,
    log_sigmoid_jit,
    noisy_bradley_terry_jit,
    plackett_luce_jit,
)

__all__ = [
    "DPO",
    "IPO",
    "BradleyTerry",
    "Hinge",
    "PlackettLuce",
    "bradley_terry",
    "bradley_terry_jit",
    "dpo",
    "dpo_jit",
    "hinge",
    "hinge_jit",
    "ipo",
    "ipo_jit",
    "log_sigmoid",
    "log_sigmoid_jit",
    "noisy_bradley_terry_jit",
    "plackett_luce",
    "plackett_luce_jit",
]

_PAIRS = ("pi_chosen", "pi_rejected", "ref_chosen", "ref_rejected")


class BradleyTerry(NamedTuple):
    """Mean loss, and its gradient with respect to the scores."""

    loss: float
    d_chosen: Array
    d_rejected: Array


class PlackettLuce(NamedTuple):
    """Mean loss over rows, and its gradient with respect to the scores."""

    loss: float
    d_scores: Array


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


def _alike(names: tuple[str, ...], *values: Any) -> tuple[Array, ...]:
    """The values as arrays of one dtype and shape, in C order."""
    if alike(values):
        return values
    arrays = _check.floats(names, *values)
    _check.same_shape(names, *arrays)
    return tuple(arrays)


def log_sigmoid(x: Any, out: Array | None = None) -> Array:
    """``log(1 / (1 + exp(-x)))``, accurate for large x of either sign.

    Parameters
    ----------
    x : array_like
    out : ndarray, the shape of x, optional

    Returns
    -------
    ndarray, the shape of x

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, or does not fit.

    Examples
    --------
    >>> log_sigmoid([-9.0, 0.0]).round(4)
    array([-9.0001, -0.6931])
    """
    (values,) = _check.floats(("x",), x)
    result = _check.output(out, values.shape, values.dtype, x)
    log_sigmoid_jit(flat(values), flat(result))
    return result


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
    """Negative log-likelihood of the preferences under Bradley-Terry, P = sigma(D).

    Parameters
    ----------
    chosen, rejected : array_like, one shape
        Scores.
    margin : array_like, that shape or one that broadcasts to it, optional
        D = (chosen - rejected - margin) / temperature.
    temperature : float
        Of the annotators; above 0.
    label_smoothing : float in [0, 1]
        Share e of labels taken as reversed: ``-(1-e) log sigma(D) - e log sigma(-D)``.
    noise : float in [0, 1]
        Share e of annotations made at random: ``-log((1-e) sigma(D) + e/2)``, whose gradient vanishes for badly
        misordered pairs. Not together with label_smoothing.
    centering : float, at least 0
        Weight of ``(chosen + rejected)**2``, which keeps scores near 0.

    Returns
    -------
    BradleyTerry
        loss, d_chosen, d_rejected.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no pair.

    References
    ----------
    Ouyang et al. 2022 (arXiv 2203.02155), eq. 1; Touvron et al. 2023 (2307.09288), eq. 2 (margin); Christiano et al.
    2017 (1706.03741), eq. 1 and section 2.2.3 (noise); Eisenstein et al. 2023 (2312.09244) (centering).

    Examples
    --------
    >>> loss, d_chosen, d_rejected = bradley_terry([1.0], [1.0])
    >>> round(loss, 4), d_chosen, d_rejected
    (0.6931, array([-0.5]), array([0.5]))
    """
    c, r = _alike(("chosen", "rejected"), chosen, rejected)
    _check.not_empty("chosen", c)
    shift = _margin(margin, c)
    heat = _check.number("temperature", temperature, above=0.0)
    smoothing = _check.number("label_smoothing", label_smoothing, 0.0, 1.0)
    flips = _check.number("noise", noise, 0.0, 1.0)
    centre = _check.number("centering", centering, 0.0)
    if flips and smoothing:
        raise ValueError(
            f"noise: came as {noise} together with label_smoothing {label_smoothing}, one of both is needed"
        )
    d_c, d_r = np.empty(c.shape, c.dtype), np.empty(c.shape, c.dtype)
    pairs = flat(c), flat(r), shift
    outs = flat(d_c), flat(d_r)
    if flips:
        loss = noisy_bradley_terry_jit(*pairs, heat, flips, centre, *outs)
    else:
        loss = bradley_terry_jit(*pairs, heat, smoothing, centre, *outs)
    return BradleyTerry(loss, d_c, d_r)


def _margin(margin: Any, scores: Array) -> Array:
    if margin is None:
        return np.empty(0, scores.dtype)
    array = _check.like("margin", margin, scores.dtype)
    if array.shape != scores.shape:
        try:
            array = np.broadcast_to(array, scores.shape).copy()
        except ValueError:
            _check.shape_is("margin", array, scores.shape, "one margin a pair, or one for all")
    return flat(array)


def plackett_luce(scores: Any) -> PlackettLuce:
    """Negative log-likelihood of whole rankings under Plackett-Luce; with two items it is Bradley-Terry.

    Parameters
    ----------
    scores : array_like, (..., K)
        Of the items of each row, ordered from best to worst.

    Returns
    -------
    PlackettLuce
        loss = mean over rows of ``-sum_{k<K} (s_k - logsumexp_{j>=k} s_j)``, d_scores (..., K).

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; also where there is no row.

    References
    ----------
    Plackett 1975; Rafailov et al. 2023 (arXiv 2305.18290), eq. 18.

    Examples
    --------
    >>> loss, d_scores = plackett_luce([0.0, 0.0, 0.0])
    >>> round(loss, 4), d_scores.round(4)
    (1.7918, array([-0.6667, -0.1667,  0.8333]))
    """
    (s,) = _check.floats(("scores",), scores)
    K = _check.last_axis("scores", s)
    _check.not_empty("scores", s)
    d = np.empty(s.shape, s.dtype)
    loss = plackett_luce_jit(s.reshape(-1, K), d.reshape(-1, K))
    return PlackettLuce(loss, d)


def _log_probabilities(*values: Any) -> tuple[Array, ...]:
    arrays = _alike(_PAIRS, *values)
    _check.not_empty("pi_chosen", arrays[0])
    return arrays


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
    arrays = _log_probabilities(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    strength = _check.number("beta", beta, above=0.0)
    smoothing = _check.number("label_smoothing", label_smoothing, 0.0, 1.0)
    outs = [np.empty(arrays[0].shape, arrays[0].dtype) for _ in range(4)]
    loss = dpo_jit(*[flat(a) for a in arrays], strength, smoothing, *[flat(a) for a in outs])
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
    arrays = _log_probabilities(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    strength = _check.number("tau", tau, above=0.0)
    lengths = _lengths(chosen_lengths, rejected_lengths, arrays[0])
    outs = np.empty(arrays[0].shape, arrays[0].dtype), np.empty(arrays[0].shape, arrays[0].dtype)
    loss = ipo_jit(*[flat(a) for a in arrays], *lengths, strength, *[flat(a) for a in outs])
    return IPO(loss, *outs)


def _lengths(chosen: Any, rejected: Any, like: Array) -> tuple[Array, Array]:
    if chosen is None and rejected is None:
        return np.empty(0, like.dtype), np.empty(0, like.dtype)
    arrays = []
    for name, value in (("chosen_lengths", chosen), ("rejected_lengths", rejected)):
        if value is None:
            raise ValueError(f"{name}: came as None, lengths of both responses or of neither are needed")
        array = _check.like(name, value, like.dtype)
        _check.shape_is(name, array, like.shape, "one length a response")
        if not array.min() > 0:
            raise ValueError(f"{name}: came with {array.min():g}, lengths above 0 are needed")
        arrays.append(flat(array))
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
    arrays = _log_probabilities(pi_chosen, pi_rejected, ref_chosen, ref_rejected)
    strength = _check.number("beta", beta, above=0.0)
    outs = np.empty(arrays[0].shape, arrays[0].dtype), np.empty(arrays[0].shape, arrays[0].dtype)
    loss = hinge_jit(*[flat(a) for a in arrays], strength, *[flat(a) for a in outs])
    return Hinge(loss, *outs)
