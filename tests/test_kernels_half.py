"""Logits as they come: half precision, foreign byte orders, rows with gaps, tensors; among any number of threads."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numba
import numpy as np
import pytest

from kernels import categorical as c
from kernels import from_logits as f

JIT = not numba.config.DISABLE_JIT
HALF = pytest.mark.parametrize("name", ["float16", "bfloat16"])
N, V = 6, 70
RNG = np.random.default_rng
TOKENS = RNG(0).integers(0, V, N)
SLOPES = RNG(1).standard_normal(N).astype(np.float32)

# Of logits and reference logits; those with `out` of the logits' shape take half precision there.
FUNCTIONS = {
    "log_softmax": lambda x, y, **k: c.log_softmax(x, **k),
    "token_logprobs": lambda x, y, **k: c.token_logprobs(x, TOKENS, **k),
    "token_logprobs_backward": lambda x, y, **k: c.token_logprobs_backward(x, TOKENS, SLOPES, **k),
    "entropy": lambda x, y, **k: c.entropy(x, **k),
    "entropy_backward": lambda x, y, **k: c.entropy_backward(x, SLOPES, **k),
    "kl_divergence": lambda x, y, **k: c.kl_divergence(x, y, **k),
    "kl_divergence_backward": lambda x, y, **k: c.kl_divergence_backward(x, y, SLOPES, **k),
    "sample": lambda x, y, **k: c.sample(x, np.abs(SLOPES) % 1, 0.8, **k),
    "sft": lambda x, y, **k: f.sft_from_logits(x, TOKENS, **k).d_logits,
    "ppo": lambda x, y, **k: f.ppo_from_logits(x, TOKENS, SLOPES, SLOPES, None, 0.2, **k).d_logits,
}
FUNCTION = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
WIDE = {
    k: v for k, v in FUNCTIONS.items() if k not in {"token_logprobs", "entropy", "kl_divergence", "sample"}
}
GRADIENT = pytest.mark.parametrize("function", WIDE.values(), ids=WIDE)


def half(name):
    """The type, and what its arrays are called with: as they are, and as bits."""
    if name == "float16":
        return np.dtype(np.float16), ("float16",)
    return np.dtype(pytest.importorskip("ml_dtypes", reason="needs ml_dtypes").bfloat16), (
        "bfloat16",
        "uint16",
    )


def pair(dtype, scale=4.0):
    x, y = scale * RNG(2).standard_normal((2, N, V))
    return x.astype(dtype), y.astype(dtype)


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


@HALF
@FUNCTION
def test_half_precision_is_its_float32(name, function):
    dtype, views = half(name)
    x, y = pair(dtype)
    expected = function(x.astype(np.float32), y.astype(np.float32))
    for view in views:
        same(function(x.view(view), y.view(view)), expected)


@HALF
@GRADIENT
def test_half_precision_out_is_rounded_once(name, function):
    dtype, views = half(name)
    x, y = pair(dtype)
    with np.errstate(under="ignore"):
        expected = function(x.astype(np.float32), y.astype(np.float32)).astype(dtype)
    for view in views:
        out = np.full(x.shape, 7, x.dtype).view(view)
        assert function(x.view(view), y.view(view), out=out) is out
        same(out.view(dtype), expected)
        given = x.view(view).copy()
        assert function(given, y.view(view), out=given) is given
        same(given.view(dtype), expected)
    single = np.empty(x.shape, np.float32)
    assert function(x, y, out=single) is single
    for wrong in (
        np.empty(x.shape),
        np.empty(x.shape, np.int16),
        np.empty((N, V), "V2"),
        np.empty((N, V), ">f2"),
    ):
        with pytest.raises(ValueError, match=r"^out: "):
            function(x, y, out=wrong)


def test_the_half_types_are_not_mixed_up():
    dtype, _ = half("bfloat16")
    x, y = pair(np.float32)
    for a, b in ((np.float16, dtype), (dtype, np.float16), (np.float16, np.float32), (dtype, np.float64)):
        wide = np.float64 if np.float64 in (a, b) else np.float32
        found = c.kl_divergence(x.astype(a), y.astype(b))
        same(found, c.kl_divergence(x.astype(a).astype(wide), y.astype(b).astype(wide)))
    with pytest.raises(ValueError, match=r"^out: "):
        c.log_softmax(x.astype(np.float16), out=np.empty(x.shape, np.uint16))
    same(c.entropy(x.astype(np.int16)), c.entropy(x.astype(np.int16).astype(np.float64)))  # not bits


def test_other_arguments_may_be_bfloat16():
    dtype, _ = half("bfloat16")
    x, _ = pair(np.float32)
    slopes = SLOPES.astype(dtype)
    same(c.entropy_backward(x, slopes), c.entropy_backward(x, slopes.astype(np.float32)))


def _unaligned(x):
    return np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)


def _padded(x):
    return np.pad(x, ((0, 0), (0, 5)), constant_values=np.nan)[:, : x.shape[1]]


def _own_dtype(x):
    return x.view(np.dtype(x.dtype.str).newbyteorder("="))


LAYOUTS = {
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "unaligned": _unaligned,
    "Fortran": np.asfortranarray,
    "columns reversed": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "rows reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "padded vocabulary": _padded,
    "a dtype of its own": _own_dtype,
    "list": np.ndarray.tolist,
    "subclass": lambda x: x.view(np.matrix),
}


@FUNCTION
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_layouts_do_not_change_a_bit(function, layout, dtype):
    x, y = pair(dtype)
    if layout is np.ndarray.tolist:
        x, y = x.astype(np.float64), y.astype(np.float64)
    expected = function(x, y)
    before = layout(x)
    kept = np.copy(before)
    same(function(before, layout(y)), expected)
    np.testing.assert_array_equal(before, kept)


# Read-only arrays, such as broadcast ones, are compiled for anew: a few functions stand for all.
@pytest.mark.parametrize("name", ["entropy", "entropy_backward", "sft"])
def test_read_only_and_broadcast(name):
    x, y = pair(np.float32)
    function, frozen = FUNCTIONS[name], x.copy()
    frozen.flags.writeable = False
    same(function(frozen, y), function(x, y))
    for view in (x[:1], x[:, :1], x[0, 0]):
        broadcast = np.broadcast_to(view, x.shape)
        same(function(broadcast, y), function(broadcast.copy(), y))


@FUNCTION
def test_threads_do_not_change_a_bit(function):
    x, y = pair(np.float32)
    for a in (x, _padded(x), x.astype(np.float16)):
        expected = function(a, y)
        for threads in (2, 3, np.int64(4), 10**9):
            same(function(a, y, threads=threads), expected)
        out = np.empty_like(expected)
        assert function(a, y, threads=2, out=out) is out
        same(out, expected)


@pytest.mark.parametrize("shape", [(4, 3, 70), (2, 2, 3, 70), (1, 3, 1, 70)])
def test_shapes_that_are_no_one_stack_of_rows(shape):
    whole = RNG(3).standard_normal([n + 2 for n in shape]).astype(np.float32)
    axes = range(len(shape) - 1)
    for turned in (whole, whole.transpose(*reversed(axes), -1)):
        view = turned[tuple(slice(1, 1 + n) for n in turned[..., 0].shape)][..., :70]
        d = np.ones(view.shape[:-1], np.float32)
        for threads in (1, 2, 3):
            same(c.entropy(view, threads=threads), c.entropy(view.copy()))
            forward = np.empty(d.shape, np.float32)
            same(
                c.entropy_backward(view, d, forward=forward, threads=threads),
                c.entropy_backward(view.copy(), d),
            )
            same(forward, c.entropy(view.copy()))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (0, 0, 1)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threads", [1, 2])
def test_no_rows(shape, dtype, threads):
    x = np.zeros(shape, dtype)
    t = np.zeros(shape[:-1], int)
    for view in (x, np.zeros((*shape[:-1], 9), dtype)[..., : shape[-1]]):
        assert c.log_softmax(view, threads=threads).shape == shape
        assert c.entropy(view, threads=threads).shape == shape[:-1]
        assert c.sample(view, t, threads=threads).shape == shape[:-1]
        assert f.sft_from_logits(view, t, threads=threads).loss == 0


def test_one_row_without_axes():
    x = RNG(4).standard_normal(V)
    for view in (x, np.repeat(x, 2)[::2], x[::-1][::-1]):
        for threads in (1, 2):
            assert c.entropy(view, threads=threads) == c.entropy(x[None])[0]
            assert c.token_logprobs(view, 3, threads=threads) == c.log_softmax(x)[3]
            same(c.log_softmax(view, threads=threads), c.log_softmax(x[None])[0])


def test_an_error_in_a_thread_is_raised(monkeypatch):
    def fail(*arguments):
        raise MemoryError("no scratch")

    monkeypatch.setattr(c, "sample_scratch", fail)
    with pytest.raises(MemoryError):
        c.sample(np.zeros((8, 3)), np.zeros(8), threads=2)


@FUNCTION
@pytest.mark.parametrize("threads", [0, -1, 1.0, 1.5, "2", None, True, 2**70, [1], np.array([1, 1])])
def test_threads_are_checked(function, threads):
    with pytest.raises((TypeError, ValueError), match=r"^threads: "):
        function(*pair(np.float32), threads=threads)


TORCH = """
import numpy as np, torch
from kernels import categorical as c, from_logits as f

x = torch.randn(4, 70)
tokens = torch.tensor([0, 1, 2, 69])
logp = torch.log_softmax(x, -1)
close = lambda a, b: np.testing.assert_allclose(a, b.numpy() if hasattr(b, "numpy") else b, rtol=1e-5, atol=1e-6)
close(c.log_softmax(x), logp)
close(c.token_logprobs(x, tokens), logp.gather(1, tokens[:, None])[:, 0])
entropy = lambda z: torch.distributions.Categorical(logits=z.float()).entropy()
close(c.entropy(x.half()), entropy(x.half()))
close(c.entropy(x.bfloat16().view(torch.uint16)), entropy(x.bfloat16()))
close(c.entropy(x[:, :-1].t()[::2].t().contiguous()), c.entropy(x[:, :-1:2].numpy()))
memory = x.numpy()
assert f.sft_from_logits(x, tokens, out=memory).d_logits is memory
assert abs(x.sum()) < 1e-5  # written in the tensor's own memory: no copy in between
for wrong in (x.clone().requires_grad_(), x.bfloat16(), x.to_sparse(), torch.zeros(2, 3, device="meta"), x + 1j):
    try:
        c.entropy(wrong)
    except TypeError as error:
        assert str(error).startswith("logits: "), error
    else:
        raise AssertionError("took it")
"""


@pytest.mark.skipif(not JIT, reason="slow without the JIT, and says nothing more")
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_tensors():
    """In a process of its own: two LLVMs in one may clash."""
    found = subprocess.run([sys.executable, "-W", "error", "-c", TORCH], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
