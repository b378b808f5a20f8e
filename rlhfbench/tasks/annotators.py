"""Simulated annotators: Bradley-Terry choice or Plackett-Luce ranking, uniform flips, a taste for length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..rankings import Rankings
from ..types import Float, Int, PreferencePairs, Sampler


def label_pairs(
    prompts: Int,
    reference: Sampler,
    appeal: Callable[[Int, Float], Float],
    rng: np.random.Generator,
    max_length: int,
    *,
    temperature: float,
    flips: float,
    length_bias: float,
) -> PreferencePairs:
    """Two replies of `reference` to each prompt; the first is chosen with the probability

        P = (1 - flips) p + flips (1 - p),   p = sigmoid((appeal_1 - appeal_2) / temperature + length_bias (n_1 - n_2))

    Parameters
    ----------
    prompts : (N, P) int64
    reference : Sampler
    appeal : callable (responses, mask) -> (N,)
        What the annotator sees in a reply.
    rng : numpy.random.Generator
    max_length : int
    temperature : float
        > 0; 0 is allowed and means that the more appealing reply always wins.
    flips, length_bias : float

    Returns
    -------
    PreferencePairs
        With a `strength` of 0, 1/3, 2/3 or 1, a quarter of the pairs each: how much better the annotator found the
        chosen reply, noise included. A turned label keeps it.
    """
    N = len(prompts)
    one = reference.sample(prompts, rng.random((N, max_length)))
    two = reference.sample(prompts, rng.random((N, max_length)))
    margin = appeal(one.responses, one.mask) - appeal(two.responses, two.mask)
    longer = one.mask.sum(axis=1) - two.mask.sum(axis=1)
    u = np.clip(rng.random(N), 1e-12, 1 - 1e-12)
    # The logistic threshold form of the same choice; it has a limit at temperature 0.
    seen = margin + temperature * (length_bias * longer - np.log(u / (1 - u)))
    first = seen > 0
    first = np.where(rng.random(N) < flips, ~first, first)[:, None]
    return PreferencePairs(
        prompts,
        np.where(first, one.responses, two.responses),
        np.where(first, one.mask, two.mask),
        np.where(first, two.responses, one.responses),
        np.where(first, two.mask, one.mask),
        quarters(np.abs(seen)) / 3,
    )


def quarters(sizes: Float) -> Float:
    """(N,) 0 for the smallest quarter of the numbers, 3 for the largest; equal ones stay together."""
    return np.searchsorted(np.quantile(sizes, (0.25, 0.5, 0.75)), sizes).astype(float)


def rank_replies(
    prompts: Int,
    reference: Sampler,
    appeal: Callable[[Int, Float], Float],
    rng: np.random.Generator,
    max_length: int,
    replies: int,
    *,
    temperature: float,
    flips: float,
    length_bias: float,
) -> Rankings:
    """`replies` replies of `reference` to each prompt, ranked; every two of them are ordered as by `label_pairs`.

    An annotator ranks by appeal / temperature + length_bias n + Gumbel noise, which is Plackett-Luce (Yellott 1977,
    "The relationship between Luce's choice axiom, Thurstone's theory of comparative judgment, and the double
    exponential distribution", J. Math. Psych. 15), and with a probability of 2 `flips` at random.

    Parameters
    ----------
    prompts, reference, appeal, rng, max_length, temperature, flips, length_bias
        As for `label_pairs`.
    replies : int
        K.
    """
    N = len(prompts)
    drawn = [reference.sample(prompts, rng.random((N, max_length))) for _ in range(replies)]
    utility = np.stack([appeal(each.responses, each.mask) for each in drawn], axis=1)
    lengths = np.stack([each.mask.sum(axis=1) for each in drawn], axis=1)
    seen = utility + temperature * (length_bias * lengths + rng.gumbel(size=(N, replies)))
    at_random = rng.random(N) < 2 * flips
    seen = np.where(at_random[:, None], rng.random((N, replies)), seen)
    order = np.argsort(-seen, axis=1)[:, :, None]
    responses = np.stack([each.responses for each in drawn], axis=1)
    mask = np.stack([each.mask for each in drawn], axis=1)
    return Rankings(
        prompts, np.take_along_axis(responses, order, axis=1), np.take_along_axis(mask, order, axis=1)
    )
