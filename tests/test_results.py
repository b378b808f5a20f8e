"""The run store: whole runs or none, found again by content, and never a damaged one taken for good."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhfbench
from rlhfbench.errors import InputError
from rlhfbench.results import FieldError, Result, RunStore, file_hash, load_run, source_hash, world_folder

PACKAGES = str(Path(rlhfbench.__file__).parents[1])  # of the code under test, wherever it is installed
INPUTS: dict[str, Any] = {
    "schema": 1,
    "label": "ppo#2",
    "seed": 3,
    "task": {"name": "words", "labels": "bt"},
    "config": {"beta": 0.1, "epochs": 4, "kl": None, "whiten": True},
    "sources": ["a" * 64, "b" * 64],
}


def make_result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "seed": 3,
        "status": "done",
        "rm_score": 1.5,
        "gold_score": -0.25,
        "kl": 2.0,
        "entropy": 0.5,
        "length": 7.25,
        "reference": {"rm_score": 0.0, "gold_score": -1.0},
        "compute": {
            "flops": 10**17,
            "transcendentals": 10,
            "by_phase": {"update": 60, "rollout": 40},
            "flops_per_reply": 5,
            "tokens_generated": 6,
            "tokens_trained": 7,
            "rm_calls": 8,
            "labels": 9,
            "optimizer_steps": 10,
            "cpu_seconds": 1.5,
            "wall_seconds": 1.25,
            "jit_seconds": 0.0,
            "peak_rss_bytes": None,
        },
        "curve": [
            {
                "update": n,
                "flops": n * 100,
                "rm_score": 0.5 * n,
                "gold_score": None,
                "kl": 0.125,
                "objective/kl": 0.5,
            }
            for n in range(4)
        ],
        "replies": [
            {
                "prompt": "help me",
                "reference": "vague",
                "reply": "clear\nkind \u2028 \ud800",
                "scores": {"rm": 1.0},
            },
            {"prompt": "", "reference": "", "reply": "", "scores": None},
        ],
    }
    return Result(**{**values, **changes})


FILES = {"policy.npz": bytes(range(256)), "policy.json": b"{}\n"}


def commit(
    store: RunStore, result: Result | None = None, files: dict[str, bytes] | None = None, **inputs: Any
) -> tuple[str, Path]:
    everything = {**INPUTS, **inputs}
    key = store.key(everything)
    manifest = {"inputs": everything, "environment": {"python": "CPython 3"}}
    return key, store.commit(key, manifest, result or make_result(seed=everything["seed"]), files)


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


# --- a kill at any instant -------------------------------------------------------------------------------------

KILLED_AT_EVERY_LINE = """
    import os, signal, sys
    from pathlib import Path
    sys.path[:0] = [{tests!r}]
    import test_results as t
    from rlhfbench import results, run_folder

    root = Path({root!r})
    t.RunStore(root)
    lines = 0
    while True:
        lines += 1
        child = os.fork()
        if child == 0:
            left = lines
            def trace(frame, event, argument):
                global left
                if frame.f_code.co_filename not in (results.__file__, run_folder.__file__):
                    return None
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return trace
            store = t.RunStore(root)
            sys.settrace(trace)
            t.commit(store, files=t.FILES, seed=lines)
            store.commit_world({{"seed": lines}}, lambda: t.FILES)
            sys.settrace(None)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
    print(lines)
"""

KILLED_AT_RANDOM = """
    import itertools, os, sys
    from pathlib import Path
    sys.path[:0] = [{tests!r}]
    import test_results as t
    store = t.RunStore(Path({root!r}))
    print("now", flush=True)
    for n in itertools.count():
        t.commit(store, files=t.FILES, seed=n, pid=os.getpid())
        store.commit_world({{"seed": n, "pid": os.getpid()}}, lambda: t.FILES)
"""


def start(source: str, root: Path) -> subprocess.Popen[str]:
    source = textwrap.dedent(source.format(tests=str(Path(__file__).parent), root=str(root)))
    env = {**os.environ, "PYTHONPATH": PACKAGES, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", source], env=env, stdout=subprocess.PIPE, text=True
    )


def whole_runs(root: Path) -> int:
    visible = [path for path in (root / "runs").iterdir() if not path.name.startswith(".")]
    for folder in visible:
        manifest, result = load_run(folder)
        assert RunStore.key(manifest["inputs"]) == manifest["key"]
        assert result == make_result(seed=manifest["inputs"]["seed"])
        assert kept(folder) == FILES
    for world in (root / "worlds").iterdir():
        assert (world / "manifest.json").is_file()
        assert kept(world) == FILES
    return len(visible)


def kept(folder: Path) -> dict[str, bytes]:
    """The files that were handed over with a run or a world."""
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_before_each_line_of_a_commit(tmp_path: Path) -> None:
    process = start(KILLED_AT_EVERY_LINE, tmp_path)
    output, _ = process.communicate(timeout=60)
    lines = int(output)
    assert lines > 40
    assert 1 <= whole_runs(tmp_path) < lines  # the last, and those killed after their rename
    RunStore(tmp_path)
    assert not list((tmp_path / "runs").glob(".*"))


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_killed_at_random_instants(tmp_path: Path) -> None:
    rng = random.Random(1)
    before = 0
    for _ in range(8):
        process = start(KILLED_AT_RANDOM, tmp_path)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        after = whole_runs(tmp_path)
        assert after >= before
        before = after
    RunStore(tmp_path)
    assert whole_runs(tmp_path) == before > 0


def test_an_error_in_a_commit_leaves_nothing(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"out: cannot keep runs there \(No space left.*--out DIR"):
        commit(store)
    assert list(store.runs.iterdir()) == []


def test_abandoned_folders_are_removed_and_those_of_the_living_are_not(store: RunStore) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead, living, foreign = (f".tmp-{child.pid}-00", f".tmp-{os.getpid()}-00", ".tmp-notes")
    for name in (dead, living, foreign):
        (store.runs / name).mkdir()
        (store.runs / name / "result.json").write_text("{")
    RunStore(store.root)
    assert sorted(p.name for p in store.runs.iterdir()) == sorted([living, foreign])


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


# --- damage ----------------------------------------------------------------------------------------------------


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
