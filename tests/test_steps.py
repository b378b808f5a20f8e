"""Process reward models: reading labelled steps, features that see no future, and what ``rm --steps`` reports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhfbench.cli import main
from rlhfbench.errors import InputError
from rlhfbench.statistics import auc
from rlhfbench.step_models import ProcessRewardModel, StepFeatures, aggregated, beside
from rlhfbench.step_report import step_report
from rlhfbench.steps import Chain, read_steps

DATA = Path(os.environ.get("RLHFBENCH_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def world(n: int = 300, seed: int = 0) -> list[dict[str, Any]]:
    """Solutions whose wrong steps say so: 'so it is odd' is wrong after a step of even numbers."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        steps, labels = [], []
        for _ in range(int(rng.integers(2, 6))):
            kind = ["even", "odd"][rng.integers(2)]
            claim = kind if rng.random() < 0.85 else ["even", "odd"][kind == "even"]
            steps += [f"the number {rng.integers(100)} is {kind}", f"so it must be {claim}"]
            labels += [1, int(claim == kind)]
            if claim != kind:
                break
        rows.append({"prompt": f"problem {i}", "steps": steps, "labels": labels})
    return rows


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


# --- reading ---------------------------------------------------------------------------------------------------------


def test_both_formats_read_alike(tmp_path: Path) -> None:
    ours = {"prompt": "p", "steps": ["a", "b", "c"], "labels": [1, 0, None]}
    trl = {"prompt": "p", "completions": ["a", "b", "c"], "labels": [True, False, None]}
    found = read_steps(written(tmp_path / "f.jsonl", [ours, trl])).chains
    assert found[0][:3] == found[1][:3] == ("p", ("a", "b", "c"), (1, 0, None))
    assert found[0].first_error == 1
    assert Chain("", ("a",), (1,), 1).first_error is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"steps": ["a"]}, "line 1, field 'labels': missing; the fields are: steps"),
        ({"labels": [1]}, "field 'steps': missing"),
        ({"steps": "a", "labels": [1]}, "field 'steps': is a string; a list is needed"),
        ({"steps": ["a"], "labels": [1, 0]}, "field 'labels': holds 2 for 1 steps; as many are needed"),
        ({"steps": ["a"], "labels": [2]}, r"field 'labels\[0\]': is 2; 1, 0 or null is needed"),
        ({"steps": ["a"], "labels": ["yes"]}, r"field 'labels\[0\]': is a string; 1, 0 or null"),
        ({"steps": [3], "labels": [1]}, r"field 'steps\[0\]': is a number; a string is needed"),
        ({"steps": ["a"], "labels": [1], "prompt": 3}, "field 'prompt': is a number"),
        ({"steps": ["a"], "labels": [None]}, "no usable solution; line 1: no labelled step"),
        ({"steps": [], "labels": []}, "no usable solution; line 1: no labelled step"),
        ([1], "line 1: is a list; a JSON object a line is needed"),
    ],
)
def test_malformed_lines(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_steps(written(tmp_path / "f.jsonl", [row]))


def test_what_cannot_be_used_is_left_out_or_refused(tmp_path: Path) -> None:
    rows = [*world(3), {"prompt": "", "steps": ["a"], "labels": [None]}]
    path = written(tmp_path / "f.jsonl", rows)
    file = read_steps(path)
    assert (len(file.chains), file.skipped) == (3, [(4, "no labelled step")])
    with pytest.raises(InputError, match="line 4: no labelled step; every solution must be usable"):
        read_steps(path, strict=True)


# --- the model -------------------------------------------------------------------------------------------------------


def chains_of(rows: list[dict[str, Any]]) -> list[Chain]:
    return [Chain(r["prompt"], tuple(r["steps"]), tuple(r["labels"]), i) for i, r in enumerate(rows)]


def test_a_step_is_judged_by_what_was_written_by_then() -> None:
    model = ProcessRewardModel.train(chains_of(world()), np.random.default_rng(0))
    steps = world(1, seed=7)[0]["steps"]
    whole = model.score(steps)
    for n in range(1, len(steps) + 1):
        np.testing.assert_array_equal(model.score(steps[:n]), whole[:n])
    assert ((whole > 0) & (whole < 1)).all()


def test_features_of_a_step_by_hand() -> None:
    features = StepFeatures()
    rows = features.rows([Chain("", ("b b", "c"), (1, None), 1), Chain("", ("b",), (0,), 2)])
    bag = rows.features
    assert rows.labels.tolist() == [1, -1, 0]
    assert rows.chain.tolist() == [0, 0, 1]
    # words and pairs of the step, words of the one before, constant and place
    assert np.diff(bag.indptr).tolist() == [2 + 0 + 2, 1 + 1 + 2, 1 + 0 + 2]
    assert bag.data[0:2] == pytest.approx(sorted([np.sqrt(2.0), 1.0], reverse=True)) or bag.data[
        0:2
    ] == pytest.approx([1.0, np.sqrt(2.0)])
    base = features.own.size + features.before.size
    assert bag.indices[bag.indptr[2] - 2 : bag.indptr[2]].tolist() == [base, base + 2]
    assert bag.indices.max() < features.size


def test_bags_beside_each_other() -> None:
    from kernels.bag import Bag

    def bag(*rows: list[int]) -> Bag:
        indptr = np.cumsum([0, *map(len, rows)])
        flat = [i for row in rows for i in row]
        return Bag(indptr, np.array(flat, np.int32), np.array(flat, np.float32))

    both = beside(bag([1, 2], [], [3]), bag([7], [8, 9], []))
    assert both.indptr.tolist() == [0, 3, 5, 6]
    assert both.indices.tolist() == [1, 2, 7, 8, 9, 3]


def test_scores_of_whole_solutions() -> None:
    logits, chain = np.array([2.0, -1.0, 0.5, 3.0]), np.array([0, 0, 0, 1])
    found = aggregated(logits, chain)
    p = 1 / (1 + np.exp(-logits))
    assert found["min"].tolist() == [-1.0, 3.0]
    assert found["last"].tolist() == [0.5, 3.0]
    assert np.exp(found["product"]) == pytest.approx([p[:3].prod(), p[3]])


def test_auc_against_counting_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, good = rng.integers(5, size=40) / 2, rng.random(40) < 0.6
    above = [(a > b) + 0.5 * (a == b) for a in scores[good] for b in scores[~good]]
    assert auc(scores, good) == pytest.approx(np.mean(above))
    assert auc(scores, np.ones(40, bool)) is None


# --- the report ------------------------------------------------------------------------------------------------------


def test_what_can_be_learnt_is_learnt(tmp_path: Path) -> None:
    """Whether a claim is right can be seen from the step before and from nothing else."""
    report = step_report(written(tmp_path / "f.jsonl", world(800)), seed=0)
    assert report.held_out_chains == 160
    assert report.step_auc is not None
    # A model of words and of the words before adds the two, and the rule is their exclusive or: place alone helps.
    assert report.step_auc > 0.6
    assert report.step_auc_low < report.step_auc < report.step_auc_high
    assert set(report.chain_auc) == {"min", "product", "last", "outcome"}


def test_labels_at_random_teach_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = [row | {"labels": rng.integers(2, size=len(row["labels"])).tolist()} for row in world(300)]
    report = step_report(written(tmp_path / "f.jsonl", rows))
    assert report.step_auc == pytest.approx(0.5, abs=0.1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path / "f.jsonl", world(120)))
    assert main(["rm", "--steps", path, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert content["schema"] == 1
    assert {"step_auc", "first_error_accuracy", "chain_auc", "chains", "steps"} <= set(content)
    assert "step AUC" in err
    assert main(["rm", "--steps", path, "--test", path]) == 0
    assert "120 of its 120 solutions were trained on" in " ".join(capsys.readouterr().out.split())
    assert main(["rm", "--steps", path, "--seed", "-1"]) == 2
    assert "--seed must be 0 or more" in capsys.readouterr().err
    for wrong in (
        ["--data", path],
        ["--task", "words"],
        ["--pairs", "3"],
        ["--test", path, "--held-out", "3"],
    ):
        assert main(["rm", "--steps", path, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    good = written(
        tmp_path / "good.jsonl", [{"steps": ["a"], "labels": [1], "prompt": str(i)} for i in range(9)]
    )
    assert main(["rm", "--steps", str(good)]) == 2
    assert "good and wrong steps are needed to train on" in capsys.readouterr().err


def test_real_solutions() -> None:
    """A bag of words and the position reaches .865 on these; the step before adds to it."""
    train, test = DATA / "bigbench_mistake.train.jsonl", DATA / "bigbench_mistake.test.jsonl"
    if not train.exists():
        pytest.skip(f"real data are absent: {train}")
    report = step_report(train, test)
    assert (report.chains, report.held_out_chains, report.held_out_steps) == (1734, 452, 3500)
    assert report.step_auc is not None
    assert report.step_auc > 0.88
    assert report.first_error_accuracy > report.first_error_baseline + 0.15
