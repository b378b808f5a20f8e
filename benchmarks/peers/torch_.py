"""PyTorch on the CPU: eager as written first (`torch`), its best idiom (`torch blocks`, after TRL's
`selective_log_softmax`), and the plain form compiled (`torch.compile`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.peers import Idiom, blocks, losses
from benchmarks.peers.torch_arrays import ARRAYS, tensors_of

Call = Callable[[], Any]
torch.set_num_threads(1)


def _compiled(function: Any) -> Any:
    """For these shapes alone, which is the kinder case; recompiled for each size of a case."""
    torch._dynamo.reset()  # or the sizes of a case would count towards one limit
    return torch.compile(function, dynamic=False, fullgraph=True)


# Functions of rows, without gradients


def token_logprobs(logits: Any, tokens: Any) -> Any:
    return torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def log_softmax(logits: Any) -> Any:
    return torch.log_softmax(logits, -1)


def entropy(logits: Any) -> Any:
    logprobs = torch.log_softmax(logits, -1)
    return -(logprobs.exp() * logprobs).sum(-1)


def kl_divergence(logits: Any, ref_logits: Any) -> Any:
    p, q = torch.log_softmax(logits, -1), torch.log_softmax(ref_logits, -1)
    return (p.exp() * (p - q)).sum(-1)


def sample(logits: Any, uniforms: Any) -> Any:
    cumulative = torch.softmax(logits, -1).cumsum(-1)
    target = uniforms.to(logits.dtype).unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _forward(function: Callable[..., Any], compiled: bool) -> Idiom:
    def prepare(*arguments: Any) -> Call:
        tensors = tensors_of(arguments)
        run = _compiled(function) if compiled else function

        def call() -> Any:
            with torch.inference_mode() if not compiled else torch.no_grad():
                return run(*tensors)

        return call

    return prepare


def _backward(function: Callable[..., Any], compiled: bool) -> Idiom:
    """Value and gradient by autograd; the last argument is the value's gradient."""

    def prepare(*arguments: Any) -> Call:
        *given, d = tensors_of(arguments)
        leaf = given[0].requires_grad_()
        run = _compiled(function) if compiled else function

        def call() -> Any:
            leaf.grad = None
            value = run(leaf, *given[1:])
            value.backward(d)
            return value.detach(), leaf.grad

        return call

    return prepare


# The best idioms: in place, by blocks of rows that stay in the cache


def _buffers(logits: Any, count: int) -> list[Any]:
    first = blocks(logits)[0]
    return [torch.empty(first.stop - first.start, logits.shape[1]) for _ in range(count)]


def _shifted(block: Any, out: Any) -> Any:
    return torch.sub(block, block.amax(-1, keepdim=True), out=out)


def _in_blocks(
    step: Callable[..., None], scratch: int, *, wide: bool = False, dtype: Any = torch.float32
) -> Idiom:
    """`step(block of each argument, of the result, scratch)`, for each block, without gradients."""

    def prepare(*arguments: Any) -> Call:
        tensors = tensors_of(arguments)
        logits, buffers = tensors[0], _buffers(tensors[0], scratch)
        out = torch.empty_like(logits) if wide else torch.empty(len(logits), dtype=dtype)
        parts = blocks(logits)

        @torch.inference_mode()
        def call() -> Any:
            for s in parts:
                n = s.stop - s.start
                step(*[t[s] for t in tensors], out[s], *[b[:n] for b in buffers])
            return out

        return call

    return prepare


def _logprobs_step(x: Any, tokens: Any, out: Any, one: Any) -> None:
    shifted = _shifted(x, one)
    chosen = shifted.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    torch.sub(chosen, shifted.exp_().sum(-1).log_(), out=out)


def _selective_log_softmax_step(x: Any, tokens: Any, out: Any) -> None:
    chosen = x.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    torch.sub(chosen, torch.logsumexp(x, -1), out=out)


def _log_softmax_step(x: Any, out: Any) -> None:
    torch.log_softmax(x, -1, out=out)


def _entropy_step(x: Any, out: Any, one: Any, two: Any) -> None:
    shifted = _shifted(x, one)
    e = torch.exp(shifted, out=two)
    total = e.sum(-1)
    torch.sub(total.log(), torch.linalg.vecdot(e, shifted) / total, out=out)


def _divergence(x: Any, y: Any, one: Any, two: Any, three: Any) -> tuple[Any, Any, Any, Any]:
    """KL, sum w, the weights w (in three) and gaps g (in two)."""
    a, b = _shifted(x, one), _shifted(y, two)
    log_ref = torch.exp(b, out=three).sum(-1).log()
    gap = torch.sub(a, b, out=two)
    w = torch.exp(a, out=three)
    total = w.sum(-1)
    return torch.linalg.vecdot(w, gap) / total - total.log() + log_ref, total, w, gap


def _kl_step(x: Any, y: Any, out: Any, *buffers: Any) -> None:
    out.copy_(_divergence(x, y, *buffers)[0])


def _sample_step(x: Any, uniforms: Any, out: Any, one: Any) -> None:
    cumulative = torch.exp(_shifted(x, one), out=one)
    torch.cumsum(cumulative, -1, out=cumulative)
    target = uniforms.float().unsqueeze(-1) * cumulative[:, -1:]
    out.copy_(torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=x.shape[-1] - 1))


def token_logprobs_both(logits: Any, tokens: Any, d_logprobs: Any) -> Call:
    x, t, d = tensors_of((logits, tokens[:, np.newaxis], d_logprobs[:, np.newaxis]))
    out, d_logits, parts = torch.empty(len(x), 1), torch.empty_like(x), blocks(logits)

    @torch.inference_mode()
    def call() -> Any:
        for s in parts:
            work = _shifted(x[s], d_logits[s])
            chosen = work.gather(-1, t[s])
            total = work.exp_().sum(-1, keepdim=True)
            torch.sub(chosen, total.log(), out=out[s])
            work.mul_(-d[s] / total)
            work.scatter_add_(-1, t[s], d[s])
        return out[:, 0], d_logits

    return call


def kl_both(logits: Any, ref_logits: Any, d_kl: Any) -> Call:
    x, y, d = tensors_of((logits, ref_logits, d_kl))
    out, d_logits, parts = torch.empty(len(x)), torch.empty_like(x), blocks(logits)
    buffers = _buffers(x, 2)

    @torch.inference_mode()
    def call() -> Any:
        for s in parts:
            one, two = (b[: s.stop - s.start] for b in buffers)
            kl, total, w, gap = _divergence(x[s], y[s], one, two, d_logits[s])
            out[s] = kl
            gap.sub_((torch.linalg.vecdot(w, gap) / total).unsqueeze(-1))
            w.mul_(gap).mul_((d[s] / total).unsqueeze(-1))
        return out, d_logits

    return call


# Losses by autograd


def _value_and_gradients(function: Callable[..., Any], leaves: int, compiled: bool = False) -> Idiom:
    """Loss, and the gradients of the first arguments."""

    def prepare(*arguments: Any) -> Call:
        tensors = tensors_of(arguments)
        inputs = [t.requires_grad_() for t in tensors[:leaves]]
        run = _compiled(function) if compiled else function

        def call() -> Any:
            loss = run(*tensors)
            return loss.detach(), *torch.autograd.grad(loss, inputs)

        return call

    return prepare


def _from_logits(loss: Callable[..., Any]) -> Callable[..., Any]:
    def function(logits: Any, tokens: Any, *rest: Any) -> Any:
        return loss(torch, token_logprobs(logits, tokens), *rest)

    return function


def _dpo_from_logits(chosen: Any, rejected: Any, chosen_tokens: Any, rejected_tokens: Any, *rest: Any) -> Any:
    *given, chosen_mask, rejected_mask = rest
    sums = [
        (token_logprobs(x, t) * mask).sum(-1)
        for x, t, mask in ((chosen, chosen_tokens, chosen_mask), (rejected, rejected_tokens, rejected_mask))
    ]
    return losses.dpo(torch, *sums, *given)


def _both(function: Callable[..., Any], make: Callable[..., Idiom], *options: Any) -> dict[str, Idiom]:
    return {"torch": make(function, *options, False), "torch.compile": make(function, *options, True)}


def _losses() -> dict[str, dict[str, Idiom]]:
    plain: dict[str, Any] = {"ppo_clip": losses.ppo, "value_clip": losses.value_clip, "grpo": losses.grpo}
    pairs: dict[str, Any] = {"dpo": losses.dpo, "ipo": losses.ipo, "bradley_terry": losses.bradley_terry}
    fused = {n: _from_logits(getattr(losses, n)) for n in ("sft", "ppo", "grpo")}
    return {
        **{n: {"torch": _value_and_gradients(partial(f, torch), 1)} for n, f in plain.items()},
        **{n: {"torch": _value_and_gradients(partial(f, torch), 2)} for n, f in pairs.items()},
        **{f"{n}_from_logits": _both(f, _value_and_gradients, 1) for n, f in fused.items()},
        "dpo_from_logits": _both(_dpo_from_logits, _value_and_gradients, 2),
    }


IDIOMS: dict[str, dict[str, Idiom]] = {
    "token_logprobs": _both(token_logprobs, _forward)
    | {
        "torch blocks": _in_blocks(_logprobs_step, 1),
        "torch logsumexp": _in_blocks(_selective_log_softmax_step, 0),
    },
    "log_softmax": _both(log_softmax, _forward)
    | {"torch blocks": _in_blocks(_log_softmax_step, 0, wide=True)},
    "entropy": _both(entropy, _forward) | {"torch blocks": _in_blocks(_entropy_step, 2)},
    "kl_divergence": _both(kl_divergence, _forward) | {"torch blocks": _in_blocks(_kl_step, 3)},
    "sample": {
        "torch": _forward(sample, False),
        "torch blocks": _in_blocks(_sample_step, 1, dtype=torch.int64),
    },
    "token log-probs, forward + backward": _both(token_logprobs, _backward)
    | {"torch blocks": token_logprobs_both},
    "KL, forward + backward": _both(kl_divergence, _backward) | {"torch blocks": kl_both},
    **_losses(),
    **ARRAYS,
}

with contextlib.suppress(AttributeError):  # one worker: compilation is off the clock, on the same core
    torch._inductor.config.compile_threads = 1
