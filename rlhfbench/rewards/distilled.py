"""Reward distillation: a linear head on frozen features, fitted by ridge regression to what another model scores.

The teacher is any reward. The student reads what the SFT policy is made of, and so costs one pass of it (the last
state of a transformer) or a look-up a token (the tokens of a reply, beside a log-linear policy). Hoerl and Kennard
1970, Technometrics 12; the strength by generalised cross-validation, Golub, Heath and Wahba 1979, Technometrics 21.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels import flops

from ..policies._weights import views
from ..policies.transformer import TransformerPolicy
from ..types import Float, Int
from .bags import BagFeatures
from .bradley_terry import LinearRewardModel
from .penalty import total
from .transformer import CHUNK, TransformerRewardModel, read_states
from .transformer_training import with_one_more_place

STRENGTHS = tuple(10.0**k for k in range(-6, 3))
"""Tried by generalised cross-validation, in units of a feature's mean square."""

Replies = tuple[Int, Int, Float]


@dataclass(frozen=True)
class Ridge:
    """Weights (C,) and bias of the fit, its `strength` in units of a feature's mean square, and what it took."""

    weights: Float
    bias: float
    strength: float
    work: flops.Work


def fit_ridge(features: Float, targets: Float, strength: float | None = None) -> Ridge:
    """The w and b with the least sum of (w . x + b - y)^2 + lambda |w|^2.

    Parameters
    ----------
    features : (N, C)
    targets : (N,)
    strength : float, optional
        lambda is this times N times a feature's mean square; without it the one of `STRENGTHS` with the least
        generalised cross-validation error, N RSS / (N - trace of the hat matrix)^2.
    """
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    N, C = x.shape
    centre, mean = x.mean(axis=0), float(y.mean())
    x, y = x - centre, y - mean
    gram, moment, left = x.T @ x, x.T @ y, float(y @ y)
    unit = float(np.trace(gram)) / C or 1.0
    tried = STRENGTHS if strength is None else (strength,)
    fits: list[tuple[float, Float, float]] = []
    for each in tried:
        weights, trace = _solved(gram, moment, each * unit)
        residual = max(left - 2.0 * float(weights @ moment) + float(weights @ gram @ weights), 0.0)
        fits.append((N * residual / (N - 1.0 - trace) ** 2, weights, each))
    _, weights, chosen = min(fits, key=lambda fit: fit[0])
    work = flops.Work(_moments(N, C) + len(tried) * _solving(C), len(tried) * C)
    return Ridge(weights, mean - float(weights @ centre), chosen, work)


def _solved(gram: Float, moment: Float, penalty: float) -> tuple[Float, float]:
    """(G + p I)^-1 m, and the trace of (G + p I)^-1 G, through the inverse of the Cholesky factor."""
    from scipy import linalg  # takes a sixth of a second to load, and only students need it

    C = len(gram)
    shifted = gram.copy()
    shifted.flat[:: C + 1] += penalty
    factor = linalg.cholesky(shifted, lower=True)
    inverse, _ = linalg.lapack.dtrtri(factor, lower=1)
    weights = inverse.T @ (inverse @ moment)
    return weights, C - penalty * float((inverse * inverse).sum())


def _moments(N: int, C: int) -> int:
    """Operations of the means, of taking them off, of all products of columns, of the unit and of the bias."""
    centring = (N - 1) * (C + 1) + (C + 1) + N * (C + 1)
    return centring + (C * C + C + 1) * (2 * N - 1) + C + 2 * C


def _solving(C: int) -> int:
    """Operations of `_solved` and of the error after it; those inside LAPACK as its textbook forms have them."""
    factor = (C**3 - C) // 3 + C * (C - 1) // 2 + C  # the roots are among them
    inverse = (C**3 + 2 * C) // 3
    weights, trace = 2 * C * (2 * C - 1), 2 * C * C + 1
    residual = C * (2 * C - 1) + 2 * (2 * C - 1) + 3
    return 1 + C + factor + inverse + weights + trace + residual + 5


def student(
    policy: object, vocab_size: int, replies: Replies, targets: Float, strength: float | None = None
) -> tuple[LinearRewardModel | TransformerRewardModel, Ridge, flops.Work]:
    """A model fitted to `targets` (N,); its scores are not yet normalised.

    Returns
    -------
    model : LinearRewardModel or TransformerRewardModel
        Of a transformer `policy` its last state under a head, else a bag of the reply's tokens.
    fit : Ridge
    work : Work
        Of features and fit.
    """
    if isinstance(policy, TransformerPolicy):
        backbone = with_one_more_place(policy)
        features, work = states(backbone, replies)
        fit = fit_ridge(features, targets, strength)
        head = views(backbone.params, backbone.sizes)
        head.value[:], head.value_bias[:] = fit.weights, fit.bias
        return TransformerRewardModel(backbone), fit, total(work, fit.work)
    bag = BagFeatures.of("unigrams", vocab_size)
    features, work = counts(bag, replies)
    fit = fit_ridge(features, targets, strength)
    return LinearRewardModel(fit.weights, bag, mean=-fit.bias), fit, total(work, fit.work)


def states(backbone: TransformerPolicy, replies: Replies) -> tuple[Float, flops.Work]:
    """(N, C) the state after each reply's last token, and what it took to read them."""
    works: list[flops.Work] = []
    backbone.charge = lambda kind, work, tokens: works.append(work)
    prompts, responses, mask = replies
    parts = []
    for begin in range(0, len(prompts), CHUNK):
        some = slice(begin, begin + CHUNK)
        parts.append(read_states(backbone, prompts[some], responses[some], mask[some]))
    backbone.charge = None
    return np.concatenate(parts), total(*works)


def counts(bag: BagFeatures, replies: Replies) -> tuple[Float, flops.Work]:
    """(N, V) how often each token stands in each reply, and what it took to count."""
    _, responses, mask = replies
    found = bag.bag(responses, mask)
    dense = np.zeros((len(responses), bag.size))
    rows = np.repeat(np.arange(len(responses)), np.diff(found.indptr))
    np.add.at(dense, (rows, found.indices), found.data)
    work = flops.work("token_bag", *responses.shape, bag.buckets)
    return dense, total(work, flops.work("elementwise", len(found.data)))
