"""One run: an algorithm on a prepared seed, with the harness owning budget, clock, evaluation and stopping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels import flops

from .compute import Clock, ComputeMeter
from .cost_models import Costs
from .environment import peak_rss_bytes, reset_peak_rss
from .errors import InputError
from .evaluation import Evaluator, Point, finite, safety_of
from .prepare import Prepared
from .registry import Arm
from .results import Result
from .run_setup import RunSetup
from .types import (
    Metrics,
    Sampler,
    Status,
)

CHECKPOINTS = 20
IDLE_YIELDS = 100
"""With a budget, an algorithm that charges nothing over so many yields would never end."""
FINISHED: Any = object()
Progress = Callable[[float, Metrics], None]


class AlgorithmFailed(Exception):
    """The algorithm's own code raised, or gave what is no metrics: an outcome of the run, not of the program."""


@contextmanager
def algorithms_own() -> Iterator[None]:
    """Around every call of the algorithm's code: whatever it raises is its failure; `InputError` is a person's.

    What overflows is seen in the metrics, and the run has diverged: NumPy need not warn of it on the terminal.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise AlgorithmFailed(f"{type(error).__name__}: {error}".rstrip(": ")) from error


def numbers(metrics: Any) -> Metrics:
    """What an algorithm yielded, as name -> float."""
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (AttributeError, TypeError, ValueError):
        shown = f"{type(metrics).__name__} {metrics!r}"
        shown = shown if len(shown) <= 80 else shown[:79] + "…"
        raise AlgorithmFailed(f"it yielded {shown}; a dictionary of name -> number is needed") from None


@dataclass
class Curve:
    """The points of a run, with the training metrics averaged since the point before."""

    points: list[dict[str, Any]]
    pending: list[Metrics]

    def add(self, update: int, flops: int, point: Point) -> None:
        names = {name: None for metrics in self.pending for name in metrics}
        means = {n: float(np.mean([m[n] for m in self.pending if n in m])) for n in names}
        counted = {"update": update, "flops": flops, **point}
        self.points.append(counted | {n: mean for n, mean in means.items() if n not in counted})
        self.pending.clear()


def run(
    prepared: Prepared,
    arm: Arm,
    *,
    budget: int | None = None,
    checkpoints: int = CHECKPOINTS,
    jit_seconds: float = 0.0,
    time_limit: float | None = None,
    progress: Progress | None = None,
    evaluator: type[Evaluator] = Evaluator,
    keep: Callable[[Sampler], None] | None = None,
) -> Result:
    """Train `arm` on `prepared` and evaluate it on the way.

    Parameters
    ----------
    prepared : Prepared
    arm : Arm
    budget : int, optional
        Charged FLOPs after which the algorithm is stopped; it overshoots by one yield at most.
    checkpoints : int
        Evaluations after the first, at equal fractions of the planned updates or of the budget.
    jit_seconds : float
        Compile time of the session, shown beside the result.
    time_limit : float, optional
        Seconds of the algorithm's own wall time after which the run is `timeout`.
    progress : callable (share done, metrics), optional
    evaluator : type
        `Evaluator`, or a subclass that watches it.
    keep : callable, optional
        Is handed what is served in the end, if the run is done.

    Returns
    -------
    Result
        With status done, diverged, error or timeout, and a message where there is something to say of it. What did
        not finish keeps the starting scores as its outcome, so that it stays in every average.
    """
    reset_peak_rss()
    this = _Run(prepared, arm, evaluator(prepared), budget, checkpoints, time_limit, progress)
    status: Status
    message: str | None
    try:
        status, message = this.train()
        if status == "done":
            this.serve()
            if keep is not None:
                keep(this.setup.served)
    except AlgorithmFailed as failure:
        status, message = "error", str(failure)
    return this.result(status, message, jit_seconds)


class _Run:
    """The state of one run: meter, clock, curve, and the setup that the algorithm holds."""

    def __init__(
        self,
        prepared: Prepared,
        arm: Arm,
        evaluator: Evaluator,
        budget: int | None,
        checkpoints: int,
        time_limit: float | None,
        progress: Progress | None,
    ) -> None:
        self.prepared, self.arm, self.budget, self.checkpoints = prepared, arm, budget, checkpoints
        self.time_limit, self.progress = time_limit, progress
        self.meter, self.clock, self.curve = ComputeMeter(), Clock(), Curve([], [])
        self.evaluator = evaluator
        self.flops_per_reply: int | None = None  # until it has been served
        self.replies = list[dict[str, Any]]()
        self._charge_shared_work()
        self.setup = RunSetup(prepared, arm, self.meter, budget)
        self.curve.add(0, self.meter.charged_flops, self.evaluator.point(self.setup.policy, self.meter))
        self._evaluated: tuple[int, Sampler] = (0, self.setup.policy)

    @property
    def needs_reward_model(self) -> bool:
        return "reward_model" in self.arm.spec.needs

    @property
    def needed_costs(self) -> Costs | None:
        """The cost model, if there is one and the arm learns from it."""
        return self.prepared.costs if "cost_model" in self.arm.spec.needs else None

    def _charge_shared_work(self) -> None:
        """SFT is shown to all and charged to none; training of models and labels are charged to whoever needs them.

        A verifier is not trained and learns from no labels. Leaving out pairs is charged to whoever learns from the
        rest.
        """
        shared, costs = self.prepared.meter, self.needed_costs
        made = [(shared, "sft")] + [(shared, "rm_train")] * self.needs_reward_model
        self._shared_seconds = self.prepared.rm_seconds * self.needs_reward_model
        if costs is not None:
            made.append((costs.meter, "rm_train"))
            self.meter.label(costs.labels, costs.price)
            self._shared_seconds += costs.seconds
        for meter, phase in made:
            self.meter.add(phase, flops.Work(meter.flops[phase], meter.transcendentals[phase]))
        filtering = self.prepared.filtering
        if filtering is not None and "preferences" in self.arm.spec.needs and not self.needs_reward_model:
            self.meter.add("rm_train", filtering.work)
            self._shared_seconds += filtering.seconds
        self.meter.label(self.prepared.labels(self.arm.spec.needs), self.prepared.label_cost)

    def train(self) -> tuple[Status, str | None]:
        """Drive the generator; the clock runs only while the algorithm does."""
        if self._budget_spent():
            return "done", "the budget was spent before the first update"
        with algorithms_own():
            steps = self.arm.spec.function(self.setup, self.arm.config)
        reached, idle, spent = 0, 0, self.meter.charged_flops
        while True:
            self.clock.start()
            try:
                with algorithms_own():
                    metrics = next(steps, FINISHED)
            finally:
                self.clock.stop()
            if metrics is FINISHED:
                break
            metrics = numbers(metrics)
            self.setup.step_done()
            self.curve.pending.append(metrics)
            if not finite(metrics):
                return "diverged", f"a metric is not finite at update {self.setup.done}"
            share = self.setup.progress()
            if self.progress is not None:
                self.progress(share, metrics)
            due = int(share * self.checkpoints + 1e-9)
            if due > reached and not self._checkpoint():
                return "diverged", f"a parameter or score is not finite at update {self.setup.done}"
            reached = max(due, reached)
            if self._budget_spent():
                break
            idle = idle + 1 if self.meter.charged_flops == spent else 0
            spent = self.meter.charged_flops
            if self.budget is not None and idle >= IDLE_YIELDS:
                return "error", f"nothing was charged in {idle} yields: the budget would never be spent"
            if self.time_limit is not None and self.clock.wall_seconds > self.time_limit:
                return "timeout", f"stopped after {self.time_limit:g} s at update {self.setup.done}"
        update, served = self._evaluated
        fresh = update == self.setup.done and served is self.setup.served
        if not fresh and not self._checkpoint():
            return "diverged", "a parameter or score is not finite at the end"
        return "done", None

    def _budget_spent(self) -> bool:
        return self.budget is not None and self.meter.charged_flops >= self.budget

    def _checkpoint(self) -> bool:
        """Append a point; False where something is not finite."""
        if not finite(self.setup.policy.params):
            return False
        with algorithms_own():
            point = self.evaluator.point(self.setup.served, self.meter)
        if not finite(point):
            return False
        self.curve.add(self.setup.done, self.meter.charged_flops, point)
        self._evaluated = (self.setup.done, self.setup.served)
        return True

    def serve(self) -> None:
        """Charge serving and keep some replies; a sampler's seconds are its own, a plain policy's evaluation's."""
        own = self.setup.served is not self.setup.policy
        with algorithms_own():
            if own:
                self.clock.start()
            try:
                served, policy = self.setup.served, self.setup.policy
                self.flops_per_reply = self.evaluator.serving(served, policy, self.meter)
            finally:
                if own:
                    self.clock.stop()
            with self.meter.redirect("eval"):
                self.replies = self.evaluator.replies(self.setup.served)

    def result(self, status: Status, message: str | None, jit_seconds: float) -> Result:
        """The record of the run."""
        start, final = self.curve.points[0], dict(self.curve.points[-1])
        reference = {name: start[name] for name in ("rm_score", "gold_score")}
        if status != "done":
            told = {name: value for name, value in start.items() if name.startswith("safety/")}
            final |= reference | told | {"kl": None, "entropy": None, "length": None}
        shared_seconds = self._shared_seconds
        compute = {
            **self.meter.as_dict(),
            "flops_per_reply": self.flops_per_reply,
            "cpu_seconds": self.clock.cpu_seconds + shared_seconds,
            "wall_seconds": self.clock.wall_seconds + shared_seconds,
            "jit_seconds": jit_seconds,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        outcome = {name: final[name] for name in ("rm_score", "gold_score", "kl", "entropy", "length")}
        return Result(
            seed=self.prepared.seed,
            status=status,
            reference=reference,
            compute=compute,
            curve=self.curve.points,
            safety=safety_of(start, final),
            message=message,
            replies=self.replies,
            **outcome,
        )
