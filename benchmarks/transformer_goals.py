"""What the transformer is to reach, what was measured says about it, and the tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.table import duration, grid

OURS, TORCH, COMPILED = "rlhfbench", "torch", "torch.compile"
TRL, PPO, GRPO, GENERATE = "TRL", "TRL PPO", "TRL GRPO", "transformers generate"
MATMUL, PRODUCTS = "matmul", "products"
MACHINE = (MATMUL, PRODUCTS)
WIDE, NARROW = "width 64", "width 32"
MIB = 2**20


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


# Goals


def _missing(what: str, goal: str, peer: str) -> Goal:
    return Goal(what, goal, f"not measured, for want of {peer}", None)


def _times(found: Found, case: str, peer: str, least: float, size: str = WIDE) -> Goal:
    what, goal = f"{case}, {size}", f"{least:g} × {_name(peer)}"
    ours, theirs = found.side(case, OURS, size), found.side(case, peer, size)
    if ours is None or theirs is None:
        return _missing(what, goal, _name(peer))
    best, median = (theirs[of] / ours[of] for of in ("best", "median"))
    took = f"{duration(ours['best'])} against {duration(theirs['best'])}"
    return Goal(what, goal, f"{best:.2g} × ({took}; medians {median:.2g} ×)", best >= least)


def _name(peer: str) -> str:
    return {TORCH: "hand-written PyTorch", PPO: "TRL 1.9's PPO"}.get(peer, peer)


def _speed(found: Found) -> Iterator[Goal]:
    yield _times(found, "DPO step", TORCH, 2)
    yield _times(found, "DPO step", TRL, 8)
    yield _times(found, "PPO update", TORCH, 2)
    yield _times(found, "PPO update", PPO, 10)
    yield _times(found, "sampling", TORCH, 5)
    yield _times(found, "sampling", GENERATE, 20)
    for case in ("DPO step", "PPO update"):
        yield _times(found, case, TORCH, 2.5, NARROW)


def utilisation(found: Found, case: str) -> tuple[float, float, float] | None:
    """FLOPs a second of the case, of the largest product, and of the case's own products; each at its best."""
    ours, profile = found.side(case, OURS), found.profiles.get(case)
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
    what, goal = "ten seeds of `compare ppo dpo`, two cores", "15 × the same job with TRL"
    parts = job.get("parts", {})
    missing = {_name(part["side"]) for part in parts.values() if part["seconds"] is None}
    if not parts or missing or job.get(OURS) is None:
        yield _missing(what, goal, " and ".join(sorted(missing)) or "our command")
        return
    theirs, ours = trl_seconds(job), job[OURS]["seconds"]
    reached = f"{theirs / ours:.2g} × ({duration(ours)}; TRL {duration(theirs)}, multiplied out)"
    cores = job[OURS]["processor"] / ours
    if cores < 0.8 * job["cores"]:
        reached += f"; we had {cores:.1f} of {job['cores']} cores"
    yield Goal(what, goal, reached, theirs >= 15 * ours)


def trl_seconds(job: dict[str, Any]) -> float:
    """What the updates alone would take, seeds shared out among the cores without loss."""
    seed = sum(part["updates"] * part["seconds"] for part in job["parts"].values())
    return float(seed * job["seeds"] / job["cores"])


def _memory(found: Found) -> Iterator[Goal]:
    for case in ("DPO step", "PPO update"):
        ours, theirs, profile = found.side(case, OURS), found.side(case, TORCH), found.profiles.get(case)
        what = f"{case}, memory"
        if profile is not None:
            bytes_ = profile["allocated"]
            reached = f"{bytes_ / 1024:.0f} KiB at a time, beside the workspace"
            yield Goal(what, "allocates nothing after the first", reached, bytes_ < 2**16)
        if ours is None or theirs is None or None in (ours["peak"], theirs["peak"]):
            yield _missing(what, "peak below PyTorch's", "one side")
            continue
        (extra, held), (other, _) = ours["peak"], theirs["peak"]
        reached = f"{(extra + held) / MIB:.1f} MiB, workspace included, against {other / MIB:.1f}"
        yield Goal(what, "peak below PyTorch's", reached, extra + held < other)


PARTS: tuple[Callable[[Found], Iterator[Goal]], ...] = (_speed, _utilised, _ten_seeds, _memory)


def judge(found: Found) -> list[Goal]:
    return [goal for part in PARTS for goal in part(found)]


# Markdown

MET = {True: "yes", False: "**no**", None: "not measured"}


def markdown(found: Found) -> str:
    goals = grid(
        ("what", "goal", "reached", "met"), ([g.what, g.goal, g.reached, MET[g.met]] for g in judge(found))
    )
    parts = [_versions(found), "### Goals of the transformer\n\n" + goals, *_sides(found), *_job(found)]
    parts += _floor(found)
    return "\n\n".join(parts)


def _versions(found: Found) -> str:
    abouts = [
        side["about"]
        for record in found.records.values()
        for name, side in record["sides"].items()
        if name in (TRL, PPO)
    ]
    return ". ".join(dict.fromkeys([found.machine, *abouts])) + "."


def _sides(found: Found) -> Iterator[str]:
    """Every side of every case, as multiples of our time, and memory."""
    names = [
        name
        for name in (OURS, TORCH, COMPILED, "jax", TRL, GRPO, PPO, GENERATE)
        if any(name in record["sides"] for record in found.records.values())
    ]
    rows = [[title, *(_cell(record, name) for name in names)] for title, record in found.records.items()]
    if rows:
        yield "### All sides\n\n" + grid(["", *names], rows)


def _cell(record: dict[str, Any], name: str) -> str:
    side, ours = record["sides"].get(name), record["sides"].get(OURS)
    if side is None or ours is None:
        return ""
    if name == OURS:
        size = record["size"]
        tokens = size["rows"] * size["length"] / side["best"]
        text = duration(side["best"]) + (f", {tokens:,.0f} tokens/s" if record["case"] == "sampling" else "")
    else:
        text = f"{side['best'] / ours['best']:.1f} ×"
    return text + ("" if side["peak"] is None else f", {sum(side['peak']) / MIB:.0f} MiB")


def _job(found: Found) -> Iterator[str]:
    rows = []
    for name, part in found.job.get("parts", {}).items():
        taken, n = part["seconds"], part["updates"]
        shape = "{rows} × ({prompt} + {length}), V = {vocab}, width {width}".format(**part["size"])
        times = ("not measured", "") if taken is None else (duration(taken), duration(n * taken))
        rows.append([name, shape, str(n), *times])
    if rows:
        header = ("TRL's trainer", "an update", "updates a seed", "one takes", "a seed, multiplied out")
        yield "### Ten seeds with TRL\n\n" + grid(header, rows)


def _floor(found: Found) -> Iterator[str]:
    profiles = found.profiles
    if not profiles:
        return
    yield "### Where the time goes"
    kinds = list(dict.fromkeys(kind for profile in profiles.values() for kind in profile["kinds"]))
    rows = [
        [kind, *(f"{p['kinds'].get(kind, 0) / p['seconds']:.0%}" for p in profiles.values())]
        for kind in kinds
    ]
    yield grid(["", *profiles], rows)
    for case, profile in profiles.items():
        yield f"`{case}`, by phase\n\n{_phases(profile)}"
    rates = {case: utilisation(found, case) for case in profiles}
    lines = [
        [case, f"{a / 1e9:.1f}", f"{b / 1e9:.1f} ({a / b:.0%})", f"{c / 1e9:.1f} ({a / c:.0%})"]
        for case, rate in rates.items()
        if rate is not None
        for a, b, c in [rate]
    ]
    header = ("GFLOP/s", "reached", "largest product", "the case's own products, alone")
    yield grid(header, lines)
    for case, profile in profiles.items():
        if case == "DPO step":
            yield f"`{case}`, products of m × k by k × n\n\n{_products(profile)}"


def _phases(profile: dict[str, Any]) -> str:
    whole, seconds = sum(profile["flops"].values()), profile["phases"]
    rows = [
        [
            name,
            f"{flops / 1e6:,.1f}",
            f"{flops / whole:.0%}",
            f"{seconds[name] / profile['seconds']:.0%}" if name in seconds else "",
        ]
        for name, flops in sorted(profile["flops"].items(), key=lambda item: -item[1])
    ]
    return grid(("phase", "MFLOP", "of all FLOPs", "of the time"), rows)


def _products(profile: dict[str, Any]) -> str:
    most = sorted(profile["products"], key=lambda product: -product[-1])[:8]
    rows = [
        [
            f"{m:,} × {k:,} × {n:,}",
            f"{calls:g}",
            duration(taken),
            f"{2 * m * k * n * calls / taken / 1e9:.0f}",
        ]
        for m, k, n, calls, taken in most
    ]
    return grid(("m × k × n", "calls", "time", "GFLOP/s"), rows)
