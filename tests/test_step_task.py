"""What ``rm --task arithmetic:rm=process`` reports: of models that know nothing, and of some that learnt."""

from __future__ import annotations

import json

import numba
import numpy as np
import pytest

from rlhfbench.cli import main
from rlhfbench.errors import InputError
from rlhfbench.step_report import Judged, first_wrong, held_out_report
from rlhfbench.step_task import judges_solutions, step_report_from_task

COMPILED = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="minutes of plain Python")
SMALL = "arithmetic:terms=2,largest=2,demos=300,rm=process"


def test_first_wrong_steps() -> None:
    wrong = np.array([0, 0, 1, 0, 0, 1, 1], bool)
    assert first_wrong(wrong, np.array([0, 0, 0, 1, 2, 2, 2])) == [2, None, 1]


def test_measures_by_hand() -> None:
    """Solutions of steps (right, wrong), (right), (wrong); the second is taken for wrong."""
    logits, labels = np.array([1.0, -2.0, -1.0, -3.0]), np.array([1, 0, 1, 0])
    report = held_out_report(
        Judged(logits, labels, np.array([0, 0, 1, 2]), 0.0),
        right=np.array([False, True, False]),
        outcome=np.array([0.3, 0.2, 0.1]),
        usual=0,
        chains=5,
        steps=9,
        split="",
        skipped="",
    )
    assert (report.step_auc, report.first_error_accuracy, report.first_error_baseline) == (
        1.0,
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
    )
    assert report.threshold == 0.5
    assert report.chain_auc == {"min": 1.0, "product": 1.0, "last": 1.0, "outcome": 0.5}


@COMPILED
def test_a_model_that_learns_and_one_that_cannot() -> None:
    """Four numbers add up to at most 4: a few hundred solutions teach it; two do not."""
    good, bad = (step_report_from_task(SMALL, solutions=n, held_out=200) for n in (1500, 2))
    assert good.step_auc is not None
    assert bad.step_auc is not None
    assert good.step_auc > 0.9 > bad.step_auc
    assert good.first_error_accuracy > max(bad.first_error_accuracy, good.first_error_baseline)
    assert (good.chains, good.held_out_chains) == (1500, 200)
    assert good.best_of is not None
    assert list(good.best_of) == ["product", "min", "last", "sum", "outcome", "verifier"]
    once = [shares["1"] for shares in good.best_of.values()]
    assert max(once) - min(once) < 1e-9  # whoever chooses among one
    verifier = list(good.best_of["verifier"].values())
    assert verifier == sorted(verifier)
    for name, shares in good.best_of.items():
        assert all(shares[n] <= good.best_of["verifier"][n] + 1e-9 for n in shares), name
    assert good.best_of["product"]["4"] > good.best_of["product"]["1"] + 0.1


@COMPILED
def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rm", "--task", SMALL, "--pairs", "64", "--held-out", "50"]
    assert main([*arguments, "--json", "-"]) == 0
    out, shown = capsys.readouterr()
    found = json.loads(out)
    assert found["chains"] == 64
    assert found["held_out_chains"] == 50
    assert set(found["best_of"]["min"]) == {"1", "4", "16", "64"}
    assert "Right answers among the best of n" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_other_tasks_have_reward_models_of_pairs() -> None:
    assert judges_solutions("arithmetic:rm=outcome")
    assert not judges_solutions("arithmetic:rm=transformer")
    assert not judges_solutions("words")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--held-out", "0"], "--held-out must be between 1 and 1,000,000, got 0"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--pairs", "1"], "rm_solutions must be between 2 and 1,000,000, got 1"),
    ],
)
def test_bad_numbers(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", "--task", SMALL, *arguments]) == 2
    assert says in capsys.readouterr().err


def test_from_python_too() -> None:
    with pytest.raises(InputError, match="--held-out must be"):
        step_report_from_task(SMALL, held_out=0)
