"""TRL's own defaults of what our presets set, as JSON.

    python tests/golden/trl_defaults.py [FILE]     # with an interpreter that has TRL; FILE is brought up to date

PPO's come from TRL 1.9, the last that had it, the others from 1.16. What the installed TRL lacks is left as in FILE.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import trl

PPO = (
    *("kl_coef", "kl_estimator", "num_mini_batches", "num_ppo_epochs", "cliprange", "cliprange_value"),
    *("vf_coef", "gamma", "lam", "whiten_rewards"),
)
GRPO = ("loss_type", "num_generations", "num_iterations", "beta", "epsilon", "epsilon_high", "scale_rewards")
CONFIGS = {
    "PPOConfig": ("trl.experimental.ppo", PPO),
    "GRPOConfig": ("trl", GRPO),
    "RLOOConfig": ("trl", ("num_generations", "num_iterations", "beta", "epsilon", "reward_clip_range")),
    "DPOConfig": ("trl", ("beta", "loss_type", "label_smoothing", "discopop_tau")),
    "KTOConfig": ("trl", ("beta", "desirable_weight", "undesirable_weight")),
    "CPOConfig": ("trl.experimental.cpo", ("beta", "cpo_alpha", "label_smoothing", "loss_type")),
    "ORPOConfig": ("trl.experimental.orpo", ("beta",)),
    "OnlineDPOConfig": ("trl.experimental.online_dpo", ("beta", "loss_type")),
}
OWNERS = {"PPOConfig": "1.9"}
"""Whose defaults are meant, where it is not TRL 1.16."""


def default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def defaults() -> dict[str, dict[str, Any]]:
    """Of the configurations that this TRL is meant for and has."""
    found = {}
    for name, (module, wanted) in CONFIGS.items():
        if not trl.__version__.startswith(f"{OWNERS.get(name, '1.16')}."):
            continue
        fields = {field.name: field for field in dataclasses.fields(getattr(import_module(module), name))}
        found[name] = {"trl": trl.__version__} | {each: default(fields[each]) for each in wanted}
    return found


if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    before = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.exists() else {}
    text = json.dumps(before | defaults(), indent=1, sort_keys=True) + "\n"
    if file is None:
        print(text, end="")
    else:
        file.write_text(text, encoding="utf-8")
