"""`rlhfbench samples`: the replies of reference and arms, which runs they are taken from, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rlhfbench
from rlhfbench.cli import main
from rlhfbench.harness import compare
from rlhfbench.samples import samples

PACKAGES = str(Path(rlhfbench.__file__).parents[1])  # of the code under test, wherever it is installed
ARMS = ["ppo:updates=3,batch_size=32,num_ppo_epochs=1", "dpo:epochs=1", "best_of_n:n=4"]
DIVERGES = """
from dataclasses import dataclass
from rlhfbench.types import register

@dataclass(frozen=True)
class Config:
    pass

@register("mine", Config)
def mine(setup, config):
    for step in setup.steps(3):
        setup.policy.params[:] = float("nan")
        yield {}
"""
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two seeds of three arms on `words`."""
    root = tmp_path_factory.mktemp("made") / "store"
    compare(ARMS, task="words:pairs=100", seeds=2, jobs=0, out=str(root))
    return root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "store"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["samples", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def refused(outcome: tuple[int, str, str], *parts: str) -> None:
    code, out, err = outcome
    assert (code, out) == (2, ""), err
    assert re.fullmatch(r"rlhfbench: error: [^\n]+\n", err), err
    for part in parts:
        assert part in err


def a_run(root: Path, label: str = "ppo", seed: int = 0) -> Path:
    return next((root / "runs").glob(f"{label}-s{seed}-*"))


# --- what is shown ---------------------------------------------------------------------------------------------


def test_the_replies_are_those_that_each_run_noted(made: Path) -> None:
    found = samples(str(made), prompts=20)
    assert (found.seed, found.policy, found.gold) == (0, "tabular", "exact")
    assert sorted(found.arms) == ["best_of_n", "dpo", "ppo"]
    for label, arm in found.arms.items():
        folder = a_run(made, label)
        assert arm.run == folder.name
        rows = [json.loads(line) for line in (folder / "replies.jsonl").read_text().splitlines()]
        for prompt, theirs, ours, row in zip(found.prompts, found.reference, arm.replies, rows, strict=True):
            assert ours is not None
            assert (prompt, theirs.text, ours.text) == (row["prompt"], row["reference"], row["reply"])
            assert ours.rm_score == pytest.approx(row["reply_rm_score"], abs=1e-6)
            assert ours.gold_score == row["reply_gold_score"]
            assert theirs.rm_score == pytest.approx(row["reference_rm_score"], abs=1e-6)


def test_a_sampler_has_the_replies_that_it_kept_and_no_more(made: Path) -> None:
    found = samples(str(made), prompts=25)
    kept = [reply is not None for reply in found.arms["best_of_n"].replies]
    assert kept == [True] * 20 + [False] * 5
    assert (
        found.arms["best_of_n"].note
        == "served by a sampler, not by a policy; the run kept its first 20 replies"
    )
    assert all(found.arms["dpo"].replies)
    assert found.arms["dpo"].note is None


def test_the_json_contract(run: Call, made: Path) -> None:
    code, out, err = run(made, "--prompts", 22, "--json", "-")
    assert code == 0
    content = json.loads(out)
    assert list(content) == ["schema", "task", "policy", "gold", "reward", "seed", "arms", "samples"]
    assert content["schema"] == 1
    assert len(content["samples"]) == 22
    for sample in content["samples"]:
        assert set(sample) == {"prompt", "reference", "replies"}
        assert set(sample["reference"]) == {"text", "rm_score", "gold_score", "harm"}
        assert sample["reference"]["harm"] is None
        assert set(sample["replies"]) == set(content["arms"]) == {"best_of_n", "dpo", "ppo"}
    assert content["samples"][21]["replies"]["best_of_n"] is None
    assert content["arms"]["ppo"] == {"run": a_run(made).name, "status": "done", "note": None}
    assert "prompt 22" in err
    assert run(made, "--json", "a.json")[0] == 0
    assert len(json.loads(Path("a.json").read_text())["samples"]) == 5


def test_a_run_names_its_seed_and_another_can_be_asked_for(run: Call, made: Path) -> None:
    code, out, err = run(a_run(made, "dpo", 1), "--prompts", 1)
    assert (code, err) == (0, "")
    assert "1 evaluation prompt of words, tabular policy, seed 1" in out
    assert run(made, "--seed", 1, "--prompts", 1)[1] == out
    assert run(a_run(made, "dpo", 0), "--seed", 1, "--prompts", 1)[1] == out
    refused(run(made, "--seed", 7), "--seed 7: no run of it is kept; there are 0, 1")


def test_from_inside_the_store(run: Call, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = run(made)[1]
    monkeypatch.chdir(made / "runs")
    assert run(a_run(made).name)[1] == outside
    assert run("..")[1] == outside


def test_the_text_stands_in_80_columns_without_colour(made: Path) -> None:
    hidden = {"COLUMNS", "FORCE_COLOR"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"NO_COLOR": "1", "PYTHONPATH": PACKAGES}
    command = [sys.executable, "-m", "rlhfbench", "samples", str(a_run(made))]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=made)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    heads = re.findall(r"^ +RM +gold$", done.stdout, re.MULTILINE)
    assert len(heads) == 5
    assert len(re.findall(r"^reference +-?\d\.\d\d +-?\d\.\d\d  \w+ \w+$", done.stdout, re.MULTILINE)) == 5
    shell = f"{sys.executable} -m rlhfbench samples {made} --prompts 60 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=env, cwd=made)
    assert (done.returncode, done.stderr) == (0, "")


def test_arms_of_one_label_are_told_apart_by_what_was_typed(run: Call, store: Path) -> None:
    more: dict[str, Any] = {"task": "words:pairs=100", "seeds": 1, "jobs": 0, "out": str(store)}
    compare(["dpo:epochs=2"], **more)
    compare(["dpo:epochs=2"], budget=1.0, **more)
    names = sorted(samples(str(store)).arms)
    assert names[:2] == ["best_of_n", "dpo:epochs=1"]
    assert [re.sub(r" [0-9a-f]{6}$", " key", name) for name in names[2:4]] == ["dpo:epochs=2 key"] * 2
    assert names[4] == "ppo"
    assert max(map(len, run(store)[1].splitlines())) <= 80


def test_a_diverged_run_says_why_it_has_none(run: Call, store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DIVERGES)
    arm = f"{tmp_path / 'mine.py'}:mine"
    compare([arm], task="words:pairs=100", seeds=1, jobs=0, out=str(store))
    code, out, _ = run(store)
    assert code == 0
    assert "mine: diverged, so that it keeps no policy." in out
    assert re.search(r"^mine +- +-  \(none kept\)$", out, re.MULTILINE)


def test_nothing_is_written(made: Path, run: Call) -> None:
    def listing() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in made.rglob("*")}

    before = listing()
    assert run(made)[0] == 0
    assert listing() == before


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere"], ["nowhere", "no such run folder"]),
        ([], ["RUN"]),
        (["store", "--prompts", "0"], ["--prompts must be at least 1, got 0"]),
        (["store", "--prompts", "2000"], ["--prompts must be at most 1,024", "got 2000"]),
        (["store", "--seed", "x"], ["--seed", "'x'"]),
        (["store", "--data", "x.jsonl"], ["--data must be left out", "words"]),
        (["store", "--json", "no/a.json"], ["there is no folder no"]),
    ],
)
def test_usage_errors_are_one_line_and_2(
    run: Call, store: Path, arguments: list[str], parts: list[str]
) -> None:
    refused(run(*arguments), *parts)


def test_a_store_of_several_comparisons_asks_for_a_run(run: Call, store: Path) -> None:
    compare(["dpo:epochs=1"], task="words", seeds=1, jobs=0, out=str(store))
    outcome = run(store)
    refused(
        outcome, "holds runs of 2 comparisons", "name a run of one", "runs/", " for dpo:epochs=1 on words, "
    )
    assert "and 0 more" not in outcome[2]
    (store / "empty" / "runs").mkdir(parents=True)
    refused(run(store / "empty"), "holds no runs")
    for path in (store / "runs").iterdir():
        assert run(path)[0] == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def spoil(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("name", "damage", "parts"),
    [
        ("runs/ppo-s0-*/policy.npz", cut, ["bytes", "were written", "its run will be repeated"]),
        ("runs/ppo-s0-*/policy.npz", spoil, ["SHA-256", "its run will be repeated"]),
        ("runs/ppo-s0-*/policy.json", spoil, ["not valid JSON", "its run will be repeated"]),
        ("runs/ppo-s0-*/manifest.json", cut, ["manifest.json", "JSON"]),
        ("worlds/s0-*/reference.npz", spoil, ["SHA-256", "delete the folder 's0-", "too, and delete"]),
        ("worlds/s0-*/reward_model.json", spoil, ["not valid JSON", "too, and delete"]),
        ("worlds/s0-*/reward_model.npz", lambda path: path.unlink(), ["the file is missing", "too, and"]),
        ("worlds/s0-*", shutil.rmtree, ["reference and reward model are not there"]),
    ],
)
def test_what_is_damaged_is_named(
    run: Call, store: Path, name: str, damage: Callable[[Path], None], parts: list[str]
) -> None:
    path = next(store.glob(name))
    if path.name == "manifest.json":
        damage = lambda p: p.write_text(p.read_text()[:30]) and None  # noqa: E731
    damage(path)
    refused(run(store), path.name, *parts)
    assert run(store, "--seed", "1")[0] == (2 if path.name == "manifest.json" else 0)


def test_a_store_of_an_earlier_version_is_read_but_has_no_samples(run: Call, store: Path) -> None:
    """It had no worlds, no policies, and neither was spoken of in its files."""
    shutil.rmtree(store / "worlds")
    for folder in (store / "runs").iterdir():
        for path in folder.glob("policy.*"):
            path.unlink()
        for name, field in (("manifest.json", "world"), ("result.json", "files")):
            record = json.loads((folder / name).read_text())
            del record[field]
            (folder / name).write_text(json.dumps(record))
    options: dict[str, Any] = {"task": "words:pairs=100", "seeds": 2, "jobs": 0, "out": str(store)}
    assert compare(ARMS, **options).reused == 6
    refused(run(store), "earlier version", "its run will be repeated")
    assert compare([*ARMS, "dpo:epochs=2"], **options).reused == 6
    shutil.rmtree(a_run(store))
    shutil.rmtree(a_run(store, "dpo"))
    assert compare(ARMS, **options).reused == 4
    code, out, _ = run(a_run(store))
    assert code == 0
    assert re.search(r"^ppo +-?\d", out, re.MULTILINE)
    assert "best_of_n: made by an earlier version, which kept no policy." in out


def test_a_constitution_that_has_gone_is_not_missed(run: Call, tmp_path: Path) -> None:
    rules, store = tmp_path / "c.toml", tmp_path / "ai"
    shutil.copy(Path(rlhfbench.__file__).parent / "constitutions" / "words.toml", rules)
    arm = f"dpo:epochs=1,labels=ai,label_constitution={rules}"
    compare([arm], task="words:pairs=100", seeds=1, jobs=0, out=str(store))
    before = run(store)
    rules.unlink()
    assert run(store) == before
    assert before[0] == 0


# --- the user's pairs ------------------------------------------------------------------------------------------


@pytest.fixture
def on_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of a comparison on `mine.jsonl`, both in the current folder."""
    monkeypatch.chdir(tmp_path)
    lines = [{"prompt": f"q {i}?", "chosen": f"good {i % 7} x.", "rejected": "bad y"} for i in range(60)]
    Path("mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    compare(["dpo:epochs=1"], data="mine.jsonl", seeds=1, jobs=0, out="store")
    return tmp_path / "store"


def test_on_a_file_the_judge_stands_in_for_gold(run: Call, on_file: Path) -> None:
    code, out, _ = run(on_file)
    assert code == 0
    assert "5 evaluation prompts of mine.jsonl, linear policy, seed 0" in out
    assert re.search(r"^ +RM +judge$", out, re.MULTILINE)
    assert "so is the judge's" in " ".join(out.split())
    assert re.search(r"^prompt 1  q \d+\?$", out, re.MULTILINE)


def test_a_file_that_moved_is_named_and_one_that_changed_refused(run: Call, on_file: Path) -> None:
    Path("mine.jsonl").rename("yours.jsonl")
    refused(run(on_file), "mine.jsonl", "not there", "--data FILE")
    assert run(on_file, "--data", "yours.jsonl")[0] == 0
    with open("yours.jsonl", "a") as file:
        file.write("\n")
    refused(run(on_file, "--data", "yours.jsonl"), "yours.jsonl: not the file that the run was made on")
