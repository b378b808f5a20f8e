"""The work of each kernel, exactly, as a formula of its shapes.

One operation is one executed + - * / or negation, or one exp, log, log1p, sqrt or tanh; the latter are also summed
as `transcendentals`. Comparisons, selections, copies, conversions and index arithmetic count nothing, nor does
arithmetic among scalar arguments alone. A test counts the kernels' own operations and requires equality.

To add a kernel, write its formula below and enter it in `FORMULAS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import NamedTuple

__all__ = ["FORMULAS", "Work", "work"]


class Work(NamedTuple):
    """Operations, and how many of them are transcendental functions. `+` adds, it does not join."""

    flops: int
    transcendentals: int

    def plus(self, other: Work) -> Work:
        """
        Examples
        --------
        >>> Work(3, 1).plus(Work(2, 0))
        Work(flops=5, transcendentals=1)
        """
        return Work(self.flops + other.flops, self.transcendentals + other.transcendentals)

    def times(self, n: int) -> Work:
        """
        Examples
        --------
        >>> Work(3, 1).times(2)
        Work(flops=6, transcendentals=2)
        """
        return Work(self.flops * n, self.transcendentals * n)

    def __add__(self, other: object) -> Work:
        return self.plus(other) if isinstance(other, Work) else NotImplemented


Formula = Callable[..., Work]


def _each(flops: int, transcendentals: int = 0, once: Work | None = None, a_block: int = 0) -> Formula:
    """So much for each element of an array of any shape, for each block of them, and `once` a call."""
    per_call = once or Work(0, 0)

    def formula(*shape: int) -> Work:
        blocks = Work(a_block * _blocks(prod(shape)), 0)
        return Work(flops, transcendentals).times(prod(shape)).plus(blocks).plus(per_call)

    return formula


def _rows(per_row: Callable[[int], Work], once: Work | None = None) -> Formula:
    """So much for each row, by its length, and `once` a call."""
    per_call = once or Work(0, 0)

    def formula(*shape: int) -> Work:
        *leading, width = shape
        return per_row(width).times(prod(leading)).plus(per_call)

    return formula


def _blocks(V: int) -> int:
    """Blocks of a row that is read once; the length is `kernels._rows.BLOCK`, a test says."""
    return -(-V // 2048)


def _logprob(V: int) -> Work:
    """Of one token, from a row's logits."""
    return Work(4 * V + 5 * _blocks(V) - 1, V + _blocks(V))


def _backward(V: int) -> Work:
    """Of one token's log-probability; a short row keeps its weights, a long one computes them twice."""
    if V <= 2048:
        return Work(5 * V + 5, V)
    return Work(8 * V + 5 * _blocks(V) + 4, 2 * V + _blocks(V))


def _token_gradient(V: int) -> Work:
    """Of one token that counts, from logits to their gradient."""
    return _backward(V).plus(Work(5, 1))


def _whiten(*shape: int) -> Work:
    """Moments 6 and result 4 for each element; those of a sample come first."""
    N = prod(shape)
    again = 6 * min(N, 256) - 3 if N else 0
    return Work(10 * N + again + 11 * _blocks(N) + 10, 1)


def _ppo_from_logits(*shape: int) -> Work:
    *leading, V = shape
    rows = _token_gradient(V).plus(Work(9, 1)).times(prod(leading))
    return rows.plus(FORMULAS["ppo_clip"](*leading)).plus(Work(1, 0))


def _grpo_from_logits(*shape: int) -> Work:
    """Without a reference."""
    *leading, T, V = shape
    rows = _token_gradient(V).plus(Work(10, 1)).times(T * prod(leading))
    return rows.plus(FORMULAS["grpo_without_kl"](*leading, T)).plus(Work(3, 0).times(prod(leading)))


def _dpo_from_logits(*shape: int) -> Work:
    """Shape: pairs, tokens of a pair, V."""
    *leading, tokens, V = shape
    pair = _token_gradient(V).plus(Work(2, 0)).times(tokens).plus(Work(18, 2))
    return pair.times(prod(leading)).plus(Work(1, 0))


def _draw(V: int) -> Work:
    """Of more than one block first all; the elements of one; their sums, of many by 64 first; then 16 neighbours."""
    block, blocks = min(V, 2048), _blocks(V)
    far = -(-block // 64) if block > 64 else 0
    # A run of n elements takes n to sum up and one to pass over: runs of 64 and then 4 of 16, or of 16 alone.
    sums = 65 * far + (4 * 17 if far else block + -(-block // 16))
    found = Work(4 * block + sums + min(V, 16) + 2, block)
    return found.plus(Work(4 * V + 6 * blocks, V + blocks)) if blocks > 1 else found


def _plackett_luce(*shape: int) -> Work:
    """Upward 9, downward 6, gradient 5 for each item but the last; a single item makes no choice."""
    *leading, K = shape
    if K == 1:
        return Work(0, 0)
    return Work(20 * K - 21, 4 * K - 4).times(prod(leading)).plus(Work(1, 0))


def _loglinear(per_token: Callable[[int], Work], rows_per_token: int = 0) -> Formula:
    """The log-linear model's work by what is there, not by padded shapes.

    Arguments: prompt tokens, prompts of two tokens or more, response tokens, context terms (0 or 2), V.
    """

    def formula(prompt_tokens: int, averaged: int, tokens: int, contexts: int, V: int) -> Work:
        rows = prompt_tokens + averaged + (contexts + rows_per_token) * tokens
        return Work(rows * V, 0).plus(per_token(V).times(tokens))

    return formula


def _bradley_terry_bag(pairs: int, nnz: int, features: int = 0) -> Work:
    """`features`: F if there is a penalty, else 0."""
    return Work(10 * pairs + 4 * nnz + 1 + (3 * features + 2 if features else 0), 2 * pairs)


def _fit_bradley_terry(
    pairs: int,
    nnz: int,
    epochs: int,
    reads: int,
    nnz_read: int,
    steps: int,
    nnz_stepped: int,
    evaluations: int,
    newtons: int,
    far: int,
) -> Work:
    """What was executed: the fields of `kernels.bag_fit.FitWork`."""
    flops = 2 * nnz + 3 * pairs + 7 * epochs - 1 + 9 * reads + 6 * far + 2 * nnz_read
    flops += 12 * steps + 2 * nnz_stepped + 3 * evaluations + 11 * newtons
    return Work(flops, pairs + far + steps + newtons)


def _layer_norm(C: int) -> Work:
    return Work(8 * C + 3, 1)


def _attention(heads: int, size: int, pairs: int, scored: int) -> Work:
    """A score is a product of `size`; a pair that is seen has an exponential and a share of the mixture."""
    return Work((2 * size - 1) * scored + (2 * size + 5) * pairs, pairs).times(heads)


def _attention_backward(heads: int, size: int, pairs: int, scored: int) -> Work:
    return Work((2 * size - 1) * scored + (6 * size + 5) * pairs, 0).times(heads)


# Shapes: logits (..., V); what is given a token or a pair, any shape; group_advantages and rloo_advantages
# (groups, group_size); plackett_luce (..., K); gae (..., T); optimisers, the parameters' shape.
FORMULAS: dict[str, Formula] = {
    # categorical: difference, product, power and sum make 4 V; what came before a block of 2,048 is weighted anew
    "log_softmax": _rows(lambda V: Work(6 * V + 5 * _blocks(V) - 4, V + _blocks(V))),
    "token_logprobs": _rows(_logprob),
    "token_logprobs_backward": _rows(_backward),
    "entropy": _rows(lambda V: Work(6 * V + 10 * _blocks(V) - 6, V + _blocks(V))),
    "entropy_backward": _rows(lambda V: Work(13 * V + 10 * _blocks(V) - 2, 2 * V + _blocks(V))),
    "kl_divergence": _rows(lambda V: Work(11 * V + 17 * _blocks(V) - 11, 2 * V + 2 * _blocks(V))),
    "kl_divergence_backward": _rows(lambda V: Work(20 * V + 17 * _blocks(V) - 7, 3 * V + 2 * _blocks(V))),
    "sample": _rows(_draw),
    # preference: the last operation of a call is the mean's division
    "log_sigmoid": _each(4, 2),
    "bradley_terry": _each(25, 2, once=Work(1, 0), a_block=1),
    "noisy_bradley_terry": _each(31, 3, once=Work(1, 0), a_block=1),  # `bradley_terry` with noise
    "plackett_luce": _plackett_luce,
    "dpo": _each(18, 2, once=Work(1, 0), a_block=1),
    "ipo": _each(12, 0, once=Work(1, 0), a_block=1),
    "ipo_per_token": _each(14, 0, once=Work(1, 0), a_block=1),
    "hinge": _each(6, 0, once=Work(1, 0), a_block=1),
    "robust": _each(21, 2, once=Work(1, 0), a_block=1),
    "exo_pair": _each(25, 2, once=Work(1, 0), a_block=1),
    "discopop": _each(38, 5, once=Work(1, 0), a_block=1),
    "aot": _each(20, 2, once=Work(1, 0), a_block=1),  # sorting compares
    "sigmoid_norm": _each(22, 2, once=Work(1, 0), a_block=1),
    "nca_pair": _each(29, 4, once=Work(1, 0), a_block=1),
    "bco_pair": _each(27, 4, once=Work(1, 0), a_block=1),
    "sppo_hard": _each(16, 0, once=Work(1, 0), a_block=1),
    "apo_zero": _each(21, 2, once=Work(1, 0), a_block=1),
    "apo_down": _each(22, 2, once=Work(1, 0), a_block=1),
    "kto": _each(14, 1, once=Work(1, 0), a_block=1),
    "simpo": _each(20, 2, once=Work(1, 0), a_block=1),
    "orpo": _each(35, 6, once=Work(6, 0), a_block=1),
    "cpo": _each(20, 2, once=Work(4, 0), a_block=1),
    "cpo_per_token": _each(21, 2, once=Work(5, 0), a_block=1),
    # policy_gradient
    "k1": _each(1),
    "k2": _each(3),
    "k3": _each(4, 1),
    "gae": _rows(lambda T: Work(7 * T, 0), once=Work(1, 0)),
    "whiten": _whiten,
    "ppo_clip": _each(12, 1, once=Work(7, 0)),
    "grpo": _rows(lambda T: Work(24 * T + 3 * _blocks(T) + 5, 2 * T), once=Work(3, 0)),  # with a reference
    "grpo_without_kl": _rows(lambda T: Work(12 * T + 2 * _blocks(T) + 5, T), once=Work(3, 0)),
    "value_clip": _each(12, 0, once=Work(5, 0), a_block=2),
    "group_advantages": _rows(lambda G: Work(6 * G + 4, 1)),
    "rloo_advantages": _rows(lambda G: Work(4 * G, 0)),
    # from_logits: (..., V) of the tokens that count; where one does not, its row costs nothing
    "sft_from_logits": _rows(_token_gradient, once=Work(1, 0)),
    "ppo_from_logits": _ppo_from_logits,
    "grpo_from_logits": _grpo_from_logits,
    "dpo_from_logits": _dpo_from_logits,
    # loglinear
    "loglinear_logits": _loglinear(lambda V: Work(0, 0)),
    "loglinear_logprobs": _loglinear(_logprob),
    "loglinear_sample": _loglinear(lambda V: _draw(V).plus(Work(4, 1))),
    "loglinear_backward": _loglinear(lambda V: Work(0, 0), rows_per_token=1),
    # bag: a pair of neighbouring tokens, if there are buckets for them, is one more feature
    "bag_scores": lambda nnz: Work(2 * nnz, 0),
    "bag_difference": lambda chosen_nnz, rejected_nnz: Work(chosen_nnz + rejected_nnz, 0),
    "bradley_terry_bag": _bradley_terry_bag,
    "token_scores": lambda B, T, buckets: Work(B * (2 * T + (3 * (T - 1) if buckets else 0)), 0),
    "token_bag": lambda B, T, buckets: Work(B * (T - 1) if buckets else 0, 0),
    "fit_bradley_terry": _fit_bradley_terry,
    # nn: rows and their width; attention (heads, width of a head, pairs of a query and
    # a key that it sees, pairs scored: four queries share what the last of them sees)
    "matmul": lambda M, K, N: Work(M * N * (2 * K - 1) if K else 0, 0),
    "added_matmul": lambda M, K, N: Work(2 * M * N * K, 0),  # to what was there
    "embedding": _each(1),
    "embedding_backward": _each(2),
    "layer_norm": _rows(_layer_norm),
    "residual_norm": _rows(lambda C: _layer_norm(C).plus(Work(2 * C, 0))),
    "layer_norm_backward": _rows(lambda C: Work(18 * C, 0)),
    "gelu": _each(16, 1),
    "gelu_over": _each(10, 1),  # without the slope
    "gelu_backward": _each(2),
    "draw": _rows(lambda V: _draw(V).plus(Work(4, 1))),
    "attention": _attention,
    "attention_backward": _attention_backward,
    "fill_cache": _each(0),  # copies
    # optim
    "adamw": _each(14, 1),
    "global_norm": _each(2, 0, once=Work(1, 1)),
    "sum": _rows(lambda T: Work(T - 1, 0)),  # of the last axis, done with NumPy by the caller
    "elementwise": _each(1),  # one operation on each element, done with NumPy by the caller
}


@lru_cache(4096, typed=True)  # every update asks for the same ones again
def work(kernel: str, *shape: int) -> Work:
    """The operations that one call of a kernel executes.

    Parameters
    ----------
    kernel : str
        The public function's name, e.g. "token_logprobs"; for `kl_estimate` its kind.
    *shape : int
        Of its first array; for groups (number of groups, group_size).

    Returns
    -------
    Work

    Raises
    ------
    ValueError
        For a kernel without a formula, or a shape that it does not have.

    Examples
    --------
    >>> work("log_softmax", 2, 3)
    Work(flops=38, transcendentals=8)
    """
    formula = FORMULAS.get(kernel)
    if formula is None:
        near = difflib.get_close_matches(kernel, FORMULAS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"kernel: came as {kernel!r}, which has no formula{hint}")
    try:
        return formula(*shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"shape: came as {shape}, which {kernel!r} does not take ({error})") from None
