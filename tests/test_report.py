"""What is shown: complete, within 80 columns, in plain characters, and never read as markup or escape codes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from outcomes import comparison, curve, result, sweep
from rich.console import Console

from rlhfbench import layout, report, report_lines, show, sweep_report
from rlhfbench.comparison import Comparison
from rlhfbench.harness import lost_run
from rlhfbench.layout import Block, Note, Sheet
from rlhfbench.progress import EVERY, Monitor, PlainMonitor, folded
from rlhfbench.sweeps import Sweep

HOSTILE = "[bold red]\x1b[31mred\x1b[0m[/] \u202eevil\x07"


def render(blocks: Sequence[Block], width: int = 80) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, highlight=False)
    for renderable, whole in layout.renderables(blocks, width):
        console.print(renderable, soft_wrap=whole)
    return file.getvalue()


@pytest.mark.parametrize(
    "labels", [("ppo",), ("ppo", "dpo"), ("ppo", "dpo", "reinforce", "best_of_n"), ("x" * 70, "y" * 70)]
)
@pytest.mark.parametrize("width", [80, 120, 60])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_broken(
    labels: tuple[str, ...], width: int
) -> None:
    shown = render([report.main_sheet(comparison(labels)), report.phase_sheet(comparison(labels))], width)
    assert max(map(len, shown.splitlines())) <= width
    assert shown.count("[") == shown.count("]")
    for line in shown.splitlines():
        assert line.count("[") == line.count("]"), line
    assert "…" not in shown.replace(layout.heading("x" * 70), "").replace(layout.heading("y" * 70), "")


def test_what_begins_with_a_table_begins_with_no_blank_line() -> None:
    sheet = Sheet(("a", "b"), [("c", "1")], "Title")
    assert render([sheet]).startswith("Title\n")
    assert render([Note("x"), sheet, Note("y")]).split("\n")[:3] == ["x", "", "Title"]


def test_lines_of_progress_are_folded_between_words() -> None:
    path = "/a/" + "very-long-" * 12 + "path"
    shown = folded(f"runs: 0 reused from {path}, {'some more words ' * 9}\x1b[31m", 80)
    first, second, *rest = shown.split("\n")
    assert (first, second) == ("runs: 0 reused from", f"  {path},")
    assert len(rest) == 2
    assert all(line.startswith("  ") and len(line) <= 80 for line in rest)
    assert "\x1b" not in shown
    assert folded("short", 80) == "short"


def test_lines_of_progress_that_no_terminal_shows_are_left_whole() -> None:
    assert folded("some words " * 40 + "\x1b[31m", None) == "some words " * 40 + "\\x1b[31m"


def test_the_table_says_what_was_asked_for() -> None:
    shown = render(report.comparison_blocks(comparison()))
    for word in (
        "RM score",
        "gold",
        "KL",
        "entropy",
        "length",
        "FLOP",
        "tokens",
        "RM calls",
        "labels",
        "CPU",
    ):
        assert word in shown
    assert re.search(r"95 % interval, n = 10", shown)
    assert re.search(r"RM training +30\.000 \(  5 %\)", shown)
    assert "Verdict: " in shown
    assert "2 of" not in shown.split("reward hacking")[0]


@pytest.mark.parametrize(("far", "said"), [(4.0, True), (1.02, False)])
def test_arms_that_end_at_different_kls_are_told_apart(far: float, said: bool) -> None:
    base = comparison(("ppo", "dpo"))
    kls = {"ppo": 1.0, "dpo": far}
    runs = {
        label: [replace(run, kl=kls[label] + 0.02 * (i % 5)) for i, run in enumerate(base.runs[label])]
        for label in base.labels
    }
    lines = list(report_lines.distance_lines(replace(base, runs=runs)))
    assert bool(lines) is said
    if said:
        assert lines[0].startswith("The arms end at different KLs, from 1.04 (ppo) to 4.04 nats (dpo)")


def test_numbers_are_those_of_the_json() -> None:
    made = comparison()
    found = made.as_dict()["algorithms"]["dpo"]["summary"]["rm_score"]
    assert f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" in render(
        report.comparison_blocks(made)
    )


def test_no_interval_under_five_seeds_and_quick_says_what_it_is() -> None:
    shown = render(report.comparison_blocks(comparison(seeds=3), quick=True))
    assert "no interval under 5 seeds, n = 3" in shown
    assert "smoke test, not evidence" in shown


@pytest.mark.parametrize(
    ("gold", "reward", "there", "absent"),
    [
        ("verifier", "gold", ["accuracy", "verifier calls"], ["RM", "score", "gold", "hack"]),
        ("verifier", "verifier", ["accuracy", "verifier score", "hacking"], ["RM", "gold", "ref sd"]),
        ("verifier", "model", ["accuracy", "RM score, ref sd", "RM calls"], ["gold", "verifier score"]),
        ("judge", "verifier", ["judge score, ref sd", "verifier score"], ["RM", "gold", "accuracy"]),
    ],
)
def test_scores_bear_the_names_of_what_gives_them(
    gold: str, reward: str, there: list[str], absent: list[str]
) -> None:
    runs = comparison().runs | {
        "dpo": [result(s, curve=curve(3.0, 1.0, 4.0, 10**8, hump=2.0)) for s in range(10)]
    }
    shown = render(report.comparison_blocks(comparison(gold=gold, reward=reward, facts={}, runs=runs)))
    shown += render(
        sweep_report.sweep_blocks(replace(sweep(), comparison=comparison_of(sweep(), gold, reward)))
    )
    shown = shown.replace("RM training", "")  # a phase that these made-up runs have
    for part in there:
        assert part in shown
    for part in absent:
        assert part not in shown, part


@pytest.mark.parametrize("reward", ["mixed", "model"])
def test_scores_of_several_rewards_have_no_reference_and_say_what_they_are(reward: str) -> None:
    made = comparison(reward=reward, rewards={"ppo": {"rm": "unigrams"}, "dpo": {"rm": "bigrams"}})
    shown = render(report.comparison_blocks(made))
    title, given = {
        "mixed": ("reward, as each has it", "rewards"),
        "model": ("RM score, ref sd", "RM scores"),
    }[reward]
    row = next(line for line in shown.splitlines() if line.startswith(title))
    assert row.removeprefix(title).split()[0] == "-"
    assert row.count("[") == 2
    flat = " ".join(shown.split())
    assert ("Reward: an RM's in standard deviations" in flat) == (reward == "mixed")
    assert f"their {given} are not compared." in flat
    assert re.search(r"gold score +-0\.10 ", shown)
    reference = made.as_dict()["reference"]
    assert (reference["rm_score"], reference["gold_score"]) == (None, pytest.approx(-0.1))


def comparison_of(swept: Sweep, gold: str, reward: str) -> Comparison:
    return replace(swept.comparison, gold=gold, reward=reward, facts={})


def test_a_judge_is_named_so_wherever_gold_would_stand() -> None:
    runs = {
        label: [result(s, curve=curve(2.0, 1.0, 12.0, 10**9, hump=1.0)) for s in range(10)]
        for label in ("ppo", "dpo")
    }
    shown = render(report.comparison_blocks(comparison(gold="judge", runs=runs)))
    assert "judge score" in shown
    assert "judge" in shown.split("Reward hacking")[1]
    assert "gold" not in shown


def test_failed_runs_are_named_with_their_reason() -> None:
    runs = [result(s, "diverged" if s in (2, 4) else "done") for s in range(10)]
    made = comparison(runs={"ppo": runs, "dpo": [result(s) for s in range(10)]})
    shown = " ".join(render(report.comparison_blocks(made)).split())
    assert "ppo, seeds 2 and 4: diverged (a metric is not finite at update 7)" in shown
    assert "8 of 10" in shown


def test_runs_whose_budget_left_no_update_are_named() -> None:
    runs = {"ppo": [replace(result(s), message="the budget was spent") for s in range(2)]}
    assert list(report_lines.failure_lines(comparison(("ppo",), 2, runs=runs))) == [
        "ppo, seeds 0 and 1: done (the budget was spent)"
    ]


def test_runs_lost_before_they_began_leave_a_report() -> None:
    made = comparison(
        seeds=2, runs={a: [lost_run(s, "interrupted", None) for s in range(2)] for a in ("ppo", "dpo")}
    )
    shown = render(report.comparison_blocks(made))
    assert "no table" in shown
    assert made.as_dict()["verdict"]["kind"] == "no_claim"


def test_hacking_and_the_kl_monitor_are_reported() -> None:
    runs = {"ppo": [result(s, curve=curve(6.0, 1.5, 12.0, 10**9, hump=1.4)) for s in range(3)]}
    shown = " ".join(render(report.comparison_blocks(comparison(("ppo",), 3, runs=runs))).split())
    assert "reward hacking 3 of 3" in shown
    assert "gold gave back" in shown
    assert "mean KL passed 5 at update" in shown
    assert "mean KL passed 10 at update" in shown


def test_facts_of_a_file() -> None:
    facts = {
        "pairs": 1234,
        "prompts": 600,
        "skipped_lines": "1 pair left out: line 3 (empty chosen reply)",
        "unknown_share": 0.041,
        "cut_share": 0.5,
        "prompt_cut_share": 0.125,
        "identical_after_cut": 2,
        "split_by": "prompt",
        "pairs_per_part": {"sft": 10, "rm": 20, "judge": 30, "evaluation": 5},
        "rm_gold_correlation": 0.31,
    }
    shown = " ".join(report_lines.fact_lines(comparison(gold="judge", facts=facts)))
    old = {name: value for name, value in facts.items() if name != "prompt_cut_share"}
    assert "from the left" not in " ".join(report_lines.fact_lines(comparison(gold="judge", facts=old)))
    for part in (
        "1,234",
        "line 3 (empty chosen reply)",
        "4.1 %",
        "50.0 %",
        "prompts cut from the left 12.5 %",
        "by prompt",
        "SFT 10",
        "judge 30",
        "0.31",
    ):
        assert part in shown


def test_sweep_names_who_hacks_and_why() -> None:
    shown = " ".join(render(sweep_report.sweep_blocks(sweep())).split())
    assert "beta 0, seed 2 reward-hacks: gold gave back" in shown
    assert "beta 1: 3 runs do not reward-hack" in shown
    assert "gold at its peak" in shown
    assert (
        max(map(len, render([sweep_report.sweep_sheet(sweep((0, 0.1, 0.3, 1, 3, 10), 6))]).splitlines()))
        <= 80
    )


# --- text from data ------------------------------------------------------------------------------------------------


def run_with(text: str) -> tuple[dict[str, object], object]:
    replies = [
        {"prompt": text, "reference": text, "reply": text, "reply_rm_score": 0.5, "reply_gold_score": -0.1}
    ]
    inputs = {"label": text, "task": "pairs", "gold": "judge", "config": {"beta": 0.1}, "policy": "linear"}
    return {"inputs": inputs, "facts": {"file": text}}, result(replies=replies)


def test_text_from_data_is_shown_as_it_is_but_for_controls() -> None:
    shown = render(show.run_blocks(*run_with(HOSTILE)))  # type: ignore[arg-type]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    flat = re.sub(r"\s+", "", shown)
    assert "[boldred]" in flat
    assert r"\x1b[31mred" in flat


def test_markdown_holds_the_same_cells_and_escapes_text() -> None:
    text = layout.markdown(
        [Note("a|b <i>", "bold"), Sheet(("x", "y"), [("1|2", HOSTILE)], "T"), Note("cmd *", whole=True)]
    )
    assert r"a\|b \<i\>" in text
    assert "\x1b" not in text
    assert r"| 1\|2 | \[bold red\]" in text
    assert "| --- | ---: |" in text
    assert "    cmd *" in text


def test_a_stored_run_is_shown_with_curves_and_replies() -> None:
    shown = render(show.run_blocks(*run_with("good words")))  # type: ignore[arg-type]
    assert "▁" in shown
    assert "objective/kl" in shown
    assert "(RM 0.50, judge -0.10)" in re.sub(r"\s+", " ", shown)
    assert max(map(len, shown.splitlines())) <= 80


# --- progress ------------------------------------------------------------------------------------------------------

PLAN = {
    "kind": "plan",
    "arms": ["ppo"],
    "seeds": 2,
    "reused": 0,
    "to_run": 2,
    "workers": 1,
    "task": "words",
    "policy": "tabular",
    "budget": 2_000_000_000,
    "folder": "runs",
    "cautions": {"ppo": ["beware"]},
}


def point(share: float, kl: float, seed: int = 0) -> dict[str, object]:
    return {"kind": "point", "label": "ppo", "seed": seed, "share": share, "metrics": {"objective/kl": kl}}


def test_the_plan_is_said() -> None:
    said: list[str] = []
    Monitor(said.append)(PLAN)
    text = "\n".join(said)
    assert "at most 2.00 GFLOP a run" in text
    assert "2 to run in 1 worker process" in text
    assert "warning: ppo: beware" in said


def test_the_kl_monitor_warns_once_at_each_line() -> None:
    said: list[str] = []
    monitor = Monitor(said.append)
    for share, kl in ((0.1, 4.0), (0.2, 5.5), (0.3, 6.0), (0.4, 11.0), (0.5, 12.0)):
        monitor(point(share, kl))
    assert [re.findall(r"passed (\d+)", line) for line in said] == [["5"], ["10"]]


def test_time_left_follows_the_pace() -> None:
    clock = [0.0]
    monitor = Monitor(lambda line: None, lambda: clock[0])
    monitor(PLAN)
    monitor(point(0.0, 1.0))
    assert monitor.time_left() == ""
    clock[0] = 10.0
    monitor(point(0.5, 1.0))
    assert monitor.time_left() == "about 30 s left"


def test_compilation_is_said_once_however_many_workers() -> None:
    said: list[str] = []
    monitor = Monitor(said.append)
    for state, seconds in (("share", 10.0), ("share", 8.0), ("done", 0.2), ("done", 0.1)):
        monitor({"kind": "jit", "state": "start"})
        monitor({"kind": "jit", "state": state, "seconds": seconds, "wall": 11.0})
    assert len(said) == 2
    assert "ready after 11.0 s: compiled in 18.2 s" in said[1]
    monitor({"kind": "something new"})


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    clock, said = [0.0], list[str]()
    monitor = PlainMonitor(said.append, lambda: clock[0])
    monitor({**PLAN})
    before = len(said)
    for i in range(100):
        clock[0] = i * EVERY / 20
        monitor(point(i / 100, 1.0))
    assert len(said) - before == 4
    assert "of 2 runs" in said[-1]
    assert "KL 1.00" in said[-1]


def test_two_arms_with_long_labels_stay_apart() -> None:
    one, two = layout.heading("a" * 40 + "#2"), layout.heading("a" * 40 + "#3")
    assert one != two
    assert len(one) <= layout.LONGEST_HEAD


def test_an_unchanged_number_has_no_brackets() -> None:
    made = comparison(("ppo",), 10)
    same = replace(made, runs={"ppo": [result(0) for _ in range(10)]})
    assert "2,000 [" not in render([report.main_sheet(same)])


def test_time_left_knows_that_arms_differ() -> None:
    clock = [0.0]
    monitor = Monitor(lambda line: None, lambda: clock[0])
    monitor({**PLAN, "arms": ["slow", "fast"], "to_run": 4})
    for label, seconds in (("slow", 10.0), ("fast", 1.0)):
        monitor({**point(0.0, 1.0), "label": label})
        clock[0] += seconds
        monitor({**point(1.0, 1.0), "label": label})
    assert monitor.time_left() == "about 11 s left"
