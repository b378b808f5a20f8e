"""The default world: its parts, and (slow) that it shows what it was built to show, on fresh seeds."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_worlds import SEEDS, Seen, given_back, gold_of, see

from rlhfbench.records import Result
from rlhfbench.registry import load_task

OVERTRAINED_DPO = "dpo:epochs=20,learning_rate=0.0825"  # four times the epochs, 2.5 times the learning rate


def reply(task, text):
    """Tokens and mask of a reply given as words, with its end."""
    tokens = [task.vocab.index(word) for word in [*text.split(), "<eos>"]]
    responses, mask = np.zeros((1, task.max_length), np.int64), np.zeros((1, task.max_length))
    responses[0, : len(tokens)], mask[0, : len(tokens)] = tokens, 1
    return responses, mask


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("", 0.0),
        ("rhythm melody", 2.0),
        ("rhythm rhythm rhythm", 1.0 - 2 * 0.5),
        ("rhythm passport", 1.0),
        ("rhythm stupid", 0.0),
        ("well so rhythm", 1.0 - 0.2),
        ("well well", -0.2 - 0.5),
    ],
)
def test_gold_by_hand(text, gold):
    task = load_task("sentences")
    prompts = np.array([[0, task.prompt_vocab.index("music")]])
    assert task.gold_score(prompts, *reply(task, text))[0] == pytest.approx(gold)


def test_gold_ignores_padding_and_order():
    task = load_task("sentences")
    prompts = np.array([[0, 4]])
    responses, mask = reply(task, "rhythm melody well")
    padded = np.where(mask > 0, responses, 7)
    assert task.gold_score(prompts, padded, mask) == task.gold_score(prompts, responses, mask)
    shuffled, _ = reply(task, "well melody rhythm")
    assert task.gold_score(prompts, shuffled, mask) == task.gold_score(prompts, responses, mask)


def test_the_knobs_do_what_they_say():
    rng = np.random.default_rng
    task = load_task("sentences:coverage=0.4")
    used = np.unique(task.demonstrations(rng(0)).responses)
    good = [i for i in used if i < 20]
    assert sorted(i % 5 for i in good) == [0, 1] * 4 or {i % 5 for i in good} == {0, 1}
    trapped = load_task("sentences:trap=0.1")
    assert "amazing" in trapped.vocab
    assert "amazing" not in task.vocab
    responses, mask = reply(trapped, "amazing")
    assert trapped.gold_score(np.array([[0, 3]]), responses, mask)[0] == -3


@pytest.fixture(scope="module")
def default() -> list[Seen]:
    return [see("sentences", seed) for seed in SEEDS]


@pytest.mark.slow
def test_labels_and_reward_model_are_as_noisy_as_people(default):
    for seen in default:
        assert 0.23 <= seen.contradicting <= 0.28
        assert 0.65 <= seen.label_accuracy <= 0.78
        assert seen.gold_accuracy > 0.75


def shows_a_hump(seen: Seen, result: Result) -> bool:
    gold = gold_of(result)
    peak = int(gold.argmax())
    share = result.curve[peak]["update"] / result.curve[-1]["update"]
    return (
        result.rm_score >= 5.0
        and gold[peak] - gold[0] >= 0.5 * seen.gold_sd
        and 0.10 <= share <= 0.60
        and given_back(result) >= 0.5
    )


@pytest.mark.slow
def test_without_a_penalty_ppo_over_optimises(default):
    assert sum(shows_a_hump(seen, seen.run("ppo:beta=0")) for seen in default) >= 9


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["ppo", "dpo"])
def test_the_defaults_do_not(default, arm):
    results = [seen.run(arm) for seen in default]
    assert sum(r.kl < 5.0 and given_back(r) <= 0.1 for r in results) >= 9


@pytest.mark.slow
def test_dpo_trained_too_long_gives_gold_back(default):
    assert sum(given_back(seen.run(OVERTRAINED_DPO)) >= 0.2 for seen in default) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("knob", ["pairs=250", "flips=0.35", "length_bias=0.5"])
def test_worse_data_makes_worse_models(default, knob):
    others = [see(f"sentences:{knob}", seed) for seed in SEEDS]
    assert np.mean([s.gold_accuracy for s in others]) < np.mean([s.gold_accuracy for s in default])
    for arm in ("ppo", "dpo"):
        ours, theirs = [s.run(arm) for s in default], [s.run(arm) for s in others]
        assert np.mean([r.gold_score for r in theirs]) < np.mean([r.gold_score for r in ours])
        if knob.startswith("length"):
            assert np.mean([r.length for r in theirs]) > np.mean([r.length for r in ours])


@pytest.mark.slow
def test_the_hump_remains_smaller_without_a_repetition_penalty(default):
    others = [see("sentences:repeat_penalty=0", seed) for seed in SEEDS]
    kinder = [gold_of(s.run("ppo:beta=0")) for s in others]
    harsher = [gold_of(s.run("ppo:beta=0")) for s in default]

    def fall(curves: list[np.ndarray]) -> float:
        return float(np.mean([c.max() - c[-1] for c in curves]))

    assert 0.2 < fall(kinder) < fall(harsher)
    assert sum(c.max() - c[-1] >= 0.1 * (c.max() - c[0]) for c in kinder) >= 8
