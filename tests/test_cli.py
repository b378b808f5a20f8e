"""The command line: exit codes, one-line messages, pure standard output, and the JSON that other programs read."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from outcomes import comparison, result

from rlhfbench import harness
from rlhfbench.catalogue import fields_of
from rlhfbench.cli import main
from rlhfbench.registry import FILE_TASKS, task_class, task_names

Run = tuple[int, str, str]
NUMBER = (int, float)
SMALL = ["--task", "words", "--seeds", "2", "--jobs", "0"]
PAIR = {"prompt": "q", "chosen": "good words here", "rejected": "bad words there"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Calls `main` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Run:
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def refused(outcome: Run, *parts: str) -> None:
    """Exit 2, one line on standard error that holds `parts`, nothing else anywhere."""
    code, out, err = outcome
    assert (code, out) == (2, ""), err
    assert re.fullmatch(r"rlhfbench: error: [^\n]+\n", err), err
    for part in parts:
        assert part in err


# --- usage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [[], ["compare"], ["sweep"], ["rm"], ["list"], ["show"], ["samples"], ["check"]]
)
def test_help_and_version_exit_0(run: Any, command: list[str]) -> None:
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert "usage: rlhfbench" in out
    if not command:
        assert "ppo" in out
        assert re.match(r"rlhfbench \d+\.\d+", run("--version")[1])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["command"]),
        (["compar", "ppo"], ["unknown command 'compar'", "did you mean 'compare'?"]),
        (["compare"], ["ARM"]),
        (["compare", "ppo", "--sedes", "3"], ["unknown option '--sedes'", "did you mean '--seeds'?"]),
        (["compare", "ppo", "--seeds", "0"], ["seeds", "at least 1", "got 0"]),
        (["compare", "ppo", "--seeds", "many"], ["--seeds", "'many'"]),
        (["compare", "ppo", "--budget", "nan"], ["budget", "above 0"]),
        (["compare", "ppo", "--jobs", "-1"], ["jobs", "0 or more"]),
        (["compare", "pop"], ["unknown algorithm 'pop'", "did you mean 'ppo'?"]),
        (["compare", "ppo", "--task", "word"], ["unknown task 'word'", "did you mean 'words'?"]),
        (["compare", "ppo", "--task", "words:pairz=3"], ["no field 'pairz'", "did you mean 'pairs'?"]),
        (["compare", "ppo", "--task", "words", "--data", "x"], ["--data", "--task"]),
        (["compare", "ppo:bta=0.1"], ["no field 'bta'", "did you mean 'beta'?"]),
        (["compare", "ppo:beta=nan"], ["beta must be a finite number", "nan"]),
        (["compare", "ppo:beta=-1"], ["beta must be at least 0"]),
        (["compare", "ppo@leson"], ["no preset 'leson'", "did you mean 'lesson'?"]),
        (["compare", "./nowhere.py:f"], ["nowhere.py", "no such file"]),
        (["compare", "ppo", "--policy", "liner"], ["unknown policy 'liner'", "did you mean 'linear'?"]),
        (["compare", "ppo", "--policy", "tabular"], ["'tabular' does not fit", "linear"]),
        (["sweep", "ppo"], ["--beta"]),
        (["sweep", "ppo", "--beta", "0", "nan"], ["beta must be a finite number"]),
        (["sweep", "best_of_n", "--beta", "0"], ["beta"]),
        (["sweep", "dpo", "--beta", "0.1", "--updates", "3"], ["updates"]),
        (["rm", "--held-out", "0"], ["--held-out", "got 0"]),
        (["rm", "--pairs", "0"], ["--pairs", "got 0"]),
        (["rm", "--seed", "-1"], ["--seed", "got -1"]),
        (["rm", "--test", "x"], ["--test", "--data"]),
        (["rm", "--data", "x", "--pairs", "3"], ["--pairs", "--task"]),
        (["show", "nowhere"], ["nowhere", "no such run folder"]),
        (["check", "pop"], ["unknown algorithm 'pop'"]),
    ],
)
def test_usage_errors_are_one_line_and_2(run: Any, arguments: list[str], parts: list[str]) -> None:
    refused(run(*arguments), *parts)


BAD_FILES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["empty"]),
    "truncated": (json.dumps(PAIR).encode() + b'\n{"prompt": "q", "chos', ["line 2", "truncated"]),
    "not-utf-8": (json.dumps(PAIR).encode() + b"\n\xff\xfe\n", ["line 2", "UTF-8"]),
    "not-json": (b"hello\n", ["line 1", "JSON"]),
    "no-field": (b'{"chosen": "x"}\n', ["line 1", "'rejected'"]),
    "wrong-type": (b'{"chosen": 3, "rejected": "x"}\n', ["line 1", "'chosen'", "a number"]),
    "no-usable-pair": (b'{"chosen": "same", "rejected": "same"}\n', ["no usable pair", "line 1"]),
    "hostile": (b'{"\\u001b[31m\\u202e": 1}\n{"a": 1}\n', ["line 1", r"\x1b[31m\u202e"]),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("command", [["compare", "ppo", "dpo"], ["sweep", "ppo", "--beta", "0"], ["rm"]])
def test_bad_files_are_named_with_line_and_field(
    run: Any, tmp_path: Path, kind: str, command: list[str]
) -> None:
    content, parts = BAD_FILES[kind]
    path = tmp_path / f"{kind}.jsonl"
    path.write_bytes(content)
    refused(run(*command, "--data", path), path.name, *parts)


def test_a_missing_file_and_strict(run: Any, tmp_path: Path) -> None:
    refused(run("compare", "ppo", "--data", "nowhere.jsonl"), "nowhere.jsonl", "no such file")
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(map(json.dumps, [PAIR] * 30 + [{**PAIR, "chosen": " "}])))
    refused(run("compare", "ppo", "--data", path, "--strict"), "line 31", "empty chosen reply", "--strict")


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--json", "nowhere/a.json", "there is no folder nowhere"),
        ("--json", ".", "the name of a file is needed"),
        ("--md", "-", "the name of a file is needed"),
        ("--plot", "nowhere/a.png", "there is no folder nowhere"),
        ("--plot", "a.jpeg", "must end in .png, .svg, .pdf"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    run: Any, monkeypatch: pytest.MonkeyPatch, option: str, value: str, part: str
) -> None:
    monkeypatch.setattr(harness, "compare", lambda *a, **k: pytest.fail("work was done"))
    refused(run("compare", "ppo", option, value), option, part)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(run: Any, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    refused(run("compare", "ppo", "--json", closed / "a.json"), "permission denied")
    refused(run("compare", "ppo", "--out", closed), "closed", "--out")


def test_an_unusable_run_store(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(run("compare", "ppo", *SMALL, "--out", "file"), "file", "--out")


# --- a small run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs and the files of one small comparison."""
    folder = tmp_path_factory.mktemp("small")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["compare", "ppo:updates=4", "dpo", *SMALL, "--json", "a.json", "--md", "a.md"]) == 0
    finally:
        os.chdir(before)
    return folder


def check_fields(value: Any, shape: Any, where: str = "$") -> None:
    """`value` has exactly the fields of `shape`, whose leaves are types or tuples of them."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), where
        assert set(value) == set(shape), where
        for name, inner in shape.items():
            check_fields(value[name], inner, f"{where}.{name}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        assert value, where
        for i, item in enumerate(value):
            check_fields(item, shape[0], f"{where}[{i}]")
    elif shape is not None:
        assert isinstance(value, shape), f"{where} is {value!r}"
        assert not isinstance(value, bool) or shape is bool, where


MAYBE = (*NUMBER, type(None))
SCORES = {"rm_score": NUMBER, "gold_score": NUMBER}
SUMMARY = {"estimate": NUMBER, "low": MAYBE, "high": MAYBE, "n": int, "method": str}
METRIC = {
    "kind": str,
    "better": (str, type(None)),
    **dict.fromkeys(("difference", "low", "high", "p"), MAYBE),
}
COUNTS = (
    "flops",
    "transcendentals",
    "flops_per_reply",
    "tokens_generated",
    "tokens_trained",
    "rm_calls",
    "labels",
)
COMPUTE = {
    **dict.fromkeys((*COUNTS, "optimizer_steps"), int),
    **dict.fromkeys(("cpu_seconds", "wall_seconds", "jit_seconds"), NUMBER),
    "peak_rss_bytes": (int, type(None)),
    "label_cost": NUMBER,
    "by_phase": dict.fromkeys(
        ("sft", "rm_train", "rollout", "ref", "rm_score", "critic", "update", "serve", "eval"), int
    ),
}
RUN = {
    "seed": int,
    "status": str,
    **SCORES,
    **dict.fromkeys(("kl", "entropy", "length"), NUMBER),
    "reference": SCORES,
    "compute": COMPUTE,
    "curve": list,
}
SUMMARIES = ("rm_score", "gold_score", "kl", "entropy", "length", "flops")
ARM = {"config": dict, "runs": [RUN], "summary": dict.fromkeys(SUMMARIES, SUMMARY)}
CONTRACT = {
    "schema": int,
    "task": str,
    "policy": str,
    "gold": str,
    "reward": str,
    "seeds": [int],
    "reference": SCORES,
    "rewards": {"ppo": dict, "dpo": dict},
    "facts": dict,
    "arm_facts": {"ppo": dict, "dpo": dict},
    "gates": {"lifted": list, "notes": list},
    "warnings": list,
    "algorithms": {"ppo": ARM, "dpo": ARM},
    "verdict": {
        "kind": str,
        "better": (str, type(None)),
        "text": str,
        "rm_score": METRIC,
        "gold_score": METRIC,
        "flops": {"ratio": MAYBE, "low": MAYBE, "high": MAYBE},
    },
}


def test_the_json_contract(small: Path) -> None:
    content = json.loads((small / "a.json").read_text("utf-8"))
    check_fields(content, CONTRACT)
    assert (content["schema"], content["gold"], content["seeds"]) == (1, "exact", [0, 1])
    assert content["verdict"]["kind"] == "no_claim"
    for arm in content["algorithms"].values():
        assert [r["status"] for r in arm["runs"]] == ["done", "done"]
        for one in arm["runs"]:
            phases = one["compute"]["by_phase"]
            assert one["compute"]["flops"] == sum(
                n for name, n in phases.items() if name not in ("sft", "eval")
            )
            for point in one["curve"]:
                assert {"update", "flops", "rm_score", "gold_score", "kl"} <= set(point)
    assert content["algorithms"]["ppo"]["config"]["updates"] == 4
    assert not list(small.glob(".*tmp*"))


def test_a_second_run_reuses_all_and_json_is_alone_on_standard_output(
    run: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small)
    code, out, err = run("compare", "ppo:updates=4", "dpo", *SMALL, "--json", "-")
    assert code == 0
    assert json.loads(out) == json.loads((small / "a.json").read_text("utf-8"))
    assert "4 reused" in err
    assert "nothing to run" in err
    assert "RM score, ref sd" in err


def test_the_table_stands_on_standard_output(run: Any, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    code, out, err = run("compare", "ppo:updates=4", "dpo", *SMALL)
    assert code == 0
    assert "\x1b" not in out + err
    assert max(map(len, out.splitlines())) <= 80
    assert "Verdict: " in out
    assert "RM score, ref sd" in (small / "a.md").read_text("utf-8")
    assert "task words, tabular policy, 2 seeds" in err
    assert max(map(len, err.splitlines())) <= 80
    folder = re.search(r"rlhfbench show (\S+)", out)
    assert folder is not None
    code, out, err = run("show", folder[1])
    assert (code, err) == (0, "")
    for part in ("Replies", "objective/kl", "policy/clipfrac_avg", "loss/value_avg", "reference", "gold"):
        assert part in out


def test_a_damaged_store_is_named_and_nothing_is_lost(
    run: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small)
    damaged = next((small / "rlhfbench-runs" / "runs").glob("dpo-s1-*")) / "result.json"
    whole = damaged.read_text("utf-8")
    damaged.write_text(whole[: len(whole) // 2])
    try:
        refused(run("compare", "ppo:updates=4", "dpo", *SMALL), "result.json", "line", "delete the folder")
    finally:
        damaged.write_text(whole)
    assert "4 reused" in run("compare", "ppo:updates=4", "dpo", *SMALL)[2]


def test_sweep_writes_its_contract_and_says_who_hacks(run: Any) -> None:
    words = ["--task", "words", "--seeds", "1", "--jobs", "0", "--updates", "3"]
    code, out, _ = run("sweep", "ppo", "--beta", "0", "1", *words, "--json", "s.json")
    assert code == 0
    content = json.loads(Path("s.json").read_text("utf-8"))
    assert set(content) == {"algorithm", "runs"}
    assert [(r["beta"], r["seed"], r["reward_hacking"]) for r in content["runs"]] == [
        (0.0, 0, False),
        (1.0, 0, False),
    ]
    assert all(r["curve"][-1]["update"] == 3 and r["reason"] for r in content["runs"])
    assert "ppo on words, tabular policy, 2 betas, 1 seed\n" in out
    assert "1 run does not reward-hack" in out


@pytest.mark.parametrize("name", [*task_names(), *FILE_TASKS])
def test_list_of_a_task_has_its_fields_with_default_and_meaning(run: Any, name: str) -> None:
    code, out, err = run("list", name)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith(f"{name}: ")
    fields = fields_of(name)
    assert {field for field, _, _ in fields} <= set(task_class(name).__dataclass_fields__)
    for field, default, meaning in fields:
        assert f"\n  {field}={'none' if default is None else default}\n" in out
        assert meaning, field
    assert fields[0][0] in ("vocabulary", "pairs", "terms")
    assert "path" not in [field for field, _, _ in fields]


def test_progress_in_a_file_is_not_broken_into_lines(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = "/".join(["a-folder-of-some-length"] * 4)
    code, _, said = run("compare", "dpo:epochs=1", *SMALL, "--out", out)
    assert code == 0
    (line,) = [line for line in said.splitlines() if line.startswith("runs: ")]
    assert line.endswith("to run in this process")


def test_list_of_one_thing_and_of_a_constitution(run: Any) -> None:
    refused(
        run("list", "ppo", "--constitution", "words"),
        "ppo came with --constitution, one of the two is needed",
    )
    refused(run("list", "nothing"), "unknown algorithm or task 'nothing'")
    refused(run("list", "sentencs"), "unknown algorithm or task 'sentencs'; did you mean 'sentences'?")
    refused(run("list", "pppo"), "unknown algorithm or task 'pppo'; did you mean 'ppo'?")
    assert run("list", "ppo")[1].startswith("ppo: ")


def test_rm_on_the_toy_is_the_easy_exercise(run: Any) -> None:
    code, out, err = run("rm", "--task", "words", "--pairs", "500", "--held-out", "100", "--json", "r.json")
    assert (code, err) == (0, "")
    content = json.loads(Path("r.json").read_text("utf-8"))
    numbers = ("accuracy", "low", "high", "log_loss", "ece", "length_rule_accuracy")
    check_fields(content, {"pairs": int, "held_out": int, **dict.fromkeys(numbers, NUMBER)})
    assert (content["pairs"], content["held_out"]) == (500, 100)
    assert content["accuracy"] > 0.9
    assert content["length_rule_accuracy"] == 0.5
    for part in ("the longer one wins", "log loss", "calibration error", "clear", "rude", "n = 100"):
        assert part in out
    assert json.loads(run("rm", "--json", "-")[1])["held_out"] == 100


def test_a_stored_run_on_a_file_names_the_file_and_its_judge(run: Any) -> None:
    Path("mine.jsonl").write_text("".join(json.dumps({**PAIR, "prompt": f"q{i}"}) + "\n" for i in range(40)))
    small = ("--data", "mine.jsonl", "--seeds", "1", "--jobs", "0")
    assert run("compare", "ppo:updates=2,batch_size=8", *small)[0] == 0
    code, out, _ = run("show", next(Path("rlhfbench-runs/runs").glob("ppo-*")))
    assert code == 0
    assert "ppo on mine.jsonl, linear policy, seed 0: done" in out
    assert re.search(r"^update .* RM score +judge ", out, re.MULTILINE)
    assert "gold" not in out


def test_list_names_algorithms_tasks_and_policies(run: Any) -> None:
    code, out, _ = run("list")
    assert code == 0
    for part in (
        "ppo@lesson",
        "best_of_n",
        "sentences-small",
        "tabular",
        "Needs reward model",
        "--data FILE",
    ):
        assert part in out


# --- failures --------------------------------------------------------------------------------------------------


def test_failed_runs_exit_3_and_keep_the_table(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {
        a: [result(s, "diverged" if a == "ppo" and s == 1 else "done") for s in range(3)]
        for a in ("ppo", "dpo")
    }
    monkeypatch.setattr(harness, "compare", lambda *a, **k: comparison(seeds=3, runs=runs))
    code, out, _ = run("compare", "ppo", "dpo", "--json", "a.json")
    assert code == 3
    assert "ppo, seed 1: diverged" in out
    assert json.loads(Path("a.json").read_text())["algorithms"]["ppo"]["runs"][1]["status"] == "diverged"


def test_ctrl_c_shows_what_is_finished_and_how_to_go_on(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any, **options: Any) -> Any:
        raise harness.Interrupted(comparison(seeds=6))

    monkeypatch.setattr(harness, "compare", stop)
    code, out, _ = run("compare", "ppo:beta=0.1", "dpo", "--task", "words:pairs=100")
    assert code == 130
    assert "RM score, ref sd" in out
    assert "rlhfbench compare ppo:beta=0.1 dpo --task words:pairs=100" in out

    def early(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "compare", early)
    assert run("compare", "ppo")[::2] == (130, "rlhfbench: interrupted\n")


def test_a_bug_is_one_line_unless_debug_asks_for_more(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("two\nlines \x1b[31m")

    monkeypatch.setattr(harness, "compare", broken)
    code, out, err = run("compare", "ppo")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"rlhfbench: RuntimeError: two lines \\x1b\[31m; this is a bug; .*--debug.*\n", err)
    code, _, err = run("compare", "ppo", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_an_algorithm_that_fails_is_named(run: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom rlhfbench.types import register\n\n"
        "@dataclass(frozen=True)\nclass Config:\n    pass\n\n"
        "@register('mine', Config)\ndef mine(setup, config):\n    'Breaks.'\n    yield {}\n"
        "    raise ValueError('[b]oh[/b]')\n"
    )
    code, out, _ = run("compare", "./mine.py:mine", *SMALL)
    assert code == 3
    assert "mine, seeds 0 and 1: error (ValueError: [b]oh[/b])" in out


# --- as a process ----------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "COLUMNS", "NO_COLOR", "FORCE_COLOR"}
    }
    return kept | more


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m rlhfbench list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("colour", [True, False])
def test_colour_on_a_terminal_unless_no_color(tmp_path: Path, colour: bool) -> None:
    import pty

    parent, child = pty.openpty()
    more = {"TERM": "xterm-256color"} | ({} if colour else {"NO_COLOR": "1"})
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhfbench", "list"],
        cwd=tmp_path,
        stdout=child,
        stderr=child,
        env=environment(**more),
    )
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(parent)
    assert process.wait() == 0
    assert (b"\x1b[" in shown) == colour


def test_a_terminal_that_knows_ascii_alone(tmp_path: Path, small: Path) -> None:
    folder = next((small / "rlhfbench-runs" / "runs").glob("ppo-s0-*"))
    command = [sys.executable, "-m", "rlhfbench", "show", str(folder)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, env=environment(PYTHONIOENCODING="ascii")
    )
    assert done.returncode == 0, done.stderr
    assert b"objective/kl" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_in_earnest(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rlhfbench",
        "compare",
        "ppo:updates=40",
        "dpo",
        "--seeds",
        "40",
        "--jobs",
        "2",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    runs, deadline = tmp_path / "rlhfbench-runs" / "runs", time.monotonic() + 120
    while len(list(runs.glob("dpo-s*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "RM score, ref sd" in out
    assert "the same command goes on from there" in out
    assert " interrupted" not in err
