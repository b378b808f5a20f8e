"""The outcome of a comparison: runs by arm, their summaries, the verdict, and the JSON that other programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .records import SAFETY
from .results import Result
from .statistics import Interval, summary
from .types import Float
from .unheeded import unheeded
from .verdict import ArmScores, Verdict, verdict

OF_THE_REWARD = ("rm_score", "cost")
"""What an arm's own models give: it has no scale that arms of other labels or reward share."""
SUMMARISED = ("rm_score", "gold_score", "kl", "entropy", "length", "flops")


@dataclass(frozen=True)
class Comparison:
    """Finished runs of several arms on the same seeds.

    Parameters
    ----------
    task, policy : str
    gold : {"exact", "judge", "verifier"}
    seeds : sequence of int
        The seeds asked for; with Ctrl-C some may lack a run.
    configs : mapping label -> dict
        Resolved hyper-parameters.
    runs : mapping label -> list of Result
        In the order of `seeds`, those that are there.
    reward : {"model", "verifier", "gold", "mixed"}
        What `rm_score` is: a trained model's score, that of a verifier of the user's, or gold itself; or not the
        same for all arms.
    typed : mapping label -> str
        The arms as they were asked for, with their options.
    rewards : mapping label -> mapping
        How the arm's labels and reward are made. Only between arms where that is equal are RM scores compared.
    facts : dict
        What is known of the data (shares of unknown words and cut replies, splits, RM-judge correlation).
    arm_facts : mapping label -> dict
        The same of the world of each arm.
    reused : int
        Runs that were found in the store.
    folder : str
        Where the runs lie.
    example : str
        The folder of one of them.
    gates : mapping
        Names of the gates that were `lifted`, and `notes` on what they could not judge.
    """

    task: str
    policy: str
    gold: str
    seeds: Sequence[int]
    configs: Mapping[str, Any]
    runs: Mapping[str, list[Result]]
    reward: str = "model"
    typed: Mapping[str, str] = field(default_factory=dict)
    rewards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    arm_facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reused: int = 0
    folder: str = ""
    example: str = ""
    gates: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"lifted": [], "notes": []})

    @property
    def labels(self) -> list[str]:
        return list(self.runs)

    @property
    def paired_seeds(self) -> list[int]:
        """Seeds that every arm has an outcome for; a run without even a starting score has none."""
        finished = [
            {r.seed for r in runs if r.reference["gold_score"] is not None} for runs in self.runs.values()
        ]
        return sorted(set.intersection(*finished)) if finished else []

    def values(self, label: str, name: str) -> Float:
        """(n,) of the paired seeds; `name` is a field of Result, its compute or its safety; NaN where there is none."""
        runs = {r.seed: r for r in self.runs[label]}
        picked = (
            (runs[seed], {**runs[seed].compute, **(runs[seed].safety or {})}) for seed in self.paired_seeds
        )
        found = [parts[name] if name in parts else getattr(run, name, None) for run, parts in picked]
        return np.array([np.nan if v is None else v for v in found], float)

    def references(self, label: str, name: str) -> Float:
        """(n,) starting scores of the paired seeds."""
        runs = {r.seed: r for r in self.runs[label]}
        told = ((runs[seed].safety or {}).get("reference", {}) for seed in self.paired_seeds)
        found = [
            {**about, **runs[seed].reference}.get(name)
            for seed, about in zip(self.paired_seeds, told, strict=True)
        ]
        return np.array([np.nan if v is None else v for v in found], float)

    def summary(self, label: str, name: str) -> Interval | None:
        """Interquartile mean over the paired seeds with its interval; None where a value is missing."""
        values = self.values(label, name)
        values = values[np.isfinite(values)]
        return summary(values) if len(values) else None

    @property
    def told_of_safety(self) -> tuple[str, ...]:
        """`SAFETY` where some prompts are to be declined, else nothing."""
        return SAFETY if any(run.safety for runs in self.runs.values() for run in runs) else ()

    def by_phase(self, label: str) -> dict[str, float]:
        """Mean FLOPs of each phase over the paired seeds."""
        phases = [r.compute["by_phase"] for r in self.runs[label] if r.seed in self.paired_seeds]
        names = dict.fromkeys(name for phase in phases for name in phase)
        return {name: float(np.mean([phase.get(name) or 0 for phase in phases])) for name in names}

    def failed(self, label: str) -> list[Result]:
        """Runs that did not finish; they stay in every average with their starting scores."""
        return [r for r in self.runs[label] if r.status not in ("done", "interrupted")]

    def verdict(self) -> Verdict:
        """Who is better, in RM score, gold and compute, or that it cannot be told.

        Where nobody can tell what a reward gives the reference, all arms of that reward were lost and stayed there: it
        counts as 0, so that they are equal.
        """
        arms = {
            label: ArmScores(
                rm_score=self.values(label, "rm_score"),
                gold_score=self.values(label, "gold_score"),
                rm_reference=np.nan_to_num(self.references(label, "rm_score")),
                gold_reference=self.references(label, "gold_score"),
                flops=self.values(label, "flops"),
                reward=self._scorer(label),
            )
            for label in self.labels
        }
        failed = {label: len(self.failed(label)) for label in self.labels}
        return verdict(arms, gold=self.gold, reward=self.reward, failed=failed)

    def as_dict(self) -> dict[str, Any]:
        """The JSON contract, schema 1; what does not exist is None."""
        return {
            "schema": 1,
            "task": self.task,
            "policy": self.policy,
            "gold": self.gold,
            "reward": self.reward,
            "seeds": list(self.seeds),
            "reference": {name: self._reference(name) for name in ("rm_score", "gold_score")},
            "rewards": {label: dict(reward) for label, reward in self.rewards.items()},
            "facts": dict(self.facts),
            "arm_facts": {label: dict(self.arm_facts.get(label, {})) for label in self.labels},
            "gates": {name: list(entries) for name, entries in self.gates.items()},
            "warnings": self.warnings,
            "algorithms": {
                label: {
                    "config": config_dict(self.configs[label]),
                    "runs": [r.to_json() for r in self.runs[label]],
                    "summary": {
                        name: self._summary_dict(label, name) for name in (*SUMMARISED, *self.told_of_safety)
                    },
                }
                for label in self.labels
            },
            "verdict": self.verdict().as_dict(),
        }

    @property
    def warnings(self) -> list[str]:
        """What was asked for and came to nothing, each line behind the arms that it is about."""
        about: dict[str, list[str]] = {}
        for label in self.labels:
            facts = self.arm_facts.get(label, self.facts)
            for line in unheeded(config_dict(self.configs[label]), facts, self.runs[label]):
                about.setdefault(line, []).append(label)
        return [f"{', '.join(labels)}: {line}" for line, labels in about.items()]

    @property
    def one_reward(self) -> bool:
        """Whether all arms have the same labels and the same reward."""
        return len({str(reward) for reward in self.rewards.values()}) <= 1

    def _scorer(self, label: str) -> str:
        """What gives an arm's RM scores: a verifier, whatever labels there are, or a model that was made of them."""
        reward = self.rewards.get(label, {})
        kind = reward.get("reward", "model")
        return str(reward if kind == "model" else kind)

    @property
    def one_scorer(self) -> bool:
        """Whether the same model or verifier gives the RM scores of all arms."""
        return len({self._scorer(label) for label in self.labels}) <= 1

    def one_scale(self, name: str) -> bool:
        """Whether values called `name` of all arms, and so of the one reference, may stand beside each other."""
        alike = self.one_scorer if name == "rm_score" else self.one_reward
        return alike or name not in OF_THE_REWARD

    def chosen(self, label: str) -> dict[str, Any]:
        """In what an arm's labels and reward are others than the first arm's."""
        first, own = self.rewards.get(self.labels[0], {}), self.rewards.get(label, {})
        told = {name: value for name, value in own.items() if value is not None and name != "reward"}
        return {name: value for name, value in told.items() if value != first.get(name)}

    def _reference(self, name: str) -> float | None:
        if not self.paired_seeds or not self.one_scale(name):
            return None
        return float(np.mean(self.references(self.labels[0], name)))

    def _summary_dict(self, label: str, name: str) -> dict[str, Any]:
        interval = self.summary(label, name)
        if interval is None:
            return {"estimate": None, "low": None, "high": None, "n": 0, "method": "none"}
        return interval.as_dict()


def config_dict(config: Any) -> dict[str, Any]:
    """The fields of a configuration."""
    return asdict(config)
