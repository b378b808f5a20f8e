"""A run as the store keeps it, for tests of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhfbench.results import Result, RunStore

INPUTS: dict[str, Any] = {
    "schema": 1,
    "label": "ppo#2",
    "seed": 3,
    "task": {"name": "words", "labels": "bt"},
    "config": {"beta": 0.1, "epochs": 4, "kl": None, "whiten": True},
    "sources": ["a" * 64, "b" * 64],
}


def make_result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "seed": 3,
        "status": "done",
        "rm_score": 1.5,
        "gold_score": -0.25,
        "kl": 2.0,
        "entropy": 0.5,
        "length": 7.25,
        "reference": {"rm_score": 0.0, "gold_score": -1.0},
        "compute": {
            "flops": 10**17,
            "transcendentals": 10,
            "by_phase": {"update": 60, "rollout": 40},
            "flops_per_reply": 5,
            "tokens_generated": 6,
            "tokens_trained": 7,
            "rm_calls": 8,
            "labels": 9,
            "optimizer_steps": 10,
            "cpu_seconds": 1.5,
            "wall_seconds": 1.25,
            "jit_seconds": 0.0,
            "peak_rss_bytes": None,
        },
        "curve": [
            {
                "update": n,
                "flops": n * 100,
                "rm_score": 0.5 * n,
                "gold_score": None,
                "kl": 0.125,
                "objective/kl": 0.5,
            }
            for n in range(4)
        ],
        "replies": [
            {
                "prompt": "help me",
                "reference": "vague",
                "reply": "clear\nkind \u2028 \ud800",
                "scores": {"rm": 1.0},
            },
            {"prompt": "", "reference": "", "reply": "", "scores": None},
        ],
    }
    return Result(**{**values, **changes})


FILES = {"policy.npz": bytes(range(256)), "policy.json": b"{}\n"}


def commit(
    store: RunStore, result: Result | None = None, files: dict[str, bytes] | None = None, **inputs: Any
) -> tuple[str, Path]:
    everything = {**INPUTS, **inputs}
    key = store.key(everything)
    manifest = {"inputs": everything, "environment": {"python": "CPython 3"}}
    return key, store.commit(key, manifest, result or make_result(seed=everything["seed"]), files)


def kept(folder: Path) -> dict[str, bytes]:
    """The files that were handed over with a run or a world."""
    return {name: (folder / name).read_bytes() for name in FILES}
