# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `categorical`: logits are (N, V), one distribution a row, whose elements are neighbours in memory.

Half precision comes as its bits (`_half`). All are pure, allocate nothing and raise nothing; what they write stands
last. The work depends on the shapes alone: values are selected, never branched over.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._row import at, buffer, narrow, row_of
from ._row_groups import group_size, inside, normalizers, read_chosen, weigh_rows, write_gradient
from ._rows import (
    LOG2E,
    divergence,
    entropy_of,
    logprob,
    normalizer,
    write_divergence_gradient,
    write_entropy_gradient,
    write_logprobs,
)
from ._sampling import draw
from ._veclog import log
from ._vecmath import wide


@jit
def log_softmax_jit(logits, out):
    """Writes out (N, V)."""
    scale = narrow(LOG2E, logits)
    for n in range(logits.shape[0]):
        top, mass = normalizer(row_of(logits, n), scale)
        write_logprobs(row_of(logits, n), top, mass, row_of(out, n))


@jit
def token_logprobs_jit(logits, tokens, out):
    """Writes out (N,). Returns how many tokens are outside the vocabulary; their entries mean nothing."""
    N, V = logits.shape
    scale, group, every = narrow(LOG2E, logits), group_size(V), out[:0]
    chosen, tops, masses = buffer(logits, scale), buffer(logits, scale), buffer(logits, 0.0)
    outside = 0
    for first in range(0, N, group):
        count = min(group, N - first)
        outside += read_chosen(logits, tokens, every, first, count, chosen)
        normalizers(logits, every, first, count, scale, tops, masses)
        for g in range(count):
            out[first + g] = logprob(at(chosen, g), scale, at(tops, g), log(at(masses, g)))
    return outside


@jit
def token_logprobs_backward_jit(logits, tokens, d_logprobs, out):
    """Writes out (N, V). Returns how many tokens are outside the vocabulary; their rows mean nothing."""
    N, V = logits.shape
    scale, group, every = narrow(LOG2E, logits), group_size(V), d_logprobs[:0]
    tops, masses = buffer(logits, scale), buffer(logits, 0.0)
    outside = 0
    for first in range(0, N, group):
        count = min(group, N - first)
        weigh_rows(logits, every, first, count, scale, tops, masses, out)
        for g in range(count):
            n = first + g
            token, slope = inside(tokens[n], V), wide(d_logprobs[n])
            outside += token != tokens[n]
            write_gradient(row_of(logits, n), token, scale, at(tops, g), at(masses, g), slope, row_of(out, n))
    return outside


@jit
def entropy_jit(logits, out):
    """Writes out (N,)."""
    scale = narrow(LOG2E, logits)
    for n in range(logits.shape[0]):
        out[n], _, _ = entropy_of(row_of(logits, n), scale)


@jit
def entropy_backward_jit(logits, d_entropy, out):
    """Writes out (N, V)."""
    scale = narrow(LOG2E, logits)
    for n in range(logits.shape[0]):
        entropy, top, mass = entropy_of(row_of(logits, n), scale)
        write_entropy_gradient(
            row_of(logits, n), scale, entropy, top, mass, wide(d_entropy[n]), row_of(out, n)
        )


@jit
def kl_divergence_jit(logits, ref_logits, out):
    """Writes out (N,)."""
    zero = np.float64(0.0)
    scale = narrow(LOG2E, logits)
    for n in range(logits.shape[0]):
        value, _, _, _, _ = divergence(row_of(logits, n), row_of(ref_logits, n), scale)
        out[n] = zero if value < zero else value  # rounding may leave a little below 0; NaN stays


@jit
def kl_divergence_backward_jit(logits, ref_logits, d_kl, out):
    """Writes out (N, V)."""
    scale = narrow(LOG2E, logits)
    for n in range(logits.shape[0]):
        row, ref_row = row_of(logits, n), row_of(ref_logits, n)
        kl, top, mass, ref_top, ref_mass = divergence(row, ref_row, scale)
        write_divergence_gradient(
            row, ref_row, scale, kl, top, mass, ref_top, ref_mass, wide(d_kl[n]), row_of(out, n)
        )


@jit
def sample_jit(logits, uniforms, temperature, weights, masses, tops, out):
    """Writes out (N,), -1 in a row without probability; the three before are from `sample_scratch`.

    Returns how many rows have no probability to draw from.
    """
    scale = narrow(LOG2E / temperature, logits)
    nothing = 0
    for n in range(logits.shape[0]):
        token, _, _ = draw(row_of(logits, n), uniforms[n], scale, weights, masses, tops)
        nothing += token < 0
        out[n] = token
    return nothing
