"""What was measured of the transformer, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import transformer_floors, transformer_job_text
from benchmarks.table import duration, grid
from benchmarks.transformer_cases import CASES
from benchmarks.transformer_goals import (
    COMPILED,
    GENERATE,
    GRPO,
    MIB,
    OURS,
    PPO,
    TORCH,
    TRL,
    Found,
    judge,
    utilisation,
)

MET = {True: "yes", False: "**no**", None: "not measured"}


def markdown(found: Found) -> str:
    goals = grid(
        ("what", "goal", "reached", "met"), ([g.what, g.goal, g.reached, MET[g.met]] for g in judge(found))
    )
    parts = [
        _versions(found),
        "### Goals of the transformer\n\n" + goals,
        *transformer_floors.markdown(found),
    ]
    parts += [*_sides(found), *transformer_job_text.markdown(found.job), *_profiles(found)]
    return "\n\n".join(parts)


def _versions(found: Found) -> str:
    abouts = [
        side["about"]
        for record in found.records.values()
        for name, side in record["sides"].items()
        if name in (TRL, PPO)
    ]
    if "about" in found.job:
        abouts.append(found.job["about"])
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


def _profiles(found: Found) -> Iterator[str]:
    if not found.profiles:
        return
    yield "### Where the time goes"
    kinds = list(dict.fromkeys(kind for profile in found.profiles.values() for kind in profile["kinds"]))
    rows = [
        [kind, *(f"{p['kinds'].get(kind, 0) / p['seconds']:.0%}" for p in found.profiles.values())]
        for kind in kinds
    ]
    yield grid(["", *found.profiles], rows)
    profiles = {case: profile for case in CASES if (profile := found.profile(case)) is not None}
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
