"""The differentiable PyTorch functions: against plain PyTorch, by finite differences, and without needless copies."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numba
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="kernels.torch needs PyTorch: run tox -e torch")
kt = pytest.importorskip("kernels.torch")
tensors = pytest.importorskip("kernels.torch._tensors")
from torch.autograd.gradcheck import GradcheckError  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from kernels import _batch, from_logits  # noqa: E402

B, T, V = 4, 5, 37
# Of the loss and, times the largest gradient, of the gradients.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def batch(dtype=torch.float32, seed=0, vocabulary=V):
    """Logits that require a gradient, and constants of every kind that the losses take."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return torch.randn(*shape, generator=g, dtype=torch.float64).mul(scale).to(wide(dtype))

    return {
        "logits": normal(B, T, vocabulary, scale=3.0).to(dtype).requires_grad_(),
        "tokens": torch.randint(vocabulary, (B, T), generator=g),
        "mask": torch.rand(B, T, generator=g) < 0.7,
        "old": normal(B, T, scale=0.3) - 4,
        "ref": normal(B, T, scale=0.3) - 4,
        "advantages": normal(B, T),
        "each": normal(B),
        "logps": normal(B, scale=2.0) - 15,
        "ref_logits": normal(B, T, vocabulary, scale=3.0).to(dtype),
    }


def wide(dtype):
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def plain_logprobs(logits, tokens):
    return logits.to(wide(logits.dtype)).log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


def mean(x, mask):
    return (x * mask).sum() / mask.sum()


def clipped(lp, old, advantages, low=0.2, high=0.2):
    ratio = (lp - old).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def plain_sft(x, b):
    return mean(-plain_logprobs(x, b["tokens"]), b["mask"])


def plain_ppo(x, b):
    return mean(clipped(plain_logprobs(x, b["tokens"]), b["old"], b["advantages"]), b["mask"])


def plain_grpo(x, b):
    lp = plain_logprobs(x / 0.8, b["tokens"])
    gap = b["ref"] - lp
    each = clipped(lp, b["old"], b["each"][:, None], high=0.28) + 0.1 * (gap.exp() - 1 - gap)
    mask = b["mask"].to(each.dtype)
    return ((each * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


def plain_dpo(x, b):
    logps = (plain_logprobs(x, b["tokens"]) * b["mask"]).sum(1)
    (chosen, rejected), (up, down) = logps.chunk(2), b["logps"].chunk(2)
    gap = 0.1 * ((chosen - up) - (rejected - down))
    return (-F.logsigmoid(gap) * 0.9 - F.logsigmoid(-gap) * 0.1).mean()


def ours_grpo(x, b):
    settings = {"cliprange_high": 0.28, "beta": 0.1, "ref_logprobs": b["ref"], "temperature": 0.8}
    return kt.grpo_loss(x, b["tokens"], b["old"], b["each"], b["mask"], 0.2, **settings)


LOSSES = {
    "sft": (lambda x, b: kt.sft_loss(x, b["tokens"], b["mask"]), plain_sft),
    "ppo": (
        lambda x, b: kt.ppo_loss(x, b["tokens"], b["old"], b["advantages"], b["mask"], 0.2),
        plain_ppo,
    ),
    "grpo": (ours_grpo, plain_grpo),
    "dpo": (
        lambda x, b: kt.dpo_loss(x, b["tokens"], b["logps"], 0.1, mask=b["mask"], label_smoothing=0.1),
        plain_dpo,
    ),
}


def plain_kl(x, y):
    p, q = (z.to(wide(z.dtype)).log_softmax(-1) for z in (x, y))
    return (p.exp() * (p - q)).sum(-1)


def plain_entropy(x):
    p = x.to(wide(x.dtype)).log_softmax(-1)
    return -(p.exp() * p).sum(-1)


# Each gives one number a token, whose weighted sum is then the loss.
EACH = {
    "token_logprobs": (
        lambda x, b: kt.token_logprobs(x, b["tokens"], temperature=0.7),
        lambda x, b: plain_logprobs(x / 0.7, b["tokens"]),
    ),
    "entropy": (lambda x, b: kt.entropy(x), lambda x, b: plain_entropy(x)),
    "kl_divergence": (
        lambda x, b: kt.kl_divergence(x, b["ref_logits"]),
        lambda x, b: plain_kl(x, b["ref_logits"]),
    ),
    "kl_divergence by its second argument": (
        lambda x, b: kt.kl_divergence(b["ref_logits"], x),
        lambda x, b: plain_kl(b["ref_logits"], x),
    ),
}


def weighed(function, b):
    return lambda x, b_: (function(x, b_).to(b["advantages"].dtype) * b["advantages"]).sum()


def pair(name, b):
    """(ours, PyTorch's): from logits to a scalar."""
    if name in EACH:
        ours, theirs = EACH[name]
        return weighed(ours, b), weighed(theirs, b)
    ours, theirs = LOSSES[name]
    return (lambda x, b: ours(x, b).loss), theirs


def gradient(function, b, factor=1.0):
    """The loss and its gradient by b's logits."""
    leaf = b["logits"].detach().clone().requires_grad_()
    loss = function(leaf, b)
    (factor * loss).backward()
    return loss.detach(), leaf.grad


ALL = [*EACH, *LOSSES]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradient_are_those_of_pytorch(name, dtype):
    b = batch(dtype)
    ours, theirs = pair(name, b)
    wanted_loss, wanted = gradient(theirs, {**b, "logits": b["logits"].to(wide(dtype))})
    loss, found = gradient(ours, b)
    assert loss.dtype == wide(dtype)
    assert found.dtype == dtype
    assert found.shape == b["logits"].shape
    torch.testing.assert_close(loss, wanted_loss, rtol=TOLERANCE[wide(dtype)], atol=TOLERANCE[wide(dtype)])
    size = wanted.abs().max()
    torch.testing.assert_close(found.to(wide(dtype)) / size, wanted / size, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", ALL)
def test_gradient_by_finite_differences(name):
    b = batch(torch.float64, vocabulary=7)
    ours, _ = pair(name, b)
    x = b["logits"].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ours(x, b), (x,))


def test_gradcheck_sees_a_wrong_gradient(monkeypatch):
    b = batch(torch.float64, vocabulary=7)
    right = from_logits.sft_from_logits

    def wrong(*args, out, **kwargs):
        result = right(*args, out=out, **kwargs)
        out *= 1.01
        return result

    monkeypatch.setattr(from_logits, "sft_from_logits", wrong)
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(lambda x: LOSSES["sft"][0](x, b).loss, (b["logits"],))


@pytest.mark.parametrize("name", ALL)
def test_a_second_derivative_is_refused(name):
    b = batch()
    ours, _ = pair(name, b)
    loss = ours(b["logits"], b)
    with pytest.raises(RuntimeError, match=r"no second derivatives.*create_graph"):
        torch.autograd.grad(loss, b["logits"], create_graph=True)


@pytest.mark.parametrize("name", LOSSES)
def test_backward_scales_and_can_be_repeated(name):
    b = batch()
    ours, _ = pair(name, b)
    _, wanted = gradient(ours, b)
    loss = ours(b["logits"], b)
    for factor in (1.0, 0.25, 1.0):
        (found,) = torch.autograd.grad(factor * loss, b["logits"], retain_graph=True)
        assert torch.equal(found, factor * wanted)


PYTHON_ALLOCATES = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="plain Python computes with slices, which are arrays of their own"
)


@PYTHON_ALLOCATES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_without_gradient_nothing_of_the_logits_size_is_made(name, dtype, monkeypatch):
    b = batch(dtype, vocabulary=5000)
    ours = LOSSES[name][0]
    with_gradient = ours(b["logits"], b)
    ours(b["logits"].detach(), b)  # compiles
    monkeypatch.delattr(tensors, "empty_like")  # PyTorch's allocator is not traced
    with torch.no_grad():
        tracemalloc.start()
        without = ours(b["logits"], b)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < b["logits"].nbytes / 4
    for x, y in zip(with_gradient, without, strict=True):
        assert torch.equal(x.detach(), y)
        assert not y.requires_grad
    assert not any(x.requires_grad for x in with_gradient[1:])
    assert not any(x.requires_grad for x in ours(b["logits"].detach(), b))


@pytest.mark.parametrize("name", ALL)
def test_rows_that_lie_apart_give_the_same_bits(name):
    b = batch(vocabulary=300)
    ours, _ = pair(name, b)
    loss, wanted = gradient(ours, b)
    long = torch.randn(B, T + 1, 300)
    long[:, :-1] = b["logits"].detach()
    long.requires_grad_()
    found = ours(long[:, :-1], b)
    found.backward()
    assert torch.equal(found, loss)
    assert torch.equal(long.grad[:, :-1], wanted)
    assert not long.grad[:, -1].any()


@pytest.mark.parametrize("name", ALL)
def test_threads_change_no_bit(name, monkeypatch):
    b = batch(vocabulary=2000)
    ours, _ = pair(name, b)
    monkeypatch.setattr(tensors, "_GRAIN", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one = gradient(ours, b)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three = gradient(ours, b)
    assert all(torch.equal(x, y) for x, y in zip(one, three, strict=True))


def test_small_calls_start_no_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert tensors.share(None, torch.empty(2, 100)) == 1
    assert tensors.share(None, torch.empty(2, 2**17, device="meta")) == 3
    assert tensors.share(7, torch.empty(2, 100)) == 7


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_memory_is_shared_both_ways(dtype):
    x = torch.zeros(3, 6, 8, dtype=dtype)
    for view in (x, x[:, :-1], x[1:]):
        array = tensors.logits_of("logits", view)
        assert array.ctypes.data == view.data_ptr()
        assert array.strides == tuple(x.element_size() * s for s in view.stride())
        assert np.shares_memory(_batch.logits(("logits",), array)[0], tensors.memory(x))
    tensors.memory(x)[1, 2, 3] = 1
    assert x[1, 2, 3] != 0


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_kernels_own_memory(name, monkeypatch):
    b, made = batch(), []
    empty_like = tensors.empty_like

    def spy(logits):
        made.append(empty_like(logits))
        return made[-1]

    monkeypatch.setattr(tensors, "empty_like", spy)
    leaf = b["logits"].detach().requires_grad_()
    (found,) = torch.autograd.grad(LOSSES[name][0](leaf, b).loss, leaf)
    assert [d.data_ptr() for d in made] == [found.data_ptr()]


@PYTHON_ALLOCATES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in ALL if "second" not in name])
def test_numpy_allocates_nothing_of_the_logits_size(name, dtype):
    """The gradient comes from PyTorch's allocator, which is not traced."""
    b = batch(dtype, vocabulary=5000)
    ours, _ = pair(name, b)
    gradient(ours, b)
    tracemalloc.start()
    gradient(ours, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < b["logits"].nbytes / 4


def test_selective_log_softmax_takes_trls_arguments():
    b = batch()
    found = kt.selective_log_softmax(b["logits"], b["tokens"], temperature=0.7, row_mask=b["mask"])
    wanted = plain_logprobs(b["logits"] / 0.7, b["tokens"]) * b["mask"]
    torch.testing.assert_close(found, wanted)
    assert found.requires_grad


def test_what_does_not_count_is_not_read():
    x = torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0]], requires_grad=True)
    tokens, mask = torch.tensor([1, -100, 0]), torch.tensor([True, True, False])
    kt.token_logprobs(x, tokens, mask).sum().backward()
    (2 * kt.sft_loss(x, tokens, mask).loss).backward()
    assert torch.equal(x.grad[1:], torch.zeros(2, 2))
    assert x.grad[0].isfinite().all()
    assert x.grad[0].any()


def test_dpo_takes_chosen_and_rejected_apart():
    b = batch()
    together, wanted = gradient(pair("dpo", b)[0], b)
    chosen, rejected = (x.detach().clone().requires_grad_() for x in b["logits"].chunk(2))
    rest = {name: b[name].chunk(2) for name in ("tokens", "logps", "mask")}
    pairs = (chosen, rejected[:, :4]), (rest["tokens"][0], rest["tokens"][1][:, :4]), rest["logps"]
    mask = rest["mask"][0], rest["mask"][1][:, :4]
    shorter = b["mask"].clone()
    shorter[2:, 4:] = False
    together, wanted = gradient(pair("dpo", b)[0], {**b, "mask": shorter})
    apart = kt.dpo_loss(*pairs, 0.1, mask=mask, label_smoothing=0.1)
    apart.loss.backward()
    assert torch.equal(apart.loss, together)
    assert torch.equal(torch.cat((chosen.grad, rejected.grad)), wanted)
    with torch.no_grad():
        assert torch.equal(kt.dpo_loss(*pairs, 0.1, mask=mask, label_smoothing=0.1).loss, together)


@pytest.mark.parametrize("other", [torch.float32, torch.float16], ids=str)
def test_two_types_meet_in_their_common_one(other):
    b = batch(torch.bfloat16)
    ref = b["ref_logits"].to(other).requires_grad_()
    kl = kt.kl_divergence(b["logits"], ref)
    kl.sum().backward()
    torch.testing.assert_close(kl, plain_kl(b["logits"].float(), ref.float()))
    assert (b["logits"].grad.dtype, ref.grad.dtype) == (torch.bfloat16, other)


@pytest.mark.parametrize("name", ["token_logprobs", "entropy", "kl_divergence"])
def test_logits_changed_before_backward_are_seen(name):
    b = batch()
    x = b["logits"] * 1
    loss = pair(name, b)[0](x, b)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


BAD = [
    (lambda b: {"logits": [[0.0, 0.0]]}, TypeError, "logits: came as list, a tensor"),
    (lambda b: {"logits": b["logits"].detach().to("meta")}, TypeError, "logits: came on device meta, .* CPU"),
    (lambda b: {"logits": torch.zeros(B, T, V, dtype=torch.int64)}, TypeError, "logits: came with dtype torch.int64"),
    (lambda b: {"logits": b["logits"].detach().to_sparse()}, TypeError, "logits: came with layout .*sparse"),
    (lambda b: {"logits": torch.zeros(B, T, V, dtype=torch.complex64)}, TypeError, "logits: came with dtype"),
    (lambda b: {"tokens": b["tokens"].to("meta")}, TypeError, "tokens: came on device meta"),
    (lambda b: {"tokens": b["tokens"].float()}, TypeError, "tokens: came with dtype float32, integers"),
    (lambda b: {"tokens": b["tokens"] + V}, ValueError, "tokens: came with values"),
    (lambda b: {"tokens": b["tokens"][..., None]}, ValueError, "tokens: came with shape"),
    (lambda b: {"mask": b["mask"][:2]}, ValueError, "mask: came with shape"),
]  # fmt: skip


def masked_logprobs(x, b):
    return kt.token_logprobs(x, b["tokens"], b["mask"])


@pytest.mark.parametrize("name", ["token_logprobs", *LOSSES])
@pytest.mark.parametrize(("change", "error", "says"), BAD, ids=[says for *_, says in BAD])
def test_bad_input_is_named(name, change, error, says):
    b = batch()
    b |= change(b)
    ours = LOSSES[name][0] if name in LOSSES else masked_logprobs
    for context in (torch.enable_grad(), torch.no_grad()):
        with context, pytest.raises(error, match=says):
            ours(b["logits"], b)


def test_other_bad_input_is_named():
    b = batch()
    x, t = b["logits"], b["tokens"]
    old = b["old"].requires_grad_()
    with pytest.raises(ValueError, match=r"old_logprobs: requires a gradient.*detach"):
        kt.ppo_loss(x, t, old, b["advantages"], None, 0.2)
    with torch.no_grad():
        kt.ppo_loss(x, t, old, b["advantages"], None, 0.2)
    with pytest.raises(ValueError, match=r"temperature: came as 0"):
        kt.token_logprobs(x, t, temperature=0)
    for logits in (
        x.detach(),
        x.detach().requires_grad_(),
    ):  # one bound, whether a gradient is asked for or not
        with pytest.raises(ValueError, match=r"temperature: came as 1e\+31"):
            kt.sft_loss(logits, t, temperature=1e31)
    with pytest.raises(ValueError, match=r"logits: came with shape \(3, 5, 37\), an even number"):
        kt.dpo_loss(x[:3], t[:3], b["logps"][:3], 0.1)
    with pytest.raises(ValueError, match=r"logits: came as a tuple of 3"):
        kt.dpo_loss((x, x, x), t, b["logps"], 0.1)
    with pytest.raises(ValueError, match=r"ref_logps: came as a tuple of 1"):
        kt.dpo_loss(x, t, (b["logps"],), 0.1)
    for logits in (x.detach(), x.detach().requires_grad_()):
        with pytest.raises(ValueError, match=r"ref_logps: came with shape \(1,\)"):
            kt.dpo_loss(logits, t, b["logps"][:2], 0.1)
    with pytest.raises(TypeError, match=r"ref_logits: came as"):
        kt.kl_divergence(x, x.detach().numpy())
    with pytest.raises(TypeError, match=r"logits: came as"):
        kt.entropy(x.detach().numpy())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL)
def test_torch_compile_leaves_it_alone(name):
    """It makes two graphs, with the call between them."""
    b = batch()
    ours, _ = pair(name, b)

    def step(x, b):
        return 3 * ours(x * 2, b)

    loss, wanted = gradient(step, b)
    torch.compiler.reset()
    found_loss, found = gradient(torch.compile(step, backend="eager"), b)
    assert torch.equal(found_loss, loss)
    assert torch.equal(found, wanted)


IMPORTS = ["import torch", "import numba", "from kernels import categorical", "import kernels.torch as kt"]
USE = """
import torch, numpy as np, kernels.torch as kt
from kernels import categorical
from numba import njit, prange
@njit(parallel=True)
def total(x):
    s = 0.0
    for i in prange(x.size):
        s += x[i]
    return s
x = torch.randn(64, 5000, requires_grad=True)
kt.sft_loss(x @ torch.eye(5000), torch.zeros(64, dtype=torch.int64), threads=2).loss.backward()
print(total(np.ones(1000)), float(categorical.entropy(np.zeros(2))) > 0, bool(x.grad.isfinite().all()))
"""


@pytest.mark.parametrize("first", IMPORTS)
def test_torch_and_numba_live_in_one_process_in_any_order(first, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", f"{first}\n{USE}"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "1000.0 True True\n"), done.stderr


def test_the_module_does_not_hide_pytorch():
    assert tensors.torch is torch
    assert torch.__name__ == "torch"
