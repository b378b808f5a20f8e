"""Pictures are whole, of the kind that the name says, and show every arm. How they look, a person has to look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from outcomes import comparison, result, sweep

from rlhfbench import plots
from rlhfbench.errors import InputError

pytest.importorskip("matplotlib")
BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("ending", BEGINNINGS)
def test_the_ending_chooses_the_format(ending: str, tmp_path: Path) -> None:
    for name, draw in (
        ("c", lambda p: plots.compare_plot(comparison(), p)),
        ("s", lambda p: plots.sweep_plot(sweep(), p)),
    ):
        path = tmp_path / f"{name}{ending}"
        draw(path)
        assert path.read_bytes().startswith(BEGINNINGS[ending])


@pytest.mark.parametrize("name", ["picture", "picture.jpeg", "-", ""])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"must end in \.png, \.svg, \.pdf"):
        plots.check(name)


def test_without_matplotlib_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        plots.check("a.png")


def text_of(path: Path) -> str:
    """Matplotlib writes each string as a comment before its glyphs."""
    return path.read_text("utf-8")


def test_all_arms_units_and_lines_are_named(tmp_path: Path) -> None:
    plots.compare_plot(comparison(("ppo", "dpo", "best_of_n")), tmp_path / "c.svg")
    text = text_of(tmp_path / "c.svg")
    for part in (
        "ppo",
        "dpo",
        "best_of_n",
        "charged compute, MFLOP",
        "reference sd",
        "95 % bootstrap interval",
    ):
        assert f"<!-- {part}" in text or part in text
    plots.sweep_plot(sweep(), tmp_path / "s.svg")
    text = text_of(tmp_path / "s.svg")
    for part in ("beta 0.1", "KL to the reference, nats", "KL 5", "KL 10", "peak of gold"):
        assert part in text


def test_labels_from_people_are_no_formulas(tmp_path: Path) -> None:
    plots.compare_plot(comparison(("a$b$", r"$\broken{"), 3), tmp_path / "c.png")


def test_verifiers_are_named_so(tmp_path: Path) -> None:
    plots.compare_plot(comparison(gold="verifier", reward="verifier"), tmp_path / "c.svg")
    shown = text_of(tmp_path / "c.svg")
    assert "verifier score" in shown
    assert "accuracy, share of replies" in shown
    assert "RM" not in shown


def test_several_rewards_have_no_reference_line(tmp_path: Path) -> None:
    lines = []
    for second in ("unigrams", "bigrams"):
        rewards = {"ppo": {"rm": "unigrams"}, "dpo": {"rm": second}}
        plots.compare_plot(comparison(rewards=rewards), tmp_path / "c.svg")
        lines.append(text_of(tmp_path / "c.svg").count("<!-- reference -->"))
    assert lines == [2, 1]


def test_a_judge_is_named_so(tmp_path: Path) -> None:
    plots.compare_plot(comparison(gold="judge"), tmp_path / "c.svg")
    assert "judge score" in text_of(tmp_path / "c.svg")
    assert "gold" not in text_of(tmp_path / "c.svg")


def test_failed_runs_and_missing_arms_leave_a_picture(tmp_path: Path) -> None:
    runs = {
        "ppo": [result(s, "diverged") for s in range(3)],
        "dpo": [result(s, "done" if s else "error") for s in range(3)],
    }
    plots.compare_plot(comparison(seeds=3, runs=runs), tmp_path / "c.png")
    plots.compare_plot(comparison(("ppo",), 1), tmp_path / "one.png")
    nothing = comparison(("ppo",), 1, runs={"ppo": [result(0, "error", curve=[result().curve[0]])]})
    plots.compare_plot(nothing, tmp_path / "none.png")


def test_curves_keep_to_one_grid() -> None:
    runs = [result(s) for s in range(3)]
    short = result(3, curve=result(3).curve[:4])
    curves = plots.Curves.of(comparison(("ppo",), 4, runs={"ppo": [*runs, short]}), "ppo", "kl")
    assert curves is not None
    assert curves.x.shape == curves.rm.shape == (3, 8)
    assert np.isfinite(curves.gold).all()
