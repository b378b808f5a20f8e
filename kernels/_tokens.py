"""Logits with a token a row: what `from_logits` checks before, and says when a token is not in the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _batch, _check
from ._check import Array
from ._from_logits import weights_jit
from ._whole_losses import ALL, ROWS, SUM, WEIGH

__all__ = ["Tokens", "ignored_token", "read_tokens"]

_EACH = "one a token, as the logits without the last axis"


class Tokens:
    """Logits (..., V), tokens (...), their mask and room for what each weighs (...): checked, named with the prefix."""

    __slots__ = ("logits", "mask", "prefix", "tokens", "total", "weights")

    def __init__(self, logits: Array, tokens: Any, mask: Any, prefix: str = "") -> None:
        shape, dtype = logits.shape[:-1], _batch.number(logits)
        self.logits, self.prefix, self.total = logits, prefix, 1.0
        self.tokens = _check.integers(prefix + "tokens", tokens)
        if self.tokens.shape != shape:
            _check.shape_is(prefix + "tokens", self.tokens, shape, _EACH)
        self.weights = np.empty(shape, dtype)
        if mask is None:
            self.mask = self.weights
            self.mask.fill(1.0)
        else:
            self.mask = _check.shaped(prefix + "mask", mask, dtype, shape, _EACH)

    def empty(self) -> Array:
        """Room for one number a token."""
        return np.empty(self.tokens.shape, self.weights.dtype)

    def column(self, name: str, value: Any) -> Array:
        """One number a token, in the precision that the logits are computed with."""
        return _check.shaped(name, value, self.weights.dtype, self.tokens.shape, _EACH)

    def check(self, total: float, outside: int = 0) -> None:
        """Given the sum of the weights, and how many tokens are outside the vocabulary: there must be none."""
        if not 0 <= total < np.inf:
            raise ValueError(
                f"{self.prefix}mask: came with negative, infinite or NaN weights, finite ones of at least 0 are needed"
            )
        if outside:
            live, V = self.tokens[self.weights > 0], self.logits.shape[-1]
            raise ValueError(
                f"{self.prefix}tokens: came with values from {live.min()} to {live.max()}, 0 to {V - 1} is needed "
                f"(V = {V})"
            )
        self.total = total or 1.0

    def over_rows(self, kernel: Callable[..., Any], threads: int, *arrays: Array) -> None:
        """Call a kernel that returns how many tokens are outside the vocabulary; there must be none."""
        self.check(self.total, _batch.over_rows(kernel, threads, self.logits, self.tokens, *arrays))

    def loss(self, kernel: Callable[..., Any], threads: int, scalars: tuple[Any, ...], *arrays: Array) -> Any:
        """Call one of `_whole_losses` with logits, tokens, mask, weights, and arrays, all in rows, and the scalars.

        Returns what it does after the sum of the weights and how many tokens are outside the vocabulary.
        """
        rows = _batch.as_rows(self.logits, self.tokens, self.mask, self.weights, *arrays)
        if type(threads) is int and threads == 1 and rows[0].ndim == 2:
            total, outside, *losses = kernel(*rows, ALL, 0.0, *scalars)
            self.check(total, outside)
            return losses
        some = _batch.some_rows(*rows)
        total, *_ = kernel(*some, WEIGH, 0.0, *scalars)
        self.check(total)
        self.check(
            total, _batch.over_rows(lambda *part: kernel(*part, ROWS, total, *scalars)[1], threads, *rows)
        )
        return kernel(*some, SUM, total, *scalars)[2:]


def read_tokens(logits: Array, tokens: Any, mask: Any, ignore_index: Any, prefix: str = "") -> Tokens:
    """Check tokens and mask, and weigh each token."""
    read = Tokens(logits, tokens, mask, prefix)
    ignored = ignored_token(ignore_index)
    read.check(weights_jit(read.tokens.ravel(), read.mask.ravel(), ignored, read.weights.ravel()))
    return read


def ignored_token(value: Any) -> int:
    """The token that does not count."""
    return _check.whole("ignore_index", value, -(2**63))
