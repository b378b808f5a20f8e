"""What the kernels are to reach, and what the records of `side_by_side` and `overheads` say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

Record = dict[str, Any]
OURS = "rlhfbench"
MACHINE = ("read", "copy", "exponentials", "roots")
POSSIBLE = 1.1
"""Nothing reads faster than memory gives; a share above it, but for noise, says that the yardstick was disturbed."""
PARAMETERS_ONCE, TOKENS_BOTH = "adamw", "token log-probs, forward + backward"


class Goal(NamedTuple):
    """A line of the table: `worst` is the measured value that is furthest from the goal."""

    kernel: str
    goal: str
    reached: str
    met: bool


class Found(NamedTuple):
    """Everything measured."""

    records: list[Record]
    threads: list[Record]
    overheads: dict[str, Any]
    machine: str

    def of(self, case: str, *, least_v: int = 0, v: int | None = None, large: bool = False) -> list[Record]:
        return [
            r
            for r in self.records
            if r["case"] == case
            and r["shape"][-1] >= least_v
            and v in (None, r["shape"][-1])
            and (not large or "read" in r["sides"])
        ]


def seconds(record: Record, side: str = OURS) -> float:
    return float(record["sides"][side]["best"])


def ratio(record: Record, side: str) -> float:
    """How many times as long the other side takes."""
    return seconds(record, side) / seconds(record)


def peers(record: Record) -> list[str]:
    return [name for name in record["sides"] if not name.startswith(OURS) and name not in MACHINE]


def against_best(record: Record, only: str = "") -> float:
    return min(ratio(record, peer) for peer in peers(record) if peer.startswith(only))


def share(record: Record) -> float:
    """Of the bandwidth measured beside it: of reading, or of copying where much is written."""
    read, written, size = record["read"], record["written"], record["bytes"]
    if written * 20 < read:
        return read / seconds(record) / (size / seconds(record, "read"))
    return float((read + written) / seconds(record) / (2 * size / seconds(record, "copy")))


def _times(kernel: str, goal: str, values: Iterable[float], least: float, limit: str = "") -> Iterator[Goal]:
    """The smallest of the values has to be at least so large."""
    values = list(values)
    if values:
        yield Goal(kernel, goal, _spread(values) + limit, min(values) >= least)


def _spread(values: list[float]) -> str:
    return f"{min(values):.2g} to {max(values):.2g} ×" if len(values) > 1 else f"{values[0]:.2g} ×"


def _limit(records: list[Record], peer: str, what: str) -> str:
    """How many times as long the peer takes as that part of our work which no kernel can leave out."""
    values = [min(seconds(r, p) for p in peers(r) if p.startswith(peer)) / seconds(r, what) for r in records]
    return f" (the {what} alone: {_spread(values)})" if values else ""


def _share(found: Found, kernel: str, least: float) -> Iterator[Goal]:
    values = [share(r) for r in found.of(kernel, least_v=4096, large=True)]
    if values:
        reached = f"{min(values):.0%} to {max(values):.0%}"
        possible = max(values) <= POSSIBLE
        if not possible:
            reached += ", which cannot be: reading was disturbed, could not measure"
        met = possible and min(values) >= least
        yield Goal(f"`{kernel}`, V ≥ 4,096", f"{least:.0%} of read bandwidth", reached, met)


def _rows(found: Found) -> Iterator[Goal]:
    for kernel in ("token_logprobs", "entropy"):
        yield from _share(found, kernel, 0.8)
        values = [against_best(r) for r in found.of(kernel, least_v=4096, large=True)]
        yield from _times(f"`{kernel}`, V ≥ 4,096", "3 × the best peer", values, 3)
    yield from _share(found, "kl_divergence", 0.7)
    kl = found.of("kl_divergence", least_v=4096, large=True)
    name = "`kl_divergence`, V ≥ 4,096"
    yield from _times(name, "3 × the best peer idiom", (against_best(r) for r in kl), 3)
    yield from _times(name, "10 × torch eager, plain", (ratio(r, "torch") for r in kl), 10)


def _both(found: Found) -> Iterator[Goal]:
    for v, least in ((50_257, 6), (64, 20)):
        records = found.of(TOKENS_BOTH, v=v)
        values, limit = [ratio(r, "torch") for r in records], _limit(records, "torch", "exponentials")
        yield from _times(f"{TOKENS_BOTH}, V = {v:,}", f"{least} × torch autograd", values, least, limit)
    values = [against_best(r) for r in found.of(TOKENS_BOTH)]
    yield from _times(f"{TOKENS_BOTH}, every size", "1.5 × the best idiom of any peer", values, 1.5)


def _losses(found: Found) -> Iterator[Goal]:
    for kernel in ("ppo_from_logits", "dpo_from_logits"):
        large = found.of(kernel, v=50_257)
        values = [ratio(r, "torch") for r in large]
        yield from _times(f"`{kernel}`, V = 50,257", "5 × torch eager", values, 5)
        for r in large:
            extra = r["sides"][f"{OURS}, new array"]["peak"] / r["sides"]["torch"]["peak"]
            goal = "half of torch eager's peak extra memory"
            yield Goal(f"`{kernel}`, V = 50,257", goal, f"{extra:.3f} of it", extra <= 0.5)
        for peer in ("torch.compile", "jax.jit"):
            values = [ratio(r, peer) for r in found.of(kernel) if peer in r["sides"]]
            yield from _times(f"`{kernel}`, every size", f"2 × {peer}", values, 2)


def _arrays(found: Found) -> Iterator[Goal]:
    for kernel in ("gae", "whiten", "ppo_clip", "adamw"):
        values = [against_best(r, "numpy") for r in found.of(kernel)]
        yield from _times(f"`{kernel}`, every size", "5 × NumPy's best vectorised form", values, 5)
    values = [1 / ratio(r, "torch fused") for r in found.of(PARAMETERS_ONCE) if "torch fused" in r["sides"]]
    if values:
        reached = f"{min(values):.2f} to {max(values):.2f} of its time"
        yield Goal("`adamw`, every size", "1.2 × torch's fused AdamW at most", reached, max(values) <= 1.2)


def _threads(found: Found) -> Iterator[Goal]:
    for record in found.threads:
        best = {name: timing["best"] for name, timing in record["threads"].items()}
        gain = best["1 thread"] / best["2 threads"]
        reading, arithmetic = (best[what] / best[f"{what}, 2 threads"] for what in ("read", "exponentials"))
        reached = (
            f"{gain:.2f} × (reading alone gains {reading:.2f} ×, exponentials in cache {arithmetic:.2f} ×)"
        )
        yield Goal(f"`{record['case']}`, two threads", "1.7 × one thread", reached, gain >= 1.7)


STARTUP = (
    ("compile", "cold compile, one process", 20),
    ("wait", "cold compile, two workers", 20),
    ("load", "loading from the cache", 1),
)


def _overheads(found: Found) -> Iterator[Goal]:
    costs = found.overheads
    if not costs:
        return
    public = costs["public"]
    slow = {name: value for name, value in public.items() if value[0] > 5e-6}
    reached = (
        " to ".join(f"{end(value for value, _ in public.values()) * 1e6:.1f}" for end in (min, max)) + " µs"
    )
    if slow:
        each = ", ".join(f"`{n}` {s * 1e6:.1f} ({floor * 1e6:.1f})" for n, (s, floor) in sorted(slow.items()))
        reached += (
            f"; {len(slow)} of {len(public)} above (what Python and Numba take for as many arrays): {each}"
        )
    yield Goal("a public call on tiny arrays", "5 µs", reached, not slow)
    jitted = costs["from jitted"]
    reached = ", ".join(f"`{n}` {e * 1e6:.3f} ({s * 1e6:.3f} with a row)" for n, (e, s) in jitted.items())
    met = max(empty for empty, _ in jitted.values()) <= 0.05e-6
    yield Goal("jitted, from `@njit` code, on no row", "0.05 µs", f"{reached} µs", met)
    calls = costs["from Python"]
    reached = ", ".join(
        f"`{n}` {s * 1e6:.2f} ({a} arrays; doing nothing takes {e * 1e6:.2f})"
        for n, (a, s, e) in calls.items()
    )
    met = all(s <= (0.2 + 0.06 * arrays) * 1e-6 for arrays, s, _ in calls.values())
    yield Goal("jitted, from Python", "0.2 µs + 0.06 µs an array", f"{reached} µs", met)
    for policy, seconds in costs["startup"].items():
        for name, what, most in STARTUP:
            value = seconds[name]
            reached = f"{value:.2f} s"
            yield Goal(f"`compare ppo dpo`, {policy} policy, {what}", f"{most} s", reached, value <= most)


PARTS: tuple[Callable[[Found], Iterator[Goal]], ...] = (
    _rows,
    _both,
    _losses,
    _arrays,
    _threads,
    _overheads,
)


def judge(found: Found) -> list[Goal]:
    """Every goal that something was measured for."""
    return [goal for part in PARTS for goal in part(found)]
