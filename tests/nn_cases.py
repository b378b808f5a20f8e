"""Arguments for every kernel of the transformer; run as a program it counts their operations.

`NUMBA_DISABLE_JIT=1 python nn_cases.py FILE` writes what numbers that count themselves have seen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from kernels import nn


class Size(NamedTuple):
    N: int
    C: int
    heads: int


# Below a register, between, and beyond a vector of four; a single number; heads and keys of several registers.
SIZES = (Size(11, 6, 2), Size(24, 64, 4), Size(13, 80, 1), Size(7, 1, 1), Size(6, 20, 1), Size(40, 4, 1))
SMALL = (SIZES[0], *SIZES[3:])
V = 5


def inputs(size, dtype):
    """Arrays for all kernels: three spans, the first two of which come before the third and the second."""
    N, C, _heads = size
    rng = np.random.default_rng(N)

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    a, b = 2, N - 3
    spans = np.array([[0, a, 0, 0], [a, b - a, 0, a], [b, N - b, 0, a]])
    sizes = spans[:, 1] * (spans[:, 1] + spans[:, 3])
    ids = rng.integers(0, V, N), rng.integers(0, 3, N)
    return SimpleNamespace(
        size=size,
        ids=ids,
        table=normal(V, C),
        places=normal(3, C),
        x=normal(N, C) + dtype(2),
        branch=normal(N, C),
        bias=normal(C),
        gain=normal(C),
        shift=normal(C),
        d_out=normal(N, C),
        qkv=normal(N, 3 * C),
        spans=np.column_stack([spans, size.heads * (np.cumsum(sizes) - sizes)]),
        logits=normal(N, V),
        uniforms=rng.random(N),
        empty=lambda *shape: np.full(shape, np.nan, dtype),
        ones=lambda *shape: np.ones(shape, dtype),
    )


def _weights(x):
    count, prefix = x.spans[:, 1], x.spans[:, 3]
    return x.empty(nn.with_room(x.size.heads * int((count * (count + prefix)).sum()), x.size.N))


def _turned(x):
    return x.empty(*nn.turned_shape(x.size.C // x.size.heads, x.size.N))


def _embedding(x):
    return nn.embedding_jit, (*x.ids, x.table, x.places, x.empty(*x.x.shape))


def _embedding_backward(x):
    return nn.embedding_backward_jit, (*x.ids, x.d_out, x.ones(*x.table.shape), x.ones(*x.places.shape))


def _layer_norm(x):
    N, C, _ = x.size
    return nn.layer_norm_jit, (x.x, x.gain, x.shift, x.empty(N), x.empty(N), x.empty(N, C))


def _residual_norm(x):
    N, C, _ = x.size
    outs = x.empty(N), x.empty(N), x.empty(N, C), x.empty(N, C)
    return nn.residual_norm_jit, (x.x, x.branch, x.bias, x.gain, x.shift, *outs)


def _layer_norm_backward(x):
    N, C, _ = x.size
    means, shares = x.empty(N), x.empty(N)
    nn.layer_norm_jit(x.x, x.gain, x.shift, means, shares, x.empty(N, C))
    ones = x.ones(N, C), x.ones(C), x.ones(C), x.ones(C)
    return nn.layer_norm_backward_jit, (x.d_out, x.x, x.gain, means, shares, *ones)


def _gelu(x):
    return nn.gelu_jit, (x.bias, x.branch.copy(), x.empty(*x.x.shape))


def _gelu_over(x):
    return nn.gelu_over_jit, (x.bias, x.branch.copy())


def _gelu_backward(x):
    slopes = x.branch.copy()
    nn.gelu_jit(x.bias, slopes, x.empty(*x.x.shape))
    return nn.gelu_backward_jit, (slopes, x.d_out.copy(), x.ones(x.size.C))


def _attention(x):
    return nn.attention_jit, (x.qkv, x.spans, x.size.heads, _turned(x), _weights(x), x.empty(*x.x.shape))


def _attention_backward(x):
    function, arguments = _attention(x)
    function(*arguments)
    slopes = x.empty(nn.with_room(x.size.N * x.size.N, x.size.N))
    rest = x.spans, x.size.heads, _turned(x), slopes, x.ones(*x.qkv.shape)
    return nn.attention_backward_jit, (x.d_out, x.qkv, arguments[4], *rest)


def _fill_cache(x):
    N, C, _ = x.size
    caches = x.empty(2, *nn.keys_shape(N, C)), x.empty(2, N, C)
    return nn.fill_cache_jit, (x.qkv, np.array([0, 1]), np.array([2, 3]), *caches)


def _attention_step(x):
    N, C, heads = x.size
    cache = x.ones(N, *nn.keys_shape(8, C)), x.ones(N, 8, C)
    return nn.attention_step_jit, (
        x.qkv,
        np.arange(N),
        np.arange(N) % 8,
        heads,
        *cache,
        x.empty(nn.step_room(8)),
        x.empty(N, C),
    )


def _product(x):
    scratch = x.empty(nn.PANEL)
    return nn.product_jit, (x.x, x.qkv, nn.TURNED_TIMES, 0, scratch, x.ones(x.size.C, 3 * x.size.C))


def _panels(x):
    shape = nn.panels_shape(x.size.C, 3 * x.size.C, x.qkv.itemsize)
    return nn.panels_jit, (x.qkv[: x.size.C], nn.TIMES, x.empty(*shape))


def _draw(x):
    scratch = nn.sample_scratch(V, x.logits.dtype)
    return nn.draw_jit, (x.logits, x.uniforms, *scratch, np.zeros(x.size.N, np.int64), x.empty(x.size.N))


CASES = {
    name[1:]: make
    for name, make in list(globals().items())
    if name.startswith("_") and name[1:] + "_jit" in nn.__all__
}
OUTS = {
    "embedding": ("out",),
    "embedding_backward": ("d_table", "d_places"),
    "layer_norm": ("means", "shares", "out"),
    "residual_norm": ("means", "shares", "stream", "out"),
    "layer_norm_backward": ("d_x", "d_gain", "d_shift", "d_bias"),
    "gelu": ("x", "out"),
    "gelu_over": ("x",),
    "gelu_backward": ("d_out", "d_bias"),
    "attention": ("weights", "out"),
    "attention_backward": ("d_qkv",),
}


def run(name, x):
    """The outputs of a kernel, by name; what accumulates began at 1."""
    function, arguments = CASES[name](x)
    function(*arguments)
    names = OUTS[name]
    return dict(zip(names, arguments[-len(names) :], strict=True))


def _pairs(x):
    count, prefix = x.spans[:, 1], x.spans[:, 3]
    pairs = int((count * prefix + count * (count + 1) // 2).sum())
    return pairs, pairs + sum(3 + 2 + 1 for n in count for _ in range(n // 4))


def _head(x):
    return x.size.heads, x.size.C // x.size.heads


# The shape that `flops.work` is asked for.
WORK = {
    **{name: lambda x: x.x.shape for name in OUTS},
    "draw": lambda x: x.logits.shape,
    "attention": lambda x: (*_head(x), *_pairs(x)),
    "attention_backward": lambda x: (*_head(x), *_pairs(x)),
}


def counts():
    """Operations of each kernel at each size, by numbers that count themselves."""
    import counted

    found = {}
    for name, shape in WORK.items():
        for size in SMALL:
            x = inputs(size, np.float64)
            for key, value in vars(x).items():
                if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                    setattr(x, key, counted.counted(value))
            x.empty = lambda *shape: np.full(shape, None, object)
            x.ones = lambda *shape: counted.counted(np.ones(shape))
            function, arguments = CASES[name](x)
            counted.reset()
            function(*arguments)
            entry = {"shape": [int(n) for n in shape(x)], "counted": counted.counts()}
            found.setdefault(name, []).append(entry)
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(counts()))
