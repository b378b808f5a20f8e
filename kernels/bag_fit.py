"""Fit a linear Bradley-Terry reward model: L2-regularised logistic regression on differences of bags, no intercept.

    minimise  P(w) = |w|^2 / 2 + C sum_i log(1 + exp(-w . x_i)),   x_i = phi(chosen_i) - phi(rejected_i)

by coordinate ascent on its dual, whose variables a_i in (0, C) give w = sum_i a_i x_i. Yu, Huang and Lin (2011),
"Dual coordinate descent methods for logistic regression and maximum entropy models", Machine Learning 85. In place
of their two variables a pair, a_i = C sigmoid(-d_i) is known by its margin d_i, which keeps it inside (0, C) and
leaves one equation in one unknown, m - |x_i|^2 C sigmoid(-m) = w . x_i - |x_i|^2 a_i, whose slope is at least 1.

Why this and not a primal method: one pass costs what one gradient costs, and a pass moves every pair to its own
optimum. A pair that has next to nothing to gain is not moved, and not even looked at in the pass after. On 8,401
pairs of arguments that makes five passes' worth of reading to be within a thousandth of the loss (benchmarks/).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check
from ._jit import jit
from ._vecmath import plus
from .bag import as_bag

Array = NDArray[Any]

FAR = 40.0
"""Margin every pair starts from: a_i = C sigmoid(-40), w = 0 to the last digit."""


BLOCK = 4
"""Neighbouring pairs visited together: memory is read ahead, and the order stays random enough."""


NEAR = 1.0
"""Up to so large a change of margin a sigmoid is taken as its tangent to say whether a pair needs a step."""


SKIP, FIRST_SKIP, REST = 0.2, 0.01, 2.0
"""Shares of the mean gain of the epoch before below which a pair is not moved: in general, and in the second epoch,
which a start from far away makes; below REST times SKIP it is left out of the next epoch."""


class FitWork(NamedTuple):
    """What a fit did; `kernels.flops` turns it into FLOPs."""

    pairs: int
    nnz: int
    epochs: int
    reads: int
    nnz_read: int
    steps: int
    nnz_stepped: int
    evaluations: int
    newtons: int
    far: int


class BagFit(NamedTuple):
    """`weights` (F,), the pairs' `margins` d_i (N,), and the `C` they belong to.

    `gap` estimates the duality gap from what the last epoch found before its steps; relative to the loss at w = 0,
    C N log 2.
    """

    weights: Array
    margins: Array
    C: float
    gap: float
    work: FitWork


@jit
def fit_bradley_terry_jit(  # type: ignore[no-untyped-def]
    indptr, indices, data, order, C, tol, max_epochs, norms, duals, turn, resting, weights, margins, counts
):
    """Returns the last epoch's estimate of the duality gap, relative to C N log 2; NaN if a row has no finite norm.

    order (ceil(N / BLOCK),) is a permutation of blocks of neighbouring pairs; epoch e visits them in its (e + 1)-th
    power, because a new order each time halves the epochs. norms and duals (N,), turn and resting (like order;
    one bit a pair) are scratch. indptr and indices are read fastest if unsigned: they need no test for "counts from
    the end". Updates weights (F,), which must be sum_i C sigmoid(-margins_i) x_i, and margins (N,); counts (8,)
    gains the fields of `FitWork` from `epochs` on.
    """
    n = norms.shape[0]
    scale = C * n * 0.6931471805599453
    for i in range(n):
        duals[i] = C / (1.0 + np.exp(min(margins[i], 500.0)))
    for j in range(order.shape[0]):
        turn[j] = order[j]
        resting[j] = 0
    skip = 0.0
    rest = 0.0
    gap = np.inf
    fresh = True
    while counts[0] < max_epochs:
        total = 0.0
        read = counts[1]
        for j in range(order.shape[0]):
            block = turn[j]
            rested, rests = resting[block], 0
            first = block * BLOCK
            for i in range(first, min(first + BLOCK, n)):
                bit = 1 << (i - first)
                if rested & bit:
                    continue
                start, stop = indptr[i], indptr[i + 1]
                margin = 0.0
                for k in range(start, stop):
                    margin += weights[indices[k]] * data[k]
                if fresh:
                    s = 0.0
                    for k in range(start, stop):
                        s = plus(s, data[k] * data[k])  # type: ignore[no-untyped-call]
                    if not s < np.inf:
                        return np.nan
                    norms[i] = s
                counts[1] += 1
                counts[2] += np.int64(stop - start)
                a, d, q = duals[i], margins[i], norms[i]
                away = margin - d
                spread = a * (1.0 - a / C)
                near = -NEAR <= away <= NEAR
                if near:  # no exponential for the many that need no step
                    p = a - spread * away
                else:
                    p = C / (1.0 + np.exp(min(margin, 500.0)))
                    counts[7] += 1
                # Jeffreys' divergence of the dual's and the primal's probabilities: at least, and in the end
                # twice, what the pair contributes to the duality gap
                share = (a - p) * away
                total += share
                if share <= rest:
                    rests |= bit
                if share <= skip and near:  # next to nothing: leave it for a later epoch
                    continue
                low = margin - q * a
                high = low + q * C
                target = low
                if near:
                    m = d + away / (1.0 + q * spread)
                else:
                    m = margin - q * (a - p) / (1.0 + q * p * (1.0 - p / C))
                m = min(max(m, low), high)
                b = C / (1.0 + np.exp(min(m, 500.0)))
                for _ in range(30):  # Newton, kept inside the bracket
                    qb = q * b
                    f = m - qb - target
                    counts[5] += 1
                    if -0.05 <= f <= 0.05:  # the next epoch starts with a Newton step from here
                        break
                    if f > 0.0:
                        high = m
                    else:
                        low = m
                    m -= f / (1.0 + qb * (1.0 - b / C))
                    middle = 0.5 * (low + high)
                    m = middle if m <= low or m >= high else m
                    b = C / (1.0 + np.exp(min(m, 500.0)))
                    counts[6] += 1
                margins[i] = m
                duals[i] = b
                step = b - a
                for k in range(start, stop):
                    weights[indices[k]] += step * data[k]
                counts[3] += 1
                counts[4] += np.int64(stop - start)
            resting[block] = rests
        total += rest * (n - (counts[1] - read))  # those that rested, at most
        # the first epoch starts far away: what it has summed says little of the next one
        skip = (FIRST_SKIP if fresh else SKIP) * total / n
        rest = (0.0 if fresh else REST) * skip
        fresh = False
        counts[0] += 1
        gap = 0.5 * total / scale
        if not gap > tol:  # NaN too: data that are no numbers have no optimum
            break
        for j in range(order.shape[0]):
            turn[j] = order[turn[j]]
    return gap


def fit_bradley_terry(
    indptr: ArrayLike,
    indices: ArrayLike,
    data: ArrayLike,
    n_features: int,
    order: ArrayLike,
    C: float = 1.0,
    tol: float = 1.5e-3,
    max_epochs: int = 1000,
    start: BagFit | None = None,
) -> BagFit:
    """Minimise |w|^2 / 2 + C sum_i log(1 + exp(-w . x_i)).

    Parameters
    ----------
    indptr, indices, data : CSR of the N differences chosen minus rejected
        As `kernels.bag.bag_difference` or scipy gives them: int32 or int64 indices, float32 or float64 data; neither
        is copied. A feature may stand in a row twice.
    n_features : int
        F.
    order : (N,) int
        A permutation of the pairs, drawn by the caller: the same one gives the same bits. It should be random.
        Pairs are visited in blocks of 4, in the order in which the blocks' numbers stand in it.
    C : float
        Inverse strength of the penalty, as in scikit-learn; > 0.
    tol : float
        Stop at this estimated duality gap, as a share of the loss at w = 0.
    max_epochs : int
        Where it stops in any case; `gap` then says how far it got.
    start : BagFit, optional
        A fit of the same pairs at another C, from which to go on: its weights scale with C.

    Returns
    -------
    BagFit
        Work: `kernels.flops.fit_bradley_terry(fit.work)`, from executed steps.

    Raises
    ------
    TypeError, ValueError
        If there is no pair, a number is out of its range, data are not finite, or `order` is not a permutation.

    Examples
    --------
    From scipy's sparse matrix of feature differences; a reply's score is the dot product of its features and weights.

    >>> from scipy.sparse import csr_array
    >>> difference = csr_array([[1.0, -1.0, 0.0], [2.0, 0.0, -1.0], [0.0, -1.0, 1.0], [1.0, 0.0, -1.0]])
    >>> pairs, features = difference.shape
    >>> csr = difference.indptr, difference.indices, difference.data
    >>> fit = fit_bradley_terry(*csr, features, np.random.default_rng(0).permutation(pairs), C=0.5)
    >>> fit.weights.round(1)
    array([ 0.6, -0.4, -0.1])
    """
    n_features = _check.whole("n_features", n_features, 1)
    C = _check.number("C", C, above=0.0)
    tol = _check.number("tol", tol, above=0.0)
    max_epochs = _check.whole("max_epochs", max_epochs, 1)
    bag = as_bag(indptr, indices, data, n_features)
    n = len(bag.indptr) - 1
    visit = _check.integers("order", order)
    if n == 0:
        raise ValueError("indptr: came with no rows, at least one pair is needed")
    if visit.shape != (n,) or (np.bincount(np.clip(visit, 0, n), minlength=n)[:n] != 1).any():
        raise ValueError(f"order must be a permutation of {n} pairs")
    if start is None:
        weights, margins = np.zeros(n_features), np.full(n, FAR)
    else:
        if start.weights.shape != (n_features,) or start.margins.shape != (n,):
            raise ValueError("start belongs to other pairs or features")
        weights, margins = start.weights * (C / start.C), start.margins.copy()
    unsigned = bag.indices.view(np.uint32 if bag.indices.dtype == np.int32 else np.uint64)
    visit = visit[visit < -(-n // BLOCK)]
    counts = np.zeros(8, np.int64)
    norms, duals, turn, resting = np.empty(n), np.empty(n), np.empty_like(visit), np.empty_like(visit)
    with np.errstate(
        invalid="ignore"
    ):  # without the JIT, infinity among the data would warn before it is refused
        gap = fit_bradley_terry_jit(
            bag.indptr.view(np.uint64), unsigned, bag.data, visit, C, tol, max_epochs,
            norms, duals, turn, resting, weights, margins, counts,
        )  # fmt: skip
    if not np.isfinite(gap):
        if not np.isfinite(bag.data).all():
            raise ValueError("data: came with NaN or infinity, finite numbers are needed")
        raise ValueError(f"data: came with numbers too large to fit at C={C:g}")
    return BagFit(weights, margins, C, float(gap), FitWork(n, int(bag.indptr[-1]), *counts.tolist()))
