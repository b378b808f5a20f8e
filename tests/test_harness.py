"""Comparisons from beginning to end, in this process: what is run, what is reused, what comes out as JSON."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rlhfbench
from rlhfbench.cli import main
from rlhfbench.comparison import Comparison
from rlhfbench.errors import InputError
from rlhfbench.harness import Interrupted, compare
from rlhfbench.records import COUNTERS
from rlhfbench.sweeps import sweep

PPO, DPO = "ppo:updates=3,batch_size=32,num_ppo_epochs=1", "dpo:epochs=1"
NUMBER = (int, float)
MAYBE = (int, float, type(None))
Events = list[dict[str, Any]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., tuple[Comparison, Events]]:
    """Compares on `words` in this process; gives the comparison and the events."""

    def call(*arms: str, **options: Any) -> tuple[Comparison, Events]:
        events: Events = []
        fixed: dict[str, Any] = {"task": "words", "seeds": 2, "jobs": 0, "out": str(tmp_path / "runs")}
        return compare(arms, watch=events.append, **(fixed | options)), events

    return call


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    """Six seeds of PPO and DPO, enough for intervals and claims, and the folder they lie in."""
    folder = tmp_path_factory.mktemp("six")
    return compare([PPO, DPO], task="words", seeds=6, jobs=0, out=str(folder)), folder


def ran(events: Events) -> list[tuple[str, int]]:
    return [(e["label"], e["seed"]) for e in events if e["kind"] == "run"]


def scores(comparison: Comparison, label: str) -> list[Any]:
    return [(r.rm_score, r.gold_score, r.kl, r.entropy, r.compute["flops"]) for r in comparison.runs[label]]


def folders(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "runs").iterdir())


# --- the JSON contract -----------------------------------------------------------------------------------------

REAL = ("cpu_seconds", "wall_seconds", "jit_seconds", "label_cost")
WHOLE = [n for n in COUNTERS if n not in ("by_phase", *REAL)]


def check_run(run: dict[str, Any], seed: int) -> None:
    assert set(run) == {
        *(
            "seed",
            "status",
            "rm_score",
            "gold_score",
            "kl",
            "entropy",
            "length",
            "reference",
            "compute",
            "curve",
        )
    }
    assert (run["seed"], run["status"]) == (seed, "done")
    for name in ("rm_score", "gold_score", "kl", "entropy", "length"):
        assert type(run[name]) is float
    assert set(run["reference"]) == {"rm_score", "gold_score"}
    compute = run["compute"]
    assert set(compute) == set(COUNTERS)
    for name in WHOLE:
        assert type(compute[name]) is int, name
    for name in REAL:
        assert type(compute[name]) in NUMBER
        assert compute[name] >= 0
    assert compute["label_cost"] == compute["labels"]  # these are people's
    phases = compute["by_phase"]
    assert set(phases) == {
        "sft",
        "rm_train",
        "rollout",
        "ref",
        "rm_score",
        "critic",
        "update",
        "serve",
        "eval",
    }
    assert all(type(work) is int for work in phases.values())
    assert compute["flops"] == sum(work for phase, work in phases.items() if phase not in ("sft", "eval"))
    assert compute["transcendentals"] <= sum(phases.values())
    for point in run["curve"]:
        assert {"update", "flops", "rm_score", "gold_score", "kl"} <= set(point)
        assert type(point["update"]) is type(point["flops"]) is int
    updates, work = ([p[name] for p in run["curve"]] for name in ("update", "flops"))
    assert updates == sorted(set(updates))
    assert work == sorted(work)
    first, last = run["curve"][0], run["curve"][-1]
    assert {name: first[name] for name in run["reference"]} == run["reference"]
    assert {name: last[name] for name in ("rm_score", "gold_score", "kl")} == {
        name: run[name] for name in ("rm_score", "gold_score", "kl")
    }
    assert (first["update"], first["kl"]) == (0, pytest.approx(0.0, abs=1e-6))


def test_the_json_contract_key_by_key(six: tuple[Comparison, Path]) -> None:
    record = json.loads(json.dumps(six[0].as_dict(), allow_nan=False))
    expected = {
        "schema",
        "task",
        "policy",
        "gold",
        "reward",
        "seeds",
        "reference",
        "rewards",
        "facts",
        "arm_facts",
        "gates",
        "warnings",
        "algorithms",
        "verdict",
    }
    assert set(record) == expected
    assert [record[name] for name in ("schema", "task", "policy", "gold")] == [1, "words", "tabular", "exact"]
    assert record["seeds"] == list(range(6))
    assert all(type(record["reference"][name]) is float for name in ("rm_score", "gold_score"))
    assert list(record["algorithms"]) == ["ppo", "dpo"]
    assert record["arm_facts"] == {"ppo": record["facts"], "dpo": record["facts"]}
    assert record["algorithms"]["ppo"]["config"]["updates"] == 3
    for arm in record["algorithms"].values():
        assert set(arm) == {"config", "runs", "summary"}
        assert len(arm["runs"]) == 6
        for seed, run in enumerate(arm["runs"]):
            check_run(run, seed)
        assert {"rm_score", "gold_score", "kl", "flops"} <= set(arm["summary"])
        for interval in arm["summary"].values():
            assert set(interval) == {"estimate", "low", "high", "n", "method"}
            assert interval["n"] == 6
            assert interval["low"] <= interval["estimate"] <= interval["high"]
    verdict = record["verdict"]
    assert set(verdict) == {"kind", "better", "text", "rm_score", "gold_score", "flops"}
    assert verdict["kind"] in {"better", "equivalent", "inconclusive", "no_claim", "split"}
    assert verdict["better"] in {"ppo", "dpo", None}
    assert (verdict["better"] is not None) == (verdict["kind"] == "better")
    for name in ("rm_score", "gold_score"):
        assert set(verdict[name]) == {"kind", "better", "difference", "low", "high", "p"}
        assert verdict[name]["low"] <= verdict[name]["difference"] <= verdict[name]["high"]
    assert set(verdict["flops"]) == {"ratio", "low", "high"}
    assert 0 < verdict["flops"]["low"] <= verdict["flops"]["ratio"] <= verdict["flops"]["high"] < 1


def test_what_does_not_exist_under_five_seeds_is_null(six: tuple[Comparison, Path]) -> None:
    record = compare([PPO, DPO], task="words", seeds=2, jobs=0, out=str(six[1])).as_dict()
    text = json.dumps(record, allow_nan=False)
    summary = record["algorithms"]["ppo"]["summary"]["rm_score"]
    assert (summary["low"], summary["high"], summary["n"]) == (None, None, 2)
    verdict = json.loads(text)["verdict"]
    assert (verdict["kind"], verdict["better"]) == ("no_claim", None)
    assert verdict["rm_score"]["low"] is verdict["gold_score"]["high"] is verdict["flops"]["low"] is None


def test_one_arm_alone_is_no_comparison_but_a_table(play: Any) -> None:
    record = play(DPO)[0].as_dict()
    assert record["verdict"]["kind"] == "no_claim"
    assert record["verdict"]["flops"] == {"ratio": None, "low": None, "high": None}
    json.dumps(record, allow_nan=False)


def test_the_package_offers_the_same(six: tuple[Comparison, Path]) -> None:
    assert rlhfbench.compare is compare
    assert rlhfbench.sweep is sweep


# --- what is reused --------------------------------------------------------------------------------------------


def test_a_second_call_runs_nothing_and_gives_the_same_json(six: tuple[Comparison, Path]) -> None:
    events: Events = []
    before = folders(six[1])
    again = compare([PPO, DPO], task="words", seeds=6, jobs=0, out=str(six[1]), watch=events.append)
    assert [e["kind"] for e in events] == ["plan"]
    assert (events[0]["reused"], events[0]["to_run"], again.reused) == (12, 0, 12)
    assert json.dumps(again.as_dict()) == json.dumps(six[0].as_dict())
    assert folders(six[1]) == before
    assert len(before) == 12


def test_arms_seeds_and_order_are_added_to_what_is_there(
    six: tuple[Comparison, Path], tmp_path: Path
) -> None:
    shutil.copytree(six[1], tmp_path / "copy")
    options: dict[str, Any] = {"task": "words", "jobs": 0, "out": str(tmp_path / "copy")}
    events: Events = []
    third = "best_of_n:n=2"
    more = compare([third, DPO, PPO], seeds=6, watch=events.append, **options)
    assert ran(events) == [("best_of_n", seed) for seed in range(6)]
    for label in ("ppo", "dpo"):
        assert more.runs[label] == six[0].runs[label]
    events.clear()
    compare([PPO, DPO], seeds=7, watch=events.append, **options)
    assert sorted(ran(events)) == [("dpo", 6), ("ppo", 6)]


CHANGES: dict[str, dict[str, Any]] = {
    "configuration": {"arms": ("ppo:updates=4,batch_size=32,num_ppo_epochs=1",)},
    "policy": {"policy": "linear"},
    "task knob": {"task": "words:pairs=100"},
    "labels": {"task": "words:labels=bt"},
    "task": {"task": "sentences-small:pairs=100,demos=100"},
    "budget": {"budget": 0.01},
    "label": {"arms": (DPO, "ppo:updates=9", PPO)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_determines_a_run_is_part_of_its_key(play: Any, change: str) -> None:
    play(PPO, seeds=1)
    options = {"seeds": 1} | CHANGES[change]
    arms = options.pop("arms", (PPO,))
    comparison, events = play(*arms, **options)
    assert comparison.reused == 0
    assert len(ran(events)) == len(arms)


def test_the_number_of_seeds_jobs_and_the_spelling_of_defaults_are_not(play: Any) -> None:
    play(PPO, seeds=2)
    reordered = "ppo:num_ppo_epochs=1,batch_size=32,updates=3,kl_coef=0.3"
    assert play(reordered, seeds=1)[0].reused == 1
    assert play(PPO, seeds=2, jobs=1)[0].reused == 2
    assert play(PPO, seeds=2, task="words:labels=lesson")[0].reused == 2


def pairs_file(path: Path, last: str = "no") -> str:
    """60 pairs in which the chosen reply has the better words."""
    good, bad = ("clear", "kind", "helpful", "calm"), ("rude", "wrong", "short", "vague")
    with path.open("w") as out:
        for i in range(60):
            pair = {
                "prompt": f"question {i}",
                "chosen": f"{good[i % 4]} {good[i // 4 % 4]} words",
                "rejected": f"{bad[i % 4]} {bad[i // 4 % 4]} {last if i == 59 else 'no'}",
            }
            out.write(json.dumps(pair) + "\n")
    return str(path)


def test_a_changed_byte_of_data_is_another_world(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seeds": 1, "jobs": 0, "out": str(tmp_path / "runs")}
    data = pairs_file(tmp_path / "a.jsonl")
    first = compare([DPO], data=data, **options)
    assert first.gold == "judge"
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(data, tmp_path / "elsewhere" / "b.jsonl")
    assert compare([DPO], data=str(moved), **options).reused == 1  # what counts is the content
    assert compare([DPO], data=pairs_file(tmp_path / "a.jsonl", last="nO"), **options).reused == 0
    assert compare([DPO], data=pairs_file(tmp_path / "a.jsonl"), **options).reused == 1


MINE = """
from dataclasses import dataclass
from rlhfbench.types import register

@dataclass(frozen=True)
class Config:
    what: str = "nothing"

@register("mine", Config, needs={"reward_model"})
def mine(setup, config):
    for step in setup.steps(3):
        if config.what == "raise" and step == 1:
            raise RuntimeError("so it goes")
        if config.what == "nan":
            setup.policy.params[:] = float("nan")
        if config.what == "exit":
            raise SystemExit(0)
        if config.what == "bare":
            yield
        if config.what == "boast":
            yield {"gold_score": 99.0, "rm_score": 99.0, "kl": 0.0, "flops": 0}
        if config.what == "sampler":
            setup.served = object()
        yield {"loss": 1}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_changed_source_of_an_algorithm_is_another_algorithm(play: Any, mine: Path) -> None:
    play(str(mine), DPO)
    assert play(str(mine), DPO)[0].reused == 4
    mine.write_text(MINE + "# a second thought\n")
    comparison, events = play(str(mine), DPO)
    assert comparison.reused == 2
    assert sorted(ran(events)) == [("mine", 0), ("mine", 1)]
    mine.write_text(MINE)
    assert play(str(mine), DPO)[0].reused == 4


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_file_edited_while_it_is_in_use_spoils_no_run(mine: Path, tmp_path: Path, jobs: int) -> None:
    def edit(event: dict[str, Any]) -> None:
        if event["kind"] == "run" and event["seed"] == 0:
            mine.write_text(MINE.replace("range(3)", "range(4)") + "# edited\n")

    options: dict[str, Any] = {"task": "words", "seeds": 40, "jobs": jobs, "out": str(tmp_path / "runs")}
    with pytest.raises(InputError, match=r"mine\.py was changed while the comparison ran"):
        compare([str(mine)], watch=edit, **options)
    kept = len(folders(tmp_path / "runs"))
    assert 1 <= kept < 40
    mine.write_text(MINE)
    assert compare([str(mine)], **options).reused == kept


# --- pairing ---------------------------------------------------------------------------------------------------


def test_arms_of_a_seed_share_world_and_start(six: tuple[Comparison, Path]) -> None:
    comparison = six[0]
    starts = [[r.reference for r in comparison.runs[label]] for label in ("ppo", "dpo")]
    assert starts[0] == starts[1]
    assert len({start["rm_score"] for start in starts[0]}) == 6  # and seeds differ
    replies = [[[row["reference"] for row in r.replies] for r in comparison.runs[a]] for a in ("ppo", "dpo")]
    assert replies[0] == replies[1]
    prompts = [[[row["prompt"] for row in r.replies] for r in comparison.runs[a]] for a in ("ppo", "dpo")]
    assert prompts[0] == prompts[1]


def test_the_same_algorithm_twice_differs_in_every_seed_and_has_no_winner(tmp_path: Path) -> None:
    comparison = compare(["ppo", "ppo"], task="words", jobs=0, out=str(tmp_path))
    assert comparison.labels == ["ppo", "ppo#2"]
    assert len(comparison.seeds) == 10
    pairs = list(zip(comparison.runs["ppo"], comparison.runs["ppo#2"], strict=True))
    for one, two in pairs:
        assert one.rm_score != two.rm_score
        assert one.curve[1:] != two.curve[1:]
        assert one.reference == two.reference
    verdict = comparison.as_dict()["verdict"]
    assert verdict["kind"] in {"inconclusive", "equivalent"}
    assert [verdict[name] for name in ("better",)] == [None]
    assert verdict["rm_score"]["better"] is verdict["gold_score"]["better"] is None
    assert verdict["flops"]["ratio"] == pytest.approx(1.0, abs=0.01)


def test_in_this_process_or_in_workers_the_numbers_are_the_same(
    six: tuple[Comparison, Path], tmp_path: Path
) -> None:
    workers = compare([PPO, DPO], task="words", seeds=2, jobs=2, out=str(tmp_path))
    for label in ("ppo", "dpo"):
        assert scores(workers, label) == scores(six[0], label)[:2]


# --- budget ----------------------------------------------------------------------------------------------------


def test_a_budget_is_overshot_by_one_update_at_most(play: Any) -> None:
    arms = ("ppo:batch_size=32", "dpo", "reinforce:batch_size=32")
    free = play(*arms)[0]
    budget = 0.0025
    comparison = play(*arms, budget=budget)[0]
    for label, results in comparison.runs.items():
        updates = [r.curve[-1]["update"] for r in free.runs[label]]
        for result, planned in zip(results, updates, strict=True):
            plain = free.runs[label][result.seed].compute
            spent = plain["flops"] - plain["by_phase"]["rm_train"] - plain["by_phase"]["serve"]
            update = 1.5 * spent / planned
            assert result.status == "done"
            over = result.compute["flops"] - budget * 1e9
            assert 0 <= over <= update, label
    assert comparison.as_dict()["verdict"]["kind"] == "no_claim"


def test_a_budget_that_preparation_uses_up_leaves_the_reference(play: Any) -> None:
    result = play("ppo", budget=1e-9, seeds=1)[0].runs["ppo"][0]
    assert (result.status, len(result.curve)) == ("done", 1)
    assert result.rm_score == result.reference["rm_score"]


# --- failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("raise", "error", "RuntimeError: so it goes"),
        ("nan", "diverged", "not finite"),
        ("exit", "error", "SystemExit: 0"),
        ("bare", "error", "it yielded NoneType None"),
        ("sampler", "error", "AttributeError"),
    ],
)
def test_a_failing_arm_leaves_the_others_and_the_table(
    mine: Path, tmp_path: Path, what: str, status: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, record_file = str(tmp_path / "runs"), tmp_path / "result.json"
    arguments = ["compare", f"{mine}:mine:what={what}", DPO, "--task", "words", "--seeds", "2", "--jobs", "0"]
    code = main([*arguments, "--out", out, "--json", str(record_file)])
    shown = capsys.readouterr()
    assert code == 3, shown.err
    assert "Traceback" not in shown.err
    table = " ".join(shown.out.split())
    assert "runs done 0 of 2 2 of 2" in table
    assert f"mine, seeds 0 and 1: {status}" in table
    assert "2 of 2 runs of mine diverged or failed and count with their starting scores" in table
    record = json.loads(record_file.read_text())
    runs = record["algorithms"]["mine"]["runs"]
    assert [run["status"] for run in runs] == [status] * 2
    for run in runs:
        assert message in run["message"]
        assert (run["rm_score"], run["gold_score"]) == tuple(run["reference"].values())
        assert run["kl"] is None
    assert record["algorithms"]["mine"]["summary"]["gold_score"]["n"] == 2
    assert [run["status"] for run in record["algorithms"]["dpo"]["runs"]] == ["done"] * 2
    # a failure may be the machine's: it is tried again; a divergence is a finding, and kept
    assert len(folders(tmp_path / "runs")) == (4 if status == "diverged" else 2)


def test_metrics_cannot_pass_for_results(play: Any, mine: Path) -> None:
    result = play(f"{mine}:mine:what=boast", seeds=1)[0].runs["mine"][0]
    assert result.status == "done"
    assert result.gold_score == pytest.approx(result.reference["gold_score"])
    assert all(point["rm_score"] < 50 and point["flops"] > 0 for point in result.curve)


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"arms": []},
        {"arms": ["ppo"], "seeds": 0},
        {"arms": ["ppo"], "jobs": -1},
        {"arms": ["ppo"], "budget": float("nan")},
        {"arms": ["ppo"], "budget": 0},
        {"arms": ["pop"]},
        {"arms": ["ppo"], "task": "wrods"},
        {"arms": ["ppo"], "policy": "tabluar"},
        {"arms": ["ppo"], "data": str(tmp_path / "none.jsonl")},
    ]
    for arguments in wrong:
        with pytest.raises(InputError):
            compare(**(arguments | {"out": str(tmp_path / "runs")}))
    runs = tmp_path / "runs" / "runs"
    assert not runs.exists() or not list(runs.iterdir())


def test_an_interrupt_hands_over_what_is_finished(tmp_path: Path) -> None:
    count = itertools.count()

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "run" and next(count) == 2:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"task": "words", "seeds": 6, "jobs": 0, "out": str(tmp_path)}
    with pytest.raises(Interrupted) as stopped:
        compare([PPO, DPO], watch=stop, **options)
    partial = stopped.value.comparison
    statuses = [r.status for label in partial.labels for r in partial.runs[label]]
    assert statuses.count("done") == len(folders(tmp_path)) == 3
    assert statuses.count("interrupted") == 9
    assert partial.paired_seeds == [0]
    json.dumps(partial.as_dict(), allow_nan=False)
    assert compare([PPO, DPO], **options).reused == 3


# --- sweep -----------------------------------------------------------------------------------------------------


def test_a_sweep_keeps_betas_apart_however_close(tmp_path: Path) -> None:
    betas = [0.0, 1e-05, 0.1, 0.1000001]
    options: dict[str, Any] = {"task": "words", "seeds": 1, "updates": 2, "jobs": 0, "out": str(tmp_path)}
    result = sweep("ppo:batch_size=8", betas, **options)
    assert [run["beta"] for run in result.runs] == betas
    assert [result.comparison.configs[label].beta for label in result.comparison.labels] == betas
    assert all(config.updates == 2 for config in result.comparison.configs.values())
    record = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert set(record) == {"algorithm", "runs"}
    for run in record["runs"]:
        assert {"beta", "seed", "reward_hacking", "reason", "curve"} <= set(run)
        assert type(run["reward_hacking"]) is bool
    assert sweep("ppo:batch_size=8", betas[1:], **options).comparison.reused == 3
    for wrong in ([], [0.1, 0.1], [float("nan")], [-1.0]):
        with pytest.raises(InputError):
            sweep("ppo", wrong, **options)
