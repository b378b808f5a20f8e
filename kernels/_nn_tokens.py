"""Where a transformer's tokens come in and go out: `embedding` and its gradient, and `draw`; checked and converted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._blocks import draw_jit, embedding_backward_jit, embedding_jit
from ._check import F64, I64, Array
from ._sampling import sample_scratch, uniforms_jit

__all__ = ["Draw", "EmbeddingGradients", "draw", "embedding", "embedding_backward"]


class EmbeddingGradients(NamedTuple):
    """With respect to the table of tokens (V, C) and to that of places (P, C)."""

    d_table: Array
    d_position_table: Array


class Draw(NamedTuple):
    """`tokens` (...), and the log-probability of each (...)."""

    tokens: Array
    logprobs: Array


def _indices(tokens: Any, places: Any) -> tuple[Array, Array]:
    t, p = _check.integers("tokens", tokens), _check.integers("places", places)
    _check.same_shape(("tokens", "places"), t, p)
    return t, p


def inside(name: str, array: Array, stop: int) -> None:
    """All from 0 up to, but not, `stop`."""
    if array.size and (array.min() < 0 or array.max() >= stop):
        raise ValueError(
            f"{name}: came with values from {array.min()} to {array.max()}, at least 0 and below {stop} is needed"
        )


def embedding(tokens: Any, places: Any, table: Any, position_table: Any, out: Array | None = None) -> Array:
    """Each token's row of one table plus its place's row of another.

    Parameters
    ----------
    tokens : array_like of int, (...)
        In [0, V).
    places : array_like of int, (...)
        In [0, P).
    table : array_like, (V, C)
    position_table : array_like, (P, C)
        Learned positions.
    out : ndarray, (..., C), optional

    Returns
    -------
    ndarray, (..., C)
        ``table[tokens] + position_table[places]``

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, out of range, or does not fit.

    References
    ----------
    Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training": ``h0 = U We + Wp``.

    Examples
    --------
    >>> embedding([1, 0], [0, 1], [[0.0, 1.0], [2.0, 3.0]], [[10.0, 10.0], [20.0, 20.0]])
    array([[12., 13.],
           [20., 21.]])
    """
    t, p = _indices(tokens, places)
    rows, positions = _check.floats(("table", "position_table"), table, position_table)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"table: came with shape {rows.shape}, (V, C) is needed, each at least 1")
    C = rows.shape[1]
    if positions.ndim != 2 or positions.shape[1] != C:
        raise ValueError(
            f"position_table: came with shape {positions.shape}, (P, {C}) is needed as for table"
        )
    inside("tokens", t, len(rows))
    inside("places", p, len(positions))
    result = _check.output(out, (*t.shape, C), rows.dtype, tokens, places, table, position_table)
    embedding_jit(t.reshape(-1), p.reshape(-1), rows, positions, result.reshape(-1, C))
    return result


def embedding_backward(
    tokens: Any, places: Any, d_out: Any, vocab_size: int, positions: int, out: Array | None = None
) -> EmbeddingGradients:
    """Gradient of `embedding` with respect to its tables: rows of `d_out` summed by token and by place.

    Parameters
    ----------
    tokens, places : array_like of int, (...)
    d_out : array_like, (..., C)
    vocab_size, positions : int
        Rows of the two tables, V and P.
    out : ndarray, (V, C), optional
        For d_table.

    Returns
    -------
    EmbeddingGradients
        Overwritten, not accumulated.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter that is no array of numbers, out of range, or does not fit.

    Examples
    --------
    >>> d_table, d_position_table = embedding_backward([1, 1], [0, 1], [[1.0, 2.0], [3.0, 4.0]], 2, 2)
    >>> d_table
    array([[0., 0.],
           [4., 6.]])
    >>> d_position_table
    array([[1., 2.],
           [3., 4.]])
    """
    t, p = _indices(tokens, places)
    (d,) = _check.floats(("d_out",), d_out)
    C = _check.last_axis("d_out", d)
    _check.shape_is("d_out", d, (*t.shape, C), "a row a token")
    V, P = _check.whole("vocab_size", vocab_size, 1), _check.whole("positions", positions, 1)
    inside("tokens", t, V)
    inside("places", p, P)
    d_table = _check.output(out, (V, C), d.dtype, tokens, places, d_out)
    d_table[...] = 0
    d_position_table = np.zeros((P, C), d.dtype)
    embedding_backward_jit(t.reshape(-1), p.reshape(-1), d.reshape(-1, C), d_table, d_position_table)
    return EmbeddingGradients(d_table, d_position_table)


def draw(logits: Any, uniforms: Any, out: Array | None = None) -> Draw:
    """Draw one token a row by inverse CDF, as `categorical.sample` does, with the log-probability that it had.

    Parameters
    ----------
    logits : array_like, (..., V)
    uniforms : array_like, (...)
        Random numbers in [0, 1]; they decide everything.
    out : ndarray of int64, (...), optional
        For the tokens.

    Returns
    -------
    Draw

    Raises
    ------
    TypeError, ValueError
        Naming the parameter; logits with NaN, +inf or nothing but -inf in a row are a ValueError.

    Examples
    --------
    >>> import numpy as np
    >>> tokens, logprobs = draw([[0.0, 0.0, -np.inf]] * 2, [0.0, 0.6])
    >>> tokens, logprobs.round(4)
    (array([0, 1]), array([-0.6931, -0.6931]))
    """
    (x,) = _check.floats(("logits",), logits)
    V = _check.last_axis("logits", x)
    u = _check.shaped("uniforms", uniforms, F64, x.shape[:-1], "the logits' shape without the last axis")
    if not uniforms_jit(u.reshape(-1)):
        raise ValueError(f"uniforms: came with values from {u.min()} to {u.max()}, 0 to 1 is needed")
    tokens = _check.output(out, u.shape, I64, logits, uniforms)
    logprobs = np.empty(u.shape, x.dtype)
    scratch = sample_scratch(V, x.dtype)
    draw_jit(x.reshape(-1, V), u.reshape(-1), *scratch, tokens.reshape(-1), logprobs.reshape(-1))
    drawn = np.count_nonzero((logprobs > -np.inf) & (logprobs < np.inf))
    if drawn < logprobs.size:
        raise ValueError(
            f"logits: came with {logprobs.size - drawn} rows of NaN, +inf or only -inf, "
            "a distribution is needed in each"
        )
    return Draw(tokens, logprobs)
