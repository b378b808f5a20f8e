"""Sparse bags of features: scores, differences, and the Bradley-Terry loss of a linear reward model.

A bag matrix is CSR: `indptr` (N + 1,), `indices` (nnz,), `data` (nnz,); row i holds the features of reply i. A linear
reward is w . phi(reply), so a pair enters the Bradley-Terry likelihood only through the difference of its two rows,
and every cost below is proportional to the non-zeros, never to the number of features.

Bradley and Terry (1952), Biometrika 39; as a reward model: Christiano et al. (2017), arXiv:1706.03741.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check
from ._jit import jit

Array = NDArray[Any]


class Bag(NamedTuple):
    """Rows of sparse features: `indptr` (N + 1,) int64, `indices` (nnz,) int32 or int64, `data` (nnz,)."""

    indptr: Array
    indices: Array
    data: Array


class BagLoss(NamedTuple):
    """Mean loss over the pairs and its gradient (F,)."""

    loss: float
    d_weights: Array


@jit
def bag_scores_jit(weights, indptr, indices, data, out):  # type: ignore[no-untyped-def]
    """Writes out (N,): each row's dot product with weights (F,), summed in float64."""
    for i in range(indptr.shape[0] - 1):
        s = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            s += weights[indices[k]] * data[k]
        out[i] = s


@jit
def bag_difference_jit(  # type: ignore[no-untyped-def]
    ptr_a, ind_a, dat_a, ptr_b, ind_b, dat_b, value, seen, indptr, indices, data
):
    """Rows of a minus rows of b, features in order of first appearance; returns the number of non-zeros.

    `value` and `seen` (F,) are scratch, 0 on entry and on return. Writes indptr (N + 1,), indices and data, which
    have room for the non-zeros of both.
    """
    n = 0
    indptr[0] = 0
    for i in range(ptr_a.shape[0] - 1):
        first = n
        for k in range(ptr_a[i], ptr_a[i + 1]):
            f = ind_a[k]
            if seen[f] == 0:
                seen[f] = 1
                indices[n] = f
                n += 1
            value[f] += dat_a[k]
        for k in range(ptr_b[i], ptr_b[i + 1]):
            f = ind_b[k]
            if seen[f] == 0:
                seen[f] = 1
                indices[n] = f
                n += 1
            value[f] -= dat_b[k]
        last, n = n, first
        for k in range(first, last):
            f = indices[k]
            v = value[f]
            value[f] = 0.0
            seen[f] = 0
            if v != 0.0:
                indices[n] = f
                data[n] = v
                n += 1
        indptr[i + 1] = n
    return n


@jit
def bradley_terry_bag_jit(  # type: ignore[no-untyped-def]
    weights, indptr, indices, data, l2, label_smoothing, d_weights
):
    """Returns the loss; writes d_weights (F,), overwritten."""
    T = d_weights.dtype.type
    n = indptr.shape[0] - 1
    wanted, keep = 1.0 - label_smoothing, label_smoothing - 1.0
    loss = 0.0
    for f in range(weights.shape[0]):
        d_weights[f] = T(l2) * weights[f] if l2 != 0.0 else T(0.0)
    for i in range(n):
        margin = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            margin += weights[indices[k]] * data[k]
        # softplus(-margin) and sigmoid(margin), from exp of a number that is never positive
        z = np.exp(min(margin, -margin))
        u = 1.0 + z
        if margin >= 0.0:
            p = 1.0 / u
            loss += np.log(u) + label_smoothing * margin
        else:
            p = z / u
            loss += np.log(u) + keep * margin
        g = T((p - wanted) / n)
        for k in range(indptr[i], indptr[i + 1]):
            d_weights[indices[k]] += g * data[k]
    loss /= n
    if l2 != 0.0:
        s = 0.0
        for f in range(weights.shape[0]):
            s += weights[f] * weights[f]
        loss += 0.5 * l2 * s
    return loss


@jit
def token_scores_jit(weights, bias, vocab_size, buckets, factor, tokens, mask, out):  # type: ignore[no-untyped-def]
    """Score token arrays as bags, without building them.

    weights (vocab_size + buckets,): one weight a token, then one a bucket of adjacent pairs (`buckets` 0: none):
    tokens a, b fall into bucket (factor a + b) mod buckets. tokens, mask (B, T); a pair counts by the product of
    its masks. Writes out (B,).
    """
    T = weights.dtype.type
    for b in range(tokens.shape[0]):
        s = bias
        for t in range(tokens.shape[1]):
            s += weights[tokens[b, t]] * mask[b, t]
        if buckets > 0:
            for t in range(1, tokens.shape[1]):
                f = vocab_size + (tokens[b, t - 1] * factor + tokens[b, t]) % buckets
                s += weights[f] * (mask[b, t - 1] * mask[b, t])
        out[b] = T(s)


@jit
def token_bag_jit(vocab_size, buckets, factor, tokens, mask, indices, data):  # type: ignore[no-untyped-def]
    """The features that `token_scores_jit` sums. Writes indices and data (B, T) or, with pairs, (B, 2 T - 1)."""
    T = tokens.shape[1]
    for b in range(tokens.shape[0]):
        for t in range(T):
            indices[b, t] = tokens[b, t]
            data[b, t] = mask[b, t]
        if buckets > 0:
            for t in range(1, T):
                indices[b, T + t - 1] = vocab_size + (tokens[b, t - 1] * factor + tokens[b, t]) % buckets
                data[b, T + t - 1] = mask[b, t - 1] * mask[b, t]


def as_bag(indptr: ArrayLike, indices: ArrayLike, data: ArrayLike, n_features: int | None = None) -> Bag:
    """Check a CSR matrix and give it the dtypes the kernels expect; no copy where it already has them.

    Raises
    ------
    TypeError, ValueError
        If the arrays do not hold numbers, or do not describe rows of features in [0, n_features).
    """
    ptr = _check.integers("indptr", indptr)
    ind = _check.read("indices", indices)
    if ind.dtype != np.int32:
        ind = _check.integers("indices", ind)
    ind = np.require(ind, requirements=("C", "A"))
    (dat,) = _check.floats(("data",), data)
    if ptr.ndim != 1 or not len(ptr):
        raise ValueError(f"indptr: came with shape {ptr.shape}, (N + 1,) is needed")
    if ptr[0] != 0 or (np.diff(ptr) < 0).any():
        raise ValueError("indptr: came with a start other than 0 or falling, 0 and never falling is needed")
    if ind.shape != dat.shape or ind.ndim != 1 or ptr[-1] > len(ind):
        raise ValueError(
            f"indices: came with shape {ind.shape} and data with {dat.shape}, one dimension with the {ptr[-1]} "
            "non-zeros of indptr is needed for both"
        )
    if ind.size and (ind.min() < 0 or (n_features is not None and ind.max() >= n_features)):
        needed = "at least 0" if n_features is None else f"0 to {n_features - 1}"
        raise ValueError(f"indices: came with values from {ind.min()} to {ind.max()}, {needed} is needed")
    return Bag(ptr, ind, dat)


def _weights(weights: ArrayLike) -> Array:
    (w,) = _check.floats(("weights",), weights)
    if w.ndim != 1:
        raise ValueError(f"weights: came with shape {w.shape}, one dimension is needed")
    return w


def bag_scores(
    weights: ArrayLike, indptr: ArrayLike, indices: ArrayLike, data: ArrayLike, out: Array | None = None
) -> Array:
    """Score every row of a bag.

    Parameters
    ----------
    weights : (F,)
    indptr, indices, data : (N + 1,), (nnz,), (nnz,)
        CSR rows.
    out : (N,), optional
        Of the weights' dtype, and no part of an input.

    Returns
    -------
    (N,) in the weights' dtype, summed in float64. Work: 2 nnz FLOPs.
    """
    w = _weights(weights)
    bag = as_bag(indptr, indices, data, len(w))
    result = _check.output(out, (len(bag.indptr) - 1,), w.dtype, weights, indptr, indices, data)
    bag_scores_jit(w, *bag, result)
    return result


def bag_difference(chosen: Bag, rejected: Bag, n_features: int) -> Bag:
    """Chosen minus rejected rows in one bag: duplicates summed, zeros dropped, float32 unless either is float64.

    Work: one FLOP per non-zero of either.
    """
    a, b = as_bag(*chosen, n_features), as_bag(*rejected, n_features)
    if len(a.indptr) != len(b.indptr):
        raise ValueError(
            f"rejected: came with {len(b.indptr) - 1} rows, {len(a.indptr) - 1} are needed as for chosen"
        )
    room = int(a.indptr[-1] + b.indptr[-1])
    dtype = np.result_type(a.data, b.data)
    indptr, indices, data = np.empty_like(a.indptr), np.empty(room, a.indices.dtype), np.empty(room, dtype)
    value, seen = np.zeros(n_features), np.zeros(n_features, np.uint8)
    n = bag_difference_jit(*a, *b, value, seen, indptr, indices, data)
    return Bag(indptr, indices[:n].copy(), data[:n].copy())


def bradley_terry_bag(
    weights: ArrayLike,
    indptr: ArrayLike,
    indices: ArrayLike,
    data: ArrayLike,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
) -> BagLoss:
    """Bradley-Terry loss of a linear reward on differences of bags, with its gradient, in one pass.

    loss = mean_i[(1 - e) softplus(-m_i) + e softplus(m_i)] + l2 / 2 |w|^2,  m_i = w . (phi(chosen_i) - phi(rejected_i))

    Parameters
    ----------
    weights : (F,)
    indptr, indices, data : CSR of the N differences (`bag_difference`)
    l2 : float
        Strength of the quadratic penalty, >= 0.
    label_smoothing : float
        e, the assumed share of wrong labels, in [0, .5].

    Returns
    -------
    BagLoss
        `loss` and `d_weights` (F,), which is overwritten. Work: `kernels.flops`.
    """
    w = _weights(weights)
    bag = as_bag(indptr, indices, data, len(w))
    if len(bag.indptr) < 2:
        raise ValueError("indptr: came with no rows, at least one pair is needed")
    penalty = _check.number("l2", l2, 0.0)
    smoothing = _check.number("label_smoothing", label_smoothing, 0.0, 0.5)
    d_weights = np.empty_like(w)
    loss = bradley_terry_bag_jit(w, *bag, penalty, smoothing, d_weights)
    return BagLoss(float(loss), d_weights)
