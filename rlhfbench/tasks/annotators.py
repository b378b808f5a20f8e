"""Simulated annotators: Bradley-Terry choice, uniform flips, a taste for length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..types import Flags, Float, Int, PreferencePairs, Rollout, Sampler


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
    """
    N = len(prompts)
    one, two = two_replies(prompts, reference, rng, max_length)
    margin = appeal(one.responses, one.mask) - appeal(two.responses, two.mask)
    longer = one.mask.sum(axis=1) - two.mask.sum(axis=1)
    u = np.clip(rng.random(N), 1e-12, 1 - 1e-12)
    # The logistic threshold form of the same choice; it has a limit at temperature 0.
    first = margin + temperature * (length_bias * longer - np.log(u / (1 - u))) > 0
    first = np.where(rng.random(N) < flips, ~first, first)
    return as_pairs(prompts, one, two, first)


def two_replies(
    prompts: Int, reference: Sampler, rng: np.random.Generator, max_length: int
) -> tuple[Rollout, Rollout]:
    """Two replies of `reference` to each of `prompts` (N, P), for somebody to choose between."""
    uniforms = (rng.random((len(prompts), max_length)) for _ in range(2))
    one, two = (reference.sample(prompts, u) for u in uniforms)
    return one, two


def as_pairs(prompts: Int, one: Rollout, two: Rollout, first: Flags) -> PreferencePairs:
    """Chosen and rejected replies; `first` (N,) says where `one` is chosen."""
    return turned(PreferencePairs(prompts, one.responses, one.mask, two.responses, two.mask), ~first)


def turned(pairs: PreferencePairs, wrong: Flags) -> PreferencePairs:
    """The pairs with chosen and rejected replies exchanged where `wrong` (N,)."""
    wins = ~wrong[:, None]
    return PreferencePairs(
        pairs.prompts,
        np.where(wins, pairs.chosen, pairs.rejected),
        np.where(wins, pairs.chosen_mask, pairs.rejected_mask),
        np.where(wins, pairs.rejected, pairs.chosen),
        np.where(wins, pairs.rejected_mask, pairs.chosen_mask),
    )
