"""Best-of-n without drawing n replies n times: unbiased estimates for every n from one set of samples.

Of N replies to a prompt, the best of a random n has the score of rank i (from below) with probability
C(i - 1, n - 1) / C(N, n); Nakano et al. 2021 (arXiv:2112.09332), appendix I. The exact distribution, where all replies
can be listed, is `rlhfbench.oracle.best_of_n`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .options import require
from .types import Float


def best_of_n_weights(scores: Float, n: int) -> Float:
    """How likely each of N replies is the best of n drawn from them without replacement.

    Parameters
    ----------
    scores : (..., N)
        What the replies are chosen by. Equal scores share what falls to them, as among replies in random order.
    n : int
        At least 1 and at most N.

    Returns
    -------
    (..., N) array
        Each row sums to 1.

    Examples
    --------
    >>> best_of_n_weights(np.array([3.0, 1.0, 2.0]), 2).round(3)
    array([0.667, 0.   , 0.333])
    """
    rows = np.asarray(scores, float)
    N = rows.shape[-1]
    require(1 <= n <= N, "n", n, f"at least 1 and at most the {N} replies of a prompt")
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, N + 1)))])
    # C(i, n) / C(N, n), the chance that all n are among the lowest i; its steps are the chance of each rank.
    below = np.zeros(N + 1)
    i = np.arange(n, N + 1)
    below[n:] = np.exp(log_factorial[i] - log_factorial[i - n] - log_factorial[N] + log_factorial[N - n])
    out = np.empty_like(rows)
    for row, weights in zip(rows.reshape(-1, N), out.reshape(-1, N), strict=True):
        _, level, tied = np.unique(row, return_inverse=True, return_counts=True)
        top = np.cumsum(tied)
        weights[:] = ((below[top] - below[top - tied]) / tied)[level]
    return out


def best_of_n_curve(scores: Float, values: Float, ns: Sequence[int]) -> Float:
    """Unbiased estimates of what best-of-n gives, for each of `ns`, all from the same replies.

    Parameters
    ----------
    scores : (prompts, N)
        What replies of the reference are chosen by: the RM score.
    values : (prompts, N)
        What is asked of the chosen one: its RM score, gold score, length.
    ns : sequence of int

    Returns
    -------
    (len(ns),) array
        Means over prompts.

    Examples
    --------
    >>> scores = np.array([[3.0, 1.0, 2.0]])
    >>> best_of_n_curve(scores, scores, [1, 2, 3]).round(3)
    array([2.   , 2.667, 3.   ])
    """
    return np.array([(best_of_n_weights(scores, n) * values).sum(axis=-1).mean() for n in ns])


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1)/n nats, at most which best-of-n is from what it draws from.

    Reached only where no two scores tie; Beirami et al. 2024 (arXiv:2401.01879), Theorem 1.
    """
    return math.log(n) - (n - 1) / n
