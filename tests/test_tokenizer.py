"""Text to tokens and back: words, a BPE of one's own data, and anybody's tokenizer.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhfbench
from rlhfbench.cli import main
from rlhfbench.errors import InputError
from rlhfbench.harness import compare
from rlhfbench.jobs import work_on
from rlhfbench.plan import Plan, make_world
from rlhfbench.registry import parse_arms
from rlhfbench.results import RunStore, load_run
from rlhfbench.samples import samples
from rlhfbench.tasks.pairs import PairsTask
from rlhfbench.tasks.reward_choice import RewardOptions
from rlhfbench.tokenizer import UNKNOWN, Words, choose

PACKAGES = str(Path(rlhfbench.__file__).parents[1])  # of the code under test, wherever it is installed
TEXTS = ["Don't panic, said the Großmutter.", "don't know — 42 times!", "über\u202e all\n\nnew line"]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "mine.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for i in range(120):
            pair = {
                "prompt": f"\n\nHuman: question {i % 60} about Äpfel?\n\nAssistant:",
                "chosen": f" A good and kind answer number {i}.",
                "rejected": f" Bad {'rude ' * (i % 3)}words {i}!",
            }
            out.write(json.dumps(pair) + "\n")
    return str(path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    code = main(arguments)
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, ""), captured.err
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err


# --- words -------------------------------------------------------------------------------------------------------


def test_words_need_no_package_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    splitter = choose("words").splitter(TEXTS, 10)
    assert isinstance(splitter, Words)
    assert choose("words").inputs() == {"tokenizer": "words"}
    assert splitter.join(splitter.split(TEXTS)[1]) == "don't know — 42 times!"


@pytest.mark.parametrize("name", ["bpe", "file"])
def test_a_missing_package_is_one_line(
    name: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "t.json").write_text("{}")
    name = name if name == "bpe" else str(tmp_path / "t.json")
    arguments = ["compare", "dpo", "--data", data, "--task", f"pairs:tokenizer={name}"]
    refused(arguments, capsys, "tokenizers is not installed", "pip install 'rlhfbench[text]'")


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("words", ["--task words came with --data", "pairs:field=value"]),
        ("pairs:tokenizer=bpee", ["'bpee' is no file", "words, bpe or a tokenizer.json"]),
        ("pairs:tokeniser=bpe", ["no field 'tokeniser'", "did you mean 'tokenizer'?"]),
        ("pairs:path=x", ["no field 'path'"]),
        ("pairs:vocabulary=1", ["vocabulary must be at least 2"]),
        ("pairs:vocabulary=many", ["vocabulary must be a whole number"]),
        ("pairs:eos_token=x", ["eos_token: 'x' came with tokenizer=words"]),
        ("pairs:rm=trigrams", ["'trigrams' is not valid"]),
    ],
)
def test_wrong_options_are_one_line(task: str, parts: list[str], data: str, capsys: Any) -> None:
    refused(["compare", "dpo", "--data", data, "--task", task], capsys, *parts)


def test_options_need_a_file_and_rm_takes_none(data: str, capsys: Any) -> None:
    refused(["compare", "dpo", "--task", "pairs:tokenizer=bpe"], capsys, "use --data FILE")
    refused(["rm", "--task", "pairs", "--data", data], capsys, "--task pairs", "--data", "one of the two")


def test_options_of_pairs_reach_the_task(data: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": data, "seeds": 1, "jobs": 0, "out": str(tmp_path / "store")}
    one = compare(["dpo:epochs=1"], task="pairs:length=4,vocabulary=20", **options)
    manifest, result = load_run(Path(one.example))
    given = manifest["inputs"]["task_options"]
    assert {name: value for name, value in given.items() if not name.startswith("label_")} == {
        **asdict(RewardOptions()),
        "labels": "human",
        "vocabulary": 20,
        "length": 4,
        "prompt_words": 16,
        "rm": "auto",
        "strict": False,
        "tokenizer": "words",
    }
    assert result.length is not None
    assert result.length <= 4
    assert compare(["dpo:epochs=1"], task="pairs:vocabulary=20,length=4", **options).reused == 1
    assert compare(["dpo:epochs=1"], **options).reused == 0
    assert compare(["dpo:epochs=1"], task="pairs", **options).reused == 1


def test_options_that_changed_since_the_plan_spoil_no_run(data: str, tmp_path: Path) -> None:
    """As when somebody edits a tokenizer.json before a worker has read it."""
    plan = Plan(
        parse_arms(["dpo:epochs=1"]), make_world(None, data, False, None, None), 1, RunStore(tmp_path / "s")
    )
    (job,) = plan.jobs({})
    job.manifests[0]["inputs"]["task_options"] = {"tokenizer": "0" * 64}
    with pytest.raises(InputError, match="--task pairs: was changed while the comparison ran"):
        work_on(job)
    assert plan.stored() == {}


# --- pieces ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizers() -> Any:
    return pytest.importorskip("tokenizers")


def own(
    path: Path, tokenizers: Any, special: tuple[str, ...] = ("</s>", "<pad>"), padding: bool = False
) -> str:
    """A tokenizer.json of words."""
    model = tokenizers.models.WordLevel({"[UNK]": 0, "good": 1, "bad": 2, "answer": 3}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.add_special_tokens(list(special))
    if padding:
        made.enable_padding(pad_token="good", length=50)
        made.enable_truncation(1)
    made.save(str(path))
    return str(path)


def test_a_byte_level_bpe_loses_nothing(tokenizers: Any) -> None:
    splitter = choose("bpe").splitter(TEXTS, 80)
    for text in TEXTS:
        (pieces,) = splitter.split([text])
        assert splitter.join(pieces) == text
    assert splitter.join(["A", UNKNOWN, "Ġb"]) == f"A{UNKNOWN} b"
    assert splitter.unit == "piece"


def test_pairs_in_pieces(tokenizers: Any, data: str) -> None:
    task = PairsTask(data, tokenizer="bpe", vocabulary=100, length=40, prompt_words=40)
    facts = task.facts()
    assert (facts["unknown_share"], facts["cut_share"]) == (0.0, 0.0)
    assert facts["tokenizer"] == "byte-level BPE of 100 pieces, trained on the file"
    assert len(task.vocab) <= 102
    assert (task.vocab[0], task.vocab[-1]) == ("<unk>", "<eos>")
    pairs = task._encoded.pairs
    assert (pairs.chosen == task.eos).sum(axis=1).tolist() == [1] * 120
    texts = [task.response_text(*row) for row in zip(pairs.chosen, pairs.chosen_mask, strict=True)]
    assert texts == [f"A good and kind answer number {i}." for i in range(120)]
    assert task.prompt_text(pairs.prompts[7]) == "question 7 about Äpfel?"
    small = PairsTask(data, tokenizer="bpe", vocabulary=20, length=10).facts()
    assert small["unknown_share"] > 0
    assert small["cut_share"] > 0.9


def test_a_bpe_is_the_same_in_every_process(tokenizers: Any, data: str) -> None:
    code = f"from rlhfbench.tasks.pairs import PairsTask\nprint(ascii(PairsTask({data!r}, tokenizer='bpe').vocab))"
    found = set()
    for seed in ("1", "2"):
        path = os.pathsep.join([PACKAGES, str(Path(tokenizers.__file__).parents[1])])
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert found == {ascii(PairsTask(data, tokenizer="bpe").vocab) + "\n"}


def test_a_tokenizer_of_ones_own(tokenizers: Any, data: str, tmp_path: Path) -> None:
    path = own(tmp_path / "t.json", tokenizers)
    task = PairsTask(data, tokenizer=path)
    assert set(task.vocab[1:-1]) == {"answer", "good", "bad"}
    assert task.vocab[-1] == "</s>"
    assert task.facts()["unknown_share"] > 0.5
    assert task.facts()["tokenizer"] == f"{path} of 6 pieces"
    pairs = task._encoded.pairs
    assert task.response_text(pairs.chosen[0], np.ones(24, np.float32)).startswith(
        "<unk> good <unk> <unk> answer"
    )


def test_padding_and_truncation_of_the_file_are_not_applied(tokenizers: Any, tmp_path: Path) -> None:
    choice = choose(own(tmp_path / "t.json", tokenizers, ("</s>",), padding=True))
    assert choice.splitter([], 9).split(["bad bad good", "bad </s>"]) == [["bad", "bad"], ["bad"]]


def test_names_of_end_and_padding_can_be_given(tokenizers: Any, tmp_path: Path) -> None:
    path = own(tmp_path / "t.json", tokenizers, ("<stop>", "<fill>"))
    for eos, pad, part in [
        (None, "<fill>", r"no token for the end of a text \(none of </s>, .*eos_token=TOKEN"),
        ("<stop>", None, r"no token for padding \(none of <pad>, .*pad_token=TOKEN"),
        ("</s>", "<fill>", r"eos_token: '</s>' is not in .*t\.json"),
    ]:
        with pytest.raises(InputError, match=part):
            choose(path, eos, pad).splitter([], 9)
    assert choose(path, "<stop>", "<stop>").splitter([], 9).eos == "<stop>"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "not a tokenizer"),
        ('{"a": 1}', "not a tokenizer"),
        ("\xff", "not a tokenizer"),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "its vocabulary is empty"),
        ('{"model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}}', "no token for padding"),
    ],
)
def test_a_file_that_does_not_do_is_one_line(
    content: str, part: str, tokenizers: Any, data: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "t.json"
    path.write_text(content, "utf-8")
    refused(["compare", "dpo", "--data", data, "--task", f"pairs:tokenizer={path}"], capsys, "t.json", part)


def test_a_file_that_is_no_text_and_one_that_knows_nothing(
    tokenizers: Any, data: str, tmp_path: Path
) -> None:
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"b\.json: cannot be read"):
        PairsTask(data, tokenizer=str(tmp_path / "b.json"))
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.add_special_tokens(["</s>", "<pad>"])
    made.save(str(tmp_path / "u.json"))
    with pytest.raises(InputError, match=r"nothing of it is known to .*u\.json"):
        PairsTask(data, tokenizer=str(tmp_path / "u.json"))


def test_a_comparison_in_pieces_and_its_samples(
    tokenizers: Any, data: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own(Path("t.json"), tokenizers)
    small = ["dpo:epochs=1", "--data", data, "--seeds", "1", "--jobs", "0"]
    for name in ("bpe", "t.json"):
        assert main(["compare", *small, "--task", f"pairs:tokenizer={name}", "--out", name + ".d"]) == 0
        out = capsys.readouterr().out
        assert "reply length, pieces" in out
        assert "Unknown pieces" in out
        assert "of reply pieces, replies cut" in " ".join(out.split())
        assert ("Tokenizer: byte-level BPE" if name == "bpe" else "Tokenizer: t.json of 6") in out
        found = samples(name + ".d", prompts=3)
        rows = load_run(next(Path(name + ".d/runs").iterdir()))[1].replies
        replies = [reply and reply.text for reply in found.arms["dpo"].replies]
        assert replies == [row["reply"] for row in rows[:3]]
    assert main(["compare", *small, "--task", "pairs:tokenizer=t.json", "--out", "t.json.d"]) == 0
    assert "1 of 1 reused" in capsys.readouterr().out
    Path("t.json").rename("other.json")
    assert main(["compare", *small, "--task", "pairs:tokenizer=other.json", "--out", "t.json.d"]) == 0
    assert "1 of 1 reused" in capsys.readouterr().out  # what is in it counts, not what it is called
    own(Path("other.json"), tokenizers, ("</s>", "<pad>", "<more>"))
    assert main(["compare", *small, "--task", "pairs:tokenizer=other.json", "--out", "t.json.d"]) == 0
    assert "0 of 1 reused" in capsys.readouterr().out


def test_real_pairs_in_pieces(tokenizers: Any, data_dir: Path) -> None:
    task = PairsTask(str(data_dir / "hh_harmless.train.jsonl"), tokenizer="bpe")
    assert len(task.vocab) <= 1026
    assert task.facts()["unknown_share"] == 0.0
    assert task.for_seed(np.random.default_rng(0)).split_by == "prompt"
