# mypy: allow-untyped-defs, allow-untyped-calls
"""Jitted bodies of `categorical`: logits are (N, V), one distribution a row, whose elements are neighbours in memory.

Half precision comes as its bits (`_half`). All are pure, allocate nothing and raise nothing; what they write stands
last. The work depends on the shapes alone: values are selected, never branched over.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from ._row import at, buffer, narrow, row_of
from ._row_groups import (
    group_size,
    inside,
    normalizers,
    read_rows,
    weigh_rows,
    write_gaps,
    write_gradient,
    write_logs,
    write_moments,
)
from ._rows import (
    LOG2E,
    divergence_of,
    entropy_of,
    logprob,
    write_divergence_gradient,
    write_entropy_gradient,
    write_logprobs,
)
from ._sampling import draw
from ._vecmath import wide


@jit
def log_softmax_jit(logits, out):
    """Writes out (N, V)."""
    N, V = logits.shape
    scale, group = narrow(LOG2E, logits), group_size(V)
    tops, masses, logs = buffer(logits, scale), buffer(logits, 0.0), buffer(logits, 0.0)
    for first in range(0, N, group):
        count = min(group, N - first)
        normalizers(logits, None, first, count, scale, tops, masses)
        write_logs(masses, count, logs)
        for g in range(count):
            write_logprobs(row_of(logits, first + g), at(tops, g), at(logs, g), row_of(out, first + g))


@jit
def token_logprobs_jit(logits, tokens, out):
    """Writes out (N,). Returns how many tokens are outside the vocabulary; their entries mean nothing."""
    N, V = logits.shape
    scale, group = narrow(LOG2E, logits), group_size(V)
    chosen, tops = buffer(logits, scale), buffer(logits, scale)
    masses, logs = buffer(logits, 0.0), buffer(logits, 0.0)
    outside = 0
    for first in range(0, N, group):
        count = min(group, N - first)
        outside += read_rows(logits, tokens, None, first, count, scale, chosen, tops, masses)
        write_logs(masses, count, logs)
        for g in range(count):
            out[first + g] = logprob(at(chosen, g), scale, at(tops, g), at(logs, g))
    return outside


@jit
def token_logprobs_backward_jit(logits, tokens, d_logprobs, out, forward=None):
    """Writes out (N, V) and, if it is given, forward (N,).

    Returns how many tokens are outside the vocabulary; their rows mean nothing.
    """
    N, V = logits.shape
    scale, group = narrow(LOG2E, logits), group_size(V)
    chosen, tops = buffer(logits, scale), buffer(logits, scale)
    masses, logs = buffer(logits, 0.0), buffer(logits, 0.0)
    outside = 0
    for first in range(0, N, group):
        count = min(group, N - first)
        outside += weigh_rows(logits, tokens, None, first, count, scale, chosen, tops, masses, out)
        if forward is not None:
            write_logs(masses, count, logs)
            for g in range(count):
                forward[first + g] = logprob(at(chosen, g), scale, at(tops, g), at(logs, g))
        for g in range(count):
            n = first + g
            token, slope = inside(tokens[n], V), wide(d_logprobs[n])
            write_gradient(row_of(logits, n), token, scale, at(tops, g), at(masses, g), slope, row_of(out, n))
    return outside


@jit
def entropy_jit(logits, out):
    """Writes out (N,)."""
    N, V = logits.shape
    scale, group = narrow(LOG2E, logits), group_size(V)
    tops = buffer(logits, scale)
    masses, moments, logs = buffer(logits, 0.0), buffer(logits, 0.0), buffer(logits, 0.0)
    for first in range(0, N, group):
        count = min(group, N - first)
        write_moments(logits, first, count, scale, tops, masses, moments)
        write_logs(masses, count, logs)
        for g in range(count):
            out[first + g] = entropy_of(at(masses, g), at(logs, g), at(moments, g), scale)


@jit
def entropy_backward_jit(logits, d_entropy, out, forward=None):
    """Writes out (N, V) and, if it is given, forward (N,)."""
    N, V = logits.shape
    scale, group = narrow(LOG2E, logits), group_size(V)
    tops = buffer(logits, scale)
    masses, moments, logs = buffer(logits, 0.0), buffer(logits, 0.0), buffer(logits, 0.0)
    for first in range(0, N, group):
        count = min(group, N - first)
        write_moments(logits, first, count, scale, tops, masses, moments)
        write_logs(masses, count, logs)
        for g in range(count):
            n, top, mass, log_mass = first + g, at(tops, g), at(masses, g), at(logs, g)
            value, slope = entropy_of(mass, log_mass, at(moments, g), scale), wide(d_entropy[n])
            if forward is not None:
                forward[n] = value
            write_entropy_gradient(
                row_of(logits, n), scale, value, top, mass, log_mass, slope, row_of(out, n)
            )


@jit
def kl_divergence_jit(logits, ref_logits, out):
    """Writes out (N,)."""
    N, V = logits.shape
    scale, group = narrow(LOG2E, logits), group_size(V)
    tops, ref_tops = buffer(logits, scale), buffer(logits, scale)
    masses, ref_masses, gaps = buffer(logits, 0.0), buffer(logits, 0.0), buffer(logits, 0.0)
    logs, ref_logs = buffer(logits, 0.0), buffer(logits, 0.0)
    for first in range(0, N, group):
        count = min(group, N - first)
        write_gaps(logits, ref_logits, first, count, scale, tops, ref_tops, masses, ref_masses, gaps)
        write_logs(masses, count, logs)
        write_logs(ref_masses, count, ref_logs)
        for g in range(count):
            value = divergence_of(at(masses, g), at(logs, g), at(ref_logs, g), at(gaps, g), scale)
            out[first + g] = _at_least_0(value)


@jit
def kl_divergence_backward_jit(logits, ref_logits, d_kl, out, forward=None):
    """Writes out (N, V) and, if it is given, forward (N,)."""
    N, V = logits.shape
    scale, group = narrow(LOG2E, logits), group_size(V)
    tops, ref_tops = buffer(logits, scale), buffer(logits, scale)
    masses, ref_masses, gaps = buffer(logits, 0.0), buffer(logits, 0.0), buffer(logits, 0.0)
    logs, ref_logs = buffer(logits, 0.0), buffer(logits, 0.0)
    for first in range(0, N, group):
        count = min(group, N - first)
        write_gaps(logits, ref_logits, first, count, scale, tops, ref_tops, masses, ref_masses, gaps)
        write_logs(masses, count, logs)
        write_logs(ref_masses, count, ref_logs)
        for g in range(count):
            n, mass = first + g, at(masses, g)
            value = divergence_of(mass, at(logs, g), at(ref_logs, g), at(gaps, g), scale)
            if forward is not None:
                forward[n] = _at_least_0(value)
            rise = at(ref_logs, g) - at(logs, g) - value
            write_divergence_gradient(
                row_of(logits, n),
                row_of(ref_logits, n),
                scale,
                at(tops, g),
                at(ref_tops, g),
                mass,
                rise,
                wide(d_kl[n]),
                row_of(out, n),
            )


@jit
def _at_least_0(value):
    """A divergence, which rounding may leave a little below 0; NaN stays."""
    zero = np.float64(0.0)
    return zero if value < zero else value


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
