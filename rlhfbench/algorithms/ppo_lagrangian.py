"""Safe RLHF: PPO on the score of one model, under a bound on the mean cost that another gives; a multiplier holds it.

    max over the policy, min over lambda >= 0 of   J_R - lambda (J_C - d)

Dai et al. 2023 (arXiv:2310.12773). An update is PPO's on A = (A_R - lambda A_C) / (1 + lambda), its equation 30; then
log lambda rises by the slope of the dual, equation 31. Advantages are linear in rewards and values, so that one value
head on (R - lambda C) / (1 + lambda) gives A at once, where the paper trains a critic for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..kl_penalty import cautions
from ..lagrange import Multiplier
from ..metrics import mean
from ..options import require
from ..ppo_step import POLICY_DEFAULTS, PPOConfig, kl_control, ppo_update
from ..rollouts import Episodes, collect
from ..types import Float, Metrics, Setup, register


@dataclass(frozen=True)
class PPOLagrangianConfig(PPOConfig):
    """Hyper-parameters of Safe RLHF beside those of `ppo`.

    Parameters
    ----------
    cost_limit : float
        d, the highest mean cost over training prompts, in standard deviations of the reference's costs; a reply of cost
        0 lies between safe and unsafe. Chosen for the world `safety`.
    lambda_init : float
        The multiplier to begin with; 0 stays 0, which is PPO. PKU's implementation: 1.
    lambda_lr : float
        Step of log lambda, per unit of lambda times the cost above `cost_limit`; 0 keeps lambda where it is, which is a
        fixed penalty. Chosen for the world `safety`; PKU's implementation: .1.
    lambda_max : float
        Where lambda stops. PKU's implementation: 5.
    """

    cost_limit: float = -0.7
    lambda_init: float = 1.0
    lambda_lr: float = 0.3
    lambda_max: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lambda_init", "lambda_lr"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        most = self.lambda_max
        require(most >= self.lambda_init, "lambda_max", most, f"at least lambda_init ({self.lambda_init})")


@register(
    "ppo_lagrangian",
    PPOLagrangianConfig,
    needs={"reward_model", "cost_model"},
    policy_defaults={"transformer": {**POLICY_DEFAULTS["transformer"], "cost_limit": -1.1}},
    cautions=cautions,
)
def ppo_lagrangian(setup: Setup, config: PPOLagrangianConfig) -> Iterator[Metrics]:
    """Maximise the RM score minus beta times the KL, with the mean cost held at a limit."""
    optimizer = setup.optimizer(config.learning_rate, max_grad_norm=config.max_grad_norm)
    control = kl_control(config)
    multiplier = Multiplier(config.lambda_init, config.cost_limit, config.lambda_lr, config.lambda_max)
    for _ in setup.steps(config.updates):
        episodes = collect(setup, setup.prompts(config.batch_size), lasting=False)
        costs = setup.cost_model.score(*episodes.replies)
        metrics = ppo_update(
            setup, config, optimizer, control, penalised(setup, episodes, costs, multiplier.value)
        )
        cost = float(costs.sum()) / len(costs)
        setup.charge("sum", len(costs))
        yield metrics | {
            "objective/scores": mean(episodes.scores),
            "objective/cost": cost,
            "objective/lambda": multiplier.value,
        }
        multiplier.update(cost)


def penalised(setup: Setup, episodes: Episodes, costs: Float, multiplier: float) -> Episodes:
    """The same replies with (R - lambda C) / (1 + lambda) for their scores."""
    setup.charge("elementwise", 3 * len(costs))
    scores = (episodes.scores - multiplier * costs) / (1.0 + multiplier)
    return replace(episodes, scores=scores, steps=None)  # costs are of whole replies
