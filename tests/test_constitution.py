"""Constitutions: what each kind of rule counts, the files they are read from, and what is said of a bad one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhfbench.cli import main
from rlhfbench.constitution import Constitution, Rule, occurrences
from rlhfbench.constitution_file import read_constitution, shipped
from rlhfbench.constitution_report import constitution_report
from rlhfbench.errors import InputError
from rlhfbench.registry import load_task

GOOD = """
name = "mine"
[[rules]]
name = "polite"
principle = "Do not insult."
weight = 2
kind = "avoid"
words = ["stupid", "Shut up!"]
"""


def rule(kind, **fields):
    return Rule("r", "p", fields.pop("weight", 1.0), kind, **fields)


def phrases(*texts):
    return tuple(tuple(text.split()) for text in texts)


@pytest.mark.parametrize(
    ("made", "prompt", "reply", "amount", "violated"),
    [
        (rule("use", phrases=phrases("a", "b c")), "", "a b c a", 2, False),
        (rule("use", phrases=phrases("a", "b c")), "", "b a2 c", 0, True),
        (rule("topic", topics=(("x", phrases("a", "b")),)), "ask x", "b b c", 1, False),
        (rule("topic", topics=(("x", phrases("a", "b")),)), "ask y", "c", 0, False),  # nothing is asked for
        (rule("topic", topics=(("x", phrases("a")), ("y", phrases("a", "b")))), "x y", "b", 1, False),
        (rule("echo"), "what is a b ?", "b or a ?", 2, False),
        (rule("echo", ignore=frozenset(["what", "is"])), "what is a b ?", "what is ?", 0, True),
        (rule("echo"), "", "a", 0, False),
        (rule("avoid", phrases=phrases("a", "b c")), "", "a b c a c b", 3, True),
        (rule("avoid", phrases=phrases("a a")), "", "a a a", 2, True),
        (rule("repetition"), "", "a b a a b . . .", 3, True),
        (rule("repetition", ignore=frozenset(["a"])), "", "a b a a", 0, False),
        (rule("length", least=2, most=3), "", "a . .", 1, True),
        (rule("length", least=2, most=3), "", "a b c d e", 2, True),
        (rule("length", least=2, most=3), "", "a b c .", 0, False),
    ],
)
def test_what_a_rule_counts(made, prompt, reply, amount, violated):
    words = prompt.split(), reply.split()
    assert made.amount(*words) == amount
    assert made.violated(*words) == violated
    wanted = made.kind in ("use", "topic", "echo")
    assert made.merit(*words) == (amount if wanted else -amount)


def test_the_score_is_the_sum_of_weight_times_amount():
    rules = (rule("use", weight=0.5, phrases=phrases("a", "b")), rule("repetition", weight=2.0))
    made = Constitution("c", "-", rules, "")
    assert made.score([], ["a", "b", "a"]) == 0.5 * 2 - 2.0 * 1
    assert made.score_texts("", "A, b? A!") == made.score([], ["a", ",", "b", "?", "a", "!"])
    assert [r.kind for r in made.violated([], ["c", "c"])] == ["use", "repetition"]


def test_phrases_that_overlap_count_each():
    assert occurrences(("a", "b", "a"), ["a", "b", "a", "b", "a"]) == 2
    assert occurrences(("a",), []) == 0


@pytest.mark.parametrize("name", shipped())
def test_shipped_constitutions_can_be_read(name):
    made = read_constitution(name)
    assert made.name == name
    assert len(made.rules) >= 2


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_constitution_can_be_had_as_a_file_of_ones_own(name, tmp_path: Path, capsys):
    assert main(["list", "--constitution", name]) == 0
    copy = tmp_path / "copy.toml"
    copy.write_text(capsys.readouterr().out)
    assert read_constitution(copy) == read_constitution(name)
    assert main(["list", "--constitution", f"{name}s"]) == 2
    assert f"did you mean '{name}'" in capsys.readouterr().err


def test_shipped_rules_speak_of_words_that_their_world_has():
    for name in ("sentences", "words"):
        task = load_task(name)
        for made in read_constitution(name).rules:
            listed = (*made.phrases, *(p for _, found in made.topics for p in found))
            assert {word for phrase in listed for word in phrase} <= set(task.vocab)
            assert {word for word, _ in made.topics} <= set(task.prompt_vocab)


def test_toml_and_json_say_the_same(tmp_path: Path):
    toml, as_json = tmp_path / "c.toml", tmp_path / "c.json"
    toml.write_text(GOOD)
    record = {
        "name": "mine",
        "rules": [
            {
                "name": "polite",
                "principle": "Do not insult.",
                "weight": 2,
                "kind": "avoid",
                "words": ["stupid", "Shut up!"],
            }
        ],
    }
    as_json.write_text(json.dumps(record))
    one, two = read_constitution(toml), read_constitution(as_json)
    assert one.rules == two.rules
    assert one.digest != two.digest
    assert one.rules[0].phrases == (("stupid",), ("shut", "up", "!"))


BAD = {
    "no toml": ("name = ", "not TOML: "),
    "no name": (GOOD.replace('name = "mine"', ""), "field 'name': missing; needed are name, rules"),
    "no rules": ('name = "x"', "field 'rules': missing"),
    "rules empty": (
        'name = "x"\nrules = []',
        "field 'rules': is empty; a list with one rule at least is needed",
    ),
    "rules a number": ('name = "x"\nrules = 3', "field 'rules': is a number; a list"),
    "rule a number": ('name = "x"\nrules = [3]', "rule 1: is a number; an object is needed"),
    "unknown at the top": (f'abuot = "x"\n{GOOD}', "field 'abuot': is not known; did you mean 'about'?"),
    "unknown in a rule": (
        f"{GOOD}wieght = 1",
        "rule 1 'polite', field 'wieght': is not known; did you mean 'weight'?",
    ),
    "no weight": (GOOD.replace("weight = 2", ""), "rule 1 'polite', field 'weight': missing"),
    "weight text": (GOOD.replace("= 2", '= "2"'), "field 'weight': is a string; a number above 0 is needed"),
    "weight below 0": (GOOD.replace("= 2", "= -1"), "field 'weight': is -1; a number above 0"),
    "weight nan": (GOOD.replace("= 2", "= nan"), "field 'weight': is nan; a number above 0"),
    "weight true": (GOOD.replace("= 2", "= true"), "field 'weight': is true or false; a number above 0"),
    "kind": (GOOD.replace('"avoid"', '"avoids"'), "field 'kind': is 'avoids'; did you mean 'avoid'?"),
    "kind a list": (GOOD.replace('"avoid"', "[1]"), "field 'kind': is a list"),
    "words of another kind": (GOOD.replace('"avoid"', '"repetition"'), "field 'words': is not known"),
    "no words": (GOOD.replace('words = ["stupid", "Shut up!"]', ""), "field 'words': missing"),
    "words empty": (GOOD.replace('["stupid", "Shut up!"]', "[]"), "field 'words': is empty; one entry"),
    "words text": (GOOD.replace('["stupid", "Shut up!"]', '"stupid"'), "field 'words': is a string; a list"),
    "a word a number": (GOOD.replace('"stupid", ', "7, "), "field 'words[0]': is a number; a word"),
    "a blank word": (GOOD.replace('"Shut up!"', '" "'), "field 'words[1]': is without a word; a word"),
    "principle empty": (GOOD.replace("Do not insult.", " "), "field 'principle': is empty; text is needed"),
    "name twice": (
        GOOD + GOOD.split("\n", 2)[2],
        "rule 2 'polite', field 'name': is the name of an earlier rule",
    ),
    "no length": (
        GOOD.replace("avoid", "length").replace('words = ["stupid", "Shut up!"]', ""),
        "has neither least",
    ),
    "length turned": (
        GOOD.replace("avoid", "length").replace('words = ["stupid", "Shut up!"]', "least = 3\nmost = 2"),
        "field 'most': is 2; at least 3, as least says, is needed",
    ),
    "length a share": (
        GOOD.replace("avoid", "length").replace('words = ["stupid", "Shut up!"]', "most = 2.5"),
        "field 'most': is 2.5; a whole number of words",
    ),
    "topic of two words": (
        GOOD.replace("avoid", "topic").replace('words = ["stupid", "Shut up!"]', 'topics = {"a b" = ["c"]}'),
        "field 'topics.a b': is not one word",
    ),
    "topic without words": (
        GOOD.replace("avoid", "topic").replace('words = ["stupid", "Shut up!"]', "topics = {a = []}"),
        "field 'topics.a': is empty",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_explained_in_one_line_and_exits_2(case, tmp_path: Path, capsys):
    text, message = BAD[case]
    path = tmp_path / "bad.toml"
    path.write_text(text)
    task = f"sentences:label_constitution={path}"
    assert main(["compare", "dpo", "--task", task, "--out", str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert str(path) in shown
    assert len(shown.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "none.toml",
            None,
            "no such file; a .toml or .json file is needed, or one of safety, sentences, text, words",
        ),
        ("c.yaml", b"name: x", "the name ends in .yaml; .toml or .json is needed"),
        ("c.json", b"[1]", "is a list; an object with name and rules is needed"),
        ("c.json", b"{", "not JSON: "),
        ("c.toml", b'a = 1\nname = "\xff"', "line 2 is not UTF-8"),
        ("c.toml", b"", "field 'name': missing"),
    ],
)
def test_a_file_that_is_none(name, content, message, tmp_path: Path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_constitution(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no regular file"):
        read_constitution(tmp_path)


def make_pairs(path: Path) -> str:
    rows = [("good", "stupid"), ("good", "stupid stupid"), ("stupid", "good"), ("good", "fine")]
    lines = [json.dumps({"prompt": "p", "chosen": a, "rejected": b}) for a, b in rows]
    path.write_text("\n".join(lines))
    return str(path)


def test_how_far_a_constitution_agrees_with_labels_by_hand(tmp_path: Path, capsys):
    file, rules = make_pairs(tmp_path / "pairs.jsonl"), tmp_path / "mine.toml"
    rules.write_text(GOOD)
    report = constitution_report(file, str(rules))
    assert (report.pairs, report.ties, report.accuracy) == (4, 1, 2.5 / 4)
    assert report.low < report.accuracy < report.high
    (only,) = report.rules
    assert (only.told, only.accuracy) == (3, pytest.approx(2 / 3))
    assert report.length_rule_accuracy == 1.5 / 4
    assert main(["rm", "--data", file, "--constitution", str(rules), "--json", "-"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["accuracy"] == report.accuracy
    assert max(map(len, shown.err.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--constitution", "text"], "--constitution C goes with --data FILE"),
        (["--constitution", "text", "--task", "words"], "--task came with --constitution"),
        (["--constitution", "text", "--held-out", "3"], "--held-out came with --constitution"),
        (["--steps", "f", "--constitution", "text"], "--constitution came with --steps"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    assert main(["rm", *options]) == 2
    assert message in capsys.readouterr().err


def test_real_ai_feedback(data_dir: Path):
    """GPT-4's labels: rules that count words agree a little better than chance, and no better than length alone."""
    report = constitution_report(data_dir / "arenabench_gpt4.train.jsonl", "text")
    assert (report.pairs, report.skipped) == (1080, "")
    assert 0.5 < report.low < report.accuracy < report.length_rule_accuracy
