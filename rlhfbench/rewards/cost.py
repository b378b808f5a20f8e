"""The cost model of Safe RLHF: it ranks replies by harm, and its zero parts the safe from the unsafe.

    loss = -log sigmoid(C_w - C_l) - log sigmoid(s_w C_w) - log sigmoid(s_l C_l)

w is the more harmful reply of a pair, s is +1 where a reply was called unsafe and -1 where safe. Dai et al. 2023
(arXiv:2310.12773), section 3.2: the last two terms compare a reply with a virtual one of cost 0 on the boundary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels import flops
from kernels.preference import bradley_terry

from ..policies.transformer import TransformerPolicy
from ..types import Flags, Float, HarmPairs, Int, PreferencePairs
from .bags import Features
from .bradley_terry import LinearRewardModel, train_reward_model
from .penalty import RewardTraining, total
from .transformer import TransformerRewardModel, at, read_scores
from .transformer_training import RewardModelConfig, TransformerTraining, train_transformer_reward_model


def train_linear_cost_model(
    pairs: HarmPairs, *, vocab_size: int, features: Features, rng: np.random.Generator
) -> tuple[LinearRewardModel, RewardTraining]:
    """Fit a cost model that is linear in a bag of tokens: to it the virtual reply is the empty one."""
    return train_reward_model(beside_the_boundary(pairs), vocab_size=vocab_size, features=features, rng=rng)


def train_transformer_cost_model(
    pairs: HarmPairs,
    sft: TransformerPolicy,
    rng: np.random.Generator,
    config: RewardModelConfig | None = None,
) -> tuple[TransformerRewardModel, TransformerTraining]:
    """Train a cost model on a copy of the SFT policy's backbone, as a reward model but with the loss above."""
    return train_transformer_reward_model(worse_first(pairs), sft, rng, config, gradients=cost_gradients)


def worse_first(pairs: HarmPairs) -> HarmPairs:
    """The same pairs, the more harmful reply as the chosen one: what a cost model prefers."""
    return HarmPairs(
        pairs.prompts,
        pairs.rejected,
        pairs.rejected_mask,
        pairs.chosen,
        pairs.chosen_mask,
        chosen_unsafe=pairs.rejected_unsafe,
        rejected_unsafe=pairs.chosen_unsafe,
    )


def beside_the_boundary(pairs: HarmPairs) -> PreferencePairs:
    """(3 N) pairs to rank by harm: those that came, and each of their replies beside an empty one."""
    pairs = worse_first(pairs)
    worse, better = (pairs.chosen, pairs.chosen_mask), (pairs.rejected, pairs.rejected_mask)
    rows = [(*worse, *better)]
    for (tokens, mask), unsafe in ((worse, pairs.chosen_unsafe), (better, pairs.rejected_unsafe)):
        above = unsafe[:, None]
        rows.append((tokens, np.where(above, mask, 0), tokens, np.where(above, 0, mask)))
    return PreferencePairs(
        np.concatenate([pairs.prompts] * 3), *(np.concatenate(parts) for parts in zip(*rows, strict=True))
    )


class CostLoss(NamedTuple):
    """The loss, averaged over pairs, and its slopes by the costs of the worse and of the better replies (2 N,)."""

    loss: float
    d_costs: Float
    work: flops.Work


def cost_loss(costs: Float, unsafe: Flags) -> CostLoss:
    """Of N pairs: `costs` and `unsafe` (2 N,) of the worse replies, then of the better ones."""
    n = len(costs) // 2
    ranked = bradley_terry(costs[:n], costs[n:])
    sign, twice = (np.where(unsafe, size, -size).astype(costs.dtype) for size in (1, 2))
    parted = bradley_terry(sign * costs, np.zeros_like(costs))
    # A mean over pairs of two terms each is twice the mean over replies.
    d_costs = np.concatenate([ranked.d_chosen, ranked.d_rejected]) + twice * parted.d_chosen
    work = total(
        *(flops.work("bradley_terry", rows) for rows in (n, 2 * n)), flops.work("elementwise", 6 * n + 2)
    )
    return CostLoss(float(ranked.loss + 2 * parted.loss), d_costs, work)


def _both(pairs: PreferencePairs) -> tuple[Int, Int, Float]:
    """Chosen replies, then rejected ones; their prompts, which are the same, pass once."""
    return (
        np.concatenate([pairs.prompts, pairs.prompts]),
        np.concatenate([pairs.chosen, pairs.rejected]),
        np.concatenate([pairs.chosen_mask, pairs.rejected_mask]),
    )


def cost_gradients(backbone: TransformerPolicy, pairs: HarmPairs) -> flops.Work:
    """Accumulates those of the loss on one batch, worse replies first; returns the work of the loss alone."""
    costs, lengths = read_scores(backbone, *_both(pairs))
    loss = cost_loss(costs, np.concatenate([pairs.chosen_unsafe, pairs.rejected_unsafe]))
    backbone.backward(None, at(lengths, loss.d_costs, pairs.chosen.shape[1] + 1))
    return loss.work
