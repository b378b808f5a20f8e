"""What was measured of the ten seeds, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from benchmarks.table import duration, grid
from benchmarks.transformer_goals import OURS

EVALUATION = "evaluation"
TRAINING = {
    "SFT": ("SFT",),
    "reward model": ("reward model",),
    "DPO": ("DPO",),
    "PPO": ("PPO, rollouts", "PPO, updates"),
}
"""Our phases that do what one of TRL's trainers does."""
EVALUATED = tuple(f"{EVALUATION}: {what}" for what in ("replies", "scores", "KL, entropy"))
"""Our phases of a point of a curve."""


class Line(NamedTuple):
    """A phase of a seed: our seconds of processor and FLOPs, and TRL's seconds, if it does the same."""

    name: str
    seconds: float
    flops: float
    theirs: float | None = None

    def row(self, whole: float) -> list[str]:
        counted = (
            (f"{self.flops / 1e9:.1f}", f"{self.flops / self.seconds / 1e9:.0f}") if self.flops else ("", "")
        )
        beside = ("", "")
        if self.theirs is not None:
            beside = (duration(self.theirs), f"{self.theirs / self.seconds:.1f} ×")
        return [self.name, duration(self.seconds), f"{self.seconds / whole:.0%}", *counted, *beside]


def lines(job: dict[str, Any]) -> list[Line]:
    """Training by trainer, all of it, evaluation, then what TRL's side does not do, then all of a seed.

    Seconds are the command's, shared out as those of the seeds that were taken apart, perhaps at another hour.
    """
    flops, apart = job["seed"]["flops"], job["seed"]["seconds"]
    each = a_seed(job) / sum(apart.values())
    seconds = {phase: each * taken for phase, taken in apart.items()}

    def line(name: str, phases: Iterable[str], theirs: float | None = None) -> Line:
        phases = list(phases)
        return Line(name, *(sum(of.get(phase, 0.0) for phase in phases) for of in (seconds, flops)), theirs)

    trl = job.get("parts", {})
    ours = {phase for phases in TRAINING.values() for phase in phases}
    rest = sorted(set(seconds) - ours, key=lambda phase: -seconds[phase])
    return [
        *(line(name, phases, trl.get(name)) for name, phases in TRAINING.items()),
        line("all training", ours, sum(trl[name] for name in TRAINING) if trl else None),
        line("all evaluation", EVALUATED, trl.get(EVALUATION)),
        *(line(phase, [phase]) for phase in rest),
        line("a seed", seconds),
    ]


def a_seed(job: dict[str, Any]) -> float:
    """Seconds of processor that a seed takes within the command; where that was not measured, taken apart."""
    if OURS not in job:
        return float(sum(job["seed"]["seconds"].values()))
    return float((job[OURS]["processor"] - sum(_around(job).values())) / job["seeds"])


def _around(job: dict[str, Any]) -> dict[str, float]:
    """Seconds of processor of the command that are no seed's."""
    return {
        f"starting {job['cores']} workers, loading kernels": job["cores"] * job["seed"]["start"],
        "starting the command, reporting": job[OURS]["again"]["processor"],
    }


def markdown(job: dict[str, Any]) -> Iterator[str]:
    """Both sides, and where our time goes, of a seed and of the command."""
    if "seed" not in job:
        return
    yield "### Ten seeds, and with TRL" + _both(job)
    found = lines(job)
    header = ("of a seed", "seconds of processor", "of all", "GFLOP", "GFLOP/s", "TRL", "of ours")
    yield "Ours, by phase\n\n" + grid(header, (line.row(found[-1].seconds) for line in found))
    kinds = job["seed"]["kinds"]
    whole = sum(kinds.values())
    yield "Ours, by kernel\n\n" + grid(kinds, [[f"{taken / whole:.0%}" for taken in kinds.values()]])
    if OURS in job:
        yield _command(job)


def _both(job: dict[str, Any]) -> str:
    """Every run of each side, as they were done in turn."""
    told = []
    if OURS in job:
        told.append(f"The command, {job['seeds']} seeds: {_each(job[OURS]['runs'])}.")
    if "seeds_in" in job:
        told.append(
            f"TRL, {job['cores']} seeds at a time, a core each: {_each(job['seeds_in'])} a seed, "
            f"{duration(job['start'])} until it begins."
        )
    return "".join(f"\n\n{line}" for line in told)


def _each(seconds: list[float]) -> str:
    return ", ".join(map(duration, seconds))


def _command(job: dict[str, Any]) -> str:
    """Cores times seconds of the whole command: at work, and waiting."""
    ours, cores = job[OURS], job["cores"]
    parts = {f"{job['seeds']} seeds": job["seeds"] * a_seed(job)} | _around(job)
    parts["cores that waited"] = cores * ours["seconds"] - ours["processor"]
    parts[f"{cores} cores, {duration(ours['seconds'])}"] = cores * ours["seconds"]
    rows = ([name, f"{taken:.1f}"] for name, taken in parts.items())
    return "The command\n\n" + grid(("", "seconds of processor"), rows)
