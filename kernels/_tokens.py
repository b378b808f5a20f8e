"""Logits with a token a row: what `from_logits` checks before, and says when a token is not in the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _batch, _check
from ._check import I64, Array
from ._from_logits import weights_jit
from ._whole_losses import ALL, ROWS, SUM, WEIGH

__all__ = ["Tokens", "ignored_token", "read_tokens"]

_EACH = "one a token, as the logits without the last axis"


class Tokens:
    """Logits (..., V), tokens (...) and their mask, checked and named with the prefix, and room for numbers a token.

    The mask has no elements if there is none. `columns` are (k, N), of which the first holds what each token weighs.
    `shape` and `dtype` are those of one number a token.
    """

    __slots__ = ("columns", "dtype", "logits", "mask", "prefix", "shape", "tokens", "total")

    def __init__(self, logits: Array, tokens: Any, mask: Any, columns: int = 1, prefix: str = "") -> None:
        self.shape, self.dtype = shape, dtype = logits.shape[:-1], _batch.number(logits)
        self.tokens = t = _check.shaped(prefix + "tokens", tokens, I64, shape, _EACH)
        self.columns = each = np.empty((columns, t.size), dtype)
        self.mask = each[:0] if mask is None else _check.shaped(prefix + "mask", mask, dtype, shape, _EACH)
        self.logits, self.prefix, self.total = logits, prefix, 1.0

    @property
    def weights(self) -> Array:
        """What each token weighs, (...)."""
        weights: Array = self.columns[0].reshape(self.shape)
        return weights

    def empty(self) -> Array:
        """Room for one number a token."""
        return np.empty(self.shape, self.dtype)

    def column(self, name: str, value: Any) -> Array:
        """One number a token, in the precision that the logits are computed with."""
        return _check.shaped(name, value, self.dtype, self.shape, _EACH)

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

    def loss(
        self,
        kernel: Callable[..., Any],
        threads: int,
        scalars: tuple[Any, ...],
        written: Array,
        *arrays: Array,
    ) -> Any:
        """Call one of `_whole_losses` with arrays (...), one number a token, or without their last axis.

        Returns what it does after the sum of the weights and how many tokens are outside the vocabulary.
        """
        rows, given = _batch.batches(self.logits, written), (self.tokens, self.mask, self.columns, *arrays)
        if self.logits.ndim != 3:
            given = self._usual(given)
        if rows and type(threads) is int and threads == 1:
            result = kernel(*rows, *given, ALL, 0, 0.0, *scalars)
            self.check(result[0], result[1])
            return result[2:]
        return self._in_steps(kernel, threads, scalars, written, given)

    def _usual(self, given: tuple[Array, ...]) -> tuple[Array, ...]:
        """Tokens, mask, columns, and numbers a token or a sequence: as (1, N), (1, N), as they are, (1, N) or (B,)."""
        tokens, mask, columns, *arrays = given
        each = [a.reshape(1, -1) if a.ndim == tokens.ndim else a.ravel() for a in arrays]
        return tokens.reshape(1, -1), mask.reshape(1, -1), columns, *each

    def _in_steps(
        self,
        kernel: Callable[..., Any],
        threads: int,
        scalars: tuple[Any, ...],
        written: Array,
        given: tuple[Array, ...],
    ) -> Any:
        def share(x: Array, d: Array, places: Array) -> int:
            outside: int = kernel(x[None], d[None], *given, ROWS, int(places[0]), total, *scalars)[1]
            return outside

        rows = _batch.as_rows((self.logits, written))
        some = _batch.some_rows(rows)
        total = kernel(*some, *given, WEIGH, 0, 0.0, *scalars)[0]
        self.check(total)
        self.check(total, _batch.over_rows(share, threads, *rows, np.arange(self.tokens.size)))
        return kernel(*some, *given, SUM, 0, total, *scalars)[2:]


def read_tokens(logits: Array, tokens: Any, mask: Any, ignore_index: Any, prefix: str = "") -> Tokens:
    """Check tokens and mask, and weigh each token."""
    read = Tokens(logits, tokens, mask, prefix=prefix)
    read.check(
        weights_jit(read.tokens.ravel(), read.mask.ravel(), ignored_token(ignore_index), read.columns[0])
    )
    return read


def ignored_token(value: Any) -> int:
    """The token that does not count."""
    return _check.whole("ignore_index", value, -(2**63))
