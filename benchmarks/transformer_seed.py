"""Where the processor's time of one seed of `compare ppo dpo` goes, by phase and by kernel.

    python -m benchmarks.transformer_seed SEED [SETTINGS]

prints one line of JSON, from a process that does what a worker of the command does. Functions are timed where they are
looked up, each without those that it calls and that have a row of their own; FLOPs are those that the meters are told.
SETTINGS, a JSON object, may name another task and policy, and updates for each arm.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

from benchmarks.clocked import clocked
from benchmarks.transformer_profile import by_kind, timed
from rlhfbench import jobs, prepare, run
from rlhfbench.algorithms import ppo
from rlhfbench.compute import ComputeMeter
from rlhfbench.evaluation import Evaluator
from rlhfbench.plan import Plan, make_world
from rlhfbench.registry import parse_arms
from rlhfbench.results import RunStore
from rlhfbench.reward_models import RewardTrainer

OTHER = "setting up, the rest"
SETTINGS = {"task": "sentences", "policy": "transformer", "arms": ["ppo", "dpo"]}


class Ledger:
    """Seconds of processor and FLOPs of each phase, less those of the phases within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops: Counter[str] = Counter()
        self._open, self._since = [OTHER], process_time()

    @contextmanager
    def inside(self, phase: str) -> Iterator[None]:
        self.settle()
        self._open.append(phase)
        try:
            yield
        finally:
            self.settle()
            self._open.pop()

    def settle(self) -> None:
        """Give the phase that is open what has passed."""
        now = process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def count(self, flops: int) -> None:
        self.flops[self._open[-1]] += flops


def _of_the_arm(this: Any, *_: Any) -> str:
    return {"ppo": "PPO, updates", "dpo": "DPO"}[this.arm.spec.name]


Name = str | Callable[..., str]
PHASES: tuple[tuple[Any, str, Name], ...] = (
    (prepare, "fine_tuned_reference", "SFT"),
    (RewardTrainer, "members", "reward model"),
    (RewardTrainer, "finished", "reward model"),
    (prepare, "normalisation_replies", "reward model"),
    (ppo, "collect", "PPO, rollouts"),
    (run._Run, "train", _of_the_arm),
    (Evaluator, "point", "evaluation: replies"),
    (Evaluator, "scores", "evaluation: scores"),
    (Evaluator, "divergence", "evaluation: KL, entropy"),
    (run._Run, "serve", "the last replies"),
    (RunStore, "commit", "keeping"),
    (RunStore, "commit_world", "keeping"),
)
"""Owner, name and phase, the last by its name or by what the call is given."""


@contextmanager
def phases(ledger: Ledger, task: Any) -> Iterator[None]:
    """All that happens within goes into the ledger; making pairs is the task's."""

    def watch(function: Callable[..., Any], phase: Name) -> Callable[..., Any]:
        def watched(*args: Any, **more: Any) -> Any:
            with ledger.inside(phase if isinstance(phase, str) else phase(*args)):
                return function(*args, **more)

        return watched

    real = ComputeMeter.add

    def add(meter: ComputeMeter, phase: str, work: Any) -> None:
        ledger.count(work.flops)
        real(meter, phase, work)

    with ExitStack() as stack:
        for owner, name, phase in (*PHASES, (type(task), "preferences", "pairs and labels")):
            stack.enter_context(patch.object(owner, name, watch(getattr(owner, name), phase)))
        stack.enter_context(patch.object(ComputeMeter, "add", add))
        yield


def seed_profile(seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of processor before the first job and of the job, by phase; the job once more, by kernel."""
    world = make_world(settings["task"], None, False, settings["policy"], None)
    arms = parse_arms(settings["arms"], world.arm)
    jobs.work_on(jobs.warm_up_job(arms, world))
    start, ledger = process_time(), Ledger()
    with _work(arms, world, seed) as work, phases(ledger, world.open()):
        work()
        ledger.settle()
    kernels: dict[Any, list[float]] = {}
    with _work(arms, world, seed) as work, clocked() as inside, timed(kernels, process_time):
        before = process_time()
        work()
        again = process_time() - before
    ledger.flops.pop(OTHER, None)  # what a run is charged of others' work
    return {
        "start": start,
        "seconds": dict(ledger.seconds),
        "flops": dict(ledger.flops),
        "kinds": by_kind(kernels, inside, again),
    }


@contextmanager
def _work(arms: Any, world: Any, seed: int) -> Iterator[Callable[[], Any]]:
    """The worker's job of a seed, with a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(arms, world, seed + 1, RunStore(Path(folder)))
        yield partial(jobs.work_on, plan.jobs({})[seed])


def main(seed: str, settings: str = "{}") -> None:
    print(json.dumps(seed_profile(int(seed), SETTINGS | json.loads(settings))))


if __name__ == "__main__":
    main(*sys.argv[1:])
