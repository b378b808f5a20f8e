"""The lesson's toy: gold by hand, labels, exactly as many pairs as are asked for, and the easy exercise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlhfbench.errors import InputError
from rlhfbench.prepare import Prepared, prepare
from rlhfbench.registry import load_task
from rlhfbench.reward_task import reward_report_from_task
from rlhfbench.seeding import stream
from rlhfbench.tasks.words import Words
from rlhfbench.types import PreferencePairs, Rollout, Task

ONES = np.ones((1, 2), np.float32)


def tokens(text: str) -> Any:
    return np.array([[Words.vocab.index(word) for word in text.split()]])


@pytest.fixture(scope="module")
def world() -> Prepared:
    return prepare(Words(), "tabular", 0, 64)


def test_it_is_a_task_with_the_lessons_words() -> None:
    assert isinstance(Words(), Task)
    assert Words.prompt_vocab == ("help me", "answer me", "explain this")
    assert Words.vocab == ("clear", "specific", "kind", "thorough", "vague", "rude", "wrong", "short")
    assert (Words.max_length, Words.eos, Words.enumerable) == (2, None, True)


@pytest.mark.parametrize(
    ("text", "gold"),
    [("clear kind", 2), ("kind kind", 2), ("clear rude", 0), ("short thorough", 0), ("vague wrong", -2)],
)
def test_gold_by_hand(text: str, gold: float) -> None:
    for prompt in range(3):
        score = Words().gold_score(np.array([[prompt]]), tokens(text), ONES)
        assert score.tolist() == [gold]
    assert Words().response_text(tokens(text)[0], ONES[0]) == text
    assert Words().prompt_text(np.array([2])) == "explain this"


def test_gold_of_what_is_masked_is_nothing() -> None:
    assert Words().gold_score(np.array([[0]]), tokens("kind rude"), np.array([[1.0, 0.0]])).tolist() == [1]


def test_demonstrations_are_good_three_times_in_five() -> None:
    demos = Words(demos=20_000).demonstrations(np.random.default_rng(0))
    assert len(demos) == 20_000
    assert (demos.responses < 4).mean() == pytest.approx(0.6, abs=0.01)
    assert demos.mask.all()
    counts = np.bincount(demos.responses.ravel(), minlength=8) / 40_000
    np.testing.assert_allclose(counts, [0.15] * 4 + [0.1] * 4, atol=0.01)


def margins(pairs: PreferencePairs) -> Any:
    def gold(side: np.ndarray, mask: np.ndarray) -> Any:
        return np.asarray(Words().gold_score(pairs.prompts, side, mask))

    return gold(pairs.chosen, pairs.chosen_mask) - gold(pairs.rejected, pairs.rejected_mask)


def test_the_lessons_labels_follow_gold_without_exception(world: Prepared) -> None:
    pairs = Words().preferences(2000, np.random.default_rng(1), world.reference)
    assert set(margins(pairs)) == {2.0, 4.0}
    again = Words().preferences(2000, np.random.default_rng(1), world.reference)
    np.testing.assert_array_equal(pairs.chosen, again.chosen)
    np.testing.assert_array_equal(pairs.rejected, again.rejected)


def test_bradley_terry_labels_are_right_as_often_as_bradley_and_terry_say(world: Prepared) -> None:
    pairs = Words(labels="bt").preferences(40_000, np.random.default_rng(1), world.reference)
    margin = margins(pairs)
    for size in (2.0, 4.0):
        right, wrong = (margin == size).sum(), (margin == -size).sum()
        share = right / (right + wrong)
        expected = 1 / (1 + np.exp(-size))
        assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / (right + wrong)))
    assert (margin == 0).mean() > 0.2  # equals are asked about, too


@pytest.mark.parametrize("labels", ["lesson", "bt"])
@pytest.mark.parametrize("n", [1, 2, 7, 100, 500, 5000])
def test_exactly_as_many_pairs_as_asked_for(world: Prepared, labels: str, n: int) -> None:
    task = load_task(f"words:labels={labels}")
    for seed in range(20 if n < 1000 else 2):
        assert len(task.preferences(n, np.random.default_rng(seed), world.reference)) == n


class Always:
    """A reference that has next to nothing left to choose from: all replies alike, but for one in `rare`."""

    def __init__(self, rare: int) -> None:
        self.rare = rare

    def sample(self, prompts: np.ndarray, uniforms: np.ndarray) -> Rollout:
        responses = np.zeros(uniforms.shape, np.int64)
        responses[:: self.rare, 0] = 5
        ones = np.ones(uniforms.shape, np.float32)
        return Rollout(responses, ones, ones)


def test_pairs_that_differ_are_sought_until_there_are_enough(world: Prepared) -> None:
    class Seldom(Always):
        def sample(self, prompts: np.ndarray, uniforms: np.ndarray) -> Rollout:
            rollout = super().sample(prompts, uniforms)
            rollout.responses[:, 0] = np.where(uniforms[:, 0] < 0.05, 5, 0)
            return rollout

    assert len(Words().preferences(100, np.random.default_rng(0), Seldom(1))) == 100


def test_a_reference_that_never_varies_is_refused_and_no_endless_search() -> None:
    with pytest.raises(InputError, match="pairs"):
        Words().preferences(10, np.random.default_rng(0), Always(1))


def test_the_easy_exercise_from_the_reward_models_side() -> None:
    for seed in range(5):
        report = reward_report_from_task("words", 500, 100, seed)
        record = report.as_dict()
        assert (record["pairs"], record["held_out"]) == (500, 100)
        assert record["accuracy"] > 0.9
        assert record["low"] <= record["accuracy"] <= record["high"]
        assert record["log_loss"] < 0.5
        assert record["length_rule_accuracy"] == 0.5  # all replies are equally long


def test_what_is_held_out_has_its_own_stream(world: Prepared) -> None:
    task = Words()
    train = task.preferences(500, stream(0, "preferences"), world.reference)
    test = task.preferences(500, stream(0, "held-out"), world.reference)
    assert (train.chosen != test.chosen).any()
    np.testing.assert_array_equal(world.preferences.chosen, train.chosen)  # those of `compare`


@pytest.mark.parametrize("wrong", ["pairs=1", "demos=0", "pairs=x", "labels=BT", "pears=3", "pairs"])
def test_bad_knobs_are_refused(wrong: str) -> None:
    with pytest.raises(InputError):
        load_task(f"words:{wrong}")
