"""Ten seeds of `compare ppo dpo`: what TRL would have to do for them, what ours takes, and where that goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.table import duration, grid
from benchmarks.transformer_cases import Size
from benchmarks.transformer_goals import OURS, PPO, TRL
from benchmarks.turns import SETTINGS
from rlhfbench.jobs import open_task
from rlhfbench.plan import TRANSFORMER_EPISODES
from rlhfbench.policy_choice import TransformerSizes
from rlhfbench.registry import parse_arm
from rlhfbench.rewards.transformer_training import RewardModelConfig
from rlhfbench.run import CHECKPOINTS
from rlhfbench.seeding import stream
from rlhfbench.sft import SFT

JOB_SEEDS, JOB_CORES = 10, 2
TRAINING = {
    "SFT": ("SFT",),
    "reward model": ("reward model",),
    "DPO": ("DPO",),
    "PPO": ("PPO, rollouts", "PPO, updates"),
}
"""Our phases that do what one of TRL's trainers does."""
EVALUATION = "evaluation"
EVALUATED = tuple(f"{EVALUATION}: {what}" for what in ("replies", "scores", "KL, entropy"))
"""Our phases of a point of a curve."""


class Part(NamedTuple):
    """What a seed of the job needs of one of TRL's trainers: how many updates, or evaluations, of what size."""

    side: str
    case: str
    updates: int
    size: Size


def job_parts() -> dict[str, Part]:
    """`compare ppo dpo` as it is by default."""
    task: Any = open_task("sentences", None).for_seed(stream(0, "split"))
    arms = ppo, dpo = [parse_arm(arm, policy="transformer").config for arm in ("ppo", "dpo")]
    tuning, scoring, chosen = SFT["transformer"], RewardModelConfig(), TransformerSizes()
    size = Size(
        width=chosen.width,
        vocab=len(task.vocab),
        prompt=task.prompts(1, stream(0, "prompts")).shape[1],
        length=task.max_length,
        layers=chosen.layers,
        heads=chosen.heads,
    )
    rollout = size._replace(rows=ppo.batch_size, epochs=ppo.num_ppo_epochs, minibatches=ppo.num_mini_batches)

    def learner(case: str, config: Any, rows: float, epochs: int | None = None) -> Part:
        batches = -(-int(rows) // config.batch_size)
        updates = batches * (epochs or config.epochs)
        return Part(TRL, case, updates, size._replace(rows=config.batch_size))

    passes = tuning.passes(-(-task.demos // tuning.batch_size))
    points = len(arms) * (CHECKPOINTS + 1)
    return {
        "SFT": learner("sft", tuning, task.demos, passes),
        "reward model": learner("reward", scoring, task.pairs * (1 - scoring.validation)),
        "DPO": learner("dpo", dpo, task.pairs),
        "PPO": Part(PPO, "ppo", ppo.updates, rollout),
        EVALUATION: Part(TRL, "evaluate", points, size._replace(rows=TRANSFORMER_EPISODES)),
    }


def ours_in_full() -> dict[str, Any] | None:
    """Seconds, and seconds of processor, of `compare ppo dpo`, kernels compiled before; None where it failed.

    `again` is the same command once more, for which nothing is left to run: starting and reporting.
    """
    with tempfile.TemporaryDirectory() as folder:
        runs = [_timed_command(seeds, f"{folder}/{seeds}") for seeds in (1, JOB_SEEDS, JOB_SEEDS)]
    _, first, second = runs
    return None if first is None or second is None else first | {"again": second}


def _timed_command(seeds: int, out: str) -> dict[str, float] | None:
    arms = ["compare", "ppo", "dpo", "--policy", "transformer", "--seeds", str(seeds)]
    start, used = perf_counter(), _used()
    command = [sys.executable, "-m", "rlhfbench", *arms, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"compare: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return {"seconds": perf_counter() - start, "processor": _used() - used}


def _used() -> float:
    """Seconds of processor of all processes that were started from here and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def seeds_in_parts() -> dict[str, Any]:
    """What `benchmarks.transformer_seed` finds: a mean of as many seeds as are done side by side."""
    commands = [[sys.executable, "-m", "benchmarks.transformer_seed", str(seed)] for seed in range(JOB_CORES)]
    started = [
        subprocess.Popen(command, env=os.environ | SETTINGS, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    found = [json.loads(one.communicate()[0]) for one in started]
    return {
        what: {name: sum(one[what][name] for one in found) / len(found) for name in found[0][what]}
        for what in ("seconds", "flops", "kinds")
    } | {"start": sum(one["start"] for one in found) / len(found)}


# Markdown


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

    trl = {name: multiplied(part) for name, part in job["parts"].items()}
    ours = {phase for phases in TRAINING.values() for phase in phases}
    known = [taken for name in TRAINING if (taken := trl[name]) is not None]
    rest = sorted(set(seconds) - ours, key=lambda phase: -seconds[phase])
    return [
        *(line(name, phases, trl[name]) for name, phases in TRAINING.items()),
        line("all training", ours, sum(known) if len(known) == len(TRAINING) else None),
        line("all evaluation", EVALUATED, trl.get(EVALUATION)),
        *(line(phase, [phase]) for phase in rest),
        line("a seed", seconds),
    ]


def a_seed(job: dict[str, Any]) -> float:
    """Seconds of processor that a seed takes within the command; where that was not measured, taken apart."""
    if job.get(OURS) is None:
        return float(sum(job["seed"]["seconds"].values()))
    return float((job[OURS]["processor"] - sum(_around(job).values())) / job["seeds"])


def _around(job: dict[str, Any]) -> dict[str, float]:
    """Seconds of processor of the command that are no seed's."""
    parts = {f"starting {job['cores']} workers, loading kernels": job["cores"] * job["seed"]["start"]}
    if "again" in job[OURS]:
        parts["starting the command, reporting"] = job[OURS]["again"]["processor"]
    return parts


def multiplied(part: dict[str, Any]) -> float | None:
    """Seconds that a seed's updates take one of TRL's trainers."""
    return None if part["seconds"] is None else float(part["updates"] * part["seconds"])


def breakdown(job: dict[str, Any]) -> Iterator[str]:
    """Where our time goes, of a seed and of the command."""
    if "seed" not in job:
        return
    found = lines(job)
    header = ("of a seed", "seconds of processor", "of all", "GFLOP", "GFLOP/s", "TRL", "of ours")
    yield "Ours, by phase\n\n" + grid(header, (line.row(found[-1].seconds) for line in found))
    kinds = job["seed"]["kinds"]
    whole = sum(kinds.values())
    yield "Ours, by kernel\n\n" + grid(kinds, [[f"{taken / whole:.0%}" for taken in kinds.values()]])
    if job.get(OURS) is not None:
        yield _command(job)


def _command(job: dict[str, Any]) -> str:
    """Cores times seconds of the whole command: at work, and waiting."""
    ours, cores = job[OURS], job["cores"]
    parts = {f"{job['seeds']} seeds": job["seeds"] * a_seed(job)} | _around(job)
    parts["cores that waited"] = cores * ours["seconds"] - ours["processor"]
    parts[f"{cores} cores, {duration(ours['seconds'])}"] = cores * ours["seconds"]
    rows = ([name, f"{taken:.1f}"] for name, taken in parts.items())
    return "The command\n\n" + grid(("", "seconds of processor"), rows)
