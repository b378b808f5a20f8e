"""JAX on the CPU, each function under `jit`, inputs on the device before and results waited for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Idiom, losses

Call = Callable[[], Any]


def _jitted(function: Callable[..., Any]) -> Idiom:
    """Arrays are arguments, numbers constants."""

    def prepare(*arguments: Any) -> Call:
        numbers = tuple(n for n, a in enumerate(arguments) if not isinstance(a, np.ndarray))
        run = jax.jit(function, static_argnums=numbers)
        given = [jnp.asarray(_narrow(a)) if isinstance(a, np.ndarray) else a for a in arguments]
        return lambda: jax.block_until_ready(run(*given))

    return prepare


def _narrow(array: Any) -> Any:
    """As JAX would by itself, with a warning: 32 bits."""
    return array.astype({"i": np.int32, "f": np.float32}[array.dtype.kind], copy=False)


def token_logprobs(logits: Any, tokens: Any) -> Any:
    chosen = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, -1)


def entropy(logits: Any) -> Any:
    logprobs = jax.nn.log_softmax(logits, -1)
    return -(jnp.exp(logprobs) * logprobs).sum(-1)


def kl_divergence(logits: Any, ref_logits: Any) -> Any:
    p, q = jax.nn.log_softmax(logits, -1), jax.nn.log_softmax(ref_logits, -1)
    return (jnp.exp(p) * (p - q)).sum(-1)


def _backward(function: Callable[..., Any]) -> Idiom:
    """Value and gradient of the first argument; the last one is the value's gradient."""

    def both(logits: Any, *rest: Any) -> Any:
        *given, d = rest
        value, pull = jax.vjp(lambda x: function(x, *given), logits)
        return value, pull(d)[0]

    return _jitted(both)


def _value_and_gradients(function: Callable[..., Any], leaves: int) -> Idiom:
    def both(*arguments: Any) -> Any:
        loss, gradients = jax.value_and_grad(function, tuple(range(leaves)))(*arguments)
        return loss, *gradients

    return _jitted(both)


def _from_logits(loss: Callable[..., Any]) -> Callable[..., Any]:
    return lambda logits, tokens, *rest: loss(jnp, token_logprobs(logits, tokens), *rest)


def _dpo_from_logits(chosen: Any, rejected: Any, chosen_tokens: Any, rejected_tokens: Any, *rest: Any) -> Any:
    *given, chosen_mask, rejected_mask = rest
    sums = [
        (token_logprobs(x, t) * mask).sum(-1)
        for x, t, mask in ((chosen, chosen_tokens, chosen_mask), (rejected, rejected_tokens, rejected_mask))
    ]
    return losses.dpo(jnp, *sums, *given)


def _all() -> dict[str, Idiom]:
    fused = {n: _from_logits(getattr(losses, n)) for n in ("sft", "ppo", "grpo")}
    return {
        "token_logprobs": _jitted(token_logprobs),
        "log_softmax": _jitted(partial(jax.nn.log_softmax, axis=-1)),
        "entropy": _jitted(entropy),
        "kl_divergence": _jitted(kl_divergence),
        "token log-probs, forward + backward": _backward(token_logprobs),
        "KL, forward + backward": _backward(kl_divergence),
        **{f"{n}_from_logits": _value_and_gradients(f, 1) for n, f in fused.items()},
        "dpo_from_logits": _value_and_gradients(_dpo_from_logits, 2),
    }


IDIOMS: dict[str, dict[str, Idiom]] = {name: {"jax.jit": idiom} for name, idiom in _all().items()}
