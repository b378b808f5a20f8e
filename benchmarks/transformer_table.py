"""The transformer beside PyTorch, JAX, TRL and transformers: measure, judge, print or write into docs/performance.md.

    python -m benchmarks.transformer_table [--trl PYTHON] [--trl-ppo PYTHON] [-k PATTERN] [--quick]
                                           [--json FILE] [--write]
    python -m benchmarks.transformer_table --from FILE [--write]

TRL 1.16 has no PPO any more and 1.9 was the last that had it, so each may have an interpreter of its own; without one
they are looked for where this runs. What is not installed is named as not measured. Every side is a process of its own
with one thread; those of a case stay on one core and take turns, call by call.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import transformer_cases
from benchmarks.table import machine, write
from benchmarks.transformer_cases import SIZES, Size
from benchmarks.transformer_goals import (
    COMPILED,
    GENERATE,
    GRPO,
    MATMUL,
    OURS,
    PPO,
    PRODUCTS,
    TRL,
    Found,
    profile_name,
)
from benchmarks.transformer_job import measure_job, seeds_in_parts
from benchmarks.transformer_text import markdown
from benchmarks.turns import SETTINGS, Side, take_turns

BEGIN, END = "<!-- benchmarks.transformer_table: begin -->", "<!-- benchmarks.transformer_table: end -->"
TRL_SIDES = {
    "DPO step": {TRL: "dpo"},
    "PPO update": {PPO: "ppo", GRPO: "grpo"},
    "sampling": {GENERATE: "generate"},
}
"""Names of the sides that another interpreter runs, and of their cases there."""
SCRIPT = Path(__file__).parent / "peers" / "trl_cases.py"


class Peers:
    """Which interpreter runs what of TRL; None: nothing does."""

    def __init__(self, trl: str | None, trl_ppo: str | None) -> None:
        here = sys.executable if find_spec("trl") else None
        self.latest, self.with_ppo = _there(trl) or here, _there(trl_ppo) or here

    def command(self, side: str, case: str, size: Size) -> list[str] | None:
        python = self.with_ppo if side == PPO else self.latest
        return None if python is None else [python, "-I", str(SCRIPT), case, json.dumps(size._asdict())]


def _there(python: str | None) -> str | None:
    if python is not None and not Path(python).exists():
        print(f"{python}: is not there, an interpreter with TRL is needed", file=sys.stderr)
        return None
    return python


def commands(case: str, size: Size, peers: Peers) -> dict[str, list[str]]:
    """What starts each side."""
    own = {OURS: ("rlhfbench", case), MATMUL: ("machine", "matmul"), PRODUCTS: ("machine", case)}
    own |= {library: (library, case) for library in ("torch", "jax") if _has(library, case)}
    if COMPILED.partition(".")[0] in own and case == "DPO step":
        own[COMPILED] = (COMPILED, case)
    python, given = [sys.executable, "-m", "benchmarks.transformer_side"], json.dumps(size._asdict())
    theirs = {side: peers.command(side, name, size) for side, name in TRL_SIDES[case].items()}
    return {name: [*python, *what, given] for name, what in own.items()} | {
        name: command for name, command in theirs.items() if command is not None
    }


def _has(library: str, case: str) -> bool:
    return find_spec(library) is not None and (library == "torch" or case == "DPO step")


def record(case: str, size: Size, chosen: Mapping[str, Sequence[str]], seconds: float) -> dict[str, Any]:
    """All sides in one round robin; one that cannot start says why and is left out."""
    started = [Side(name, command) for name, command in chosen.items()]
    try:
        ready = [side for side in started if side.ready()]
        peaks = {side.name: side.ask("peak") for side in ready}
        times = take_turns(ready, seconds, rounds=5) if ready else {}
    finally:
        for side in started:
            side.close()
    return {
        "case": case,
        "size": size._asdict(),
        "sides": {
            side.name: times[side.name]._asdict() | {"peak": peaks[side.name], "about": side.about}
            for side in ready
        },
    }


def measure(found: Found, peers: Peers, pattern: str, quick: bool) -> Iterator[str]:
    """Replace what `found` holds on the cases that match; yields after each, so that it can be kept."""
    for name, size in SIZES.items():
        for case in transformer_cases.CASES:
            title = f"{case}, {name}"
            if pattern in title:
                found.records[title] = record(case, size, commands(case, size, peers), 3.0 if quick else 15.0)
                yield title
    for size_name, size in SIZES.items():
        for case in transformer_cases.CASES:
            name = profile_name(case, size_name)
            if pattern in f"profile of {name}":
                found.profiles[name] = profile(case, size)
                yield f"profile of {name}"
    if pattern in "ten seeds":
        found.job.clear()
        found.job.update(measure_job(peers.with_ppo, 1 if quick else 2), seed=seeds_in_parts())
        yield "ten seeds"
    elif pattern in "seeds in parts":
        found.job["seed"] = seeds_in_parts()
        yield "seeds in parts"


def profile(case: str, size: Size) -> Any:
    command = [sys.executable, "-m", "benchmarks.transformer_profile", case, json.dumps(size._asdict())]
    done = subprocess.run(command, env=os.environ | SETTINGS, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def load(file: Path | None) -> Found:
    """What an earlier run kept, or nothing."""
    if file is None or not file.exists():
        return Found(machine(), {}, {}, {})
    return Found(**json.loads(file.read_text(encoding="utf-8")))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transformer_table", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--trl", metavar="PYTHON", help="an interpreter that has TRL (DPO, GRPO, generate)")
    parser.add_argument("--trl-ppo", metavar="PYTHON", help="one that has a TRL with PPO: 1.9 or before")
    parser.add_argument("-k", dest="pattern", default="", help="only the cases whose name contains this")
    parser.add_argument("--quick", action="store_true", help="3 s a case instead of 15")
    parser.add_argument(
        "--json", type=Path, help="keep everything measured in this file; other cases in it stay"
    )
    parser.add_argument("--from", dest="given", type=Path, help="take the numbers of such a file")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md instead of printing")
    options = parser.parse_args(argv)
    found = load(options.given or options.json)
    if not options.given:
        for title in measure(found, Peers(options.trl, options.trl_ppo), options.pattern, options.quick):
            print(title, file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps(found._asdict()), encoding="utf-8")
    text = markdown(found)
    if options.write:
        write(text, BEGIN, END)
    else:
        print(text)


if __name__ == "__main__":
    main()
