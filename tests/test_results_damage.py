"""Damaged folders of the run store: never taken for good, and said where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored_runs import commit, make_result

import rlhfbench
from rlhfbench.errors import InputError
from rlhfbench.results import RunStore, load_run

PACKAGES = str(Path(rlhfbench.__file__).parents[1])  # of the code under test, wherever it is installed


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "deep" / "out")


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text(change(path.read_text()))

    return damage


def edit_field(name: str, *keys: str, to: Any = ...) -> Callable[[Path], None]:
    def change(text: str) -> str:
        record = inner = json.loads(text)
        for key in keys[:-1]:
            inner = inner[key]
        if to is ...:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = to
        return json.dumps(record, indent=1)

    return edit(name, change)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def first_lines(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:2])


def with_byte(folder: Path) -> None:
    (folder / "curve.jsonl").write_bytes((folder / "curve.jsonl").read_bytes()[:-9] + b"\xff")


def with_folder(folder: Path) -> None:
    (folder / "replies.jsonl").unlink()
    (folder / "replies.jsonl").mkdir()


def swap(name: str, old: str, new: str) -> Callable[[Path], None]:
    return edit(name, lambda text: text.replace(old, new, 1))


def cut(name: str, size: int) -> Callable[[Path], None]:
    return edit(name, lambda text: text[:size])


DAMAGES = {
    "result cut": (cut("result.json", 300), "result.json, line", "not valid JSON"),
    "result empty": (cut("result.json", 0), "result.json, line 1", "not valid JSON"),
    "result list": (edit("result.json", lambda text: "[]"), "result.json, line 1", "not a JSON object"),
    "result NaN": (swap("result.json", "1.5", "NaN"), "result.json", "NaN is no JSON"),
    "result deep": (edit("result.json", lambda text: "[" * 100_000), "result.json, line 1", "not valid JSON"),
    "result gone": (without("result.json"), "result.json", "the file is missing"),
    "no kl": (edit_field("result.json", "kl"), "result.json, line 1", "field 'kl' is missing"),
    "kl": (edit_field("result.json", "kl", to="2"), "result.json, line 6", "'kl' must be a number"),
    "no flops": (edit_field("result.json", "compute", "flops"), "line 13", "'compute.flops' is missing"),
    "flops": (
        edit_field("result.json", "compute", "flops", to=0.5),
        "line 14",
        "'compute.flops' must be a w",
    ),
    "status": (edit_field("result.json", "status", to="ok"), "result.json, line 3", "one of done, diverged"),
    "seed": (edit_field("result.json", "seed", to=4), "result.json, line 2", "'seed' is not that of the man"),
    "lines": (edit_field("result.json", "lines", to=4), "result.json, line", "'lines' must be an object"),
    "manifest cut": (cut("manifest.json", 30), "manifest.json, line", "not valid JSON"),
    "manifest gone": (without("manifest.json"), "manifest.json", "the file is missing"),
    "no key": (edit_field("manifest.json", "key"), "manifest.json, line 1", "field 'key' is missing"),
    "key": (edit_field("manifest.json", "key", to="0" * 64), "manifest.json, line 3", "'key' is not that"),
    "inputs": (
        edit_field("manifest.json", "inputs", to=[]),
        "manifest.json, line 4",
        "'inputs' is missing or",
    ),
    "curve cut": (edit("curve.jsonl", lambda text: text[:-20]), "curve.jsonl, line 4", "not valid JSON"),
    "curve short": (edit("curve.jsonl", first_lines), "curve.jsonl, line 2", "4 lines were written"),
    "curve gone": (without("curve.jsonl"), "curve.jsonl", "the file is missing"),
    "curve flops": (swap("curve.jsonl", ": 200", ': "200"'), "curve.jsonl, line 3", "'flops' must be"),
    "curve no kl": (swap("curve.jsonl", '"kl": 0.125, ', ""), "curve.jsonl, line 1", "'kl' is missing"),
    "curve not UTF-8": (with_byte, "curve.jsonl, line 4", "not UTF-8"),
    "reply": (
        swap("replies.jsonl", '"prompt"', '"promptly"'),
        "replies.jsonl, line 1",
        "'prompt' is missing",
    ),
    "replies a folder": (with_folder, "replies.jsonl", "cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_named_with_file_and_line_and_left_alone(store: RunStore, name: str) -> None:
    damage, place, problem = DAMAGES[name]
    key, folder = commit(store)
    other, _ = commit(store, seed=99)
    damage(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError) as caught:
        RunStore(store.root).find(key)
    text = str(caught.value)
    assert text.startswith(str(folder))
    assert place in text
    assert problem in text
    assert "\n" not in text
    assert (
        f"delete the folder '{folder.name}' and its run will be repeated" in text
        or name == "replies a folder"
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert store.find(other) == make_result(seed=99)
    shutil.rmtree(folder)
    assert RunStore(store.root).find(key) is None
    commit(store)
    assert store.find(key) == make_result()


def test_no_cut_of_any_file_goes_unnoticed(store: RunStore) -> None:
    key, folder = commit(store)
    for path in folder.iterdir():
        content = path.read_bytes()
        for size in (*range(0, len(content) - 9, 7), *range(len(content) - 9, len(content) - 1)):
            path.write_bytes(content[:size])
            with pytest.raises(InputError, match=path.name):
                store.find(key)
        path.write_bytes(content)
    assert store.find(key) == make_result()


def test_files_and_hidden_folders_of_others_do_no_harm(store: RunStore) -> None:
    key, _ = commit(store)
    (store.runs / "notes.txt").write_text("mine")
    (store.runs / ".DS_Store").mkdir()
    assert RunStore(store.root).find(key) == make_result()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "no such run folder"),
        (lambda path: path.write_text(""), "no such run folder"),
        (lambda path: path.mkdir(), r"not a run folder, it holds no result\.json"),
        (lambda path: (path.mkdir(), (path / "manifest.json").write_text("{}")), "field 'key' is missing"),
    ],
)
def test_what_is_no_run_cannot_be_loaded(tmp_path: Path, make: Callable[[Path], Any], problem: str) -> None:
    make(tmp_path / "run")
    with pytest.raises(InputError, match=problem):
        load_run(tmp_path / "run")
