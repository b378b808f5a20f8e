# mypy: allow-untyped-defs, allow-untyped-calls
"""One row of logits: its normaliser, the sums behind entropy and divergence, and the gradients that they lead to.

A row is read block by block: the second look at a block, for the exponentials, finds it in the first-level cache while
the next one is on its way. So each row comes from memory once. The weight of an element is 2**((x - top) scale), with
`scale` = log2(e) / temperature and `top` the largest element seen so far; `mass` is the sum of the weights. Within a
block sums are kept in the row's precision, a lane each; blocks are added up in float64.
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import jit
from ._lanemath import fma, larger, largest, power, total, where_positive
from ._lanes import load, load_part, prefetch, splat, store, store_part, width
from ._row import at, length, narrow, put
from ._vecmath import wide

BLOCK = 2048
START = np.int64(0)  # a literal 0 would have what it is handed to compiled once more
LOG2E = 1 / math.log(2)
LN2 = math.log(2)
# Below any element that is not to have weight 0; finite, so that differences are no NaN.
NO_TOP = -1e38


@jit
def block_top(row, start, stop, top):
    """The larger of `top` and the largest of row[start:stop]; NaN is passed over."""
    lanes = splat(top, row)
    v = start
    while v + width(row) <= stop:
        lanes = larger(lanes, load(row, v))
        v += width(row)
    if v < stop:
        lanes = larger(lanes, load_part(row, v, stop, narrow(-np.inf, row)))
    return largest(lanes)


@jit
def block_mass(row, start, stop, scale, top):
    """Sum of the weights of row[start:stop]."""
    mass = np.float64(0.0)
    v = start
    if start + width(row) <= stop:
        lanes = splat(narrow(0.0, row), row)
        while v + width(row) <= stop:
            prefetch(row, v)
            lanes = lanes + power(load(row, v) - top, scale)
            v += width(row)
        mass = total(lanes)
    if v < stop:
        rest = load_part(row, v, stop, narrow(-np.inf, row))
        mass = mass + total(power(rest - top, scale))
    return mass


@jit
def write_weights(row, start, stop, scale, top, out):
    """Writes the weights of row[start:stop] to the beginning of out; returns their sum, as `block_mass` does."""
    mass = np.float64(0.0)
    v = start
    if start + width(row) <= stop:
        lanes = splat(narrow(0.0, row), row)
        while v + width(row) <= stop:
            weights = power(load(row, v) - top, scale)
            store(out, v - start, weights)
            lanes = lanes + weights
            v += width(row)
        mass = total(lanes)
    if v < stop:
        weights = power(load_part(row, v, stop, narrow(-np.inf, row)) - top, scale)
        store_part(out, v - start, stop - start, weights)
        mass = mass + total(weights)
    return mass


@jit
def normalizer(row, scale):
    """(top, mass): the sum over the row of 2**(x scale) is mass times 2**(top scale)."""
    V = length(row)
    top = narrow(NO_TOP, row)
    mass = np.float64(0.0)
    for start in range(0, V, BLOCK):
        stop = min(start + BLOCK, V)
        before = top
        top = block_top(row, start, stop, before)
        here = block_mass(row, start, stop, scale, top)
        mass = mass * power(before - top, scale) + here if start > 0 else here
    return top, mass


@jit
def logprob(x, scale, top, log_mass):
    """Log-probability of an element x, in nats and float64."""
    return wide(x - top) * (wide(scale) * LN2) - log_mass


@jit
def write_logprobs(row, top, log_mass, out):
    """Writes out (V,): log-probabilities at temperature 1."""
    log_mass = narrow(log_mass, row)
    V = length(row)
    v = 0
    while v + width(row) <= V:
        store(out, v, load(row, v) - top - log_mass)
        v += width(row)
    if v < V:
        store_part(out, v, V, load_part(row, v, V, top) - top - log_mass)


@jit
def write_token_gradient(row, token, scale, top, mass, slope, out):
    """Writes out (V,): slope times the gradient of the token's log-probability, (1[v = token] - p) / temperature."""
    unit = slope * (wide(scale) * LN2)
    factor = narrow(-(unit / mass), row)
    chosen = unit - unit * (
        power(wide(at(row, token) - top), wide(scale)) / mass
    )  # now: out may be the row itself
    V = length(row)
    v = 0
    while v + width(row) <= V:
        store(out, v, power(load(row, v) - top, scale) * factor)
        v += width(row)
    if v < V:
        store_part(out, v, V, power(load_part(row, v, V, top) - top, scale) * factor)
    put(out, token, narrow(chosen, row))


@jit
def block_moments(row, start, stop, scale, top):
    """(sum w, sum w (x - top)) over the weights w of row[start:stop]."""
    nothing = narrow(NO_TOP, row)  # of weight 0, and finite: 0 log 0 = 0
    mass = np.float64(0.0)
    moment = np.float64(0.0)
    v = start
    if start + width(row) <= stop:
        floor = splat(nothing, row)
        masses = splat(narrow(0.0, row), row)
        moments = masses
        while v + width(row) <= stop:
            prefetch(row, v)
            gap = larger(load(row, v) - top, floor)
            weight = power(gap, scale)
            masses = masses + weight
            moments = fma(weight, gap, moments)
            v += width(row)
        mass = total(masses)
        moment = total(moments)
    if v < stop:
        gap = larger(load_part(row, v, stop, narrow(-np.inf, row)) - top, splat(nothing, row))
        weight = power(gap, scale)
        mass = mass + total(weight)
        moment = moment + total(weight * gap)
    return mass, moment


@jit
def moments_of(row, scale):
    """(top, mass, moment): what `entropy_of` takes; the moment is the sum of w (x - top)."""
    V = length(row)
    top = narrow(NO_TOP, row)
    mass = np.float64(0.0)
    moment = np.float64(0.0)
    for start in range(0, V, BLOCK):
        stop = min(start + BLOCK, V)
        before = top
        top = block_top(row, start, stop, before)
        here, here_moment = block_moments(row, start, stop, scale, top)
        if start > 0:
            keep = power(before - top, scale)
            here_moment = (moment + (wide(before) - wide(top)) * mass) * keep + here_moment
            here = mass * keep + here
        mass, moment = here, here_moment
    return top, mass, moment


@jit
def entropy_of(mass, log_mass, moment, scale):
    """In nats."""
    return log_mass - moment / mass * (wide(scale) * LN2)


@jit
def write_entropy_gradient(row, scale, entropy, top, mass, log_mass, slope, out):
    """Writes out (V,): slope times the gradient of the entropy, -p (log p + H) / temperature."""
    unit = wide(scale) * LN2
    rate, rise = narrow(unit, row), narrow(entropy - log_mass, row)
    factor = narrow(-(slope * unit / mass), row)
    floor = splat(narrow(NO_TOP, row), row)
    V = length(row)
    v = 0
    while v + width(row) <= V:
        gap = larger(load(row, v) - top, floor)
        store(out, v, fma(gap, rate, rise) * (power(gap, scale) * factor))
        v += width(row)
    if v < V:
        gap = larger(load_part(row, v, V, top) - top, floor)
        store_part(out, v, V, fma(gap, rate, rise) * (power(gap, scale) * factor))


@jit
def block_gaps(row, ref_row, start, stop, scale, top, ref_top):
    """(sum w, sum w', sum w ((x - top) - (x' - ref_top))) over row[start:stop] and the same of ref_row."""
    mass = np.float64(0.0)
    ref_mass = np.float64(0.0)
    moment = np.float64(0.0)
    v = start
    if start + width(row) <= stop:
        masses = splat(narrow(0.0, row), row)
        ref_masses = masses
        moments = masses
        while v + width(row) <= stop:
            prefetch(row, v)
            prefetch(ref_row, v)
            gap, ref_gap = load(row, v) - top, load(ref_row, v) - ref_top
            weight = power(gap, scale)
            masses = masses + weight
            ref_masses = ref_masses + power(ref_gap, scale)
            moments = fma(weight, where_positive(weight, gap - ref_gap), moments)
            v += width(row)
        mass = total(masses)
        ref_mass = total(ref_masses)
        moment = total(moments)
    if v < stop:
        lowest = narrow(-np.inf, row)
        gap = load_part(row, v, stop, lowest) - top
        ref_gap = load_part(ref_row, v, stop, lowest) - ref_top
        weight = power(gap, scale)
        mass = mass + total(weight)
        ref_mass = ref_mass + total(power(ref_gap, scale))
        moment = moment + total(weight * where_positive(weight, gap - ref_gap))
    return mass, ref_mass, moment


@jit
def gaps_of(row, ref_row, scale):
    """(top, ref_top, mass, ref_mass, gap): what `divergence_of` takes; the gap is the sum of w (log w - log w')."""
    V = length(row)
    top = narrow(NO_TOP, row)
    ref_top = narrow(NO_TOP, row)
    mass = np.float64(0.0)
    ref_mass = np.float64(0.0)
    gap = np.float64(0.0)
    for start in range(0, V, BLOCK):
        stop = min(start + BLOCK, V)
        before, ref_before = top, ref_top
        top = block_top(row, start, stop, before)
        ref_top = block_top(ref_row, start, stop, ref_before)
        here, ref_here, here_gap = block_gaps(row, ref_row, start, stop, scale, top, ref_top)
        if start > 0:
            keep = power(before - top, scale)
            moved = (wide(before) - wide(top)) - (wide(ref_before) - wide(ref_top))
            kept = (gap + moved * mass) * keep  # NaN if infinite elements are left with weight 0
            here_gap = (kept if keep > 0 else keep) + here_gap
            here = mass * keep + here
            ref_here = ref_mass * power(ref_before - ref_top, scale) + ref_here
        mass, ref_mass, gap = here, ref_here, here_gap
    return top, ref_top, mass, ref_mass, gap


@jit
def divergence_of(mass, log_mass, log_ref_mass, gap, scale):
    """In nats; rounding may leave it a little below 0."""
    return gap / mass * (wide(scale) * LN2) - log_mass + log_ref_mass


@jit
def write_divergence_gradient(row, ref_row, scale, top, ref_top, mass, rise, slope, out):
    """Writes out (V,): slope times the gradient of the divergence, p (log p - log q - KL) / temperature.

    `rise` is what log p - log q - KL has beside the difference of the weights' logarithms.
    """
    unit = wide(scale) * LN2
    rate, rise = narrow(unit, row), narrow(rise, row)
    factor = narrow(slope * unit / mass, row)
    V = length(row)
    v = 0
    while v + width(row) <= V:
        gap = load(row, v) - top
        weight = power(gap, scale)
        gap = where_positive(weight, gap - (load(ref_row, v) - ref_top))
        store(out, v, fma(gap, rate, rise) * (weight * factor))
        v += width(row)
    if v < V:
        gap = load_part(row, v, V, top) - top
        weight = power(gap, scale)
        gap = where_positive(weight, gap - (load_part(ref_row, v, V, ref_top) - ref_top))
        store_part(out, v, V, fma(gap, rate, rise) * (weight * factor))
