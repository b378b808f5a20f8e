"""Comparisons of two replies or more, from the best to the worst, and what they cost in labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from .types import Float, Int, PreferencePairs, Sampler


def labels_of(replies: int) -> int:
    """Comparisons that a ranking of so many replies is charged as.

    >>> [labels_of(K) for K in (2, 3, 4, 9)]
    [1, 3, 5, 19]
    """
    return math.ceil(math.log2(math.factorial(replies)))


@dataclass(frozen=True)
class Rankings:
    """`prompts` (N, P); `responses` and `mask` (N, K, T), from the best reply to the worst; `strength` as of pairs."""

    prompts: Int
    responses: Int
    mask: Float
    strength: Float | None = None

    @classmethod
    def of(cls, pairs: PreferencePairs | Rankings) -> Rankings:
        """Pairs as rankings of two; rankings as they are."""
        if isinstance(pairs, Rankings):
            return pairs
        responses = np.stack([pairs.chosen, pairs.rejected], axis=1)
        return cls(
            pairs.prompts,
            responses,
            np.stack([pairs.chosen_mask, pairs.rejected_mask], axis=1),
            pairs.strength,
        )

    @property
    def labels(self) -> int:
        """Comparisons that they are charged as: log2 K! each, rounded up, the fewest that can tell K! orders apart."""
        return len(self) * labels_of(self.replies)

    @property
    def replies(self) -> int:
        """K."""
        return int(self.responses.shape[1])

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, index: Int) -> Rankings:
        strength = None if self.strength is None else self.strength[index]
        return Rankings(self.prompts[index], self.responses[index], self.mask[index], strength)


@runtime_checkable
class Rankable(Protocol):
    """A task whose annotators rank more than two replies."""

    def rankings(self, n: int, replies: int, rng: np.random.Generator, reference: Sampler) -> Rankings: ...
