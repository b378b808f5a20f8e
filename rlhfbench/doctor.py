"""What a run's metrics tell of what went wrong: each finding with what it saw, usually means, and what to try."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .doctor_rules import RULES, finite
from .errors import InputError
from .training_log import NAMES, TrainingLog, read_log

FEWEST = 4  # values without which a rule does not judge


@dataclass(frozen=True)
class Finding:
    """A rule that found something."""

    rule: str
    saw: str
    means: str
    advice: str
    link: str


@dataclass(frozen=True)
class Diagnosis:
    """All that was found in one log; `not_judged` names the rules whose metrics are not in it, with these."""

    log: TrainingLog
    findings: list[Finding]
    judged: list[str]
    not_judged: dict[str, list[str]]

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `doctor`, an entry of its `runs`."""
        return {
            "source": self.log.source,
            "writer": self.log.writer,
            "points": len(self.log.steps),
            "metrics": dict(self.log.called),
            "findings": [asdict(finding) for finding in self.findings],
            "judged": self.judged,
            "not_judged": self.not_judged,
        }


def doctor(path: str) -> list[Diagnosis]:
    """Look at a run folder, at every run of a store, or at a file of metrics.

    Raises
    ------
    InputError
        Where there is none, or it cannot be read.
    """
    root = Path(path)
    if (root / "runs").is_dir():
        folders = sorted(folder for folder in (root / "runs").iterdir() if (folder / "result.json").is_file())
        if not folders:
            raise InputError(f"{root}: holds no finished run")
        return [diagnose(read_log(folder)) for folder in folders]
    return [diagnose(read_log(root))]


def diagnose(log: TrainingLog) -> Diagnosis:
    """Judge every rule whose metrics are there."""
    findings, judged, not_judged = [], [], {}
    for one in RULES:
        missing = [name for name in one.needs if len(finite(log, name)) < FEWEST]
        if missing:
            not_judged[one.name] = [log.called.get(name, NAMES[name][0]) for name in missing]
            continue
        judged.append(one.name)
        saw = one.look(log)
        if saw is not None:
            findings.append(Finding(one.name, saw, one.means, one.advice, one.link))
    return Diagnosis(log, findings, judged, not_judged)
