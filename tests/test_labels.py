"""The AI labeller's probabilities, what labels cost, and people's labels against AI labels at equal cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlhfbench.cli import main
from rlhfbench.constitution_file import SHIPPED, read_constitution
from rlhfbench.errors import InputError
from rlhfbench.harness import compare
from rlhfbench.jobs import open_task, task_options
from rlhfbench.labeller import AILabeller
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task

SMALL = "sentences-small:pairs=64,demos=64"
MARGINS = np.array([-3.0, -0.5, -0.1, 0.0, 0.1, 0.5, 3.0])


def labeller(**options):
    return AILabeller(read_constitution("words"), **{"temperature": 0.5, "position_bias": 0.8} | options)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_probabilities_are_those_of_the_formula():
    first = labeller().probability(MARGINS, np.ones(7, bool))
    second = labeller().probability(MARGINS, np.zeros(7, bool))
    np.testing.assert_allclose(first, sigmoid(MARGINS / 0.5 + 0.8), atol=1e-15)
    np.testing.assert_allclose(second, 1 - sigmoid(-MARGINS / 0.5 + 0.8), atol=1e-15)


def test_whichever_reply_is_called_a_the_answer_is_the_same():
    shown = np.array([True, False] * 3 + [True])
    one, two = labeller().probability(MARGINS, shown), labeller().probability(-MARGINS, ~shown)
    np.testing.assert_allclose(one, 1 - two, atol=1e-15)


def test_the_average_of_both_orders_is_symmetric_and_what_one_call_gives_in_expectation():
    both = labeller(debias=True).probability(MARGINS, np.ones(7, bool))
    np.testing.assert_allclose(both, 1 - both[::-1], atol=1e-15)
    assert both[3] == 0.5
    assert (np.diff(both) > 0).all()
    one = [labeller().probability(MARGINS, np.full(7, shown)) for shown in (True, False)]
    np.testing.assert_allclose(both, np.mean(one, axis=0), atol=1e-15)


def test_the_likelier_answer_of_both_orders_has_no_bias_that_of_one_has():
    rng = np.random.default_rng(0)
    margins = np.tile(MARGINS[MARGINS != 0], 500)
    right = margins > 0
    biased = labeller(decoding="greedy").prefers(margins, rng) == right
    assert (labeller(decoding="greedy", debias=True).prefers(margins, rng) == right).all()
    swayed = np.abs(margins) / 0.5 < 0.8  # the bias outweighs the difference: it goes by position, a coin
    assert biased[~swayed].all()
    assert 0.4 < biased[swayed].mean() < 0.6


@pytest.mark.parametrize("debias", [False, True])
def test_labels_are_drawn_with_their_probability(debias):
    made = labeller(debias=debias)
    expected = labeller(debias=True).probability(MARGINS, np.ones(7, bool))
    drawn = made.prefers(np.repeat(MARGINS, 20_000), np.random.default_rng(0)).reshape(7, -1).mean(axis=1)
    np.testing.assert_allclose(drawn, expected, atol=5 * 0.5 / np.sqrt(20_000))


def test_without_bias_a_cold_labeller_goes_by_the_constitution():
    cold = labeller(temperature=1e-9, position_bias=0.0)
    wins = cold.prefers(MARGINS[MARGINS != 0], np.random.default_rng(0))
    assert (wins == (MARGINS[MARGINS != 0] > 0)).all()


@pytest.mark.parametrize(
    ("options", "pairs", "cost"),
    [
        ("", 64, 64),
        ("labels=ai", 64, 6.4),
        ("labels=ai,label_debias=true", 64, 12.8),
        ("label_budget=30", 30, 30),
        ("labels=ai,label_budget=30", 300, 30),
        ("labels=ai,label_budget=30,label_debias=true", 150, 30),
        ("labels=ai,label_budget=30,label_price=0.07", 428, 428 * 0.07),
        ("label_budget=30,label_price=4", 7, 28),
        ("labels=ai,label_budget=0.3", 3, 0.3),
    ],
)
def test_a_budget_buys_as_many_pairs_as_their_price_allows(options, pairs, cost):
    world = prepare(load_task(f"{SMALL},{options}" if options else SMALL), "linear", 0, 16)
    assert len(world.preferences) == pairs
    assert world.facts["labels"]["pairs"] == pairs
    assert world.facts["labels"]["cost"] == pytest.approx(cost)
    assert world.label_cost * pairs == pytest.approx(cost)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("label_budget=1.5", "label_budget must be between 2, what two labels cost, and 1e+07, got 1.5"),
        ("labels=ai,label_budget=0.1", "label_budget must be between 0.2"),
        ("label_budget=1e12", "label_budget must be between"),
        ("label_price=0", "label_price must be above 0, got 0"),
        ("labels=ai,rm_margin=1", "rm_margin must be 0 with labels=ai"),
        ("labels=ai,rm_ranking=4", "rm_ranking must be 2 with labels=ai"),
        ("label_temperature=0", "label_temperature must be above 0, got 0"),
        ("label_position_bias=inf", "finite"),
        ("label_decoding=gredy", "label_decoding: 'gredy' is not valid; did you mean 'greedy'"),
        ("labels=robots", "labels: 'robots' is not valid"),
        ("label_constitution=nowhere.toml", "nowhere.toml: no such file"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(options, message, tmp_path: Path, capsys):
    arms = ["dpo", f"dpo:{options}"]
    assert main(["compare", *arms, "--task", "sentences", "--out", str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["words", "sentences"])
def test_ai_labels_follow_the_constitution_and_not_gold(name):
    task = load_task(f"{name}:labels=ai,label_temperature=1e-6,label_position_bias=0,pairs=400")
    pairs = prepare(task, "linear", 0, 16).preferences
    score = task.labeller().score
    chosen, rejected = (
        score(pairs.prompts, getattr(pairs, side), getattr(pairs, f"{side}_mask"))
        for side in ("chosen", "rejected")
    )
    assert (chosen >= rejected - 1e-12).all()
    gold = [
        task.gold_score(pairs.prompts, getattr(pairs, side), getattr(pairs, f"{side}_mask"))
        for side in ("chosen", "rejected")
    ]
    assert 0 < np.mean(gold[0] < gold[1]) < 0.3  # the constitution is not gold


def test_people_and_ai_label_the_same_replies():
    by = [prepare(load_task(f"{SMALL},labels={who}"), "linear", 0, 16) for who in ("human", "ai")]
    human, ai = (world.preferences for world in by)
    np.testing.assert_array_equal(human.prompts, ai.prompts)
    same = (human.chosen == ai.chosen).all(axis=1)
    turned = (human.chosen == ai.rejected).all(axis=1)
    assert (same | turned).all()
    assert 0 < turned.sum() < 64
    np.testing.assert_array_equal(by[0].reference.params, by[1].reference.params)


def test_a_runs_key_knows_what_the_constitution_says_and_not_where_it_lies(tmp_path: Path):
    text = (SHIPPED / "sentences.toml").read_text()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.toml").write_text(text)
    shipped = task_options(load_task("sentences"))
    here, there = (
        task_options(load_task(f"sentences:label_constitution={tmp_path / folder / 'c.toml'}"))
        for folder in "ab"
    )
    assert here == there == shipped
    (tmp_path / "b" / "c.toml").write_text(text.replace("weight = 0.25", "weight = 0.5"))
    changed = task_options(load_task(f"sentences:label_constitution={tmp_path / 'b' / 'c.toml'}"))
    assert changed != here
    assert {name for name in changed if changed[name] != here[name]} == {"label_constitution"}
    assert {"labels", "label_budget", "label_price", "label_temperature"} <= set(changed)


def test_people_against_ai_at_equal_cost_comes_out_of_compare(tmp_path: Path, capsys):
    arms = ["dpo:epochs=1,labels=human,label_budget=40", "dpo:epochs=1,labels=ai,label_budget=40"]
    options = ["--task", SMALL, "--policy", "linear", "--seeds", "2", "--jobs", "0", "--out", str(tmp_path)]
    assert main(["compare", *arms, *options, "--json", str(tmp_path / "out.json")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "labels 40 400" in shown
    assert "label cost 40 40" in shown
    assert "Labels: 40 by people, cost 40 in prices of one person's." in shown
    assert (
        "Labels: 400 by the AI labeller (400 calls, constitution sentences, temperature 0.5, position"
        in shown
    )
    found = json.loads((tmp_path / "out.json").read_text())
    runs = {label: arm["runs"][0]["compute"] for label, arm in found["algorithms"].items()}
    assert [(r["labels"], r["label_cost"]) for r in runs.values()] == [(40, 40.0), (400, 40.0)]
    assert found["rewards"]["dpo#2"]["labels"] == "ai"


def test_a_comparison_of_people_alone_has_no_row_for_the_cost(tmp_path: Path, capsys):
    options = ["--task", SMALL, "--policy", "linear", "--seeds", "1", "--jobs", "0", "--out", str(tmp_path)]
    assert main(["compare", "dpo:epochs=1", *options]) == 0
    shown = capsys.readouterr().out
    assert "label cost" not in shown
    assert "Labels:" not in shown


def make_file(path: Path, pairs: int = 120) -> str:
    """People here like the long, rude reply."""
    lines = [
        {"prompt": f"about {i % 60}", "chosen": f"you stupid {i} idiot go", "rejected": f"thanks {i}"}
        for i in range(pairs)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_a_files_pairs_are_labelled_anew_and_its_judge_is_not(tmp_path: Path):
    file = make_file(tmp_path / "f.jsonl")
    cold = "label_temperature=1e-6,label_position_bias=0"
    rng = np.random.default_rng
    human, ai = (
        open_task(f"pairs:{who}", file).for_seed(rng(0)) for who in ("labels=human", f"labels=ai,{cold}")
    )
    ours, theirs = (task.preferences(None, rng(1), None) for task in (human, ai))
    np.testing.assert_array_equal(ours.chosen, theirs.rejected)
    np.testing.assert_array_equal(ours.chosen_mask, theirs.rejected_mask)
    np.testing.assert_array_equal(ours.rejected, theirs.chosen)
    np.testing.assert_array_equal(human.judge_preferences().chosen, ai.judge_preferences().chosen)
    np.testing.assert_array_equal(human.demonstrations(rng(2)).responses, ai.demonstrations(rng(2)).responses)
    few = open_task("pairs:labels=ai,label_budget=1", file).for_seed(rng(0))
    assert len(few.preferences(None, rng(1), None)) == 10
    rich = open_task("pairs:label_budget=1000", file).for_seed(rng(0))
    assert len(rich.preferences(None, rng(1), None)) == len(ours)  # what there is
    assert task_options(human)["labels"] == "human"


def test_pieces_are_no_words_to_a_constitution(tmp_path: Path):
    task = open_task("pairs", make_file(tmp_path / "f.jsonl"))
    assert task.labeller().vocab == task.vocab
    object.__setattr__(task, "tokenizer", "bpe")
    with pytest.raises(InputError, match="tokenizer: bpe came, words is needed"):
        task.labeller()


def test_words_of_a_file_are_revised_with_words_that_it_knows(tmp_path: Path):
    file = make_file(tmp_path / "f.jsonl")
    rules = tmp_path / "c.toml"
    rules.write_text(
        'name = "c"\n[[rules]]\nname = "a"\nprinciple = "p"\nweight = 1\nkind = "avoid"\nwords = ["stupid", "idiot"]\n'
        '[[rules]]\nname = "b"\nprinciple = "p"\nweight = 1\nkind = "use"\nwords = ["unheard", "thanks"]\n'
    )
    task = open_task(f"pairs:label_constitution={rules},vocabulary=20", file)
    pairs = task._encoded.pairs.take(np.arange(3))
    one, labeller = (pairs.prompts, pairs.chosen, pairs.chosen_mask), task.labeller()
    for _ in range(2):
        revision = labeller.revise(*one)
        one = pairs.prompts, revision.responses, revision.mask
    texts = [task.response_text(*row) for row in zip(one[1], one[2], strict=True)]
    assert all("stupid" not in text and text.endswith("go thanks") for text in texts)
    assert (one[2][one[1] == 0] == 0).all()


def test_real_ai_feedback_trains_and_compares(data_dir: Path, tmp_path: Path):
    file = str(data_dir / "arenabench_gpt4.test.jsonl")
    arms = ["dpo:epochs=1", "dpo:epochs=1,labels=ai"]
    found = compare(arms, data=file, policy="linear", seeds=1, jobs=0, out=str(tmp_path))
    assert [run.status for runs in found.runs.values() for run in runs] == ["done", "done"]
    assert [found.arm_facts[label]["labels"]["by"] for label in found.runs] == ["file", "ai"]
    assert found.arm_facts["dpo#2"]["labels"]["constitution"] == "text"
