"""What a comparison will do: the world, the key of every run, what the store holds, and the jobs that remain."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kernels import flops

from .comparison_gates import Gates
from .cost_models import no_labels_of_harm
from .errors import InputError
from .jobs import Job, World, open_task, task_options
from .options import of_the_arm, require, require_left_out
from .policy_choice import check_policy, choose_policy
from .registry import ROOT, Arm
from .results import Result, RunStore, file_hash, load_run, source_hash
from .reward_models import choose_reward_model
from .tasks.idle_options import idle_options
from .tasks.labels import labeller_of
from .tasks.reward_choice import reward_kind
from .types import SafetyLabelled, Task
from .verifiers import open_verifier, try_out

DEFAULT_TASK = "sentences"
EPISODES, TRANSFORMER_EPISODES, DATA_EPISODES = 1024, 512, 256
"""Replies that an evaluation looks at: a transformer's cost more, those of a file are judged."""
SHARED_SOURCES = (
    *("compute.py", "constitution.py", "constitution_file.py", "cost_models.py", "data.py"),
    *("evaluation.py", "json_lines.py", "kl_control.py", "kl_penalty.py", "labeller.py", "lagrange.py"),
    *("metrics.py", "optimizer.py", "pair_training.py", "policy_choice.py", "ppo_step.py", "prepare.py"),
    *("problems.py", "rankings.py", "revision.py", "reward_models.py", "reward_student.py"),
    *("rollouts.py", "room.py", "run.py", "run_setup.py", "schedules.py"),
    *("seeding.py", "selection.py", "sft.py"),
    *("text.py", "tokenizer.py", "verifiers.py", "policies", "rewards", "tasks"),
)
"""Code that every run goes through: part of every run's key, with all kernels."""

Which = tuple[str, int]
"""A run of the plan: arm label and seed."""


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison: every arm on seeds 0 … `seeds` - 1 of one world, kept in `store`."""

    arms: Sequence[Arm]
    world: World
    seeds: int
    store: RunStore
    gates: Gates = field(default_factory=Gates)

    @cached_property
    def inputs(self) -> dict[Which, dict[str, Any]]:
        """For each run all that determines it."""
        sources = source_hashes(self.arms, self.world)
        tasks = {world: task_inputs(world) for world in self.world.worlds(self.arms)}
        return {
            (a.label, seed): {**tasks[self.world.of(a)], **arm_inputs(a, sources), "seed": seed}
            for a in self.arms
            for seed in range(self.seeds)
        }

    @cached_property
    def keys(self) -> dict[Which, str]:
        """For each run the hash of its inputs, under which the store knows it."""
        return {which: self.store.key(inputs) for which, inputs in self.inputs.items()}

    def stored(self) -> dict[Which, Result]:
        """The runs that the store holds now."""
        found = ((which, self.store.find(key)) for which, key in self.keys.items())
        return {which: result for which, result in found if result is not None}

    def jobs(self, have: Mapping[Which, Result]) -> list[Job]:
        """One job for each seed that lacks a run."""
        work = []
        names = ("task", "data", "strict", "verifier")
        for seed in range(self.seeds):
            missing = [a for a in self.arms if (a.label, seed) not in have]
            if missing:
                manifests = tuple(
                    {
                        "inputs": self.inputs[a.label, seed],
                        "typed": a.source,
                        "world": {name: getattr(self.world.of(a), name) for name in names},
                        "gates_lifted": list(self.gates.lifted),
                        "cautions": a.cautions,
                    }
                    for a in missing
                )
                arms = tuple((a.source, a.label) for a in missing)
                work.append(Job(self.world, seed, arms, manifests, str(self.store.root)))
        return work

    def example(self) -> Path | None:
        """Folder of the first stored run."""
        folders = (self.store.folder(key) for key in self.keys.values())
        return next((folder for folder in folders if folder is not None), None)

    def facts(self) -> dict[str, dict[str, Any]]:
        """For each arm what is known of its world, from the first of its runs that is stored."""
        found = {}
        for arm in self.arms:
            folders = (self.store.folder(self.keys[arm.label, seed]) for seed in range(self.seeds))
            folder = next((folder for folder in folders if folder is not None), None)
            found[arm.label] = {} if folder is None else load_run(folder)[0].get("facts", {})
        return found

    def rewards(self) -> dict[str, dict[str, Any]]:
        """For each arm how its labels and its reward are made; equal ones are the same."""
        found = {}
        for arm in self.arms:
            inputs, own = self.inputs[arm.label, 0], self.world.of(arm)
            options = {name: value for name, value in inputs["task_options"].items() if of_the_arm(name)}
            if own.reward == "model" and "rm" in options:  # auto is what it comes to
                options |= choose_reward_model(own.open(), choose_policy(own.policy)).resolved
            found[arm.label] = options | {"reward": inputs["reward"]}
        return found


def make_world(
    task: str | None,
    data: str | None,
    strict: bool,
    policy: str | None,
    budget: float | None,
    verifier: str | None = None,
) -> World:
    """Check the choices against each other, and try out the verifier; `budget` is in GFLOP."""
    if strict and data is None:
        raise InputError("--strict came without --data FILE, whose lines it is about")
    task = task or (DEFAULT_TASK if data is None else "pairs")
    opened = open_task(task, data, strict)
    chosen = check_policy(opened, policy)
    check_reward(opened, verifier)
    episodes = TRANSFORMER_EPISODES if choose_policy(chosen).name == "transformer" else EPISODES
    require(budget is None or 0 < budget < 1e12, "budget", budget, "above 0 (GFLOP)")
    return World(
        task=task,
        data=data,
        strict=strict,
        policy=chosen,
        budget=None if budget is None else max(int(budget * 1e9), 1),
        episodes=episodes if data is None else DATA_EPISODES,
        verifier=verifier,
    )


def check_arms(arms: Sequence[Arm], world: World) -> None:
    """Refuse arms that do not fit the task: by what they need, by their labels or by their reward."""
    task = world.open()
    for arm in arms:
        if "cost_model" in arm.spec.needs and not isinstance(task, SafetyLabelled):
            raise InputError(no_labels_of_harm(task.name, arm.spec.name))
        if "labeller" in arm.spec.needs:
            labeller_of(world.of(arm).open(), arm.spec.name)
    _check_used(arms, world)
    for own in world.worlds(arms):
        if own != world:
            check_reward(own.open(), own.verifier)


def _check_used(arms: Sequence[Arm], world: World) -> None:
    """Refuse options that no arm goes by, of those that they were given to."""
    idle = []
    for arm in arms:
        own = world.of(arm).open()
        unless = idle_options(own, revised="labeller" in arm.spec.needs)
        for name in (name for name in arm.world if name in unless):
            require_left_out(own, unless[name], name)
        idle.append((arm, unless))
    for name in dict.fromkeys(name for _, unless in idle for name in unless):
        given = [unless for arm, unless in idle if name not in arm.world]
        if given and all(name in unless for unless in given):
            require_left_out(world.open(), given[0][name], name)


def check_reward(task: Task, verifier: str | None) -> None:
    """Refuse a verifier that does not work or does not fit, before anything has been spent."""
    kind = reward_kind(task, verifier)
    if verifier is not None:
        try_out(open_verifier(verifier), task)
    elif kind == "gold":
        require(task.gold == "verifier", "rm", "verifier", "a model where gold is no verifier")


def source_hashes(arms: Sequence[Arm], world: World) -> dict[str, str]:
    """Hashes of all code and data that the runs depend on."""
    kernels = Path(str(flops.__file__)).parent
    hashes = {
        "kernels": source_hash(sorted(kernels.glob("*.py"))),
        "shared": source_hash([ROOT / name for name in SHARED_SOURCES]),
        "data": file_hash(Path(world.data)) if world.data else "",
        "verifier": file_hash(open_verifier(world.verifier).file) if world.verifier else "",
    }
    return hashes | {f"algorithm {a.label}": file_hash(a.file) for a in arms}


def task_inputs(world: World) -> dict[str, Any]:
    """What of the world determines a run."""
    task = world.open()
    return {
        "schema": 1,
        "task": task.name,
        "task_options": task_options(task),
        "gold": task.gold,
        "reward": world.reward,
        "verifier": world.verifier and world.verifier.rpartition(":")[2],
        "task_source": file_hash(Path(inspect.getfile(type(task)))),
        "policy": world.policy,
        "budget": world.budget,
        "episodes": world.episodes,
    }


def arm_inputs(arm: Arm, sources: Mapping[str, str]) -> dict[str, Any]:
    """What of the arm, the code and the data determines a run."""
    shared = ("kernels", "shared", "data", "verifier")
    return {
        "algorithm": arm.spec.name,
        "config": asdict(arm.config),
        "label": arm.label,
        "sources": {name: sources[name] for name in shared}
        | {"algorithm": sources[f"algorithm {arm.label}"]},
    }
