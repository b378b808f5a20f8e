"""The compute ledger: one counter vector for every algorithm, by phase, kept by the harness.

Work is charged by the objects that do it, never by phase name: the reference goes to `ref`, the sampler to `rollout`,
the reward model to `rm_score`, values to `critic`, all else an algorithm does to `update`. The phases `sft`,
`rm_train`, `eval` and `serve` are the harness's alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kernels.flops import Work

PHASES = ("sft", "rm_train", "rollout", "ref", "rm_score", "critic", "update", "serve", "eval")
UNCHARGED = ("sft", "eval")
POLICY_PHASES = {
    "sample": "rollout",
    "logits": "update",
    "logprobs": "update",
    "backward": "update",
    "values": "critic",
    "values_backward": "critic",
}


@dataclass
class ComputeMeter:
    """Counts FLOPs, transcendentals, tokens, RM calls, labels and optimiser steps by phase."""

    flops: Counter[str] = field(default_factory=Counter)
    transcendentals: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    label_cost: float = 0.0
    _redirect: str | None = None

    def add(self, phase: str, work: Work) -> None:
        phase = self._redirect or phase
        self.flops[phase] += work.flops
        self.transcendentals[phase] += work.transcendentals

    def count(self, name: str, n: int) -> None:
        """Add to tokens_generated, tokens_trained, rm_calls, labels or optimizer_steps, but not while evaluating."""
        if self._redirect != "eval":
            self.counts[name] += n

    def label(self, n: int, cost: float) -> None:
        """Add so many labels, or calls of an AI labeller, each at `cost` in prices of one person's label."""
        self.count("labels", n)
        if self._redirect != "eval":
            self.label_cost += n * cost

    def policy_charge(self, kind: str, work: Work, tokens: int) -> None:
        """Where the trained policy's work goes."""
        self.add(POLICY_PHASES[kind], work)
        if kind == "sample":
            self.count("tokens_generated", tokens)
        elif kind == "backward":
            self.count("tokens_trained", tokens)

    def reference_charge(self, kind: str, work: Work, tokens: int) -> None:
        """Whatever the reference does is `ref`."""
        self.add("ref", work)

    def reward_charge(self, work: Work, sequences: int) -> None:
        self.add("rm_score", work)
        self.count("rm_calls", sequences)

    def update_charge(self, work: Work) -> None:
        self.add("update", work)

    @contextmanager
    def redirect(self, phase: str) -> Iterator[None]:
        """Charge everything inside to `phase` (evaluation, serving)."""
        before, self._redirect = self._redirect, phase
        try:
            yield
        finally:
            self._redirect = before

    @contextmanager
    def apart(self, phase: str) -> Iterator[ComputeMeter]:
        """Measure what happens inside as `phase`, on an account of its own, which is yielded."""
        account = ComputeMeter()
        mine = self.flops, self.transcendentals, self.counts, self._redirect
        self.flops, self.transcendentals, self.counts = account.flops, account.transcendentals, account.counts
        self._redirect = phase
        try:
            yield account
        finally:
            self.flops, self.transcendentals, self.counts, self._redirect = mine

    def add_difference(self, spent: ComputeMeter, plain: ComputeMeter) -> None:
        """Take over what `spent` holds beyond `plain`."""
        for name in ("flops", "transcendentals", "counts"):
            mine, more, less = (getattr(meter, name) for meter in (self, spent, plain))
            mine.update(more - less)  # a difference of Counters drops what is not positive

    @property
    def charged_flops(self) -> int:
        """The sum over the charged phases: all but `sft` and `eval`."""
        return sum(n for phase, n in self.flops.items() if phase not in UNCHARGED)

    def as_dict(self) -> dict[str, Any]:
        """The counters of the JSON contract, without the clocks."""
        charged = [phase for phase in PHASES if phase not in UNCHARGED]
        names = ("tokens_generated", "tokens_trained", "rm_calls", "labels", "optimizer_steps")
        return {
            "flops": self.charged_flops,
            "transcendentals": sum(self.transcendentals[phase] for phase in charged),
            "by_phase": {phase: self.flops[phase] for phase in PHASES},
            **{name: self.counts[name] for name in names},
            "label_cost": round(self.label_cost, 9),
        }


class Clock:
    """CPU and wall seconds while it runs; stopped during evaluation."""

    def __init__(self) -> None:
        self.cpu_seconds = self.wall_seconds = 0.0
        self._started: tuple[float, float] | None = None

    def start(self) -> None:
        self._started = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        assert self._started is not None, "stop() before start()"
        self.cpu_seconds += time.process_time() - self._started[0]
        self.wall_seconds += time.perf_counter() - self._started[1]
        self._started = None
