"""Best-of-n: no training; sample n replies from the reference and serve the one the RM likes best.

Stiennon et al. 2020 (arXiv:2009.01325). Its cost at serving time is its cost. `rlhfbench.selection` has what it gives
for every n from one set of samples, and the bound on its KL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..options import require
from ..selection import best_of_n_kl_bound
from ..types import Float, Int, Metrics, Policy, RewardModel, Rollout, Setup, register


@dataclass(frozen=True)
class BestOfNConfig:
    """Hyper-parameters of best-of-n.

    Parameters
    ----------
    n : int
        Replies drawn for each that is served; the RM scores all of them.
    """

    n: int = 16

    def __post_init__(self) -> None:
        require(1 <= self.n <= 65_536, "n", self.n, "at least 1 and at most 65,536")


class BestOfN:
    """A sampler that draws `n` replies and keeps the best; `kl_bound` in nats bounds its KL to the policy."""

    def __init__(self, policy: Policy, reward_model: RewardModel, n: int) -> None:
        self.policy, self.reward_model, self.n = policy, reward_model, n
        self.kl_bound = best_of_n_kl_bound(n)

    def sample(self, prompts: Int, uniforms: Float) -> Rollout:
        """The best of n replies a prompt; the first uses `uniforms` (B, T), the others a stream seeded by them."""
        rng = np.random.default_rng(np.frombuffer(uniforms.tobytes(), np.uint32)[:64])
        best = self.policy.sample(prompts, uniforms)
        top = self.reward_model.score(prompts, best.responses, best.mask)
        for _ in range(self.n - 1):
            other = self.policy.sample(prompts, rng.random(uniforms.shape))
            score = self.reward_model.score(prompts, other.responses, other.mask)
            better = score > top
            top = np.where(better, score, top)
            best = Rollout(
                np.where(better[:, None], other.responses, best.responses),
                np.where(better[:, None], other.mask, best.mask),
                np.where(better[:, None], other.logprobs, best.logprobs),
            )
        return best


@register("best_of_n", BestOfNConfig, needs={"reward_model"})
def best_of_n(setup: Setup, config: BestOfNConfig) -> Iterator[Metrics]:
    """Serve the best of n; nothing is learnt."""
    setup.served = BestOfN(setup.policy, setup.reward_model, config.n)
    yield {}
