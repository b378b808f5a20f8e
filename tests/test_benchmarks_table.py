"""The benchmarks' own machinery: wrong results are refused, goals are judged by what was measured."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: an installed kernels package goes first

from benchmarks import goals, measure, table
from benchmarks.cases import CASES, TOKENS
from benchmarks.exact import fields
from benchmarks.overheads import TINY
from benchmarks.peers import blocks, idioms


def tiny(name: str) -> Any:
    case = CASES[name]
    kind = "logits" if case.over_vocabulary else "tokens" if case.sizes is TOKENS else "parameters"
    return case.arguments(*TINY[kind])


def changed(result: Any) -> Any:
    """Wrong by some percent; tokens by one."""
    wrong = [np.asarray(a) * 1.05 + 0.05 if np.asarray(a).dtype.kind == "f" else (a + 1) % 4 for a in result]
    return tuple(wrong)


@pytest.mark.parametrize("name", CASES)
def test_each_case_takes_the_right_result_and_refuses_a_wrong_one(name: str) -> None:
    case, arguments = CASES[name], tiny(name)
    for prepare in case.ours.values():
        result = prepare(*arguments)()
        case.check(arguments, result)
        single = not isinstance(result, tuple)
        wrong = changed(fields(result))
        with pytest.raises(AssertionError):
            case.check(arguments, wrong[0] if single else wrong)


@pytest.mark.parametrize("name", CASES)
def test_peers_agree_with_the_twin(name: str) -> None:
    arguments = tiny(name)
    for library in ("numpy", "scipy"):
        for idiom in idioms(name, library).values():
            CASES[name].check(arguments, idiom(*arguments)())


def test_blocks_cover_all_rows_once() -> None:
    covered = [n for part in blocks(np.empty((1000, 700))) for n in range(1000)[part]]
    assert covered == list(range(1000))


def test_a_case_is_timed_in_turn_and_the_slower_one_is_slower() -> None:
    timings = measure.interleave({"short": lambda: sum(range(10)), "long": lambda: sum(range(10_000))}, 0.05)
    assert all(t.best <= t.median and t.rounds >= 5 for t in timings.values())
    assert timings["long"].best > 10 * timings["short"].best


def test_a_first_call_that_compiles_does_not_pass_for_a_long_one() -> None:
    calls: list[int] = []

    def compiles_once() -> None:
        if not calls:
            time.sleep(0.1)
        calls.append(1)

    rounds = measure.interleave({"short": compiles_once}, seconds=0.0)["short"].rounds
    assert len(calls) > 100 * rounds


def test_peak_memory_counts_what_a_call_frees_again() -> None:
    size = 64 << 20
    peak = measure.peak_extra(lambda: np.ones(size, np.uint8)[:1].copy())
    if peak is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert 0.9 * size < peak < 1.2 * size


def record(case: str = "token_logprobs", V: int = 4096, **seconds: float) -> dict[str, Any]:
    """A kernel that reads 1 GB, where reading takes 1 s a GB and copying 2 s."""
    sides = {"rlhfbench": 1.0, "torch": 4.0, "read": 1.0, "copy": 2.0} | seconds
    return {
        "case": case,
        "kernels": "abc",
        "size": "memory",
        "shape": [1, 2, V],
        "elements": 2 * V,
        "read": 10**9,
        "written": 0,
        "bytes": 10**9,
        "sides": {name: {"best": s, "median": s, "rounds": 5, "peak": 2**20} for name, s in sides.items()},
    }


def found(*records: dict[str, Any]) -> goals.Found:
    return goals.Found(list(records), [], {}, "a machine")


@pytest.mark.parametrize(
    ("ours", "torch", "share_met", "ratio_met"),
    [(1.2, 4.0, True, True), (1.3, 4.0, False, True), (1.2, 3.5, True, False)],
)
def test_goals_are_met_or_not_by_the_measured_times(
    ours: float, torch: float, share_met: bool, ratio_met: bool
) -> None:
    judged = goals.judge(found(record(rlhfbench=ours, torch=torch)))
    assert [goal.met for goal in judged] == [share_met, ratio_met]


def test_a_kernel_faster_than_reading_meets_no_goal() -> None:
    judged = goals.judge(found(record(rlhfbench=0.7)))
    assert not judged[0].met
    assert "could not measure" in judged[0].reached


def test_a_side_waits_for_what_its_neighbour_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that returns while a thread of its own works on must not slow whoever comes next."""
    left, used = [0.0], [0.0]  # seconds of work that goes on in the background, and of processor time

    def wait(seconds: float) -> None:
        done = min(left[0], seconds)
        left[0] -= done
        used[0] += done

    def leaves_work() -> None:
        left[0] = 0.05

    seen: list[float] = []
    monkeypatch.setattr(measure, "sleep", wait)
    monkeypatch.setattr(measure, "process_time", lambda: used[0])
    monkeypatch.setattr(measure, "_loops", lambda call: 1)
    measure.interleave({"leaves work": leaves_work, "victim": lambda: seen.append(left[0])}, seconds=0.0)
    assert seen == [0.0] * 5
    assert used[0] > 0.1


def test_one_quiet_look_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread with work to do may have been kept waiting for the length of one look."""
    looks = iter([0.0, 0.0, 0.0, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3])
    monkeypatch.setattr(measure, "sleep", lambda seconds: None)
    monkeypatch.setattr(measure, "process_time", lambda: next(looks))
    measure.settle()
    assert next(looks, None) is None


def test_the_worst_size_decides() -> None:
    judged = goals.judge(found(record(), record(V=50_257, torch=2.0)))
    assert [goal.met for goal in judged] == [True, False]
    assert judged[1].reached == "2 to 4 ×"


def test_small_vocabularies_do_not_count_where_a_goal_starts_at_4096() -> None:
    assert goals.judge(found(record(V=64))) == []


def test_what_is_written_is_held_against_copying() -> None:
    r = record(rlhfbench=2.5) | {"written": 10**9}
    assert goals.share(r) == pytest.approx(0.8)  # 2 GB in 2.5 s, and copying moves 2 GB in 2 s


def test_the_table_replaces_only_its_own_part_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(table, "PAGE", page)
    table.write(table.markdown(found(record())))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| 2 × 4,096 | 1 s | 1.0 | 0.00 | 100% | 1 MiB | 4.0 ×, 1 MiB |" in text
    table.write("again")
    assert page.read_text(encoding="utf-8").count(table.BEGIN) == 1


def test_the_page_has_a_place_for_the_table() -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    assert text.index(table.BEGIN) < text.index(table.END)
