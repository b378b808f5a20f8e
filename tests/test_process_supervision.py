"""What PPO and GRPO make of rewards of steps, and the labels of worked sums."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from test_arithmetic import prompt
from test_online_methods import B, G, World

from rlhfbench import ppo_step
from rlhfbench.algorithms import grpo
from rlhfbench.errors import InputError
from rlhfbench.harness import compare
from rlhfbench.kl_penalty import estimates
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.rewards.process import StepRewardModel
from rlhfbench.rollouts import collect, groups
from rlhfbench.run import run
from rlhfbench.samples import samples
from rlhfbench.tasks.arithmetic import Arithmetic
from rlhfbench.types import DenseReward, Rollout, StepRewards, Stepwise

COMPILED = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="minutes of plain Python")


# --- PPO and GRPO --------------------------------------------------------------------------------------------------


class AtTheEnd:
    """A judge whose only step is the whole reply."""

    def score(self, prompts, responses, mask):
        return responses[:, 0].astype(float) - 2.0 * (responses[:, 0] == responses[:, 1])

    def rewards(self, prompts, responses, mask):
        tokens = np.zeros(responses.shape)
        tokens[:, -1] = self.score(prompts, responses, mask)
        return StepRewards(tokens, np.arange(responses.shape[1]) == responses.shape[1] - 1 + 0 * responses)


class EachWord(AtTheEnd):
    """A judge that likes each word's number, and ends no step at a first word 3."""

    def rewards(self, prompts, responses, mask):
        ends = np.ones(responses.shape, bool)
        ends[:, 0] = responses[:, 0] != 3
        return StepRewards(np.where(ends, responses**1.5, 0.0), ends)

    def score(self, prompts, responses, mask):
        return self.rewards(prompts, responses, mask).tokens.sum(axis=1)


def first_gradient(text, reward_model):
    arm, world = parse_arm(text), World()
    world.reward_model = reward_model
    next(iter(arm.spec.function(world, arm.config)))
    return world.gradients[0]


class ScoreAlone:
    def __init__(self, model):
        self.score = model.score


@pytest.mark.parametrize(
    "text",
    [
        "ppo:whiten_rewards=yes",
        "ppo:kl=k3:loss",
        "reinforce:beta=0.1",
        *(f"grpo:num_generations={G},variant={v}" for v in ("grpo", "bnpo", "dapo", "dr_grpo", "gspo")),
        f"grpo:num_generations={G},kl=k1:reward",
        f"rloo:num_generations={G}",
    ],
)
def test_one_step_a_reply_is_its_score(text):
    """What knows of steps then does what it does with scores."""
    text += f",updates=1,batch_size={B}"
    dense, plain = (first_gradient(text, model) for model in (AtTheEnd(), ScoreAlone(AtTheEnd())))
    assert isinstance(AtTheEnd(), DenseReward)
    assert not isinstance(ScoreAlone(AtTheEnd()), DenseReward)
    np.testing.assert_allclose(dense, plain, atol=1e-12)
    assert np.linalg.norm(plain) > 0


@pytest.mark.parametrize("name", ["rloo", "grpo", "raft"])
def test_who_does_not_ask_for_steps_takes_the_score(name):
    text = f"{name}:updates=1,batch_size={B},num_generations={G},beta=0" + ",variant=gspo" * (name == "grpo")
    dense, plain = (first_gradient(text, model) for model in (EachWord(), ScoreAlone(EachWord())))
    np.testing.assert_allclose(dense, plain, atol=1e-12)


def test_ppo_pays_each_step_where_it_ends():
    world, config = World(), ppo_step.PPOConfig(batch_size=B, gamma=0.9, lam=0.8)
    world.reward_model = EachWord()
    episodes = collect(world, world.prompts(B))
    found = ppo_step.advantages_and_returns(world, config, episodes, 0.3)
    penalty = 0.3 * estimates(world, "k1:reward", episodes.replies, episodes.logprobs, episodes.ref_logprobs)
    rewards = EachWord().rewards(*episodes.replies).tokens - penalty
    values = world.policy.values(*episodes.replies, keep=False)
    last = rewards[:, 1] - values[:, 1]
    first = rewards[:, 0] + 0.9 * values[:, 1] - values[:, 0] + 0.9 * 0.8 * last
    advantages = np.stack([first, last], axis=1)
    np.testing.assert_allclose(found.returns, advantages + values, atol=1e-12)
    np.testing.assert_allclose(
        found.advantages, (advantages - advantages.mean()) / np.sqrt(advantages.var() + 1e-8), atol=1e-9
    )


@pytest.mark.parametrize("kl", ["k3:loss", "k1:reward"])
@pytest.mark.parametrize("variant", ["grpo", "dr_grpo"])
def test_process_supervision_by_hand(kl, variant):
    """Shao et al. 2024, section 4.1.3: rewards of all steps of a group normalised, then summed over later steps."""
    world = World()
    world.reward_model = EachWord()
    config = grpo.GRPOConfig(batch_size=B, num_generations=G, kl=kl, variant=variant)
    episodes = collect(world, groups(world, B, G))
    found, dead = grpo.process_advantages(world, config, episodes, episodes.steps)
    assert dead == 0
    k1 = estimates(world, "k1:reward", episodes.replies, episodes.logprobs, episodes.ref_logprobs)
    for begin in range(0, B, G):
        rewards, index = [], []
        for b in range(begin, begin + G):
            since = 0
            for t in range(2):
                if episodes.steps.ends[b, t]:
                    penalty = 0.3 * k1[b, since : t + 1].sum() if kl == "k1:reward" else 0.0
                    rewards.append(episodes.steps.tokens[b, t] - penalty)
                    index.append((b, t))
                    since = t + 1
        normal = np.array(rewards) - np.mean(rewards)
        if variant == "grpo":
            normal /= np.std(rewards, ddof=1) + 1e-4
        for b in range(begin, begin + G):
            for t in range(2):
                want = sum(r for r, (row, end) in zip(normal, index, strict=True) if row == b and end >= t)
                assert found[b, t] == pytest.approx(want, abs=1e-10)


def test_groups_whose_steps_are_all_alike_have_no_gradient():
    class Alike(AtTheEnd):
        def rewards(self, prompts, responses, mask):
            return StepRewards(np.ones(responses.shape), np.ones(responses.shape, bool))

    arm, world = parse_arm(f"grpo:updates=1,batch_size={B},num_generations={G},beta=0"), World()
    world.reward_model = Alike()
    metrics = next(iter(arm.spec.function(world, arm.config)))
    assert metrics["frac_reward_zero_std"] == 1
    assert not world.gradients[0].any()


@pytest.mark.parametrize("variant", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_equal_advantages_of_tokens_are_those_of_their_reply(variant):
    rng, world = np.random.default_rng(0), World()
    mask = (np.arange(5) < rng.integers(1, 6, (8, 1))).astype(float)
    old = -rng.random((8, 5)) * mask
    logprobs = old + 0.5 * rng.normal(size=old.shape) * mask
    advantages = rng.normal(size=8)
    config = grpo.GRPOConfig(batch_size=8, num_generations=4, variant=variant)
    episodes = grpo.Episodes(np.zeros((8, 1), int), np.zeros((8, 5), int), mask, old, old[:0], advantages)
    whole = grpo.clipped_loss(world, config, episodes, logprobs, advantages)
    each = grpo.clipped_loss(world, config, episodes, logprobs, np.repeat(advantages[:, None], 5, axis=1))
    assert 0 < whole.clipfrac < 1
    np.testing.assert_allclose(each.loss, whole.loss, atol=1e-12)
    np.testing.assert_allclose(each.d_logprobs, whole.d_logprobs, atol=1e-12)
    assert each.clipfrac == pytest.approx(whole.clipfrac)


# --- sums ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("5 8 <eos>", [1, 1, 1]),
        ("4 8 <eos>", [0, 1, 1]),  # each step on its own
        ("5 7 <eos>", [1, 0, 0]),
        ("5 <eos>", [1, 0]),  # ended too early
        ("8 <eos>", [0, 1]),
        ("5 8 8 <eos>", [1, 1, 1, 1]),  # the sum stays what it is
        ("5 8 8 8", [1, 1, 1, 1]),
        ("5 8 7 <eos>", [1, 1, 0, 0]),
        ("<eos>", [0]),
    ],
)
def test_labels_by_hand(text, labels):
    task = Arithmetic()
    assert isinstance(task, Stepwise)
    responses = np.zeros((1, task.max_length), np.int64)
    tokens = [task.vocab.index(word) for word in text.split()]
    responses[0, : len(tokens)] = tokens
    assert task.step_labels(prompt(2, 3, 3), responses)[0, : len(tokens)].tolist() == [
        bool(x) for x in labels
    ]


class Demonstrator:
    """Answers as the demonstrations are written, a third of them wrong."""

    def __init__(self, task):
        self.task = task

    def sample(self, prompts, uniforms):
        rng = np.random.default_rng(0)
        responses, mask = self.task._replies(prompts, rng.random(len(prompts)) < 1 / 3, rng)
        return Rollout(responses, mask, 0 * mask)


@pytest.mark.parametrize("flips", [0.0, 0.25])
def test_labels_are_those_of_a_program_but_for_flips(flips):
    task = Arithmetic(flips=flips)
    solutions = task.solutions(3000, np.random.default_rng(0), Demonstrator(task))
    true = task.step_labels(solutions.prompts, solutions.responses)
    assert (solutions.ends == (solutions.mask > 0)).all()
    turned = (solutions.labels != true)[solutions.ends].mean()
    assert turned == pytest.approx(flips, abs=0.02 if flips else 0)
    whole = task.whole(solutions, np.random.default_rng(1))
    assert (whole.ends.sum(axis=1) == 1).all()
    answers = task.gold_score(solutions.prompts, solutions.responses, solutions.mask) > 0
    turned = (whole.labels.any(axis=1) != answers).mean()
    assert turned == pytest.approx(flips, abs=0.02 if flips else 0)
    np.testing.assert_array_equal(whole.responses, solutions.responses)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("rm_solutions=50", "rm_solutions must be left out unless rm=process or rm=outcome, got 50"),
        ("rm=process,rm_solutions=1", "rm_solutions must be between 2 and 1,000,000"),
        ("rm=outcome,rm_aggregate_steps=min", "rm_aggregate_steps must be left out unless rm=process"),
        ("rm=process,rm_aggregate_steps=mean", "'mean' is not valid"),
    ],
)
def test_bad_knobs_are_named(options, says):
    with pytest.raises(InputError, match=says):
        load_task(f"arithmetic:{options}")


def test_where_nothing_is_worked_out_no_steps_can_be_judged():
    with pytest.raises(InputError, match="'process' is not valid"):
        load_task("sentences:rm=process")


SMALL = "arithmetic:terms=2,largest=2,demos=200,pairs=16"


@COMPILED
@pytest.mark.parametrize("policy", ["transformer:layers=1,width=8,heads=1", "linear"])
def test_a_world_has_them(policy):
    task = f"{SMALL},rm_solutions=64,rm="
    worlds = {rm: prepare(load_task(task + rm), policy, 0, 64) for rm in ("process", "outcome")}
    for rm, world in worlds.items():
        assert world.reward == "model"
        assert isinstance(world.reward_model, StepRewardModel)
        assert world.reward_model.step_tokens.all() == (rm == "process")
        assert world.meter.flops["rm_train"] > 0
        result = run(world, parse_arm("ppo:updates=2,batch_size=16"))
        assert result.status == "done"
        assert result.compute["labels"] == world.own_labels
        paired = run(world, parse_arm("dpo:epochs=1"))
        assert paired.compute["labels"] == len(world.preferences)
    assert worlds["outcome"].own_labels == 64 < worlds["process"].own_labels
    np.testing.assert_array_equal(*(world.reference.params for world in worlds.values()))


@COMPILED
def test_a_run_is_kept_with_its_reward_model(tmp_path):
    """`samples` scores replies with the model that was stored, to the bit."""
    arms = ["ppo:updates=1,batch_size=16,rm=process,rm_solutions=64"]
    options = {"task": SMALL, "policy": "transformer:layers=1,width=8,heads=1", "seeds": 1, "jobs": 0}
    made = compare(arms, out=str(tmp_path), **options)
    kept = made.runs["ppo"][0].replies
    again = [reply.rm_score for reply in samples(str(tmp_path), prompts=20).reference]
    assert np.ptp(again) > 0
    np.testing.assert_allclose(again, [row["reference_rm_score"] for row in kept], atol=1e-6)
