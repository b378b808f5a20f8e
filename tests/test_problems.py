"""Problems with answers from a file: what is read, what is left out, and what a comparison says of them."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhfbench.cli import main
from rlhfbench.errors import InputError
from rlhfbench.jobs import open_task
from rlhfbench.problems import Problem, read_problems
from rlhfbench.seeding import stream
from rlhfbench.tasks.problems import ProblemsTask, parts_of
from rlhfbench.types import Verifiable


def written(path: Path, *records: Any) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return str(path)


def sums(path: Path, n: int = 60) -> str:
    return written(
        path, *({"prompt": f"Ann has {i} and buys {7 * i}.", "answer": str(8 * i)} for i in range(n))
    )


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "read"), [("51", "51"), (" -3 ", "-3"), (7, "7"), (2.5, "2.5"), ("0.50", "0.50")]
)
def test_answers_as_text_or_number(tmp_path: Path, answer: Any, read: str) -> None:
    path = written(tmp_path / "p.jsonl", {"prompt": "q", "answer": answer, "meta": {}})
    assert read_problems(path).problems == [Problem("q", read, 1)]


def test_what_says_nothing_is_left_out_and_listed(tmp_path: Path) -> None:
    records: list[Any] = [
        {"prompt": "q", "answer": "1"},
        {"prompt": " ", "answer": "1"},
        {"prompt": "r", "answer": "many"},
        {"prompt": "q", "answer": "2"},
        {"prompt": "s", "answer": "1" * 17},
    ]
    path = written(tmp_path / "p.jsonl", *records)
    file = read_problems(path)
    assert len(file.problems) == 1
    assert file.skipped == (
        "4 problems left out: line 2 (empty prompt), line 3 (the answer is no number), line 4 (the prompt of an "
        "earlier line), line 5 (an answer of more than 16 characters)"
    )
    with pytest.raises(InputError, match="line 2: empty prompt; every problem must be usable under --strict"):
        read_problems(path, strict=True)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is empty; one problem a line"]),
        (b"\n\n", ["is empty; one problem a line"]),
        (b"hello\n{}\n", ["line 1", "not JSON"]),
        (b'{"prompt": "q", "answ', ["line 1", "truncated"]),
        (b'{"prompt": "q"}\n', ["line 1", "field 'answer'", "missing; the fields are: prompt"]),
        (b'{"answer": "q"}\n', ["line 1", "field 'prompt'", "missing"]),
        (b'{"prompt": 3, "answer": "1"}\n', ["line 1", "field 'prompt'", "a number; a string is needed"]),
        (b'{"prompt": "q", "answer": true}\n', ["line 1", "field 'answer'", "true or false"]),
        (b'{"prompt": "q", "answer": ["1"]}\n', ["line 1", "field 'answer'", "a list"]),
        (b'{"prompt": "\\ud800", "answer": "1"}\n', ["line 1", "field 'prompt'", "surrogate"]),
        (b'{"prompt": "q", "answer": "x"}\n', ["no usable problem; 1 problem left out: line 1"]),
        (b'{"prompt": "q", "answer": "1"}\n', ["1 usable problems; at least 20 are needed"]),
        (b"\xff\n", ["line 1", "UTF-8"]),
    ],
)
def test_bad_files_are_one_line_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, parts: list[str]
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    assert main(["compare", "ppo", "--task", "problems", "--data", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for part in (str(path), *parts):
        assert part in captured.err


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("problems:vocabulary=1", "vocabulary must be at least 2, got 1"),
        ("problems:prompt_words=0", "prompt_words must be at least 1, got 0"),
        ("problems:path=x", "no field 'path'"),
        ("problem", "problems:field=value,... for problems with answers"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, task: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_task(task, sums(tmp_path / "p.jsonl"))


def test_one_answer_for_all_is_none(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", *({"prompt": f"question {i}", "answer": 1} for i in range(30)))
    with pytest.raises(InputError, match="all problems have one answer"):
        open_task("problems", path)


def test_without_a_file_there_is_a_hint() -> None:
    with pytest.raises(InputError, match="unknown task 'problems'; for a file use --data FILE"):
        open_task("problems", None)


# --- as a task ---------------------------------------------------------------------------------------------------


@pytest.fixture
def task(tmp_path: Path) -> ProblemsTask:
    opened = open_task("problems", sums(tmp_path / "p.jsonl"))
    assert isinstance(opened, ProblemsTask)
    assert isinstance(opened, Verifiable)
    return opened.for_seed(stream(0, "split"))


def test_numbers_are_read_digit_by_digit() -> None:
    assert list(parts_of("He had 42.5 kg")) == ["he", "had", "4", "2", ".", "5", "kg"]


def test_the_answer_is_right_and_nothing_else_is(task: ProblemsTask) -> None:
    demos = task.demonstrations(np.random.default_rng(0))
    inputs = (demos.prompts, demos.responses, demos.mask)
    assert (task.gold_score(*inputs) == 1).all()
    for prompt, response, mask in zip(*inputs, strict=True):
        assert task.response_text(response, mask) == task.answer(prompt)
        had = re.fullmatch(r"ann has ([\d ]+) and buys [\d ]+ \.", task.prompt_text(prompt))
        assert had is not None
        assert 8 * int(had[1].replace(" ", "")) == int(task.answer(prompt))
    assert (task.gold_score(demos.prompts, np.roll(demos.responses, 1, axis=1), demos.mask) == 0).all()
    assert (
        task.gold_score(demos.prompts, demos.responses, np.ones_like(demos.mask))[demos.mask[:, -1] == 0] == 0
    ).all()
    cut = demos.mask * (demos.responses != task.eos)
    assert (task.gold_score(demos.prompts, demos.responses, cut) == 0).all()
    padded = np.where(demos.mask > 0, demos.responses, 5)
    assert (task.gold_score(demos.prompts, padded, demos.mask) == 1).all()


def test_no_problem_is_in_two_parts(task: ProblemsTask) -> None:
    parts = {part: set(task.rows(part)) for part in ("sft", "rl", "evaluation")}
    assert {part: len(rows) for part, rows in parts.items()} == {"sft": 24, "rl": 24, "evaluation": 12}
    assert len(set.union(*parts.values())) == 60
    asked = {prompt.tobytes() for prompt in task.prompts(500, np.random.default_rng(0))}
    evaluated = {prompt.tobytes() for prompt in task.evaluation_prompts(500, np.random.default_rng(0))}
    assert (len(asked), len(evaluated)) == (48, 12)
    assert not asked & evaluated


def test_pairs_are_the_answer_over_another(task: ProblemsTask) -> None:
    pairs = task.preferences(None, np.random.default_rng(0), None)  # type: ignore[arg-type]
    assert len(pairs) == 48
    assert (task.gold_score(pairs.prompts, pairs.chosen, pairs.chosen_mask) == 1).all()
    assert (task.gold_score(pairs.prompts, pairs.rejected, pairs.rejected_mask) == 0).all()
    asked = {prompt.tobytes() for prompt in task.evaluation_prompts(500, np.random.default_rng(0))}
    assert not asked & {prompt.tobytes() for prompt in pairs.prompts}
    assert len(task.preferences(10, np.random.default_rng(0), None)) == 10  # type: ignore[arg-type]


def test_what_the_policy_cannot_tell_apart_is_left_out(tmp_path: Path) -> None:
    path = sums(tmp_path / "p.jsonl")
    facts = open_task("problems:prompt_words=2", path).facts()  # type: ignore[attr-defined]
    assert facts["problems"] + facts["alike"] == 60
    assert facts["problems"] == 10  # what is left of a prompt is its last digit and the full stop
    assert facts["prompt_cut_share"] == 1.0


def test_a_comparison_reports_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = sums(tmp_path / "p.jsonl")
    zipped = tmp_path / "p.jsonl.gz"
    zipped.write_bytes(gzip.compress(Path(path).read_bytes()))
    arms = ["ppo:updates=2,batch_size=16", "dpo:epochs=1"]
    command = ["compare", *arms, "--policy", "linear", "--seeds", "1", "--jobs", "0", "--task", "problems"]
    assert main([*command, "--data", str(zipped)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for part in (
        "accuracy",
        "reply length, digits",
        "Data: 60 usable problems.",
        "Split anew for each seed; problems: SFT 24, RL 24, evaluation 12.",
    ):
        assert part in out
    assert main(["samples", "rlhfbench-runs", "--prompts", "2"]) == 0
    assert "ann has" in capsys.readouterr().out


def test_real_problems_load_whole(data_dir: Path) -> None:
    path = data_dir / "svamp.train.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    task = open_task("problems", str(path)).for_seed(stream(0, "split"))
    facts = task.facts()  # type: ignore[attr-defined]
    assert (facts["problems"], facts["alike"], facts["skipped_lines"]) == (733, 0, "")
    assert facts["unknown_share"] < 0.01
    assert facts["prompt_cut_share"] == 0
    demos = task.demonstrations(np.random.default_rng(0))
    assert (task.gold_score(demos.prompts, demos.responses, demos.mask) == 1).all()
