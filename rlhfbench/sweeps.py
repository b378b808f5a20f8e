"""sweep(): one algorithm at several betas, for reward hacking against the KL to the reference."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .comparison import Comparison
from .comparison_gates import judge
from .errors import InputError
from .hacking import kl_warnings, reward_hacking
from .harness import DEFAULT_FOLDER, QUICK_SEEDS, Watch, carry_out, count_seeds
from .options import require
from .plan import Plan, check_arms, make_world
from .registry import Arm, parse_arm, split_arm
from .results import RunStore


@dataclass(frozen=True)
class Sweep:
    """The same algorithm at several betas; `comparison` holds one arm for each."""

    algorithm: str
    betas: Sequence[float]
    comparison: Comparison

    @property
    def runs(self) -> list[dict[str, Any]]:
        """One record a run: beta, seed, whether it hacked its reward model, why, and its curve."""
        records = []
        for beta, label in zip(self.betas, self.comparison.labels, strict=True):
            for result in self.comparison.runs[label]:
                hacking, reason = reward_hacking(result.curve)
                records.append(
                    {
                        "beta": beta,
                        "seed": result.seed,
                        "status": result.status,
                        "reward_hacking": hacking,
                        "reason": reason,
                        "kl_warnings": kl_warnings(result.curve),
                        "curve": result.to_json()["curve"],
                    }
                )
        return records

    def as_dict(self) -> dict[str, Any]:
        """The JSON contract of `sweep`."""
        return {"algorithm": self.algorithm, "runs": self.runs}


def sweep(
    algorithm: str,
    betas: Sequence[float],
    *,
    task: str | None = None,
    data: str | None = None,
    policy: str | None = None,
    seeds: int = QUICK_SEEDS,
    updates: int | None = None,
    budget: float | None = None,
    jobs: int | None = None,
    out: str = DEFAULT_FOLDER,
    strict: bool = False,
    verifier: str | None = None,
    i_know: Collection[str] = (),
    watch: Watch | None = None,
) -> Sweep:
    """Run one algorithm at each of `betas`: RM score and gold against the KL to the reference.

    Parameters
    ----------
    algorithm : str
        ``name[@preset][:field=value,...]``; it must have a field `beta`.
    betas : sequence of float
    updates : int, optional
        Sets the algorithm's field of that name.
    task, data, policy, seeds, budget, jobs, out, strict, verifier, i_know, watch
        As in `compare`.
    """
    require(len(betas) >= 1, "beta", list(betas), "at least one value")
    require(len(set(betas)) == len(betas), "beta", list(betas), "values that differ")
    world = make_world(task, data, strict, policy, budget, verifier)
    arms = []
    for beta in betas:
        overrides = {"beta": short(beta)} | ({} if updates is None else {"updates": updates})
        arms.append(with_fields(algorithm, overrides, world.arm))
    name = arms[0].label
    arms = [replace(arm, label=f"{name} beta={short(beta)}") for arm, beta in zip(arms, betas, strict=True)]
    check_arms(arms, world)
    gates = judge(arms, world, i_know)
    plan = Plan(arms, world, count_seeds(seeds), RunStore(Path(out)), gates)
    comparison = carry_out(plan, jobs=jobs, watch=watch)
    return Sweep(name, list(betas), comparison)


def short(number: float) -> str:
    """As few digits as tell it from every other number."""
    text = f"{number:g}"
    return text if float(text) == number else repr(number)


def with_fields(text: str, fields: Mapping[str, Any], make: Callable[[str], Arm]) -> Arm:
    """The arm that `make` makes of `text` with more overrides, which go into its source too."""
    tail = ",".join(f"{name}={value}" for name, value in fields.items())
    names = parse_arm(text).spec.config.__dataclass_fields__
    for name in fields:
        if name not in names:
            raise InputError(f"{text}: it has no field '{name}'; it has {', '.join(names)}")
    return make(f"{text}{',' if split_arm(text)[2] else ':'}{tail}")
