"""Sampling with a key-value cache, and a whole PPO update, in hand-written PyTorch; the model is `torch_transformer`'s.

Prompts without padding, responses of full length: what the benchmarks have, so that nothing is computed on padding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.peers.torch_transformer import Tensor, Transformer, token_logprobs


class Options(NamedTuple):
    """What the update takes from `rlhfbench.ppo_step.PPOConfig`; names as there."""

    num_mini_batches: int = 1
    beta: float = 0.05
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    max_grad_norm: float = 1.0


class Sampler:
    """Draws responses; the cache is made once, and weights are looked up in no module while tokens are drawn."""

    def __init__(self, model: Transformer, batch: int, prompt: int, length: int) -> None:
        self.model, self.length = model, length
        H, C = model.heads, model.table.shape[1]
        shape = (len(model.layers), 2, batch, H, prompt + length, C // H)
        self.cache = torch.zeros(shape)
        self.start = torch.full((batch, 1), model.V)
        self.layers = [tuple(p.detach() for p in layer.parameters()) for layer in model.layers]

    @torch.inference_mode()
    def sample(self, prompts: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Responses (B, T) by inverse CDF from `uniforms`, and their log-probabilities."""
        model, P = self.model, prompts.shape[1]
        head = model.table[: model.V].detach()
        tokens = torch.empty(uniforms.shape, dtype=torch.int64)
        chosen = torch.empty(uniforms.shape)
        given, begin = torch.cat([prompts + model.offset, self.start], 1), 0
        for t in range(self.length):
            hidden = self._hidden(given, begin)
            probabilities = F.linear(hidden, head).softmax(1)
            sums = probabilities.cumsum(1)
            drawn = torch.searchsorted(sums, uniforms[:, t : t + 1] * sums[:, -1:], right=True)
            given, begin = drawn.clamp_(max=model.V - 1), P + 1 + t
            tokens[:, t] = given[:, 0]
            chosen[:, t] = probabilities.gather(1, given)[:, 0]
        return tokens, chosen.log_()

    def _hidden(self, tokens: Tensor, begin: int) -> Tensor:
        """(B, C) after the last of `tokens` (B, n), which follow `begin` tokens that the cache knows."""
        model = self.model
        B, n = tokens.shape
        end, H, C = begin + n, model.heads, model.table.shape[1]
        first = model.context - (self.cache.shape[4] - self.length) + begin
        x = F.embedding(tokens, model.table) + model.places[first : first + n]
        for weights, (keys, values) in zip(self.layers, self.cache, strict=True):
            gain1, shift1, qkv, proj, proj_bias, gain2, shift2, up, up_bias, down, down_bias = weights
            y = F.linear(F.layer_norm(x, (C,), gain1, shift1), qkv)
            q, k, v = y.view(B, n, 3, H, C // H).permute(2, 0, 3, 1, 4)
            keys[:, :, begin:end], values[:, :, begin:end] = k, v
            y = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], is_causal=n > 1)
            x = x + F.linear(y.transpose(1, 2).reshape(B, n, C), proj, proj_bias)
            y = F.linear(F.layer_norm(x, (C,), gain2, shift2), up, up_bias)
            x = x + F.linear(F.gelu(y, approximate="tanh"), down, down_bias)
        return F.layer_norm(x[:, -1], (C,), model.gain, model.shift)


class Episodes(NamedTuple):
    """A rollout; all but `prompts` (B, T)."""

    prompts: Tensor
    responses: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


@torch.inference_mode()
def collect(
    sampler: Sampler,
    reference: Transformer,
    reward_model: Transformer,
    prompts: Tensor,
    uniforms: Tensor,
    options: Options,
) -> Episodes:
    """Sample, score, and turn scores and KL into advantages and returns.

    The reward model has one place more than the policy: its score is the value after the last token.
    """
    model = sampler.model
    responses, logprobs = sampler.sample(prompts, uniforms)
    longer = F.pad(responses, (0, 1))
    scores = reward_model.values(reward_model.hidden(prompts, longer, None)[:, -1])
    values = model.values(model.hidden(prompts, responses, None))
    known = token_logprobs(reference.logits(reference.hidden(prompts, responses, None)), responses)
    rewards = -options.beta * (logprobs - known)
    rewards[:, -1] += scores
    following = F.pad(values[:, 1:], (0, 1))
    delta = rewards + options.gamma * following - values
    advantages = delta @ _decays(responses.shape[1], options.gamma * options.lam)
    returns = advantages + values
    advantages = (advantages - advantages.mean()) * torch.rsqrt(advantages.var(correction=0) + 1e-8)
    return Episodes(prompts, responses, logprobs, values, advantages, returns)


def _decays(T: int, rate: float) -> Tensor:
    """(T, T): what an error at s adds to the advantage at t, as one product instead of a loop over tokens."""
    ages = torch.arange(T)[:, None] - torch.arange(T)
    return torch.where(ages >= 0, float(rate) ** ages.clamp(min=0), 0.0)


def minibatch_step(
    model: Transformer, optimizer: torch.optim.Optimizer, batch: Episodes, options: Options
) -> Tensor:
    """One optimiser step on the clipped losses; gives the loss."""
    optimizer.zero_grad(set_to_none=True)
    hidden = model.hidden(batch.prompts, batch.responses, None)
    logprobs = token_logprobs(model.logits(hidden), batch.responses)
    ratio = torch.exp(logprobs - batch.logprobs)
    clipped = ratio.clamp(1 - options.cliprange, 1 + options.cliprange)
    policy_loss = torch.maximum(-batch.advantages * ratio, -batch.advantages * clipped).mean()
    values = model.values(hidden)
    limit = options.cliprange_value
    near = batch.values + (values - batch.values).clamp(-limit, limit)
    value_loss = 0.5 * torch.maximum((values - batch.returns) ** 2, (near - batch.returns) ** 2).mean()
    loss = policy_loss + options.vf_coef * value_loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
    optimizer.step()
    return loss.detach()


def ppo_update(
    sampler: Sampler,
    reference: Transformer,
    reward_model: Transformer,
    optimizer: torch.optim.Optimizer,
    prompts: Tensor,
    uniforms: Tensor,
    orders: list[Tensor],
    options: Options,
) -> list[Tensor]:
    """A rollout and an epoch for each of `orders`, the permutations of the episodes; gives the losses."""
    episodes = collect(sampler, reference, reward_model, prompts, uniforms, options)
    episodes = Episodes(*(x.clone() for x in episodes))  # inference tensors are not for autograd
    losses = []
    for order in orders:
        for index in order.tensor_split(options.num_mini_batches):
            batch = Episodes(*(x[index] for x in episodes))
            losses.append(minibatch_step(sampler.model, optimizer, batch, options))
    return losses
