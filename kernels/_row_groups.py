# mypy: allow-untyped-defs, allow-untyped-calls
"""Several short rows of logits at once: what the computation of one waits for, another's fills.

A row of 64 elements is a chain: its largest element, the weights, their sum, its logarithm. So all of a group's tops
come first, then all masses. Rows longer than a block are left to `_rows.normalizer`, one by one.
"""

from __future__ import annotations

from ._jit import jit
from ._lanes import load, load_part, store, store_part, width
from ._row import BUFFER, at, is_half, length, narrow, put, row_of
from ._rows import (
    BLOCK,
    LN2,
    NO_TOP,
    START,
    block_gaps,
    block_mass,
    block_moments,
    block_top,
    gaps_of,
    moments_of,
    normalizer,
    write_token_gradient,
    write_weights,
)
from ._veclog import log
from ._vecmath import wide


@jit
def group_size(V):
    """Rows of a group, a power of two: as many as stay in the first-level cache together.

    Found without a division, which takes as long as all else that a call does before its first row.
    """
    rows = BUFFER
    while rows > 1 and rows * V > 2 * BLOCK:
        rows >>= 1
    return rows


@jit
def normalizers(logits, live, first, count, scale, tops, masses):
    """Writes tops, masses (count,): those of the rows from `first` on whose `live` (N,), if given, is not 0."""
    V = logits.shape[1]
    if V > BLOCK:
        for g in range(count):
            if _is_live(live, first + g):
                top, mass = normalizer(row_of(logits, first + g), scale)
                put(tops, g, top)
                put(masses, g, mass)
        return
    _write_tops(logits, live, first, count, tops)
    for g in range(count):
        if _is_live(live, first + g):
            put(masses, g, block_mass(row_of(logits, first + g), START, V, scale, at(tops, g)))


@jit
def write_moments(logits, first, count, scale, tops, masses, moments):
    """`normalizers`, and writes moments (count,): `_rows.moments_of`."""
    V = logits.shape[1]
    if V > BLOCK:
        for g in range(count):
            top, mass, moment = moments_of(row_of(logits, first + g), scale)
            put(tops, g, top)
            put(masses, g, mass)
            put(moments, g, moment)
        return
    _write_tops(logits, None, first, count, tops)
    for g in range(count):
        mass, moment = block_moments(row_of(logits, first + g), START, V, scale, at(tops, g))
        put(masses, g, mass)
        put(moments, g, moment)


@jit
def write_gaps(logits, ref_logits, first, count, scale, tops, ref_tops, masses, ref_masses, gaps):
    """`normalizers` of both, and writes gaps (count,): `_rows.gaps_of`."""
    V = logits.shape[1]
    if V > BLOCK:
        for g in range(count):
            row, ref_row = row_of(logits, first + g), row_of(ref_logits, first + g)
            top, ref_top, mass, ref_mass, gap = gaps_of(row, ref_row, scale)
            put(tops, g, top)
            put(ref_tops, g, ref_top)
            put(masses, g, mass)
            put(ref_masses, g, ref_mass)
            put(gaps, g, gap)
        return
    _write_tops(logits, None, first, count, tops)
    _write_tops(ref_logits, None, first, count, ref_tops)
    for g in range(count):
        row, ref_row = row_of(logits, first + g), row_of(ref_logits, first + g)
        mass, ref_mass, gap = block_gaps(row, ref_row, START, V, scale, at(tops, g), at(ref_tops, g))
        put(masses, g, mass)
        put(ref_masses, g, ref_mass)
        put(gaps, g, gap)


@jit
def inside(token, V):
    """The token, or 0 if it is outside the vocabulary."""
    return token if 0 <= token < V else 0


@jit
def read_rows(logits, tokens, live, first, count, scale, chosen, tops, masses):
    """`normalizers`, and writes chosen (count,): the logit of each row's token.

    That is read last, from the cache. Returns how many tokens are outside the vocabulary.
    """
    normalizers(logits, live, first, count, scale, tops, masses)
    return _read_chosen(logits, tokens, live, first, count, chosen)


@jit
def _read_chosen(logits, tokens, live, first, count, chosen):
    V = logits.shape[1]
    outside = 0
    for g in range(count):
        if _is_live(live, first + g):
            token = tokens[first + g]
            outside += token < 0 or token >= V
            put(chosen, g, at(row_of(logits, first + g), inside(token, V)))
    return outside


@jit
def keeps_weights(logits, out):
    """Whether `weigh_rows` leaves the weights in `out`: of short rows, and where they fit without a loss."""
    return logits.shape[1] <= BLOCK and not is_half(out)


@jit
def weigh_rows(logits, tokens, live, first, count, scale, chosen, tops, masses, out):
    """`read_rows` for a gradient to come: writes the weights of short rows into out (N, V), which may be the logits."""
    if not keeps_weights(logits, out):
        return read_rows(logits, tokens, live, first, count, scale, chosen, tops, masses)
    _write_tops(logits, live, first, count, tops)
    outside, V = _read_chosen(logits, tokens, live, first, count, chosen), logits.shape[1]
    for g in range(count):
        if _is_live(live, first + g):
            row, weights = row_of(logits, first + g), row_of(out, first + g)
            put(masses, g, write_weights(row, START, V, scale, at(tops, g), weights))
    return outside


@jit
def write_gradient(row, token, scale, top, mass, slope, out):
    """Writes out (V,): `_rows.write_token_gradient`, where `weigh_rows` may have left the weights."""
    if length(row) > BLOCK or is_half(out):
        write_token_gradient(row, token, scale, top, mass, slope, out)
        return
    unit = slope * (wide(scale) * LN2)
    rate = unit / mass
    weight = wide(at(out, token))
    _multiply(out, narrow(-rate, out))
    put(out, token, narrow(unit - rate * weight, out))


@jit
def write_logs(masses, count, logs):
    """Writes logs (count,): a loop of its own, for it packs."""
    for g in range(count):
        put(logs, g, log(at(masses, g)))


@jit
def _is_live(live, n):
    if live is None:
        return True
    return live[n] > 0


@jit
def _write_tops(logits, live, first, count, tops):
    for g in range(count):
        if _is_live(live, first + g):
            row = row_of(logits, first + g)
            put(tops, g, block_top(row, START, length(row), narrow(NO_TOP, row)))


@jit
def _multiply(row, factor):
    v = 0
    while v + width(row) <= length(row):
        store(row, v, load(row, v) * factor)
        v += width(row)
    if v < length(row):
        rest = load_part(row, v, length(row), narrow(0.0, row))
        store_part(row, v, length(row), rest * factor)
