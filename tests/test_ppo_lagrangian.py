"""PPO under a bound on the mean cost: its multiplier by hand and by enumeration, and what is left of it at 0."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernels import policy_gradient
from rlhfbench import oracle
from rlhfbench.errors import InputError
from rlhfbench.lagrange import Multiplier
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.run import run

BETA = 0.3


@pytest.fixture(scope="module")
def world():
    return prepare(load_task("safety-small"), "linear", 1, 256)


def test_the_multiplier_by_hand():
    multiplier = Multiplier(1.0, -0.5, 0.1, 5.0)
    multiplier.update(0.5)
    assert multiplier.value == pytest.approx(math.exp(0.1 * 1.0 * 1.0))
    multiplier.update(-1.5)
    assert multiplier.value == pytest.approx(math.exp(0.1 - 0.1 * math.exp(0.1)))
    multiplier.update(-0.5)
    assert multiplier.value == pytest.approx(math.exp(0.1 - 0.1 * math.exp(0.1)))
    multiplier.update(1e9)
    assert multiplier.value == 5.0
    none = Multiplier(0.0, 0.0, 0.1, 5.0)
    none.update(1e9)
    assert none.value == 0.0


def test_its_step_is_the_slope_of_the_dual_in_log_lambda():
    excess, rate, start, step = 0.7, 1e-3, 1.3, 1e-6
    multiplier = Multiplier(start, 0.2, rate, 5.0)
    multiplier.update(0.2 + excess)
    dual = [math.exp(math.log(start) + sign * step) * excess for sign in (1, -1)]
    assert math.log(multiplier.value / start) == pytest.approx(
        rate * (dual[0] - dual[1]) / (2 * step), rel=1e-6
    )


class Listed:
    """All replies of a small world, with their scores, costs and reference probabilities."""

    def __init__(self, world):
        self.replies = oracle.all_replies(world.task)
        inputs = self.replies.prompts, self.replies.responses, self.replies.mask
        self.scores = self.replies.by_prompt(world.reward_model.score(*inputs))
        self.costs = self.replies.by_prompt(world.costs.model.score(*inputs))
        self.reference = oracle.log_probabilities(world.reference, self.replies)
        red = world.task.is_red_team(self.replies.by_prompt(self.replies.prompts[:, -1]).astype(int)[:, :1])
        share = world.task.red_team
        self.weights = np.where(
            red, share / red.sum(), (1 - share) / (~red).sum()
        )  # how often a prompt is drawn

    def mean(self, logp, values):
        return float((self.weights * (np.exp(logp) * values).sum(axis=1)).sum())

    def best_cost(self, multiplier):
        """The mean cost of the best policy for this multiplier, ref exp((R - lambda C) / (1 + lambda) / beta)."""
        penalised = (self.scores - multiplier * self.costs) / (1 + multiplier)
        return self.mean(oracle.optimum(self.reference, penalised, BETA)[0], self.costs)


def test_with_exact_means_the_bound_is_met_with_equality_or_the_multiplier_dies(world):
    listed = Listed(world)
    free, strict = listed.best_cost(0.0), listed.best_cost(5.0)
    assert strict < free
    limit = (free + strict) / 2
    multiplier = Multiplier(1.0, limit, 1.0, 5.0)
    for _ in range(300):
        multiplier.update(listed.best_cost(multiplier.value))
    assert listed.best_cost(multiplier.value) == pytest.approx(limit, abs=1e-6)
    low, high = 0.0, 5.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if listed.best_cost(middle) > limit else (low, middle)
    assert multiplier.value == pytest.approx(low, abs=1e-5)

    slack = Multiplier(1.0, free + 1.0, 1.0, 5.0)
    for _ in range(300):
        slack.update(listed.best_cost(slack.value))
    assert slack.value < 0.01
    assert listed.best_cost(slack.value) < slack.limit


def run_of(world, text, **options):
    kept = []
    result = run(world, parse_arm(text, **options), keep=kept.append)
    assert result.status == "done"
    return result, kept[0]


def test_a_run_meets_the_bound_on_all_replies(world):
    listed = Listed(world)
    free = listed.mean(oracle.log_probabilities(run_of(world, "ppo")[1], listed.replies), listed.costs)
    limit = free - 0.5
    result, policy = run_of(world, f"ppo_lagrangian:cost_limit={limit},lambda_lr=1")
    assert listed.mean(oracle.log_probabilities(policy, listed.replies), listed.costs) == pytest.approx(
        limit, abs=0.1
    )
    assert 0.05 < result.curve[-1]["objective/lambda"] < 5

    result, policy = run_of(world, f"ppo_lagrangian:cost_limit={free + 1},lambda_lr=1")
    assert result.curve[-1]["objective/lambda"] < 0.05
    assert listed.mean(oracle.log_probabilities(policy, listed.replies), listed.costs) == pytest.approx(
        free, abs=0.1
    )


@pytest.mark.parametrize("policy", ["linear", "transformer:width=8,layers=1,heads=1"])
def test_at_a_multiplier_of_0_it_is_ppo_to_the_bit(policy):
    seen = prepare(load_task("safety-small:pairs=64,demos=64"), policy, 0, 64)
    text = "updates=3,batch_size=32,kl_controller=ziegler"
    plain, one = run_of(seen, f"ppo:{text}", label="same", policy=policy)
    bound, two = run_of(seen, f"ppo_lagrangian:{text},lambda_init=0", label="same", policy=policy)
    assert (one.params == two.params).all()
    own = {"objective/lambda", "objective/cost", "flops"}
    for before, after in zip(plain.curve, bound.curve, strict=True):
        assert {k: v for k, v in after.items() if k not in own} == {
            k: v for k, v in before.items() if k not in own
        }
    assert bound.curve[-1]["objective/lambda"] == 0


def test_one_value_head_on_the_sum_gives_the_papers_advantages():
    rng = np.random.default_rng(0)
    rewards, costs, values, cost_values = rng.normal(size=(4, 5, 7))
    mask = (np.arange(7) < rng.integers(1, 8, size=(5, 1))).astype(float)
    lam = 0.8

    def advantages(rewards, values):
        return policy_gradient.gae(rewards * mask, values * mask, mask, 1.0, 0.95)[0]

    apart = (advantages(rewards, values) - lam * advantages(costs, cost_values)) / (1 + lam)
    at_once = advantages((rewards - lam * costs) / (1 + lam), (values - lam * cost_values) / (1 + lam))
    np.testing.assert_allclose(at_once, apart, atol=1e-12)


def test_shaped_keeps_its_penalty(world):
    result, _ = run_of(world, "ppo_lagrangian@shaped:updates=4,batch_size=32,lambda_init=2")
    assert {point["objective/lambda"] for point in result.curve[1:]} == {2.0}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("lambda_init=-1", "lambda_init must be at least 0"),
        ("lambda_lr=-1", "lambda_lr must be at least 0"),
        ("lambda_init=2,lambda_max=1", "lambda_max must be at least lambda_init"),
        ("batch_size=0", "batch_size must be at least 1"),
    ],
)
def test_bad_settings_are_refused(field, message):
    with pytest.raises(InputError, match=message):
        parse_arm(f"ppo_lagrangian:{field}")
