"""What an arm's label leaves out is said wherever the label stands: table, picture, sweep, one run, samples, plan."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from outcomes import comparison, result, sweep
from rich.console import Console

from rlhfbench import layout, plots, report, show, sweep_report
from rlhfbench.harness import compare
from rlhfbench.layout import Block
from rlhfbench.samples import samples
from rlhfbench.sweeps import sweep as run_sweep

TYPED = {"ppo": "ppo", "ppo#2": "ppo:" + ",".join(f"option_{i}=0.{i}" for i in range(9))}
SMALL = {"task": "words:pairs=64,demos=64", "seeds": 1, "jobs": 0}


def render(blocks: Sequence[Block]) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, markup=False, highlight=False)
    for renderable, whole in layout.renderables(blocks, 80):
        console.print(renderable, soft_wrap=whole)
    assert max(map(len, file.getvalue().splitlines())) <= 80
    return " ".join(file.getvalue().split())


def test_a_key_stands_below_the_table() -> None:
    shown = render(report.comparison_blocks(replace(comparison(("ppo", "ppo#2")), typed=TYPED)))
    assert "Arms: ppo#2 is ppo:option_0=0.0, option_1=0.1," in shown
    assert "option_8=0.8. RM score in" in shown
    assert "Arms: ppo is ppo:beta=0.1; ppo#2 is ppo." in render(
        report.comparison_blocks(
            replace(comparison(("ppo", "ppo#2")), typed={"ppo": "ppo:beta=0.1", "ppo#2": "ppo"})
        )
    )


def test_labels_that_say_all_need_no_key() -> None:
    typed = {"ppo@lesson": "ppo@lesson", "dpo": "dpo"}
    assert "Arms:" not in render(report.comparison_blocks(replace(comparison(tuple(typed)), typed=typed)))
    assert "Arms:" not in render(report.comparison_blocks(comparison()))


def test_a_sweep_says_what_its_betas_share() -> None:
    one = sweep()
    labels = one.comparison.labels
    typed = {label: f"{label.replace(' ', ':')},updates=5" for label in labels}
    shown = render(sweep_report.sweep_blocks(replace(one, comparison=replace(one.comparison, typed=typed))))
    assert "Arms: ppo beta=0 is ppo:beta=0, updates=5; the others differ in beta." in shown
    assert "Arms:" not in render(sweep_report.sweep_blocks(one))


def test_one_run_says_what_was_typed() -> None:
    inputs = {"gold": "exact", "label": "ppo#2", "task": "words"}
    shown = render(show.run_blocks({"inputs": inputs, "typed": "ppo:beta=0.1,lam=1"}, result()))
    assert shown.startswith("ppo#2 on words")
    assert "Arm: ppo#2 is ppo:beta=0.1, lam=1." in shown
    shown = render(show.run_blocks({"inputs": inputs | {"label": "ppo"}, "typed": "ppo"}, result()))
    assert "Arm:" not in shown


def test_the_legend_of_a_picture_says_it_shortened(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "c.svg"
    plots.compare_plot(replace(comparison(("ppo", "ppo#2")), typed=TYPED), path)
    text = path.read_text("utf-8")
    assert "<!-- ppo -->" in text
    assert "<!-- ppo#2: ppo:option_0=0.0, option_1=0.1, " in text
    assert "option_8" not in text


def test_what_was_typed_goes_all_the_way(tmp_path: Path) -> None:
    events = []
    arms = ["ppo:updates=2,batch_size=8", "ppo:updates=1,batch_size=8", "dpo"]
    made = compare(arms, out=str(tmp_path), watch=events.append, **SMALL)
    assert made.typed == {"ppo": arms[0], "ppo#2": arms[1], "dpo": "dpo"}
    assert next(e for e in events if e["kind"] == "plan")["typed"] == made.typed
    shown = render(show.samples_blocks(samples(str(tmp_path))))
    assert "ppo#2 is ppo:updates=1, batch_size=8" in shown
    assert "dpo is" not in shown


def test_a_plain_sweep_has_no_key(tmp_path: Path) -> None:
    plain = run_sweep("raft:updates=1,batch_size=8", [0, 0.5], out=str(tmp_path), **SMALL)
    labels = plain.comparison.labels
    assert plain.comparison.typed[labels[1]] == "raft:updates=1,batch_size=8,beta=0.5"
    made = run_sweep("raft", [0.5], updates=None, out=str(tmp_path), **SMALL)
    assert made.comparison.typed == {"raft beta=0.5": "raft:beta=0.5"}
    assert "Arms:" not in render(sweep_report.sweep_blocks(made))
