"""RLOO, GRPO, RAFT, online DPO: what makes each what it is, on replies that can be listed, and wrong settings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from small_worlds import directional, two_policies

from rlhfbench.algorithms import grpo
from rlhfbench.algorithms.online_dpo import OnlineDPOConfig, online_dpo
from rlhfbench.cli import main
from rlhfbench.errors import InputError
from rlhfbench.kl_penalty import KINDS
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.rollouts import collect, groups
from rlhfbench.room import Room
from rlhfbench.run import run

B, G = 12, 3


class Scores:
    """A reward model that likes the first word's number."""

    def score(self, prompts, responses, mask):
        return responses[:, 0].astype(float) - 2.0 * (responses[:, 0] == responses[:, 1])


class World:
    """The setup of one update, whose gradient is kept where an optimiser would use it."""

    def __init__(self, kind="linear", seed=0):
        self.policy, self.reference = two_policies(kind, spread=0.5)
        self.reward_model = Scores()
        self.rng, self.room = np.random.default_rng(seed), Room()
        self.gradients, self.charges = [], []

    def prompts(self, n):
        return np.zeros((n, 1), np.int64)

    def charge(self, *work):
        self.charges.append(work)

    def progress(self):
        return 0.0

    def steps(self, planned):
        return range(planned)

    def optimizer(self, learning_rate, **options):
        def step(scale):
            self.gradients.append(self.policy.grads.copy())
            self.policy.grads[:] = 0

        return SimpleNamespace(step=step)


def first_gradient(text, seed=0):
    """Of the first step of an arm, in a world where all arms of a seed draw the same."""
    arm, world = parse_arm(text), World(seed=seed)
    metrics = next(iter(arm.spec.function(world, arm.config)))
    return world.gradients[0], metrics


def test_the_first_step_of_all_policy_gradients_is_reinforce():
    """At ratio 1 no clip binds: with one group the advantages are the same, up to their scale (E11)."""
    common = f"updates=1,batch_size={B},kl=k1:reward,beta=0.3"
    plain, _ = first_gradient(f"reinforce:{common}")
    left_out, metrics = first_gradient(f"rloo:{common},num_generations={B}")
    assert metrics["clip_ratio/region_mean"] == 0
    np.testing.assert_allclose(left_out, plain, atol=1e-10)
    whitened, _ = first_gradient(f"reinforce@plusplus:{common}")
    assert np.linalg.norm(whitened) > 0
    cosine = whitened @ plain / np.linalg.norm(whitened) / np.linalg.norm(plain)
    assert cosine == pytest.approx(1)
    # Replies of two tokens each: "dr_grpo" has all of (B 2) places, and RLOO is B/(B - 1) of centred rewards.
    centred, _ = first_gradient(f"grpo:{common},variant=dr_grpo,num_generations={B}")
    np.testing.assert_allclose(centred * 2 * B / (B - 1), plain, atol=1e-10)
    for variant in ("grpo", "bnpo", "dapo", "gspo"):
        found, _ = first_gradient(f"grpo:{common},variant={variant},num_generations={B}")
        np.testing.assert_allclose(
            found / np.linalg.norm(found), centred / np.linalg.norm(centred), atol=1e-6
        )


def test_the_next_episodes_write_over_those_that_need_not_last():
    world = World()
    lasting = collect(world, world.prompts(B))
    before = [array.copy() for array in (*lasting.replies, lasting.logprobs, lasting.ref_logprobs)]
    passing = collect(world, world.prompts(B), lasting=False)
    after = collect(world, world.prompts(B), lasting=False)
    assert after.responses is passing.responses
    assert not np.array_equal(after.responses, lasting.responses)
    for array, kept in zip((*lasting.replies, lasting.logprobs, lasting.ref_logprobs), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    again = collect(World(), world.prompts(B), lasting=False)
    for name in ("responses", "mask", "logprobs", "ref_logprobs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(lasting, name))


def test_groups_hold_replies_to_one_prompt():
    world = World()
    world.prompts = lambda n: np.arange(n)[:, None]
    assert groups(world, B, G).ravel().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_dead_groups_are_counted_and_have_no_gradient():
    class Alike:
        def score(self, prompts, responses, mask):
            return np.repeat([1.0, 2.0, 3.0, 4.0], G)

    arm, world = parse_arm(f"grpo:updates=1,batch_size={B},num_generations={G},beta=0"), World()
    world.reward_model = Alike()
    metrics = next(iter(arm.spec.function(world, arm.config)))
    assert metrics["frac_reward_zero_std"] == 1
    assert not world.gradients[0].any()
    _, living = first_gradient(f"grpo:updates=1,batch_size={B},num_generations={G}")
    assert living["frac_reward_zero_std"] < 1


@pytest.mark.parametrize(
    "name", ["reinforce", "rloo:num_generations=4", "grpo:num_generations=4", "raft:num_generations=4"]
)
def test_without_a_penalty_the_reference_is_not_asked(name):
    text = f"{name}{',' if ':' in name else ':'}updates=2,batch_size=8"
    world = prepare(load_task("words"), "tabular", 0, 64)
    assert run(world, parse_arm(f"{text},beta=0")).compute["by_phase"].get("ref", 0) == 0
    assert run(world, parse_arm(f"{text},beta=0.1")).compute["by_phase"]["ref"] > 0


@pytest.mark.parametrize("policy", ["tabular", "transformer"])
def test_every_penalty_can_be_paid_by_every_policy(policy):
    world = prepare(load_task("words"), policy, 0, 64)
    for kl in KINDS:
        arm = parse_arm(f"grpo:updates=2,batch_size=32,num_iterations=2,kl={kl}", policy=policy)
        result = run(world, arm)
        assert result.status == "done", result.message
        assert result.kl > 0


def test_a_second_step_on_the_same_replies_is_clipped_by_its_own_ratio():
    """GSPO's clip, .0003 and .0004, binds as soon as anything moves; RLOO's and GRPO's, .2, hardly."""
    world = prepare(load_task("words"), "tabular", 0, 64)

    def clipped(text):
        result = run(world, parse_arm(f"{text},updates=5,batch_size=64,num_iterations=2,learning_rate=0.01"))
        return np.mean([p["clip_ratio/region_mean"] for p in result.curve if "clip_ratio/region_mean" in p])

    assert clipped("grpo:variant=gspo") > 0.4
    assert clipped("grpo:variant=grpo") < 0.05
    assert clipped("rloo:cliprange=0.2") < 0.05
    assert clipped("rloo:cliprange=0.001") > 0.2


def test_raft_learns_from_the_best_of_each_group_alone():
    world = World()
    arm = parse_arm(f"raft:updates=1,batch_size={B},num_generations={G}")
    next(iter(arm.spec.function(world, arm.config)))
    again = World()
    episodes = collect(again, groups(again, B, G), reference=False)
    best = episodes.scores.reshape(-1, G).argmax(axis=1) + np.arange(0, B, G)
    inputs = tuple(x[best] for x in episodes.replies)

    def loss():
        return -again.policy.logprobs(*inputs).sum() / inputs[2].sum()

    direction = np.random.default_rng(5).normal(size=again.policy.params.size)
    assert world.gradients[0] @ direction == pytest.approx(
        directional(loss, again.policy, direction), abs=1e-8
    )


def test_online_dpo_prefers_what_the_reward_model_prefers():
    world = World()
    metrics = next(iter(online_dpo(world, OnlineDPOConfig(updates=1, batch_size=B, beta=0.1))))
    again = World()
    episodes = collect(again, groups(again, B, 2))

    def loss():
        ratio = (again.policy.logprobs(*episodes.replies) - episodes.ref_logprobs).sum(axis=1).reshape(-1, 2)
        sign = np.where(np.diff(episodes.scores.reshape(-1, 2), axis=1)[:, 0] > 0, -1.0, 1.0)
        return np.log1p(np.exp(-0.1 * sign * (ratio[:, 0] - ratio[:, 1]))).mean()

    direction = np.random.default_rng(5).normal(size=again.policy.params.size)
    assert metrics["loss"] == pytest.approx(loss())
    assert world.gradients[0] @ direction == pytest.approx(
        directional(loss, again.policy, direction), abs=1e-8
    )


def test_episodes_without_a_reference_can_be_taken_from():
    world = World()
    episodes = collect(world, world.prompts(4), reference=False)
    part = episodes.take(np.array([2, 0]), world.room)
    assert part.ref_logprobs.shape == (0, 2)
    np.testing.assert_array_equal(part.scores, episodes.scores[[2, 0]])
    assert (episodes.whole == 1).all()


def test_a_reference_that_is_left_is_not_held():
    world = World()
    episodes = collect(world, world.prompts(4))
    left = episodes.without_reference()
    assert left.ref_logprobs.shape == (0, 2)
    assert left.ref_logprobs.base is None
    assert left.logprobs is episodes.logprobs


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("rloo:num_generations=7", "num_generations must be a divisor of batch_size (256), got 7"),
        ("grpo:num_generations=3", "num_generations must be a divisor of batch_size (256), got 3"),
        ("raft:num_generations=5", "num_generations must be a divisor of batch_size (256), got 5"),
        ("rloo:num_generations=1", "at least 2, for a baseline"),
        ("grpo:num_generations=1", "at least 2, for a group"),
        ("grpo:variant=drgrpo", "did you mean 'dr_grpo'"),
        ("grpo:cliprange=0", "above 0, or none"),
        ("grpo:kl=k3", "k3:loss"),
        ("online_dpo:batch_size=3", "even, two replies a prompt"),
        ("online_dpo:beta=0", "above 0"),
    ],
)
def test_wrong_settings_are_explained(text, needle):
    with pytest.raises(InputError) as caught:
        parse_arm(text)
    assert needle in str(caught.value)


def test_a_group_that_does_not_divide_the_batch_exits_2_with_one_line(capsys):
    assert main(["compare", "grpo:num_generations=7"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "num_generations must be a divisor" in said


def test_presets_mean_what_they_say():
    assert parse_arm("grpo@deepseekmath").config.num_generations == 64
    assert parse_arm("grpo@trl").config.beta == 0
    assert grpo.VARIANTS[parse_arm("grpo@dr").config.variant].scale is False
    assert parse_arm("reinforce@plusplus").config.normalize_advantages
