"""Ten seeds of `compare ppo dpo`: the same job with TRL and with ours, in turn, and where our time goes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.transformer_goals import OURS
from benchmarks.turns import SETTINGS, Side
from rlhfbench.jobs import open_task
from rlhfbench.plan import TRANSFORMER_EPISODES
from rlhfbench.policy_choice import TransformerSizes
from rlhfbench.prepare import fine_tuned_reference, prepare
from rlhfbench.registry import parse_arm
from rlhfbench.rewards.transformer_training import RewardModelConfig
from rlhfbench.run import CHECKPOINTS
from rlhfbench.sft import SFT
from rlhfbench.types import Float, Int

JOB_SEEDS, JOB_CORES = 10, 2
SCRIPT = Path(__file__).parent / "peers" / "trl_job.py"


class Part(NamedTuple):
    """What a trainer does: how many updates, of how many rows."""

    updates: int
    rows: int
    learning_rate: float
    beta: float = 0.0
    epochs: int = 1
    minibatches: int = 1


def job_parts(demonstrations: int, pairs: int) -> dict[str, Part]:
    """`compare ppo dpo` as it is by default."""
    ppo, dpo = (parse_arm(arm, policy="transformer").config for arm in ("ppo", "dpo"))
    tuning, scoring = SFT["transformer"], RewardModelConfig()

    def learner(config: Any, rows: int, epochs: int | None = None) -> Part:
        batches = -(-rows // config.batch_size)
        return Part(batches * (epochs or config.epochs), config.batch_size, config.learning_rate)

    passes = tuning.passes(-(-demonstrations // tuning.batch_size))
    return {
        "SFT": learner(tuning, demonstrations, passes),
        "reward model": learner(scoring, int(pairs * (1 - scoring.validation))),
        "DPO": learner(dpo, pairs)._replace(beta=dpo.beta),
        "PPO": Part(
            ppo.updates, ppo.batch_size, ppo.learning_rate, ppo.beta, ppo.num_ppo_epochs, ppo.num_mini_batches
        ),
    }


def the_job(of: str = "sentences", episodes: int = TRANSFORMER_EPISODES) -> dict[str, Any]:
    """What `peers/trl_job.py` is told: the first seed's demonstrations, pairs and prompts, as numbers of words.

    A prompt's words come before a reply's, then the one that ends a reply, which TRL adds itself, and padding.
    """
    task, policy = open_task(of, None), "transformer"
    start = fine_tuned_reference(task, policy, 0)
    world = prepare(task, policy, 0, episodes, None, start)
    demos, pairs, chosen = start.demonstrations, world.preferences, TransformerSizes()
    before = len(task.prompt_vocab)

    def words(responses: Int, mask: Float) -> list[list[int]]:
        counted = (mask > 0) & (responses != task.eos)
        return [(row[kept] + before).tolist() for row, kept in zip(responses, counted, strict=True)]

    end = before + len(task.vocab) - 1
    prompts = world.evaluation_prompts
    size = {"vocab": end + 2, "eos": end, "pad": end + 1, "prompt": prompts.shape[1]}
    size["length"] = task.max_length + 1  # our longest replies have no end, TRL ends every one
    size |= {"width": chosen.width, "layers": chosen.layers, "heads": chosen.heads}
    shown = demos.prompts.tolist(), words(demos.responses, demos.mask)
    judged = words(pairs.chosen, pairs.chosen_mask), words(pairs.rejected, pairs.rejected_mask)
    return {
        "size": size,
        "length": task.max_length,
        "points": CHECKPOINTS + 1,
        "prompts": prompts.tolist(),
        "demonstrations": list(zip(*shown, strict=True)),
        "pairs": list(zip(pairs.prompts.tolist(), *judged, strict=True)),
        "parts": {name: part._asdict() for name, part in job_parts(len(demos), len(pairs)).items()},
    }


def measure_job(python: str | None, rounds: int) -> dict[str, Any]:
    """Our command and TRL's seeds, one on each core, in turn; TRL's side by the interpreter `python`, if there is one.

    What is found: seconds of `runs` of our command, and of the median its seconds of processor; `again`, the same
    command once more, for which nothing is left to run, so that it starts and reports. Of TRL's side, `start` until
    all are ready, `seeds_in` seconds each, and the mean of their `parts`.
    """
    found: dict[str, Any] = {"seeds": JOB_SEEDS, "cores": JOB_CORES}
    with tempfile.TemporaryDirectory() as folder:
        run_command(1, f"{folder}/compiled")
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(the_job()), encoding="utf-8")
        sides, taken, seeds = list[Side](), list[Any](), list[dict[str, float]]()
        try:
            began = perf_counter()
            sides = [] if python is None else _sides(python, file)
            if sides:
                found["start"], found["about"] = perf_counter() - began, sides[0].about
            taken.append(run_command(JOB_SEEDS, f"{folder}/0"))
            for one in range(rounds):
                seeds += _together(sides)
                taken.append(run_command(JOB_SEEDS, f"{folder}/{one + 1}"))
        finally:
            for side in sides:
                side.close()
        again = run_command(JOB_SEEDS, f"{folder}/0")
    runs = sorted((run for run in taken if run is not None), key=lambda run: float(run["seconds"]))
    if runs and again is not None:
        found[OURS] = runs[len(runs) // 2] | {"again": again, "runs": [run["seconds"] for run in runs]}
    if seeds:
        found["seeds_in"] = [sum(seed.values()) for seed in seeds]
        found["parts"] = {name: statistics.mean(seed[name] for seed in seeds) for name in seeds[0]}
    return found


def _sides(python: str, file: Path) -> list[Side]:
    """TRL's processes, ready, a core each; none if one of them cannot start."""
    command = [python, "-I", str(SCRIPT)]
    started = [Side("TRL", [*command, str(core), str(file)]) for core in range(JOB_CORES)]
    if all(side.ready() for side in started):
        return started
    for side in started:
        side.close()
    return []


def _together(sides: Sequence[Side]) -> list[dict[str, float]]:
    """A seed of each, side by side: seconds by part."""
    for side in sides:
        side.send("seed")
    return [side.answered()["seconds"] for side in sides]


def run_command(seeds: int, out: str) -> dict[str, float] | None:
    """Seconds, and seconds of processor, of `compare ppo dpo`; None where it failed."""
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
