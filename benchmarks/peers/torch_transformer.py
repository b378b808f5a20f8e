"""The policy of `rlhfbench.policies.transformer` in hand-written PyTorch, as one would write it for speed.

Padded batches, fused attention, one forward pass for chosen and rejected, logits of the response alone, fused AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Tensor = torch.Tensor


class Transformer(torch.nn.Module):
    """Has the policy's tensors, by the names that they have there; `w` is `rlhfbench.policies._weights.Weights`."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        w = policy._w
        self.heads, self.V = policy.sizes.heads, policy.vocab_size
        self.context, self.offset, self.never = policy.prompt_length, policy._offset, policy.never

        def parameter(array: Any) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.from_numpy(np.array(array)))

        self.table, self.places = parameter(w.table), parameter(w.places)
        self.layers = torch.nn.ModuleList()
        for layer in w.layers:
            block = torch.nn.Module()
            for name in layer._fields:
                tensor = getattr(layer, name)  # torch keeps products the other way round
                block.register_parameter(name, parameter(tensor.T if tensor.ndim == 2 else tensor))
            self.layers.append(block)
        self.gain, self.shift = parameter(w.gain), parameter(w.shift)
        self.value, self.value_bias = parameter(w.value), parameter(w.value_bias)

    def hidden(self, prompts: Tensor, responses: Tensor, seen: Tensor | None) -> Tensor:
        """(B, T, C) at the positions that predict the response; `seen` (B, 1, S, S) where prompts are padded."""
        B, P = prompts.shape
        T, C = responses.shape[1], self.table.shape[1]
        start = torch.full((B, 1), self.V)
        tokens = torch.cat([prompts.clamp(min=0) + self.offset, start, responses[:, :-1]], 1)
        x = self.table[tokens] + self.places[self.context - P : self.context + T]
        for w in self.layers:
            y = F.layer_norm(x, (C,), w.gain1, w.shift1)
            q, k, v = F.linear(y, w.qkv).view(B, P + T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            if seen is None:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            x = x + F.linear(y.transpose(1, 2).reshape(B, P + T, C), w.proj, w.proj_bias)
            y = F.layer_norm(x, (C,), w.gain2, w.shift2)
            x = x + F.linear(F.gelu(F.linear(y, w.up, w.up_bias), approximate="tanh"), w.down, w.down_bias)
        return F.layer_norm(x[:, P:], (C,), self.gain, self.shift)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.table[: self.V])

    def values(self, hidden: Tensor) -> Tensor:
        return hidden @ self.value + self.value_bias


def seen(prompts: Tensor, T: int) -> Tensor:
    """(B, 1, S, S): causal, and nothing sees padding; padding sees itself, so that no row is empty."""
    S = prompts.shape[1] + T
    real = F.pad(prompts >= 0, (0, T), value=True)
    causal = torch.ones(S, S, dtype=torch.bool).tril()
    return ((real[:, None, :] & causal) | torch.eye(S, dtype=torch.bool))[:, None]


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """(B, T), by the loss that PyTorch has fused."""
    V = logits.shape[-1]
    return -F.cross_entropy(logits.reshape(-1, V), tokens.reshape(-1), reduction="none").view(tokens.shape)


def dpo_loss(logprobs: Tensor, mask: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Chosen in the first half, rejected in the second; `reference` holds their summed log-probabilities."""
    ratios = (logprobs * mask).sum(1) - reference
    chosen, rejected = ratios.chunk(2)
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def adamw(model: Transformer, learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.0, fused=True)


def pairs_loss(
    model: Transformer, prompts: Tensor, responses: Tensor, mask: Tensor, reference: Tensor, beta: float
) -> Tensor:
    """DPO's loss on prompts without padding."""
    logits = model.logits(model.hidden(prompts, responses, None))
    return dpo_loss(token_logprobs(logits, responses), mask, reference, beta)


def dpo_step(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    prompts: Tensor,
    responses: Tensor,
    mask: Tensor,
    reference: Tensor,
    beta: float,
    max_grad_norm: float,
    loss_of: Callable[..., Tensor] = pairs_loss,
) -> Tensor:
    """One update; `loss_of` may be `pairs_loss` compiled."""
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(model, prompts, responses, mask, reference, beta)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return loss.detach()
