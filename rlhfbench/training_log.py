"""What a training run has logged, an array a metric: ours, TRL's or OpenRLHF's, by the names that each gives."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .errors import InputError
from .run_folder import load_run
from .types import Float

Row: TypeAlias = Mapping[str, Any]

STEPS = ("update", "step", "global_step", "_step", "episode")
NAMES: dict[str, tuple[str, ...]] = {
    "score": ("rm_score", "objective/scores", "ppo/mean_scores", "env/reward_mean", "reward"),
    "gold": ("gold_score", "gold/score"),
    "gold_error": ("gold_se",),
    "kl": ("objective/kl", "kl"),
    "kl_coef": ("objective/kl_coef", "ppo/kl_coef", "kl_coef"),
    "entropy": ("objective/entropy", "policy/entropy_avg", "ppo/policy/entropy", "entropy"),
    "ratio": ("val/ratio", "ppo/policy/ratio"),
    "clipfrac": (
        "policy/clipfrac_avg",
        "ppo/policy/clipfrac",
        "ppo_clip_ratio",
        "clip_ratio/region_mean",
        "clip_ratio",
    ),
    "explained_variance": ("ppo/val/var_explained", "val/var_explained", "explained_variance"),
    "length": ("length", "completions/mean_length", "response_length", "tokens/responses_len_mean"),
    "chosen_logps": ("logps/chosen",),
    "margins": ("rewards/margins",),
    "dead_groups": ("frac_reward_zero_std",),
    "policy_loss": ("loss/policy_avg", "ppo/loss/policy", "policy_loss", "loss"),
    "value_loss": ("loss/value_avg", "ppo/loss/value", "critic_loss"),
}
"""Our word for a metric -> what rlhfbench, TRL and OpenRLHF call it; the first that is there counts."""
OPENRLHF = {"ppo_kl", "ppo_clip_ratio", "critic_loss", "group_reward_std"}
TRL = {
    "objective/kl",
    "rewards/margins",
    "frac_reward_zero_std",
    "completions/mean_length",
    "ppo/policy/clipfrac",
}


@dataclass(frozen=True)
class TrainingLog:
    """Metrics over a run.

    Parameters
    ----------
    source : str
        The run folder or file.
    writer : {"rlhfbench", "trl", "openrlhf", "unknown"}
        Whose names it uses.
    steps : (n,) array
        Updates, or whatever the writer counts.
    series : mapping str -> (n,) array
        By the words of `NAMES`; NaN where a row has none.
    called : mapping str -> str
        What the writer calls them.
    broken : mapping str -> float
        The step of the first value of a metric that was written as NaN or infinity.
    status : str, optional
        How a run of ours ended.
    bounds : (float, float), optional
        Of an adaptive KL coefficient, where they are known.
    steps_a_rollout : int, optional
        Passes over each rollout, where they are known.
    """

    source: str
    writer: str
    steps: Float
    series: Mapping[str, Float]
    called: Mapping[str, str]
    broken: Mapping[str, float]
    status: str | None = None
    bounds: tuple[float, float] | None = None
    steps_a_rollout: int | None = None

    def known(self, name: str) -> tuple[Float, Float]:
        """Steps and values of a metric where it has any; both empty if it was not logged."""
        values = self.series.get(name)
        if values is None:
            return np.empty(0), np.empty(0)
        there = ~np.isnan(values)
        return self.steps[there], values[there]


def read_log(path: Path) -> TrainingLog:
    """Read a run folder of ours, or a file: JSON lines, a JSON list, `trainer_state.json`, or CSV.

    Raises
    ------
    InputError
        Where it cannot be read, or none of its metrics is known.
    """
    if path.is_dir():
        manifest, result = load_run(path)
        config = manifest["inputs"].get("config") or {}
        low, high = config.get("beta_min"), config.get("beta_max")
        bounds = None if low is None or high is None else (float(low), float(high))
        log = _log(str(path), "rlhfbench", result.curve, result.status, bounds)
        return replace(log, steps_a_rollout=config.get("num_iterations"))
    rows = _read_rows(path)
    names = {_plain(name) for row in rows for name in row}
    if OPENRLHF & names:
        writer = "openrlhf"
    else:
        writer = "trl" if TRL & names else "unknown"
    return _log(str(path), writer, rows)


def _log(
    source: str,
    writer: str,
    rows: Sequence[Row],
    status: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> TrainingLog:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [_number(row.get(name)) for row in rows] for name in names}
    columns = {name: column for name, column in columns.items() if any(x is not None for x in column)}
    counter = next((name for name in columns if _plain(name) in STEPS), None)
    called = {word: name for word, known in NAMES.items() if (name := _find(known, columns)) is not None}
    if not called and status is None:
        shown = ", ".join(names[:5]) or "nothing"
        raise InputError(
            f"{source}: none of its metrics is known ({shown}), names of TRL, OpenRLHF or rlhfbench are needed"
        )
    steps = np.arange(1.0, len(rows) + 1) if counter is None else _array(columns[counter])
    series = {word: columns[name] for word, name in called.items()}
    broken = {}
    for word, column in series.items():
        first = next((i for i, x in enumerate(column) if x is not None and not math.isfinite(x)), None)
        if first is not None:
            broken[word] = float(steps[first])
    arrays = {word: _array(column) for word, column in series.items()}
    return TrainingLog(source, writer, steps, arrays, called, broken, status, bounds)


def _array(column: Sequence[float | None]) -> Float:
    return np.array([math.nan if x is None else x for x in column], float)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _find(known: Iterable[str], columns: Iterable[str]) -> str | None:
    """The first column that bears one of the names, best known first."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(_plain(column), column)
    return next((by_name[name] for name in known if name in by_name), None)


def _plain(column: str) -> str:
    """A metric's own name: without a chart's `run - ` and without `train/`; evaluations keep their `eval`."""
    return column.rsplit(" - ", 1)[-1].strip().removeprefix("train/")


# --- files -------------------------------------------------------------------------------------------------------


def _read_rows(path: Path) -> list[Row]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or run folder") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; JSON lines, trainer_state.json or CSV is needed") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    rows = _rows_of_json(path, text) if text.lstrip()[:1] in ("{", "[") else list(_rows_of_csv(path, text))
    if not rows:
        raise InputError(f"{path}: holds no row of metrics")
    return rows


def _rows_of_json(path: Path, text: str) -> list[Row]:
    try:
        value = json.loads(text)
    except RecursionError:
        raise InputError(f"{path}: JSON is nested too deeply") from None
    except ValueError:  # more than one value: lines
        return [_row(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if isinstance(value, dict) and isinstance(value.get("log_history"), list):
        value = value["log_history"]
    rows = value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: a list of objects, one a step, is needed")
    return rows


def _row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: not valid JSON ({getattr(error, 'msg', error)})") from None
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: came as {type(row).__name__}, an object is needed")
    return row


def _rows_of_csv(path: Path, text: str) -> Iterable[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            yield {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
