"""Sums with a verifier: gold by hand, what the knobs do, and that RL finds what the reference seldom says."""

from __future__ import annotations

import numpy as np
import pytest

from rlhfbench.errors import InputError
from rlhfbench.prepare import Prepared, prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.run import run
from rlhfbench.tasks.arithmetic import Arithmetic
from rlhfbench.types import Verifiable

SMALL = "arithmetic:terms=2,largest=3,demos=500,pairs=64"
FRESH = range(1000, 1005)
"""None was used while the numbers of the world were chosen."""


def reply(task: Arithmetic, text: str) -> tuple[np.ndarray, np.ndarray]:
    tokens = [task.vocab.index(word) for word in text.split()]
    responses, mask = np.zeros((1, task.max_length), np.int64), np.zeros((1, task.max_length))
    responses[0, : len(tokens)], mask[0, : len(tokens)] = tokens, 1
    return responses, mask


def prompt(*numbers: int, largest: int = 4) -> np.ndarray:
    between = np.full(2 * len(numbers) - 1, largest + 1)
    between[::2] = numbers
    return between[None]


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("5 8 <eos>", 1.0),
        ("8 <eos>", 1.0),  # the answer alone counts
        ("2 1 8 <eos>", 1.0),
        ("5 7 <eos>", 0.0),
        ("8 5 <eos>", 0.0),  # the last number is the answer
        ("<eos>", 0.0),
        ("5 8", 0.0),  # no end
        ("5 8 8 8", 0.0),
        ("", 0.0),
    ],
)
def test_gold_by_hand(text: str, gold: float) -> None:
    task = Arithmetic()
    assert task.gold_score(prompt(2, 3, 3), *reply(task, text)) == [gold]


def test_gold_ignores_padding() -> None:
    task = Arithmetic()
    responses, mask = reply(task, "5 8 <eos>")
    for padding in (8, task.eos):
        padded = np.where(mask > 0, responses, padding)
        assert task.gold_score(prompt(2, 3, 3), padded, mask) == [1.0]
    responses, mask = reply(task, "8")
    assert task.gold_score(prompt(2, 3, 3), np.where(mask > 0, responses, task.eos), mask) == [0.0]


def test_texts_and_answer() -> None:
    task = Arithmetic()
    assert isinstance(task, Verifiable)
    asked = prompt(2, 3, 4)[0]
    assert (task.prompt_text(asked), task.answer(asked)) == ("2 + 3 + 4", "9")
    responses, mask = reply(task, "5 9 <eos>")
    assert task.response_text(responses[0], mask[0]) == "5 9"
    responses, mask = reply(task, "5 9")
    assert task.response_text(responses[0], mask[0]) == "5 9 …"


@pytest.mark.parametrize(
    "options", ["", ":worked=no", ":terms=2", ":terms=5,largest=20", ":largest=1,terms=2"]
)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_as_many_demonstrations_are_right_as_asked(options: str, share: float) -> None:
    text = f"arithmetic{options}{',' if options else ':'}sft_accuracy={share},demos=4000"
    task = load_task(text)
    demos = task.demonstrations(np.random.default_rng(0))
    right = task.gold_score(demos.prompts, demos.responses, demos.mask)
    assert right.mean() == pytest.approx(share, abs=0.0 if share in (0, 1) else 0.03)
    assert (demos.responses[demos.mask > 0] < len(task.vocab)).all()
    assert (demos.mask.sum(axis=1) < task.max_length).all()


def test_a_wrong_demonstration_goes_on_from_its_mistake() -> None:
    task = Arithmetic(terms=4, sft_accuracy=0.0)
    demos = task.demonstrations(np.random.default_rng(0))
    sums = np.cumsum(demos.prompts[:, ::2], axis=1)[:, 1:]
    slips = (demos.responses[:, : task.steps] - sums) % task.eos
    assert (slips[:, -1] != 0).all()
    assert ((slips == 0) | (slips == slips[:, -1:])).all()
    assert {tuple(row) for row in slips == 0} == {(False,) * 3, (True, False, False), (True, True, False)}


@pytest.mark.parametrize("flips", [0.0, 0.25])
def test_pairs_are_right_over_wrong_but_for_flips(flips: float) -> None:
    task = Arithmetic(pairs=4000, flips=flips)
    pairs = task.preferences(None, np.random.default_rng(0), None)  # type: ignore[arg-type]
    chosen = task.gold_score(pairs.prompts, pairs.chosen, pairs.chosen_mask)
    rejected = task.gold_score(pairs.prompts, pairs.rejected, pairs.rejected_mask)
    assert (chosen + rejected == 1).all()
    assert rejected.mean() == pytest.approx(flips, abs=0.03 if flips else 0.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("terms=1", "terms must be between 2 and 8, got 1"),
        ("largest=0", "largest must be between 1 and 99, got 0"),
        ("sft_accuracy=1.5", "sft_accuracy must be between 0 and 1"),
        ("flips=0.6", "flips must be between 0 and 0.5"),
        ("pairs=1", "pairs must be at least 2"),
        ("demos=0", "demos must be at least 1"),
        ("rm=judge", "'judge' is not valid"),
        ("rm_width=8", "rm_width must be left out unless rm=transformer"),
    ],
)
def test_bad_knobs_are_named(options: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_task(f"arithmetic:{options}")


# --- as a world --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Prepared:
    return prepare(load_task(SMALL), "transformer", 0, 512)


def test_the_reward_is_the_verifier_and_costs_nothing(world: Prepared) -> None:
    assert world.reward == "gold"
    assert world.meter.flops["rm_train"] == 0
    assert world.rm_seconds == 0
    result = run(world, parse_arm("best_of_n:n=4", policy="transformer"))
    assert result.rm_score == result.gold_score
    assert result.compute["labels"] == 0
    assert result.compute["rm_calls"] == 4 * 512
    assert result.compute["by_phase"]["rm_score"] == result.compute["by_phase"]["rm_train"] == 0
    assert run(world, parse_arm("dpo", policy="transformer")).compute["labels"] == 64


def test_best_of_n_is_right_as_often_as_one_of_n_is(world: Prepared) -> None:
    one = world.reference.sample(world.evaluation_prompts, world.evaluation_uniforms)
    start = world.gold.score(world.evaluation_prompts, one.responses, one.mask).mean()
    best = run(world, parse_arm("best_of_n:n=8", policy="transformer")).gold_score
    assert best is not None
    assert best > start + 0.3


def test_rl_finds_the_answers(world: Prepared) -> None:
    result = run(world, parse_arm("ppo:updates=12", policy="transformer"))
    assert result.status == "done"
    assert result.gold_score is not None
    assert result.gold_score >= result.reference["gold_score"] + 0.3


@pytest.mark.parametrize("rm", ["auto", "unigrams"])
def test_a_trained_reward_model_may_stand_in_for_it(rm: str) -> None:
    trained = prepare(load_task(f"{SMALL},rm={rm}"), "linear", 0, 64)
    assert trained.reward == "model"
    assert trained.meter.flops["rm_train"] > 0
    result = run(trained, parse_arm("best_of_n:n=2", policy="linear"))
    assert result.compute["labels"] == 64
    assert result.rm_score != result.gold_score


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["ppo", "reinforce", "grpo:beta=0.04,updates=120,learning_rate=0.004"])
def test_rl_gains_thirty_points_in_the_default_world(arm: str) -> None:
    for seed in FRESH:
        result = run(
            prepare(load_task("arithmetic"), "transformer", seed, 512), parse_arm(arm, policy="transformer")
        )
        assert 0.2 <= result.reference["gold_score"] <= 0.45
        assert result.gold_score is not None
        assert result.gold_score >= result.reference["gold_score"] + 0.3
