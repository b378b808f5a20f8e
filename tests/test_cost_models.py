"""The cost model: its loss, its zero, and that it is charged to whoever needs it."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.preference import bradley_terry
from rlhfbench.cost_models import JUDGMENTS
from rlhfbench.errors import InputError
from rlhfbench.jobs import small_worlds
from rlhfbench.plan import check_arms, make_world
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task, parse_arm, parse_arms
from rlhfbench.rewards.bradley_terry import BagFeatures, LinearRewardModel
from rlhfbench.rewards.cost import beside_the_boundary, cost_loss, worse_first
from rlhfbench.run import run
from rlhfbench.types import HarmPairs

SMALL = "safety-small:pairs=400,demos=400"


@pytest.fixture(scope="module")
def world():
    return prepare(load_task(SMALL), "linear", 0, 256)


def test_the_loss_by_hand_and_its_slopes_by_central_differences():
    costs, unsafe = np.array([1.5, -0.3, 0.4, -2.0]), np.array([True, True, False, False])

    def softplus(x):
        return np.log1p(np.exp(x))

    pairs = softplus(-(1.5 - 0.4)) + softplus(-(-0.3 + 2.0))
    signs = softplus(-1.5) + softplus(0.3) + softplus(0.4) + softplus(-2.0)
    found = cost_loss(costs, unsafe)
    assert found.loss == pytest.approx((pairs + signs) / 2)
    for i in range(4):
        step = 1e-5 * (np.arange(4) == i)
        slope = (cost_loss(costs + step, unsafe).loss - cost_loss(costs - step, unsafe).loss) / 2e-5
        assert found.d_costs[i] == pytest.approx(slope, rel=1e-6)


def test_a_bag_has_the_same_loss_where_the_virtual_reply_is_empty(world):
    pairs = world.task.harm_labels(np.random.default_rng(0), world.reference)
    features = BagFeatures.of("unigrams", len(world.task.vocab))
    model = LinearRewardModel(np.random.default_rng(1).normal(size=features.size), features)

    def cost(tokens, mask):
        return model.score(pairs.prompts, tokens, mask.astype(float))

    worse, better = cost(pairs.rejected, pairs.rejected_mask), cost(pairs.chosen, pairs.chosen_mask)
    unsafe = np.concatenate([pairs.rejected_unsafe, pairs.chosen_unsafe])
    anchored = beside_the_boundary(pairs)
    assert len(anchored) == 3 * len(pairs)
    ranked = [
        model.score(anchored.prompts, tokens, mask.astype(float))
        for tokens, mask in (
            (anchored.chosen, anchored.chosen_mask),
            (anchored.rejected, anchored.rejected_mask),
        )
    ]
    whole = cost_loss(np.concatenate([worse, better]), unsafe).loss
    assert 3 * bradley_terry(*ranked).loss == pytest.approx(whole)


def test_worse_first_turns_pairs_with_their_flags():
    tokens, mask = np.arange(6).reshape(2, 3), np.ones((2, 3), np.float32)
    flags = np.array([True, False])
    pairs = HarmPairs(
        tokens[:, :1], tokens, mask, tokens + 6, 2 * mask, chosen_unsafe=flags, rejected_unsafe=~flags
    )
    turned = worse_first(pairs)
    assert (turned.chosen == pairs.rejected).all()
    assert (turned.chosen_mask == pairs.rejected_mask).all()
    assert (turned.chosen_unsafe == ~flags).all()
    again = worse_first(turned)
    assert all(
        np.array_equal(getattr(again, name), getattr(pairs, name))
        for name in vars(pairs)
        if name != "strength"
    )


@pytest.mark.parametrize("policy", ["linear", "transformer:width=16"])
def test_its_zero_parts_the_safe_from_the_unsafe_and_its_unit_is_the_reference(policy):
    task = load_task("safety-small:flips=0")
    seen = prepare(task, policy, 3, 1024)
    rollout = seen.reference.sample(seen.evaluation_prompts, seen.evaluation_uniforms)
    inputs = seen.evaluation_prompts, rollout.responses, rollout.mask
    costs = seen.costs.model.score(*inputs)
    assert np.mean((costs > 0) == (task.harm(*inputs) > 0)) > 0.95
    assert costs.std() == pytest.approx(1, abs=0.1)
    assert abs(costs.mean()) > 0.1  # it is not the mean that is at zero
    if policy == "linear":
        blank = np.zeros_like(rollout.mask)
        assert np.abs(seen.costs.model.score(*inputs[:2], blank)).max() < 1e-12


def test_both_models_are_charged_to_whoever_needs_both(world):
    one, both = (
        run(world, parse_arm(f"{name}:updates=2,batch_size=8")) for name in ("ppo", "ppo_lagrangian")
    )
    made = world.costs.meter.flops
    assert set(made) == {"rm_train"}
    assert made["rm_train"] > 0
    assert both.compute["by_phase"]["rm_train"] == one.compute["by_phase"]["rm_train"] + made["rm_train"]
    assert both.compute["labels"] == one.compute["labels"] + JUDGMENTS * 400
    assert both.compute["rm_calls"] == 2 * one.compute["rm_calls"] == 32
    assert both.compute["by_phase"]["rm_score"] > one.compute["by_phase"]["rm_score"]


def test_a_run_tells_of_safety_and_others_do_not(world):
    told = run(world, parse_arm("ppo:updates=2,batch_size=8")).safety
    assert told["reference"]["harm_rate"] > 0.2
    assert told["reference"]["refusal_rate"] + told["reference"]["harm_rate"] <= 1
    elsewhere = prepare(load_task("words"), "tabular", 0, 16)
    assert run(elsewhere, parse_arm("ppo:updates=2,batch_size=8")).safety is None


def test_a_run_that_fails_tells_of_the_reference(world):
    failed = run(world, parse_arm("ppo:beta=1e300,updates=2")).safety
    assert {name: failed[name] for name in failed["reference"]} == failed["reference"]


def test_a_task_without_labels_of_harm_is_refused():
    message = "--task: sentences came, which has no labels of harm; "
    message += "ppo_lagrangian needs a task that has, such as safety"
    with pytest.raises(InputError) as refused:
        check_arms(
            parse_arms(["ppo", "ppo_lagrangian"]), make_world("sentences", None, False, "linear", None)
        )
    assert str(refused.value) == message
    with pytest.raises(InputError, match="no labels of harm"):
        run(prepare(load_task("words"), "tabular", 0, 16), parse_arm("ppo_lagrangian:updates=1"))


def test_an_undeclared_need_of_a_cost_model_is_refused(world):
    from dataclasses import replace

    def sneaky(setup, config):
        setup.cost_model.score(setup.prompts(1), np.zeros((1, 5), np.int64), np.ones((1, 5), np.float32))
        yield {}

    arm = parse_arm("ppo:updates=1")
    with pytest.raises(InputError, match="cost_model but does not declare it"):
        run(world, replace(arm, spec=replace(arm.spec, function=sneaky)))


@pytest.mark.parametrize(("policy", "model"), [("linear", "unigrams"), ("transformer", "transformer")])
def test_the_warm_up_trains_a_cost_model(policy, model):
    found = small_worlds([make_world("safety", None, False, policy, None)])
    assert found == [f"safety-small:pairs=64,demos=64,rm={model}"]
