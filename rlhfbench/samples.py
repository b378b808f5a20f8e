"""Replies of the reference and of every arm of a stored comparison to the same prompts: ``rlhfbench samples``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .evaluation import Reply, scored_replies
from .jobs import open_task
from .options import of_the_arm, require, split_overrides, with_overrides
from .results import Result, RunStore, file_hash, load_run, world_folder
from .run_folder import advice, read_manifest
from .types import Task
from .verifiers import UserVerifier, VerifierFailed, open_verifier
from .worlds import SERVED, KeptWorld, load_world, world_inputs

PROMPTS = 5
NAMED = 3
"""Comparisons of a store that are named where one has to be chosen."""
EARLIER = "made by an earlier version, which kept no policy"


@dataclass(frozen=True)
class Arm:
    """One run: its folder's name, how it ended, its replies (None where it has none) and why some are missing.

    `typed` is how its arm was asked for.
    """

    run: str
    status: str
    note: str | None
    replies: list[Reply | None]
    typed: str = ""


@dataclass(frozen=True)
class Samples:
    """What the reference and each arm answered, prompt by prompt.

    Parameters
    ----------
    task, policy : str
    gold : {"exact", "judge", "verifier"}
    reward : {"model", "verifier", "gold", "mixed"}
        As in `Comparison`.
    seed : int
    prompts : list of str
    reference : list of Reply
        One a prompt; without RM scores where the arms differ in labels or reward.
    arms : mapping name -> Arm
    one_reward : bool
        Whether all arms have the same labels and the same reward; else each is scored by its own.
    """

    task: str
    policy: str
    gold: str
    reward: str
    seed: int
    prompts: list[str]
    reference: list[Reply]
    arms: Mapping[str, Arm]
    one_reward: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The JSON contract of `samples`, schema 1; a reply that is not there is None."""
        rows = [
            {
                "prompt": prompt,
                "reference": self.reference[i]._asdict(),
                "replies": {
                    name: None if (reply := arm.replies[i]) is None else reply._asdict()
                    for name, arm in self.arms.items()
                },
            }
            for i, prompt in enumerate(self.prompts)
        ]
        arms = {
            name: {"run": arm.run, "status": arm.status, "note": arm.note} for name, arm in self.arms.items()
        }
        about = {name: asdict(self)[name] for name in ("task", "policy", "gold", "reward", "seed")}
        return {"schema": 1, **about, "arms": arms, "samples": rows}


@dataclass(frozen=True)
class Stored:
    """A run folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def inputs(self) -> dict[str, Any]:
        return dict(self.manifest["inputs"])

    @property
    def seed(self) -> int:
        return int(self.inputs["seed"])

    @property
    def world(self) -> dict[str, Any]:
        """What to open the task with; empty in a run of an earlier version."""
        return dict(self.manifest.get("world", {}))

    @property
    def typed(self) -> str:
        """How its arm was asked for."""
        return str(self.manifest.get("typed", self.inputs["label"]))

    @property
    def comparison(self) -> str:
        """Hash of all that runs have in common which can be compared, but for their seed.

        Labels and reward are an arm's own.
        """
        shared = world_inputs(self.inputs)
        shared.pop("reward")
        shared["task_options"] = {
            name: value for name, value in shared["task_options"].items() if not of_the_arm(name)
        }
        return RunStore.key({name: value for name, value in shared.items() if name != "seed"})


def samples(run: str, prompts: int = PROMPTS, seed: int | None = None, data: str | None = None) -> Samples:
    """Draw replies from the policies that a comparison has kept.

    Parameters
    ----------
    run : str
        A run folder, or the folder of a store that holds one comparison.
    prompts : int
        So many of the seed's evaluation prompts, from the first on.
    seed : int, optional
        By default that of the run, or the lowest of the store.
    data : str, optional
        Where the file of pairs lies now, if it has moved.

    Raises
    ------
    InputError
        Where nothing was kept, what was kept is damaged, or there is a choice to be made.
    """
    require(prompts >= 1, "--prompts", prompts, "at least 1")
    root, runs, seed = _same_comparison(Path(run), seed)
    first = next((run for run in runs if run.world), None)
    if first is None:
        raise InputError(f"{runs[0].folder}: {EARLIER}; {advice(runs[0].folder)}")
    world = _world(root, first, data)
    most = len(world.prompts)
    require(prompts <= most, "--prompts", prompts, f"at most {most:,}, the evaluation prompts of the run")
    shown, uniforms = world.prompts[:prompts], world.uniforms[:prompts]
    names = _names(runs)
    try:
        reference = scored_replies(world, world.reference, shown, uniforms)
        arms = {}
        for name, one in zip(names, runs, strict=True):
            known = not one.world or _alike(one, first)
            arms[name] = _arm(world if known else _world(root, one, data), one, prompts)
    except VerifierFailed as failure:
        raise InputError(str(failure)) from None
    one_reward = all(_alike(one, first) for one in runs)
    if not one_reward:
        reference = [reply._replace(rm_score=None) for reply in reference]
    kinds = {str(one.inputs["reward"]) for one in runs}
    return Samples(
        task=first.manifest.get("facts", {}).get("file") or first.inputs["task"],
        policy=world.policy,
        gold=world.task.gold,
        reward=kinds.pop() if len(kinds) == 1 else "mixed",
        seed=seed,
        prompts=[world.task.prompt_text(prompt) for prompt in shown],
        reference=reference,
        arms=arms,
        one_reward=one_reward,
    )


def _alike(one: Stored, other: Stored) -> bool:
    """Whether two runs of a seed that can be compared have the same labels and reward, too."""
    return world_inputs(one.inputs) == world_inputs(other.inputs)


def _world(root: Path, run: Stored, data: str | None) -> KeptWorld:
    """The world of a run."""
    place = world_folder(root, world_inputs(run.inputs))
    if not place.is_dir():
        raise InputError(f"{place}: reference and reward model are not there; {advice(run.folder)}")
    found: KeptWorld = _read(load_world, place, run, _open(run, data), run.inputs, _verifier(run))
    return found


def _arm(world: KeptWorld, run: Stored, n: int) -> Arm:
    _, result = load_run(run.folder)
    if (run.folder / f"{SERVED}.json").is_file():
        policy = _read(world.served, run.folder, run)
        replies: list[Reply | None] = [*scored_replies(world, policy, world.prompts[:n], world.uniforms[:n])]
        return Arm(run.folder.name, result.status, None, replies, run.typed)
    if result.status != "done":
        note = f"{result.status}, so that it keeps no policy"
    elif not run.world:
        note = EARLIER
    else:
        note = f"served by a sampler, not by a policy; the run kept its first {len(result.replies)} replies"
    return Arm(run.folder.name, result.status, note, _kept_replies(result, n), run.typed)


def _kept_replies(result: Result, n: int) -> list[Reply | None]:
    """The replies that a run has noted, which answer the first evaluation prompts."""
    kept = [
        Reply(r["reply"], r["reply_rm_score"], r["reply_gold_score"], r.get("reply_harm"))
        for r in result.replies[:n]
    ]
    return [*kept, *[None] * (n - len(kept))]


def _read(load: Any, folder: Path, run: Stored, *arguments: Any) -> Any:
    """What `load` reads in `folder`; where that is damaged, with what to do about it."""
    try:
        return load(folder, *arguments)
    except InputError as error:
        world = "" if folder == run.folder else f"delete the folder '{folder.name}' too, and "
        raise InputError(f"{error}; {world}{advice(run.folder)}") from None


def _open(run: Stored, data: str | None) -> Task:
    """The task of a run; its file must be the one that the run was made on.

    Replies need no constitution, whose file may have moved since.
    """
    world = run.world
    name, overrides = split_overrides(world["task"])
    overrides.pop("label_constitution", None)
    task = with_overrides(name, overrides)
    if world["data"] is None:
        require(data is None, "--data", data, f"left out: the run is one of task '{world['task']}'")
        return open_task(task, None)
    path = data or world["data"]
    if not Path(path).is_file():
        raise InputError(f"{path}: the run was made on this file, which is not there; name it: --data FILE")
    found = file_hash(Path(path))
    if found != run.inputs["sources"]["data"]:
        raise InputError(f"{path}: not the file that the run was made on; name that one: --data FILE")
    return open_task(task, path, world["strict"])


def _verifier(run: Stored) -> UserVerifier | None:
    """That of a run, if it had one; its file must be the one that the run was made with."""
    text = run.world.get("verifier")
    if text is None:
        return None
    verifier = open_verifier(text)
    if file_hash(verifier.file) != run.inputs["sources"]["verifier"]:
        raise InputError(f"{verifier.file}: not as it was when the run was made; {advice(run.folder)}")
    return verifier


# --- which runs --------------------------------------------------------------------------------------------------


def _same_comparison(path: Path, seed: int | None) -> tuple[Path, list[Stored], int]:
    """Root of the store, the runs of one seed that can be compared, and the seed."""
    if (path / "runs").is_dir():
        root = path
        stored = _stored(root)
        chosen = _only_comparison(root, stored)
        wanted = min(run.seed for run in stored) if seed is None else seed
    else:
        manifest, result = load_run(path)
        root = path.resolve().parents[1]
        stored = _stored(root)
        chosen = Stored(path, manifest).comparison
        wanted = result.seed if seed is None else seed
    alike = [run for run in stored if run.comparison == chosen]
    runs = [run for run in alike if run.seed == wanted]
    if not runs:
        there = ", ".join(map(str, sorted({run.seed for run in alike})))
        raise InputError(f"--seed {wanted}: no run of it is kept; there are {there or 'none'}")
    return root, runs, wanted


def _stored(root: Path) -> list[Stored]:
    folders = sorted(p for p in (root / "runs").iterdir() if p.is_dir() and not p.name.startswith("."))
    stored = [Stored(folder, read_manifest(folder)) for folder in folders]
    if not stored:
        raise InputError(f"{root}: holds no runs; rlhfbench compare makes some")
    return stored


def _only_comparison(root: Path, stored: Sequence[Stored]) -> str:
    together: dict[str, list[Stored]] = {}
    for run in stored:
        together.setdefault(run.comparison, []).append(run)
    if len(together) > 1:
        some = "; ".join(f"{runs[0].folder} for {_about(runs)}" for runs in [*together.values()][:NAMED])
        more = f"; and {len(together) - NAMED} more" if len(together) > NAMED else ""
        raise InputError(
            f"{root}: holds runs of {len(together)} comparisons; name a run of one: {some}{more}"
        )
    return next(iter(together))


def _about(runs: Sequence[Stored]) -> str:
    """What a comparison is of: its arms, task and policy."""
    arms = ", ".join(dict.fromkeys(run.typed for run in runs))
    world = runs[0].world
    return f"{arms} on {world.get('data') or world.get('task') or runs[0].inputs['task']}, {runs[0].inputs['policy']}"


def _names(runs: Sequence[Stored]) -> list[str]:
    """The runs' labels; where two share one what was typed, and where that too is the same the end of the folder."""
    labels = [str(run.inputs["label"]) for run in runs]
    names = [run.typed if labels.count(label) > 1 else label for run, label in zip(runs, labels, strict=True)]
    ends = [run.folder.name.rpartition("-")[2] for run in runs]
    return [f"{n} {e[:6]}" if names.count(n) > 1 else n for n, e in zip(names, ends, strict=True)]
