"""The DPO step of the transformer in JAX: loss, gradient, clipping and AdamW in one `jit`, parameters donated."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import gelu, log_sigmoid, log_softmax

Tree = Any


def parameters(policy: Any) -> Tree:
    """The policy's tensors, by name."""
    w = policy._w
    named = {name: jnp.asarray(getattr(w, name).copy()) for name in ("table", "places", "gain", "shift")}
    return named | {"layers": [jax.tree.map(jnp.asarray, layer._asdict()) for layer in w.layers]}


def norm(x: Any, gain: Any, shift: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + shift


def logprobs(w: Tree, prompts: Any, responses: Any, heads: int) -> Any:
    """(B, T) of the response's tokens; prompts without padding, in the response's vocabulary."""
    (B, P), T, C = prompts.shape, responses.shape[1], w["table"].shape[1]
    V = w["table"].shape[0] - 1
    tokens = jnp.concatenate([prompts, jnp.full((B, 1), V), responses[:, :-1]], 1)
    x = w["table"][tokens] + w["places"]
    for layer in w["layers"]:
        y = norm(x, layer["gain1"], layer["shift1"]) @ layer["qkv"]
        q, k, v = jnp.split(y.reshape(B, P + T, 3 * heads, C // heads), 3, 2)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(B, P + T, C)
        x = x + y @ layer["proj"] + layer["proj_bias"]
        y = norm(x, layer["gain2"], layer["shift2"]) @ layer["up"] + layer["up_bias"]
        x = x + gelu(y, approximate=True) @ layer["down"] + layer["down_bias"]
    logits = norm(x[:, P:], w["gain"], w["shift"]) @ w["table"][:V].T
    return jnp.take_along_axis(log_softmax(logits), responses[..., None], -1)[..., 0]


def dpo_step(
    policy: Any, prompts: Any, responses: Any, mask: Any, reference: Any, beta: float, learning_rate: float
) -> Any:
    """A call that does one step and gives its loss; chosen in the first half, rejected in the second."""
    fixed = [jnp.asarray(x, jnp.int32) for x in (prompts, responses)]
    mask, reference = jnp.asarray(mask), jnp.asarray(reference)
    heads = policy.sizes.heads

    def loss(w: Tree) -> Any:
        ratios = (logprobs(w, *fixed, heads) * mask).sum(1) - reference
        chosen, rejected = jnp.split(ratios, 2)
        return -log_sigmoid(beta * (chosen - rejected)).mean()

    def step(w: Tree, m: Tree, v: Tree, t: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(w)
        norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.0 / (norm + 1e-6)), grads)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
        rate, root = learning_rate / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        w = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + 1e-8), w, m, v)
        return value, w, m, v

    run = jax.jit(step, donate_argnums=(0, 1, 2))
    w = parameters(policy)
    state = [w, jax.tree.map(jnp.zeros_like, w), jax.tree.map(jnp.zeros_like, w)]
    steps = 0

    def call() -> float:
        nonlocal state, steps
        steps += 1
        value, *state = run(*state, np.float32(steps))
        jax.block_until_ready(state)
        return float(value)

    return call
