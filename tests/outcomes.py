"""Comparisons made by hand, for tests of what is shown: nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhfbench.comparison import Comparison
from rlhfbench.records import COUNTERS
from rlhfbench.results import Result
from rlhfbench.sweeps import Sweep

POINTS = 8


@dataclass(frozen=True)
class Config:
    beta: float = 0.1


def curve(rm: float, gold: float, kl: float, flops: int, hump: float = 0.0) -> list[dict[str, Any]]:
    """A run that rises to `rm`, whose gold turns down by `hump` in the second half."""
    points = []
    for i in range(POINTS):
        share = i / (POINTS - 1)
        points.append(
            {
                "update": 10 * i,
                "flops": int(flops * (0.05 + 0.95 * share)),
                "rm_score": rm * share,
                "gold_score": gold * min(2 * share, 1.0) - hump * max(2 * share - 1.0, 0.0),
                "gold_se": 0.01,
                "kl": kl * share,
                "entropy": 20.0 - share,
                "length": 8.0,
                "objective/kl": kl * share,
            }
        )
    return points


def result(seed: int = 0, status: Any = "done", **changes: Any) -> Result:
    """One run; `changes` are fields of Result."""
    rng = np.random.default_rng([seed, 1])
    points = changes.pop("curve", None)
    if points is None:
        points = curve(2.0 + 0.1 * rng.normal(), 1.5 + 0.1 * rng.normal(), 3.0, 600_000_000)
    compute = dict.fromkeys(COUNTERS, 2000) | {
        "flops": points[-1]["flops"],
        "by_phase": {"sft": 5_000_000, "rm_train": 30_000_000, "update": 570_000_000, "eval": 9_000_000},
        "jit_seconds": 1.5,
        "cpu_seconds": 0.5,
    }
    last = points[-1]
    values = {name: last[name] for name in ("rm_score", "gold_score", "kl", "entropy", "length")}
    values |= {
        "reference": {"rm_score": 0.0, "gold_score": -0.1},
        "compute": compute,
        "curve": points,
        "message": None if status == "done" else "a metric is not finite at update 7",
    }
    return Result(seed=seed, status=status, **(values | changes))


def comparison(labels: tuple[str, ...] = ("ppo", "dpo"), seeds: int = 10, **changes: Any) -> Comparison:
    """Arms that differ by chance; `changes` are fields of Comparison."""
    runs = {label: [result(seed=100 * i + s) for s in range(seeds)] for i, label in enumerate(labels)}
    runs = {label: [_seeded(r, s) for s, r in enumerate(results)] for label, results in runs.items()}
    fields: dict[str, Any] = {
        "task": "sentences",
        "policy": "linear",
        "gold": "exact",
        "seeds": range(seeds),
        "configs": {label: Config() for label in labels},
        "runs": runs,
        "facts": {"rm_gold_correlation": 0.77},
        "reused": 3,
        "folder": "some-runs",
        "example": "some-runs/runs/ppo-s0-0123456789ab",
    }
    return Comparison(**(fields | changes))


def _seeded(run: Result, seed: int) -> Result:
    return Result(**{name: getattr(run, name) for name in run.__dataclass_fields__} | {"seed": seed})


def sweep(betas: tuple[float, ...] = (0.0, 0.1, 1.0), seeds: int = 3) -> Sweep:
    """The smaller beta, the further the run goes and the more it gives back."""
    labels = [f"ppo beta={beta:g}" for beta in betas]
    runs = {
        label: [
            result(
                s,
                curve=curve(
                    6.0 / (1 + 5 * b) + 0.1 * s, 1.5, 12.0 / (1 + 5 * b), 10**9, hump=1.4 if b == 0 else 0.1
                ),
            )
            for s in range(seeds)
        ]
        for b, label in zip(betas, labels, strict=True)
    }
    return Sweep("ppo", list(betas), comparison(tuple(labels), seeds, runs=runs))
