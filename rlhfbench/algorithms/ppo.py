"""RLHF-PPO: rollouts, a per-token KL penalty in the reward, GAE, clipped policy and value losses.

Ziegler et al. 2019 (arXiv:1909.08593), Ouyang et al. 2022 (arXiv:2203.02155); PPO is Schulman et al. 2017
(arXiv:1707.06347), GAE Schulman et al. 2016 (arXiv:1506.02438). An update is that of `rlhfbench.ppo_step`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..kl_penalty import cautions
from ..ppo_step import POLICY_DEFAULTS, PPOConfig, kl_control, ppo_update
from ..rollouts import collect
from ..types import Metrics, Setup, register


@register(
    "ppo",
    PPOConfig,
    needs={"reward_model"},
    policy_defaults=POLICY_DEFAULTS,
    cautions=cautions,
)
def ppo(setup: Setup, config: PPOConfig) -> Iterator[Metrics]:
    """Maximise the RM score minus beta times the KL to the reference."""
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    control = kl_control(config)
    for _ in setup.steps(config.updates):
        episodes = collect(setup, setup.prompts(config.batch_size), lasting=False)
        yield ppo_update(setup, config, optimizer, control, episodes)
