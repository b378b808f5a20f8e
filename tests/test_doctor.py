"""`rlhfbench doctor`: a healthy log gives no finding, each kind of trouble its own, whoever wrote the log."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhfbench.cli import main
from rlhfbench.doctor import diagnose, doctor
from rlhfbench.doctor_rules import RULES
from rlhfbench.errors import InputError
from rlhfbench.hacking import reward_hacking
from rlhfbench.training_log import read_log

N = 40
Columns = dict[str, np.ndarray]


def healthy() -> Columns:
    """A PPO run, and beside it what DPO and GRPO log, as they ought to look."""
    rng, t = np.random.default_rng(0), np.linspace(0, 1, N)

    def about(values: Any, noise: float) -> np.ndarray:
        return values + noise * rng.standard_normal(N)

    return {
        "objective/scores": about(t, 0.05),
        "gold_score": about(t, 0.05),
        "objective/kl": np.abs(about(3 * t, 0.1)),
        "objective/kl_coef": np.full(N, 0.05),
        "objective/entropy": about(20 - t, 0.2),
        "val/ratio": about(np.ones(N), 0.01),
        "policy/clipfrac_avg": np.abs(about(np.full(N, 0.1), 0.02)),
        "ppo/val/var_explained": about(0.3 + 0.3 * t, 0.05),
        "completions/mean_length": about(np.full(N, 30.0), 1.0),
        "logps/chosen": about(np.full(N, -50.0), 1.0),
        "rewards/margins": about(t, 0.05),
        "frac_reward_zero_std": np.abs(about(np.full(N, 0.2), 0.05)),
        "loss/policy_avg": about(np.zeros(N), 0.01),
        "loss/value_avg": np.abs(about(1 - t / 2, 0.01)),
    }


def rows_of(columns: Columns) -> list[dict[str, float]]:
    return [
        {"step": float(i), **{name: float(column[i]) for name, column in columns.items()}} for i in range(N)
    ]


def written(folder: Path, columns: Columns) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(columns)), "utf-8")
    return path


def found(path: Path) -> list[str]:
    return [finding.rule for finding in diagnose(read_log(path)).findings]


T = np.linspace(0, 1, N)
TROUBLE: dict[str, Callable[[Columns], Columns]] = {
    "diverged": lambda c: {"loss/value_avg": np.where(T > 0.8, np.nan, c["loss/value_avg"])},
    "negative_kl": lambda c: {"objective/kl": -c["objective/kl"] - 0.2},
    "shared_reference": lambda c: {"objective/kl": np.zeros(N)},
    "ratio_drift": lambda c: {"val/ratio": c["val/ratio"] * 1.3},
    "clipfrac_zero": lambda c: {"policy/clipfrac_avg": np.zeros(N)},
    "clipfrac_high": lambda c: {"policy/clipfrac_avg": c["policy/clipfrac_avg"] + 0.4 * (T > 0.6)},
    "explained_variance": lambda c: {"ppo/val/var_explained": c["ppo/val/var_explained"] - 2 * T},
    "negative_entropy": lambda c: {"objective/entropy": c["objective/entropy"] - 30 * T},
    "length_drift": lambda c: {"completions/mean_length": c["completions/mean_length"] * (1 + 2 * T)},
    "score_up_gold_flat": lambda c: {"gold_score": c["gold_score"] - T},
    "chosen_collapse": lambda c: {"logps/chosen": c["logps/chosen"] - 40 * T},
    "dead_groups": lambda c: {"frac_reward_zero_std": np.minimum(c["frac_reward_zero_std"] + T, 1)},
    "saturated_controller": lambda c: {"objective/kl_coef": np.minimum(0.05 * 2.0 ** np.arange(N), 10.0)},
}


def test_a_healthy_log_gives_no_finding_and_every_rule_is_judged(tmp_path: Path) -> None:
    diagnosis = diagnose(read_log(written(tmp_path, healthy())))
    assert diagnosis.findings == []
    assert diagnosis.judged == [rule.name for rule in RULES]
    assert diagnosis.not_judged == {}


def test_every_rule_has_its_trouble() -> None:
    assert set(TROUBLE) == {rule.name for rule in RULES}


@pytest.mark.parametrize("name", TROUBLE)
def test_each_trouble_is_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    columns = healthy()
    assert found(written(tmp_path, columns | TROUBLE[name](columns))) == [name]


def test_reward_hacking_is_found_where_gold_turns_down(tmp_path: Path) -> None:
    columns = healthy()
    gold = np.where(T < 0.4, T, 0.4 - 2 * (T - 0.4))
    assert found(written(tmp_path, columns | {"gold_score": gold})) == ["score_up_gold_flat"]


@pytest.mark.parametrize("seed", range(30))
def test_reward_hacking_is_what_compare_counts_as_such(seed: int, tmp_path: Path) -> None:
    """Noise of gold of which a part is within two standard errors."""
    rng = np.random.default_rng(seed)
    fall = rng.uniform(-0.5, 1.5) * np.maximum(T - 0.5, 0.0)
    gold = np.minimum(T, 0.5) - fall + 0.05 * rng.standard_normal(N)
    names = ("update", "rm_score", "gold_score", "gold_se")
    points = zip(range(N), T.tolist(), gold.tolist(), [rng.uniform(0, 0.2)] * N, strict=True)
    rows = [dict(zip(names, point, strict=True)) for point in points]
    path = tmp_path / "curve.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    hacked, reason = reward_hacking(rows)
    said = [f.saw for f in diagnose(read_log(path)).findings if f.rule == "score_up_gold_flat"]
    assert [saw for saw in said if saw.startswith("reward hacking: ")] == hacked * [
        f"reward hacking: {reason}"
    ]
    assert all(
        saw.startswith("no reward hacking so far, but rm_score went from") for saw in said if not hacked
    )


def test_a_noisy_start_near_zero_is_no_negative_kl(tmp_path: Path) -> None:
    kl = 0.3 * np.random.default_rng(1).standard_normal(N)
    assert "negative_kl" not in found(written(tmp_path, healthy() | {"objective/kl": kl}))


def test_an_adaptive_coefficient_that_still_moves_is_not_saturated(tmp_path: Path) -> None:
    coefficient = 0.05 * 1.1 ** np.arange(N)
    assert found(written(tmp_path, healthy() | {"objective/kl_coef": coefficient})) == []


def test_a_rule_without_its_metrics_is_named_as_not_judged(tmp_path: Path) -> None:
    columns = {name: healthy()[name] for name in ("objective/kl", "policy/clipfrac_avg")}
    diagnosis = diagnose(read_log(written(tmp_path, columns)))
    assert diagnosis.judged == [
        "diverged",
        "negative_kl",
        "shared_reference",
        "clipfrac_zero",
        "clipfrac_high",
    ]
    assert diagnosis.not_judged["chosen_collapse"] == ["logps/chosen", "rewards/margins"]


# --- who wrote it ---------------------------------------------------------------------------------------------------


def test_the_state_of_a_trl_trainer(tmp_path: Path) -> None:
    """Evaluations and the last line, which has totals alone, leave gaps that mean nothing."""
    rows: list[dict[str, Any]] = rows_of(healthy())
    rows.insert(20, {"step": 20, "eval_loss": 0.4, "eval_rewards/margins": 3.0})
    rows.append({"step": N, "train_runtime": 12.0, "train_loss": 0.1})
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"epoch": 1.0, "log_history": rows}), "utf-8")
    log = read_log(path)
    assert (log.writer, log.called["kl"], len(log.known("kl")[1])) == ("trl", "objective/kl", N)
    assert diagnose(log).findings == []


def test_openrlhf_by_its_names_exported_as_csv(tmp_path: Path) -> None:
    columns = healthy()
    names = {
        "train/kl": -columns["objective/kl"] - 0.2,
        "train/ppo_clip_ratio": columns["policy/clipfrac_avg"],
        "my run - train/response_length": columns["completions/mean_length"],
        "train/reward": columns["objective/scores"],
        "note": np.full(N, "text"),
    }
    path = tmp_path / "export.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["train/global_step", *names])
        writer.writerows([i + 10, *values] for i, values in enumerate(zip(*names.values(), strict=True)))
    log = read_log(path)
    assert log.writer == "openrlhf"
    assert log.steps[0] == 10
    assert log.called["length"] == "my run - train/response_length"
    assert [finding.rule for finding in diagnose(log).findings] == ["negative_kl"]


def test_a_store_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "dpo:epochs=1", "best_of_n:n=2", "--task", "words", "--seeds", "1", "--jobs", "0"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    logs = [diagnosis.log for diagnosis in doctor(str(tmp_path))]
    assert [(log.writer, log.status) for log in logs] == [("rlhfbench", "done")] * 2
    assert main(["doctor", str(tmp_path), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert content["schema"] == 1
    assert [set(run) for run in content["runs"]] == 2 * [
        {"source", "writer", "points", "metrics", "findings", "judged", "not_judged"}
    ]
    assert "rules judged" in err


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no row of metrics"),
        ('{"objective/kl": 1}\n{"objective/kl": }\n', "line 2: not valid JSON"),
        ('{"objective/kl": 1}\n[1]\n', "line 2: came as list, an object is needed"),
        ("[1, 2]", "a list of objects, one a step, is needed"),
        ("[" * 100_000, "nested too deeply"),
        ('{"speed": 1.0}\n{"speed": 2.0}\n', "none of its metrics is known (speed)"),
        ("just words", "holds no row of metrics"),
    ],
)
def test_what_is_no_log(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    path.write_text(content, "utf-8")
    assert main(["doctor", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or run folder"):
        doctor(str(tmp_path / "nothing"))
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="holds no finished run"):
        doctor(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8 text"):
        doctor(str(tmp_path / "binary"))
