"""compare(): plan, reuse what is stored, run the rest in worker processes, gather."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .comparison import OF_THE_REWARD, Comparison
from .comparison_gates import judge
from .errors import InputError
from .jobs import Job, share_jobs, warm_up_job, work_on
from .options import require
from .plan import Plan, Which, check_arms, make_world
from .pool import Outcome, run_jobs
from .records import COUNTERS
from .registry import parse_arms
from .results import Result, RunStore
from .types import Status

DEFAULT_SEEDS, QUICK_SEEDS = 10, 3
DEFAULT_FOLDER = "rlhfbench-runs"

Watch = Callable[[dict[str, Any]], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; `comparison` holds what was finished by then."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison


def compare(
    arms: Sequence[str],
    *,
    task: str | None = None,
    data: str | None = None,
    policy: str | None = None,
    seeds: int | None = None,
    budget: float | None = None,
    jobs: int | None = None,
    out: str = DEFAULT_FOLDER,
    strict: bool = False,
    verifier: str | None = None,
    quick: bool = False,
    i_know: Collection[str] = (),
    watch: Watch | None = None,
) -> Comparison:
    """Compare algorithms on paired seeds; finished runs are stored under `out` and reused.

    Parameters
    ----------
    arms : sequence of str
        ``name[@preset][:field=value,...]``, or ``./file.py:function``.
    task : str, optional
        ``words``, ``sentences`` (the default), ``sentences-small``, ``arithmetic``, ``safety``, with overrides
        ``name:field=value``; with `data` its options, such as ``pairs:tokenizer=bpe``.
    data : str, optional
        A file of preference pairs, or, with the task ``problems``, of problems with answers.
    policy : str, optional
        ``transformer[:layers=2,width=32,heads=4]``, ``linear`` or ``tabular``; by default what suits the task.
    seeds : int, optional
        Number of paired seeds, from 0 on: 10, or 3 with `quick`.
    budget : float, optional
        GFLOP of charged work after which an arm is stopped; by default each runs its planned updates.
    jobs : int, optional
        Worker processes: by default one for each core; 0 runs everything in this process.
    out : str
        Folder of the run store.
    strict : bool
        Refuse a file with pairs that cannot be used, instead of leaving those out.
    verifier : str, optional
        ``module:function`` or ``./file.py:function``, which rewards replies in place of a reward model.
    quick : bool
        Three seeds: a smoke test, not evidence.
    i_know : collection of str
        Gates to lift, such as "rm-size"; recorded where they would have refused.
    watch : callable, optional
        Called with events: plan, jit, point, run.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        Where an argument, a file or the store is at fault.
    Interrupted
        On Ctrl-C, with what was finished.
    """
    require(len(arms) >= 1, "algorithms", len(arms), "at least one")
    texts = [arms] if isinstance(arms, str) else list(arms)
    world = make_world(task, data, strict, policy, budget, verifier)
    parsed = parse_arms(texts, world.arm)
    check_arms(parsed, world)
    gates = judge(parsed, world, i_know)
    plan = Plan(parsed, world, count_seeds(seeds, quick), RunStore(Path(out)), gates)
    return carry_out(plan, jobs=jobs, watch=watch)


def count_seeds(seeds: int | None, quick: bool = False) -> int:
    """The number of seeds asked for, or the default."""
    if seeds is None:
        return QUICK_SEEDS if quick else DEFAULT_SEEDS
    require(1 <= seeds <= 100_000, "seeds", seeds, "at least 1 and at most 100,000")
    return seeds


def carry_out(plan: Plan, *, jobs: int | None, watch: Watch | None) -> Comparison:
    """Run what the store does not hold yet, and gather all; on Ctrl-C raise `Interrupted` with what is there."""
    require(jobs is None or jobs >= 0, "jobs", jobs, "0 or more")
    workers = default_jobs() if jobs is None else jobs
    watch = watch or (lambda event: None)
    have = plan.stored()
    reused = len(have)
    watch(
        {
            "kind": "plan",
            "arms": [a.label for a in plan.arms],
            "typed": {a.label: a.source for a in plan.arms},
            "task": plan.world.data or plan.world.task,
            "policy": plan.world.policy,
            "seeds": plan.seeds,
            "budget": plan.world.budget,
            "reused": reused,
            "to_run": len(plan.keys) - reused,
            "workers": workers,
            "folder": str(plan.store.root),
            "cautions": {a.label: a.cautions for a in plan.arms},
        }
    )
    lost, interrupted = run_missing(plan, plan.jobs(have), have, workers, watch)
    comparison = gather(plan, lost | have, reused)
    if interrupted:
        raise Interrupted(comparison)
    return comparison


def run_missing(
    plan: Plan, work: Sequence[Job], have: dict[Which, Result], workers: int, watch: Watch
) -> tuple[dict[Which, Result], bool]:
    """Run the jobs and enter their results into `have`; returns runs without a result, and whether it was Ctrl-C."""
    lost: dict[Which, Result] = {}

    def done(outcome: Outcome) -> None:
        if outcome.bad_input:
            raise InputError(str(outcome.error))
        if outcome.error is None:
            have.update({(label, result.seed): result for label, result in outcome.value})
            return
        job = work[outcome.index]
        for _, label in job.arms:  # a worker that died may have finished some arms of its seed
            stored = plan.store.find(plan.keys[label, job.seed])
            if stored is not None:
                have[label, job.seed] = stored
            else:
                lost[label, job.seed] = lost_run(job.seed, "error", outcome.error)

    if not work:
        return lost, False
    try:
        run_jobs(
            work_on,
            [(job,) for job in work],
            workers=workers,
            on_message=watch,
            on_done=done,
            warm_up=(warm_up_job(plan.arms, plan.world),),
            shares=[(job,) for job in share_jobs(plan.arms, plan.world)],
        )
    except KeyboardInterrupt:
        have.update(plan.stored())
        return lost, True
    return lost, False


def gather(plan: Plan, results: Mapping[Which, Result], reused: int) -> Comparison:
    """The comparison of what there is; what is not there was interrupted."""
    rewards, facts = plan.rewards(), plan.facts()
    results = {**results, **started(results, rewards)}
    kinds = {reward["reward"] for reward in rewards.values()}
    return Comparison(
        task=plan.world.data or plan.world.task,
        policy=plan.world.policy,
        gold=plan.world.open().gold,
        reward=kinds.pop() if len(kinds) == 1 else "mixed",
        rewards=rewards,
        seeds=range(plan.seeds),
        configs={a.label: a.config for a in plan.arms},
        typed={a.label: a.source for a in plan.arms},
        runs={
            a.label: [
                results.get((a.label, seed)) or lost_run(seed, "interrupted", None)
                for seed in range(plan.seeds)
            ]
            for a in plan.arms
        },
        facts=next((known for known in facts.values() if known), {}),
        arm_facts=facts,
        reused=reused,
        folder=str(plan.store.root),
        example=str(plan.example() or ""),
        gates={"lifted": list(plan.gates.lifted), "notes": list(plan.gates.notes)},
    )


def started(results: Mapping[Which, Result], rewards: Mapping[str, Mapping[str, Any]]) -> dict[Which, Result]:
    """The failed runs that know no starting score, with that of another arm of their seed: they share the reference.

    So they stay in every average, as runs that diverged do. What its own reward gives the reference, only an arm of
    the same reward can tell.
    """
    ended = {which: run for which, run in results.items() if run.reference["gold_score"] is not None}
    of_seed = {seed: run for (_, seed), run in ended.items()}
    of_reward = {(str(rewards[label]), seed): run for (label, seed), run in ended.items()}
    found = {}
    for (label, seed), run in results.items():
        if run.status == "error" and run.reference["gold_score"] is None and seed in of_seed:
            alike = of_reward.get((str(rewards[label]), seed))
            found[label, seed] = _at_start(run, alike or of_seed[seed], one_reward=alike is not None)
    return found


def _at_start(run: Result, other: Result, *, one_reward: bool) -> Result:
    """`run` as one that stayed at the reference, of which `other` tells."""
    unknown: dict[str, Any] = {} if one_reward else dict.fromkeys(OF_THE_REWARD)

    def known(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: unknown.get(name, value) for name, value in values.items()}

    start = known(other.reference)
    safety = None
    if other.safety is not None:
        safe = known(other.safety["reference"])
        safety = {**safe, "reference": safe}
    return replace(run, **start, reference=start, safety=safety)


def default_jobs() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lost_run(seed: int, status: Status, message: str | None) -> Result:
    """A run without an outcome: nothing is known of it, not even where it started."""
    unknown: dict[str, Any] = dict.fromkeys(("rm_score", "gold_score", "kl", "entropy", "length"))
    reference = dict.fromkeys(("rm_score", "gold_score"))
    compute: dict[str, Any] = {**dict.fromkeys(COUNTERS), "by_phase": {}}
    return Result(seed, status, **unknown, reference=reference, compute=compute, message=message)
