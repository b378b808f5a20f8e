# mypy: allow-untyped-defs, allow-untyped-calls
"""Keys, or values, of a span turned: a row each of their numbers, so that vectors run along the keys."""

from __future__ import annotations

from numba import types
from numba.core import cgutils

from ._registers import Registers, instead_of, integer

__all__ = ["FEW", "KEYS", "LANES", "QUERIES", "turn", "turned_shape", "with_room"]

LANES = 16
"""Most numbers of a register."""
QUERIES = 8
"""At a time."""
FEW = 4
"""So many, or fewer, of two heads at a time."""
KEYS = 4
"""At a time, where their gradients are summed."""


def turned_shape(size: int, longest: int) -> tuple[int, int]:
    """Of the scratch for keys of `size` numbers each, of two heads, in whole vectors and whole blocks."""
    half = LANES // 2
    return -(-2 * size // half) * half, -(-longest // LANES) * LANES


def with_room(count: int, longest: int) -> int:
    """Elements of an array for so many weights: behind them vectors, and rows of queries that are missing, may end."""
    return count + QUERIES * longest + LANES


def turn(x, column, size, first, count, before, prefix, turned):
    """Writes turned[:size]: x[:, column : column + size] of all rows that a span sees, a column each row.

    What is written beside that is rubbish.
    """
    for j in range(prefix + count):
        n = before + j if j < prefix else first + j - prefix
        turned[:size, j] = x[n, column : column + size]


@instead_of(turn, types.Array, *[types.Integer] * 6, types.Array)
def _write_turn(context, builder, kinds, args):
    """Blocks of as many keys as a register has lanes, and half as many of their numbers.

    A register holds half a row of two keys, of the first half and the second. Where keys or numbers are missing, those
    before are taken once more, or 0.
    """
    x, column, size, first, count, before, prefix, turned = args
    code = Registers(context, builder, kinds[0])
    step = code.step(kinds[0], x)
    x, turned = code.array(kinds[0], x), code.array(kinds[7], turned)
    lanes, half = code.width, code.width // 2
    keys, prefixed = builder.add(prefix, count), x(before, column)
    own = code.if_any(count, x(builder.sub(first, prefix), column), prefixed)
    with cgutils.for_range_slice(builder, integer(0), size, integer(half)) as (c, _):
        mask = code.first(c, size, half)
        with cgutils.for_range_slice(builder, integer(0), keys, integer(lanes)) as (begin, _):
            rest = builder.sub(keys, begin)
            pieces = []
            for k, offset in enumerate(code.steps(builder.mul(begin, step), step, rest, lanes)):
                early = builder.icmp_signed("<", builder.add(begin, integer(k)), prefix)
                row = cgutils.pointer_add(builder, builder.select(early, prefixed, own), offset, own.type)
                pieces.append(code.load(code.moved(row, c), mask))
            halves = zip(pieces[:half], pieces[half:], strict=True)
            vectors = [code.shuffled(*pair, range(lanes)) for pair in halves]
            for k, vector in enumerate(_transposed(code, vectors)):
                code.store(vector, turned(builder.add(c, integer(k)), begin))


def _transposed(code, vectors):
    """Both halves of as many vectors as they have lanes, transposed: each round turns an index by one bit."""
    count = len(vectors)
    firsts = (*range(count // 2), *range(count, count + count // 2))
    low = [lane + k for lane in firsts for k in (0, code.width)]
    high = [lane + count // 2 for lane in low]
    for _ in range(count.bit_length() - 1):
        both = zip(vectors[: count // 2], vectors[count // 2 :], strict=True)
        vectors = [code.shuffled(a, b, lanes) for a, b in both for lanes in (low, high)]
    return vectors
