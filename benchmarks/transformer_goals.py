"""What the transformer is to reach, and what was measured says about it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.table import duration

OURS, TORCH, COMPILED = "rlhfbench", "torch", "torch.compile"
TRL, PPO, GRPO, GENERATE = "TRL", "TRL PPO", "TRL GRPO", "transformers generate"
MATMUL, PRODUCTS = "matmul", "products"
MACHINE = (MATMUL, PRODUCTS)
WIDE, NARROW = "width 64", "width 32"
MIB = 2**20


SPEED = (
    ("DPO step", WIDE, TORCH, 2.0),
    ("DPO step", WIDE, TRL, 8.0),
    ("PPO update", WIDE, TORCH, 2.0),
    ("PPO update", WIDE, PPO, 10.0),
    ("sampling", WIDE, TORCH, 5.0),
    ("sampling", WIDE, GENERATE, 20.0),
    ("DPO step", NARROW, TORCH, 2.5),
    ("PPO update", NARROW, TORCH, 2.5),
)
"""Case, size, peer, and how many times faster than that we are to be."""
JOB, JOB_TIMES = "ten seeds of `compare ppo dpo`, two cores", 15.0


class Goal(NamedTuple):
    """A line of the table; `met` is None where something needed was not measured."""

    what: str
    goal: str
    reached: str
    met: bool | None


class Found(NamedTuple):
    """Everything measured: `records` by case and size, `profiles` by case, and the `job` of ten seeds."""

    machine: str
    records: dict[str, Any]
    profiles: dict[str, Any]
    job: dict[str, Any]

    def side(self, case: str, name: str, size: str = WIDE) -> dict[str, Any] | None:
        return self.records.get(f"{case}, {size}", {}).get("sides", {}).get(name)

    def profile(self, case: str, size: str = WIDE) -> dict[str, Any] | None:
        return self.profiles.get(profile_name(case, size))


def profile_name(case: str, size: str) -> str:
    """Under which a profile is kept: the first size is the one that is meant."""
    return case if size == WIDE else f"{case}, {size}"


# Goals


def _missing(what: str, goal: str, peer: str) -> Goal:
    return Goal(what, goal, f"not measured, for want of {peer}", None)


def _times(found: Found, case: str, size: str, peer: str, least: float) -> Goal:
    what, goal = f"{case}, {size}", goal_text(least, peer)
    ours, theirs = found.side(case, OURS, size), found.side(case, peer, size)
    if ours is None or theirs is None:
        return _missing(what, goal, _name(peer))
    best, median = (theirs[of] / ours[of] for of in ("best", "median"))
    took = f"{duration(ours['best'])} against {duration(theirs['best'])}"
    return Goal(what, goal, f"{best:.2g} × ({took}; medians {median:.2g} ×)", best >= least)


def goal_text(least: float, peer: str) -> str:
    return f"{least:g} × {_name(peer)}"


def _name(peer: str) -> str:
    return {TORCH: "hand-written PyTorch", PPO: "TRL 1.9's PPO"}.get(peer, peer)


def _speed(found: Found) -> Iterator[Goal]:
    for case, size, peer, least in SPEED:
        yield _times(found, case, size, peer, least)


def utilisation(found: Found, case: str) -> tuple[float, float, float] | None:
    """FLOPs a second of the case, of the largest product, and of the case's own products; each at its best."""
    ours, profile = found.side(case, OURS), found.profile(case)
    yards = [found.side(case, name) for name in MACHINE]
    if ours is None or profile is None or None in yards:
        return None
    peak, own = (float(yard["about"]) / yard["best"] for yard in yards if yard is not None)
    return sum(profile["flops"].values()) / ours["best"], peak, own


def _utilised(found: Found) -> Iterator[Goal]:
    rates = utilisation(found, "DPO step")
    what, goal = "model-FLOP utilisation of a DPO step, width 64", "50 % of the matrix-product peak"
    if rates is None:
        yield _missing(what, goal, "one of its parts")
        return
    speed, peak, own = rates
    reached = (
        f"{speed / peak:.0%}: {speed / 1e9:.1f} of {peak / 1e9:.1f} GFLOP/s; "
        f"its own products, alone: {own / 1e9:.1f}"
    )
    yield Goal(what, goal, reached, speed >= 0.5 * peak)


def _ten_seeds(found: Found) -> Iterator[Goal]:
    job = found.job
    what, goal = JOB, f"{JOB_TIMES:g} × the same job with TRL"
    if not complete(job):
        yield _missing(what, goal, "our command" if "seeds_in" in job else _name(PPO))
        return
    theirs, ours = trl_seconds(job), job[OURS]["seconds"]
    reached = f"{theirs / ours:.2g} × ({duration(ours)}; TRL {duration(theirs)})"
    cores = job[OURS]["processor"] / ours
    if cores < 0.8 * job["cores"]:
        reached += f"; we had {cores:.1f} of {job['cores']} cores"
    yield Goal(what, goal, reached, theirs >= JOB_TIMES * ours)


def complete(job: dict[str, Any]) -> bool:
    """Whether both sides of the ten seeds were measured."""
    return OURS in job and "seeds_in" in job


def trl_seconds(job: dict[str, Any]) -> float:
    """From start to end: the seeds that were run stand for all, shared out among the cores without loss."""
    return float(job["start"] + statistics.mean(job["seeds_in"]) * job["seeds"] / job["cores"])


def _memory(found: Found) -> Iterator[Goal]:
    for case in ("DPO step", "PPO update"):
        ours, theirs, profile = found.side(case, OURS), found.side(case, TORCH), found.profile(case)
        what = f"{case}, memory"
        if profile is not None:
            bytes_ = profile["allocated"]
            reached = f"{bytes_ / 1024:.0f} KiB at a time, beside the workspace"
            yield Goal(what, "allocates nothing after the first", reached, bytes_ < 2**14)
        if ours is None or theirs is None or None in (ours["peak"], theirs["peak"]):
            yield _missing(what, "peak below PyTorch's", "one side")
            continue
        (extra, held), (other, _) = ours["peak"], theirs["peak"]
        reached = f"{(extra + held) / MIB:.1f} MiB, workspace included, against {other / MIB:.1f}"
        yield Goal(what, "peak below PyTorch's", reached, extra + held < other)


PARTS: tuple[Callable[[Found], Iterator[Goal]], ...] = (_speed, _utilised, _ten_seeds, _memory)


def judge(found: Found) -> list[Goal]:
    return [goal for part in PARTS for goal in part(found)]
