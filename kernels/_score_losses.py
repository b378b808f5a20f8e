"""What `preference` has for scores: Bradley-Terry for pairs, Plackett-Luce for whole rankings. Its rules hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._alike import alike, flat, nothing, pairs
from ._check import Array
from ._ranking import bradley_terry_jit, log_sigmoid_jit, noisy_bradley_terry_jit, plackett_luce_jit

__all__ = [
    "BradleyTerry",
    "PlackettLuce",
    "bradley_terry",
    "bradley_terry_jit",
    "log_sigmoid",
    "log_sigmoid_jit",
    "noisy_bradley_terry_jit",
    "plackett_luce",
    "plackett_luce_jit",
]


class BradleyTerry(NamedTuple):
    """Mean loss, and its gradient with respect to the scores."""

    loss: float
    d_chosen: Array
    d_rejected: Array


class PlackettLuce(NamedTuple):
    """Mean loss over rows, and its gradient with respect to the scores."""

    loss: float
    d_scores: Array


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
    (values,) = alike(("x",), x)
    result = _check.output(out, values.shape, values.dtype, x)
    log_sigmoid_jit(*flat(values, result))
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
    c, r = pairs(("chosen", "rejected"), chosen, rejected)
    shape, dtype = c.shape, c.dtype
    shift = nothing(c) if margin is None else _margin(margin, c)
    heat = _check.number("temperature", temperature, above=0.0)
    smoothing = _check.number("label_smoothing", label_smoothing, 0.0, 1.0)
    flips = _check.number("noise", noise, 0.0, 1.0)
    centre = _check.number("centering", centering, 0.0)
    if flips and smoothing:
        raise ValueError(
            f"noise: came as {noise} together with label_smoothing {label_smoothing}, one of both is needed"
        )
    d_chosen, d_rejected = np.empty(shape, dtype), np.empty(shape, dtype)
    c, r, *outs = flat(c, r, d_chosen, d_rejected)
    if flips:
        loss = noisy_bradley_terry_jit(c, r, shift, heat, flips, centre, *outs)
    else:
        loss = bradley_terry_jit(c, r, shift, heat, smoothing, centre, *outs)
    return BradleyTerry(loss, d_chosen, d_rejected)


def _margin(margin: Any, scores: Array) -> Array:
    array = _check.like("margin", margin, scores.dtype)
    if array.shape != scores.shape:
        try:
            array = np.broadcast_to(array, scores.shape).copy()
        except ValueError:
            _check.shape_is("margin", array, scores.shape, "one margin a pair, or one for all")
    return array.ravel()


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
    (s,) = alike(("scores",), scores)
    K = _check.last_axis("scores", s)
    _check.not_empty("scores", s)
    d = np.empty(s.shape, s.dtype)
    loss = plackett_luce_jit(*((s, d) if s.ndim == 2 else (s.reshape(-1, K), d.reshape(-1, K))))
    return PlackettLuce(loss, d)
