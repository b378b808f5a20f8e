"""Logits with a token a row: what `from_logits` checks before, and says when a token is not in the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _batch, _check
from ._check import Array
from ._from_logits import weights_jit

__all__ = ["Tokens", "read_tokens"]

_EACH = "one a token, as the logits without the last axis"


class Tokens(NamedTuple):
    """Logits (..., V), tokens (...), what each token weighs (...), and the sum of that, or 1 where it is 0."""

    logits: Array
    tokens: Array
    weights: Array
    total: float
    prefix: str

    def empty(self) -> Array:
        """Room for one number a token."""
        return np.empty(self.tokens.shape, self.weights.dtype)

    def column(self, name: str, value: Any) -> Array:
        """One number a token, in the precision that the logits are computed with."""
        array = _check.like(name, value, self.weights.dtype)
        _check.shape_is(name, array, self.tokens.shape, _EACH)
        return array

    def over_rows(self, kernel: Callable[..., Any], threads: int, *arrays: Array) -> None:
        """Call a kernel that returns how many tokens are outside the vocabulary; there must be none."""
        if _batch.over_rows(kernel, threads, self.logits, self.tokens, *arrays):
            live, V = self.tokens[self.weights > 0], self.logits.shape[-1]
            raise ValueError(
                f"{self.prefix}tokens: came with values from {live.min()} to {live.max()}, 0 to {V - 1} is needed "
                f"(V = {V})"
            )


def read_tokens(logits: Array, tokens: Any, mask: Any, ignore_index: Any, prefix: str = "") -> Tokens:
    """Check tokens and mask, named with the prefix, and weigh each token."""
    t = _check.integers(f"{prefix}tokens", tokens)
    _check.shape_is(f"{prefix}tokens", t, logits.shape[:-1], _EACH)
    weights = np.empty(t.shape, _batch.number(logits))
    given = np.empty(0, weights.dtype)
    if mask is not None:
        given = _check.like(f"{prefix}mask", mask, weights.dtype)
        _check.shape_is(f"{prefix}mask", given, t.shape, _EACH)
    ignored = _check.whole("ignore_index", ignore_index, -(2**63))
    count = weights_jit(t.reshape(-1), given.reshape(-1), ignored, weights.reshape(-1))
    if not 0 <= count < np.inf:
        raise ValueError(
            f"{prefix}mask: came with negative, infinite or NaN weights, finite ones of at least 0 are needed"
        )
    return Tokens(logits, t, weights, count or 1.0, prefix)
