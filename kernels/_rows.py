# mypy: allow-untyped-defs, allow-untyped-calls
"""One row of logits: its normaliser, entropy and divergence, and the gradients that they lead to.

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
from ._veclog import log
from ._vecmath import wide

BLOCK = 2048
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
def write_logprobs(row, top, mass, out):
    """Writes out (V,): log-probabilities at temperature 1."""
    log_mass = narrow(log(mass), row)
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
def _moments(row, start, stop, scale, top):
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
def entropy_of(row, scale):
    """(entropy in nats, top, mass)."""
    V = length(row)
    top = narrow(NO_TOP, row)
    mass = np.float64(0.0)
    moment = np.float64(0.0)
    for start in range(0, V, BLOCK):
        stop = min(start + BLOCK, V)
        before = top
        top = block_top(row, start, stop, before)
        here, here_moment = _moments(row, start, stop, scale, top)
        if start > 0:
            keep = power(before - top, scale)
            here_moment = (moment + (wide(before) - wide(top)) * mass) * keep + here_moment
            here = mass * keep + here
        mass, moment = here, here_moment
    return log(mass) - moment / mass * (wide(scale) * LN2), top, mass


@jit
def write_entropy_gradient(row, scale, entropy, top, mass, slope, out):
    """Writes out (V,): slope times the gradient of the entropy, -p (log p + H) / temperature."""
    unit = wide(scale) * LN2
    rate, rise = narrow(unit, row), narrow(entropy - log(mass), row)
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
def _divergences(row, ref_row, start, stop, scale, top, ref_top):
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
def divergence(row, ref_row, scale):
    """(KL in nats, top, mass, ref_top, ref_mass)."""
    V = length(row)
    top = narrow(NO_TOP, row)
    ref_top = narrow(NO_TOP, row)
    mass = np.float64(0.0)
    ref_mass = np.float64(0.0)
    moment = np.float64(0.0)
    for start in range(0, V, BLOCK):
        stop = min(start + BLOCK, V)
        before, ref_before = top, ref_top
        top = block_top(row, start, stop, before)
        ref_top = block_top(ref_row, start, stop, ref_before)
        here, ref_here, gap = _divergences(row, ref_row, start, stop, scale, top, ref_top)
        if start > 0:
            keep = power(before - top, scale)
            moved = (wide(before) - wide(top)) - (wide(ref_before) - wide(ref_top))
            kept = (moment + moved * mass) * keep  # NaN if infinite elements are left with weight 0
            gap = (kept if keep > 0 else keep) + gap
            here = mass * keep + here
            ref_here = ref_mass * power(ref_before - ref_top, scale) + ref_here
        mass, ref_mass, moment = here, ref_here, gap
    kl = moment / mass * (wide(scale) * LN2) - log(mass) + log(ref_mass)
    return kl, top, mass, ref_top, ref_mass


@jit
def write_divergence_gradient(row, ref_row, scale, kl, top, mass, ref_top, ref_mass, slope, out):
    """Writes out (V,): slope times the gradient of the divergence, p (log p - log q - KL) / temperature."""
    unit = wide(scale) * LN2
    rate, rise = narrow(unit, row), narrow(log(ref_mass) - log(mass) - kl, row)
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
