# mypy: allow-untyped-defs, allow-untyped-calls
"""Losses of one preference pair and their slopes, from the rewards of its two responses; for inner loops.

`up` and `down` are the rewards of the chosen and the rejected response, beta times a log-ratio. Each function gives the
loss and its derivatives with respect to both. `options` holds a loss's own constants, of the arrays' type. The work
is the same for all values.
"""

from __future__ import annotations

from ._veclog import log1p
from ._vecmath import exp, inlined


@inlined
def sigmoids(x, zero, one):
    """(sigma(x), sigma(-x)) from one exponential, which never overflows."""
    negative = -x
    positive = x >= zero
    e = exp(negative if positive else x)
    whole = one + e
    near = one / whole  # sigma(|x|)
    far = e / whole
    return near if positive else far, far if positive else near


@inlined
def softplus(x, zero, one):
    """(log(1 + e**x), log(1 + e**-x), sigma(x), sigma(-x)) from one exponential."""
    negative = -x
    positive = x >= zero
    e = exp(negative if positive else x)
    whole = one + e
    near = one / whole
    far = e / whole
    tail = log1p(e)
    above = (x if positive else zero) + tail
    below = (zero if positive else negative) + tail
    return above, below, near if positive else far, far if positive else near


@inlined
def smoothed(up, down, options, zero, one):
    """(1-e) sp(-s) + e sp(s), which is sp(-s) + e s; options (e,)."""
    gap = up - down
    _, below, _, wrong = softplus(gap, zero, one)
    lean = gap if options[0] > zero else wrong  # not 0 times an infinity
    slope = options[0] - wrong
    return below + options[0] * lean, slope, -slope


@inlined
def robust(up, down, options, zero, one):
    """((1-e) sp(-s) - e sp(s)) / (1-2e), which is sp(-s) - k s; options (k,), k = e / (1-2e)."""
    gap = up - down
    _, below, _, wrong = softplus(gap, zero, one)
    lean = gap if options[0] > zero else wrong
    slope = -(options[0] + wrong)
    return below - options[0] * lean, slope, -slope


@inlined
def exo(up, down, options, zero, one):
    """KL of (q, 1-q) from (1-e, e), q = sigma(s); options (log(1-e), log e, log((1-e)/e)).

    log q and log(1-q) are -tail, less the size of s for the smaller of both.
    """
    gap = up - down
    negative = -gap
    positive = gap >= zero
    size = gap if positive else negative
    e = exp(negative if positive else gap)
    whole = one + e
    near = one / whole
    far = e / whole
    right = near if positive else far
    wrong = far if positive else near
    there = far > zero
    away = size if there else far
    lean = gap if there else far
    value = -(far * away + log1p(e) + right * options[0] + wrong * options[1])
    slope = near * far * (lean - options[2])
    return value, slope, -slope


@inlined
def discovered(up, down, options, zero, one):
    """(1-m) sp(-s) + m e**-s, m = sigma(s / tau); options (1 / tau,).

    m e**-s goes as the exponential of log m - s: apart, one is 0 where the other overflows.
    """
    gap = up - down
    _, below, _, wrong = softplus(gap, zero, one)
    _, logarithm, mixed, kept = softplus(gap * options[0], zero, one)
    steep = exp(-(logarithm + gap))
    smooth = kept * below
    slope = (kept * steep - mixed * smooth) * options[0] - kept * wrong - steep
    return smooth + steep, slope, -slope


@inlined
def per_token(up, down, options, zero, one):
    """sp(-(s - gamma)); options (gamma,)."""
    _, below, _, wrong = softplus(up - down - options[0], zero, one)
    return below, -wrong, wrong


@inlined
def anchored(up, down, options, zero, one):
    """NCA: sp(-up) + sp(up) / 2 + sp(down) / 2; options (1/2,)."""
    above, below, right, wrong = softplus(up, zero, one)
    lower, _, likely, _ = softplus(down, zero, one)
    half = options[0]
    return below + half * (above + lower), half * right - wrong, half * likely


@inlined
def classified(up, down, options, zero, one):
    """BCO: sp(-(up - d)) + sp(down - d); options (d,)."""
    _, below, _, wrong = softplus(up - options[0], zero, one)
    above, _, likely, _ = softplus(down - options[0], zero, one)
    return below + above, -wrong, likely


@inlined
def squared(up, down, options, zero, one):
    """SPPO: (a - .5/beta)**2 + (b + .5/beta)**2, a = up/beta; options (1/2, 1/beta**2)."""
    short = up - options[0]
    over = down + options[0]
    first = short * options[1]
    second = over * options[1]
    return first * short + second * over, first + first, second + second


@inlined
def apart(up, down, options, zero, one):
    """APO-zero: 1 - sigma(up) + sigma(down)."""
    right, wrong = sigmoids(up, zero, one)
    likely, unlikely = sigmoids(down, zero, one)
    return wrong + likely, -(right * wrong), likely * unlikely


@inlined
def lowered(up, down, options, zero, one):
    """APO-down: sigma(up) + 1 - sigma(s)."""
    high, low = sigmoids(up, zero, one)
    right, wrong = sigmoids(up - down, zero, one)
    slope = right * wrong
    return high + wrong, high * low - slope, slope
