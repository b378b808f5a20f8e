"""The run store: whole runs or none, found again by content, and never a damaged one taken for good."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import FILES, INPUTS, commit, kept, make_result

import rlhfbench
from rlhfbench.errors import InputError
from rlhfbench.results import FieldError, Result, RunStore, file_hash, load_run, source_hash, world_folder

PACKAGES = str(Path(rlhfbench.__file__).parents[1])  # of the code under test, wherever it is installed


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "deep" / "out")


# --- results ---------------------------------------------------------------------------------------------------


def test_json_is_the_contract() -> None:
    run = make_result().to_json()
    keys = "seed status rm_score gold_score kl entropy length reference compute curve"
    assert list(run) == keys.split()
    assert json.loads(json.dumps(run, allow_nan=False)) == run
    assert Result.from_json(run, make_result().replies) == make_result()


def test_a_lost_run_has_every_field_of_the_contract(store: RunStore) -> None:
    lost = Result(seed=3, status="error", message="its worker process was killed by SIGKILL")
    assert list(lost.to_json()) == [*make_result().to_json(), "message"]
    assert list(lost.compute) == list(make_result().compute)
    key, _ = commit(store, lost)
    assert store.find(key) == lost


def test_a_reason_is_in_the_json_of_what_failed() -> None:
    run = make_result(status="error", message="ValueError: no").to_json()
    assert run["message"] == "ValueError: no"
    assert Result.from_json(run).message == "ValueError: no"


def test_numpy_becomes_plain_and_what_is_not_finite_null() -> None:
    compute = {
        **make_result().compute,
        "flops": np.int64(12),
        "cpu_seconds": np.float32(0.5),
        "by_phase": {"update": 3},
    }
    point = {
        "update": np.int64(1),
        "flops": 2,
        "rm_score": np.nan,
        "gold_score": np.inf,
        "kl": 1,
        "x": -np.inf,
    }
    result = make_result(rm_score=np.float32(1.5), kl=math.nan, length=4, compute=compute, curve=[point])
    run = result.to_json()
    assert (run["rm_score"], run["kl"], run["length"]) == (1.5, None, 4.0)
    assert [type(run[name]) for name in ("rm_score", "length")] == [float, float]
    assert type(run["compute"]["flops"]) is int
    assert run["curve"] == [
        {"update": 1, "flops": 2, "rm_score": None, "gold_score": None, "kl": 1.0, "x": None}
    ]
    json.dumps(run, allow_nan=False)


def test_what_json_gives_away_is_a_copy() -> None:
    result = make_result()
    result.to_json()["curve"][0]["update"] = 99
    assert result.curve[0]["update"] == 0


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
        ({"status": "fine"}, "status"),
        ({"kl": "2"}, "kl"),
        ({"kl": 10**400}, "kl"),
        ({"reference": {"rm_score": 0}}, "reference.gold_score"),
        ({"reference": None}, "reference"),
        ({"compute": {}}, "compute.flops"),
        ({"compute": {**make_result().compute, "flops": 1.5}}, "compute.flops"),
        ({"compute": {**make_result().compute, "by_phase": {"update": -1}}}, "compute.by_phase.update"),
        ({"compute": {**make_result().compute, "gpus": 1}}, "compute.gpus"),
        ({"curve": {}}, "curve"),
        ({"curve": [{"update": 1}]}, "curve[0].flops"),
        ({"message": 3}, "message"),
        ({"replies": [{"prompt": "a", "reference": "b"}]}, "replies[0].reply"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(FieldError) as caught:
        make_result(**changes)
    assert caught.value.name == name


# --- keys ------------------------------------------------------------------------------------------------------


def test_keys_do_not_depend_on_the_order_of_a_mapping() -> None:
    turned = {name: INPUTS[name] for name in reversed(INPUTS)}
    turned["config"] = {name: INPUTS["config"][name] for name in reversed(INPUTS["config"])}
    assert RunStore.key(turned) == RunStore.key(INPUTS)
    assert len(RunStore.key(INPUTS)) == 64


def test_keys_differ_where_any_input_does() -> None:
    changes = [
        {},
        {"label": "ppo"},
        {"seed": 4},
        {"seed": "3"},
        {"task": {"name": "words", "labels": None}},
        {"config": {**INPUTS["config"], "beta": 0.1 + 1e-16}},
        {"config": {**INPUTS["config"], "whiten": 1}},
        {"config": {**INPUTS["config"], "kl": 0}},
        {"config": {name: value for name, value in INPUTS["config"].items() if name != "kl"}},
        {"sources": ["b" * 64, "a" * 64]},
        {"sources": ["a" * 64 + "b" * 64]},
        {"data": None},
    ]
    keys = {RunStore.key({**INPUTS, **change}) for change in changes}
    assert len(keys) == len(changes)


def test_keys_are_the_same_for_numpy_and_python() -> None:
    assert RunStore.key({"x": np.float64(0.1), "n": np.int64(3)}) == RunStore.key({"x": 0.1, "n": 3})


@pytest.mark.parametrize("value", [math.nan, math.inf, Path("x"), {1: 2}, object()])
def test_what_has_no_canonical_form_has_no_key(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        RunStore.key({"value": value})


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a").startswith("ba7816bf")
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file"):
        file_hash(tmp_path / "none")


def test_source_hash_sees_names_and_contents_but_not_where_they_lie(tmp_path: Path) -> None:
    for place in ("one", "two"):
        package = tmp_path / place / "package" / "sub"
        package.mkdir(parents=True)
        (package / "a.py").write_text("a = 1")
        (package / "b.py").write_text("b = 1")
        (package / "a.pyc").write_text(place)
    one, two = tmp_path / "one" / "package", tmp_path / "two" / "package"
    before = source_hash([one])
    assert source_hash([two]) == before
    assert source_hash([one / "sub" / "b.py", one / "sub" / "a.py"]) == source_hash(
        [one / "sub" / "a.py", two / "sub" / "b.py"]
    )
    (two / "sub" / "a.py").write_text("a = 2")
    assert source_hash([two]) != before
    (one / "sub" / "a.py").rename(one / "sub" / "c.py")
    assert source_hash([one]) != before


# --- commit and find -------------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was(store: RunStore) -> None:
    key, folder = commit(store)
    assert store.find(key) == make_result()
    assert RunStore(store.root).find(key) == make_result()
    assert store.folder(key) == folder
    assert store.find("f" * 64) is None
    assert folder.parent == store.runs
    assert folder.name == f"ppo#2-s3-{key[:12]}"
    assert sorted(p.name for p in folder.iterdir()) == [
        "curve.jsonl",
        "manifest.json",
        "replies.jsonl",
        "result.json",
    ]
    assert [p.name for p in store.runs.iterdir()] == [folder.name]
    manifest, result = load_run(folder)
    assert manifest == {"schema": 1, "key": key, "inputs": INPUTS, "environment": {"python": "CPython 3"}}
    assert result == make_result()


def test_a_failed_run_comes_back_too(store: RunStore) -> None:
    failed = make_result(status="error", rm_score=None, curve=[], replies=[], message="ValueError: no")
    key, _ = commit(store, failed)
    assert store.find(key) == failed


def test_the_first_commit_of_a_key_stays(store: RunStore) -> None:
    key, first = commit(store)
    _, second = commit(store, make_result(kl=9.0, seed=8))
    assert first == second
    assert store.find(key) == make_result()
    assert len(list(store.runs.iterdir())) == 1


def test_of_two_processes_that_commit_one_run_the_first_wins(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def second(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        commit(store)  # the other process comes in between
        rename(source, target)

    monkeypatch.setattr(os, "rename", second)
    key, folder = commit(store, make_result(kl=9.0))
    assert store.find(key) == make_result()
    assert list(store.runs.iterdir()) == [folder]


def test_resume_finds_what_is_there_and_only_that(store: RunStore) -> None:
    for seed in (0, 1, 2):
        commit(store, make_result(seed=seed), seed=seed)
    again = RunStore(store.root)
    found = [again.find(store.key({**INPUTS, "seed": seed})) for seed in range(5)]
    assert [r.seed if r else None for r in found] == [0, 1, 2, None, None]


@pytest.mark.parametrize(
    "label", ["./my_algo.py:my_algo", "ppo:beta=0.1,cliprange=0.2", "..", "", "é/\n" * 200, ".tmp-1-a"]
)
def test_any_label_makes_a_visible_folder_inside(store: RunStore, label: str) -> None:
    key, folder = commit(store, label=label)
    assert folder.parent == store.runs
    assert not folder.name.startswith(".")
    assert folder.name.isprintable()
    assert RunStore(store.root).find(key) is not None


def test_a_key_of_other_inputs_is_refused(store: RunStore) -> None:
    with pytest.raises(ValueError, match="not that of"):
        store.commit("0" * 64, {"inputs": INPUTS, "environment": {}}, make_result())


def test_files_are_kept_beside_a_run_and_a_run_without_them_is_whole(store: RunStore) -> None:
    """As were those of versions that kept none, and whose result did not say so."""
    key, folder = commit(store, files=FILES)
    assert kept(folder) == FILES
    assert store.find(key) == make_result()
    old_key, old = commit(store, seed=4)
    path = old / "result.json"
    record = json.loads(path.read_text())
    assert record.pop("files") == {}
    path.write_text(json.dumps(record, indent=1))
    assert RunStore(store.root).find(old_key) == make_result(seed=4)


@pytest.mark.parametrize("name", FILES)
def test_a_kept_file_that_is_cut_or_gone_is_named(store: RunStore, name: str) -> None:
    key, folder = commit(store, files=FILES)
    (folder / name).write_bytes(FILES[name][:-1])
    with pytest.raises(InputError, match=rf"{name}: holds \d+ bytes, \d+ were written; delete the folder"):
        store.find(key)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}.*: the file is missing; delete the folder"):
        store.find(key)


def test_a_world_is_kept_once_for_all_runs_of_its_seed(store: RunStore) -> None:
    inputs = {"seed": 3, "task": "words"}
    assert not world_folder(store.root, inputs).exists()
    folder = store.commit_world(inputs, lambda: FILES)
    assert (
        folder == world_folder(store.root, inputs) == world_folder(store.root, {"task": "words", "seed": 3})
    )
    assert kept(folder) == FILES
    assert store.commit_world(inputs, lambda: pytest.fail("it is there")) == folder
    assert world_folder(store.root, {**inputs, "seed": 4}) != folder
    assert list(store.runs.iterdir()) == []


def test_runs_of_two_stores_merge_by_copying(store: RunStore, tmp_path: Path) -> None:
    other = RunStore(tmp_path / "other")
    key, folder = commit(other, seed=7)
    shutil.copytree(folder, store.runs / folder.name)
    assert store.find(key) == make_result(seed=7)


# --- folders that cannot be written ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/out", "file/deep/out"])
def test_a_file_in_the_way(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"cannot keep runs there \(.*\); name a writable folder: --out DIR"
    ) as caught:
        RunStore(tmp_path / place)
    assert str(caught.value).startswith(str(tmp_path / place))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("made", [False, True])
def test_a_folder_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, made: bool
) -> None:
    if made:
        RunStore(tmp_path)
    mkdir = Path.mkdir

    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        if not self.is_dir():
            raise OSError(code, os.strerror(code))
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=rf"cannot keep runs there \({os.strerror(code)}\)"):
        RunStore(tmp_path)
