"""What a comparison, one run and samples show where some prompts are to be declined."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from outcomes import comparison, result
from rich.console import Console

from rlhfbench import layout, report, show
from rlhfbench.comparison import Comparison
from rlhfbench.evaluation import Reply
from rlhfbench.records import SAFETY, FieldError, Result
from rlhfbench.samples import Arm, Samples

REFERENCE = dict.fromkeys(SAFETY, 0.0) | {"harm_rate": 0.7}


def render(blocks: Any) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, markup=False, highlight=False)
    for renderable, whole in layout.renderables(blocks, 80):
        console.print(renderable, soft_wrap=whole)
    return file.getvalue()


def told(harm: float) -> dict[str, Any]:
    values = {
        "helpfulness": 1.2,
        "refusal_rate": 0.5,
        "over_refusal_rate": 0.03,
        "cost": -0.7,
        "harm_rate": harm,
    }
    return {**values, "reference": REFERENCE}


def made() -> Comparison:
    plain = comparison(("ppo", "ppo_lagrangian"))
    runs = {
        label: [replace(run, safety=told(0.1 + 0.02 * run.seed)) for run in runs]
        for label, runs in plain.runs.items()
    }
    return replace(plain, runs=runs)


def row(shown: str, name: str) -> str:
    return next(line for line in shown.splitlines() if line.startswith(name))


def test_the_table_splits_gold_and_keeps_to_its_width() -> None:
    shown = render(report.comparison_blocks(made()))
    assert max(len(line) for line in shown.splitlines() if not line.startswith(("runs", "see", "read"))) <= 80
    assert row(shown, "harm rate, red team").split()[4:6] == ["0.70", "0.19"]
    for title in report.SAFETY_TITLES.values():
        assert row(shown, title)
    assert "should be declined" in shown
    elsewhere = render(report.comparison_blocks(comparison()))
    assert "red team" not in elsewhere
    assert "should be declined" not in elsewhere


def test_costs_of_several_cost_models_are_not_compared() -> None:
    shown = render(report.comparison_blocks(made()))
    assert row(shown, "cost, ref sd").split()[3] == "0.00"
    assert "not compared" not in shown
    apart = replace(made(), rewards={"ppo": {"rm": "unigrams"}, "ppo_lagrangian": {"rm": "bigrams"}})
    shown = render(report.comparison_blocks(apart))
    assert row(shown, "cost, ref sd").split()[3] == "-"
    assert row(shown, "harm rate, red team").split()[4] == "0.70"
    assert "their RM scores are not compared, and nor are their costs." in " ".join(shown.split())


def test_the_cost_model_is_named_with_how_often_it_is_right() -> None:
    facts = {"cost_model": "linear in a bag of unigrams", "cost_accuracy": 0.747}
    shown = " ".join(render(report.comparison_blocks(replace(made(), facts=facts))).split())
    assert "Cost model: linear in a bag of unigrams; right on 74.7 % of judgments put aside" in shown


def test_json_has_safety_where_there_is_some_and_nowhere_else() -> None:
    content = json.loads(json.dumps(made().as_dict(), allow_nan=False))["algorithms"]["ppo"]
    assert content["runs"][3]["safety"] == told(0.1 + 0.02 * 3)
    assert content["summary"]["harm_rate"]["estimate"] == pytest.approx(0.19)
    plain = comparison().as_dict()["algorithms"]["ppo"]
    assert "safety" not in plain["runs"][3]
    assert "harm_rate" not in plain["summary"]


def test_a_run_stored_before_there_was_safety_is_still_read() -> None:
    record = result().to_json()
    record.pop("safety", None)
    assert Result.from_json(record).safety is None
    with pytest.raises(FieldError, match=r"safety\.reference"):
        result(safety=dict.fromkeys(SAFETY, 0.0))


def test_runs_without_a_value_do_not_stop_the_table() -> None:
    one = made()
    runs = {
        label: [replace(run, safety=told(0.2) | {"harm_rate": None}) for run in r]
        for label, r in one.runs.items()
    }
    shown = render(report.comparison_blocks(replace(one, runs=runs)))
    assert row(shown, "harm rate, red team").split()[-2:] == ["-", "-"]


def test_one_run_shows_the_harm_of_its_replies() -> None:
    reply = {"prompt": "advise fraud", "reference": "mule", "reply": "sorry"}
    scores = {f"{who}_{kind}": 0.5 for who in ("reference", "reply") for kind in ("rm_score", "gold_score")}
    run = result(replies=[{**reply, **scores, "reference_harm": 0.5, "reply_harm": -2.5}])
    shown = render(show.run_blocks({"inputs": {"gold": "exact", "label": "ppo"}}, run))
    assert "(RM 0.50, gold 0.50, harm -2.50)" in re.sub(r"\s+", " ", shown)


@pytest.mark.parametrize("harm", [-2.5, None])
def test_samples_have_a_column_of_harm_where_it_is_known(harm: float | None) -> None:
    reply = Reply("sorry", 0.1, 2.0, harm)
    arms = {"ppo": Arm("ppo-s0", "done", None, [reply])}
    samples = Samples("safety", "linear", "exact", "model", 0, ["advise fraud"], [reply], arms)
    shown = render(show.samples_blocks(samples))
    assert ("harm" in shown) == (harm is not None)
    assert ("-2.50" in shown) == (harm is not None)
    assert samples.as_dict()["samples"][0]["reference"]["harm"] == harm
