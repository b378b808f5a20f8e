"""What a worker process does: prepare one seed, run its arms, commit each; or compile what they will use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .environment import fingerprint
from .errors import InputError
from .options import converted, split_overrides, with_overrides
from .policy_choice import choose_policy
from .pool import emit
from .registry import Arm, load_task, parse_arm
from .results import Result, RunStore, file_hash
from .shares import SMALL, compile_share, share_names
from .tasks.idle_options import OF_A_CHOICE, idle_options
from .tasks.reward_choice import LABELLED, reward_kind, reward_options
from .types import Metrics, RewardKind, SafetyLabelled, Sampler, Task, Verifiable
from .verifiers import UserVerifier, open_verifier


@dataclass(frozen=True)
class World:
    """Which task, policy, budget and verifier; small enough to send to a worker."""

    task: str
    data: str | None
    strict: bool
    policy: str
    budget: int | None
    episodes: int
    verifier: str | None = None

    def open(self) -> Task:
        return open_task(self.task, self.data, self.strict)

    def of(self, arm: Arm) -> World:
        """This world with the labels and the reward that `arm` chooses for itself, less what they make no use of."""
        name, overrides = split_overrides(self.task)
        for_others = [option for option in OF_A_CHOICE if option in overrides and option not in arm.world]
        if not arm.world and not for_others:
            return self
        if arm.world.get("labels", "") not in ("", getattr(self.open(), "labels", "")):
            overrides.pop("label_price", None)  # what a person costs is no price of a labeller's call
        own = replace(self, task=with_overrides(name, {**overrides, **arm.world}))
        unused = set(for_others) & idle_options(own.open()).keys() if for_others else set()
        used = {option: value for option, value in overrides.items() if option not in unused}
        return replace(self, task=with_overrides(name, {**used, **arm.world}))

    def arm(self, text: str, label: str | None = None) -> Arm:
        """The arm that `text` describes, with the defaults that suit this policy and the reward that it will have."""
        arm = parse_arm(text, label, self.policy)
        return parse_arm(text, label, self.policy, self.of(arm).reward)

    def worlds(self, arms: Iterable[Arm]) -> list[World]:
        """The different ones of `arms`."""
        return list(dict.fromkeys(self.of(arm) for arm in arms))

    def open_verifier(self) -> UserVerifier | None:
        return None if self.verifier is None else open_verifier(self.verifier)

    @property
    def reward(self) -> RewardKind:
        return reward_kind(self.open(), self.verifier)


@dataclass(frozen=True)
class Job:
    """One seed for one worker: prepare once, then run and commit each arm. Without manifests it only compiles."""

    world: World
    seed: int
    arms: tuple[tuple[str, str], ...]
    """(what was typed, label)"""
    manifests: tuple[dict[str, Any], ...]
    folder: str
    share: str = ""
    """Of what is to be compiled; else the warm-up, which is all of it."""


def open_task(task: str, data: str | None, strict: bool = False) -> Task:
    """The synthetic task called `task`, or `data` as ``pairs`` or ``problems``, with their options."""
    if data is None:
        return load_task(task)
    from .tasks.pairs import PairsTask
    from .tasks.problems import ProblemsTask

    name, overrides = split_overrides(task)
    kinds: dict[str, type[PairsTask | ProblemsTask]] = {"pairs": PairsTask, "problems": ProblemsTask}
    if name not in kinds:
        raise InputError(
            f"--task {task} came with --data {data}, pairs:field=value,... or nothing is needed for preference pairs, "
            "problems:field=value,... for problems with answers"
        )
    options = converted(kinds[name], overrides, f"task {name}", without=("path", "strict"))
    return kinds[name](path=data, strict=strict, **options)


def task_options(task: Task) -> dict[str, Any]:
    """The options of a task that determine a run."""
    if hasattr(task, "inputs"):
        return dict(task.inputs())
    fields = asdict(task)  # type: ignore[call-overload]
    return {name: value for name, value in fields.items() if name != "path" and name[0] != "_"}


def warm_up_job(arms: Sequence[Arm], world: World) -> Job:
    """A job that goes through every kernel that the arms use in this world, on a small one."""
    return Job(world, 0, tuple((a.source, a.label) for a in arms), (), "")


def share_jobs(arms: Sequence[Arm], world: World) -> list[Job]:
    """What workers compile side by side before each runs the warm-up."""
    job = warm_up_job(arms, world)
    return [replace(job, share=name) for name in share_names(arm.spec.name for arm in arms)]


def work_on(job: Job) -> list[tuple[str, Result]]:
    """Prepare the job's seed, run its arms, commit each; a job without manifests only compiles."""
    from .prepare import Prepared, fine_tuned_reference, prepare
    from .run import run
    from .worlds import pack_served, pack_world, world_inputs

    if not job.manifests:
        return compile_in_part(job) if job.share else warm_up(job)
    world = job.world
    verifier = world.open_verifier()
    start = fine_tuned_reference(world.open(), world.policy, job.seed)
    store, environment = RunStore(Path(job.folder)), fingerprint()
    results, worlds = [], dict[World, Prepared]()
    for (typed, label), manifest in zip(job.arms, job.manifests, strict=True):
        arm = world.arm(typed, label)
        inputs = manifest["inputs"]
        refuse_changed(world, arm, verifier, inputs["sources"])
        if asdict(arm.config) != inputs["config"]:  # a preset's file was edited
            raise InputError(f"{typed} {CHANGED}")
        own = world.of(arm)
        if own not in worlds:
            worlds[own] = prepare(own.open(), own.policy, job.seed, own.episodes, verifier, start)
        prepared = worlds[own]
        if task_options(prepared.task) != inputs["task_options"]:
            raise InputError(f"--task {world.task}: {CHANGED}")
        served: list[Sampler] = []
        result = run(
            prepared,
            arm,
            budget=world.budget,
            jit_seconds=_compiled["seconds"],
            progress=_reporter(label, job.seed),
            keep=served.append,
        )
        if result.status in ("done", "diverged"):
            store.commit_world(world_inputs(inputs), partial(pack_world, prepared, world.policy))
            store.commit(
                store.key(inputs),
                {**manifest, "environment": environment, "facts": prepared.facts},
                result,
                pack_served(served[0], prepared, world.policy) if served else {},
            )
        emit({"kind": "run", "label": label, "seed": job.seed, "status": result.status})
        results.append((label, result))
    return results


CHANGED = "was changed while the comparison ran; the same command starts anew with it"


def refuse_changed(world: World, arm: Arm, verifier: UserVerifier | None, hashes: Mapping[str, str]) -> None:
    """A run must not be kept under the key of a file that somebody has edited since the comparison began."""
    read = [(arm.file, hashes["algorithm"])]
    read += [(Path(world.data), hashes["data"])] if world.data else []
    read += [(verifier.file, hashes["verifier"])] if verifier else []
    for path, before in read:
        if file_hash(path) != before:
            raise InputError(f"{path} {CHANGED}")


_compiled = {"seconds": 0.0}
_shares: dict[str, float] = {}
"""When this process began the first of its shares, and how long it has compiled since."""


@contextmanager
def _compiling(state: str) -> Iterator[None]:
    """Time what is compiled within and tell the parent, as `state`, when it is over."""
    from numba.core import event

    emit({"kind": "jit", "state": "start"})
    since = _shares.setdefault("since", time.perf_counter())
    found = [0.0]
    try:
        with event.install_timer("numba:compile", lambda seconds: found.__setitem__(0, seconds)):
            yield
    finally:
        _shares["seconds"] = _shares.get("seconds", 0.0) + found[0]
        wall = time.perf_counter() - since
        emit({"kind": "jit", "state": state, "seconds": found[0], "wall": wall})


class _Enough(Exception):
    """The warm-up has seen two yields."""


SMALL_VERIFIED, SMALL_SAFETY = "arithmetic:pairs=64,demos=64", "safety-small:pairs=64,demos=64"


def reward_models(worlds: Iterable[World]) -> list[str]:
    """The kinds of reward models that are trained in `worlds`: their own, then their judge's."""
    from .reward_models import choose_reward_model

    own, judges = list[str](), list[str]()
    for world in worlds:
        task = world.open()
        if world.reward == "model" or isinstance(task, SafetyLabelled):  # its cost model is of the same kind
            own.append(choose_reward_model(task, choose_policy(world.policy)).kind)
        judges += ["bigrams"] if task.gold == "judge" else []
    return list(dict.fromkeys([*own, *judges]))


def small_worlds(worlds: Iterable[World]) -> list[str]:
    """Tasks that together compile what `worlds` train: their rewards, then their judge."""
    worlds = list(worlds)
    judges = [f"{SMALL},rm=bigrams" for world in worlds if world.open().gold == "judge"]
    return list(dict.fromkeys([*map(small_world, worlds), *judges]))


def small_world(world: World) -> str:
    """The task on which arms of `world` meet the kernels that they need; one that names no `rm` has a verifier."""
    from .reward_models import choose_reward_model

    task = world.open()
    like = SMALL_SAFETY if isinstance(task, SafetyLabelled) else SMALL
    if world.reward != "model":
        return SMALL_VERIFIED if isinstance(task, Verifiable) else like
    rm = getattr(task, "rm", "auto")
    if rm in LABELLED:
        return f"{SMALL_VERIFIED},rm={rm},rm_solutions=64"
    model = choose_reward_model(task, choose_policy(world.policy)).kind
    return ",".join([f"{like},rm={model}", *_loss_options(task)])


OTHER_LOSSES = {
    "rm_temperature": 2,
    "rm_smoothing": 0.1,
    "rm_noise": 0.1,
    "rm_centering": 0.1,
    "rm_margin": 1,
    "rm_ranking": 3,
}
"""Options that take a reward model to other kernels than pairs alone do, with numbers that stand for all others."""


def _loss_options(task: Task) -> list[str]:
    """Those of a reward model whose loss, or whose student, is another kernel than that of pairs."""
    changed = reward_options(task).changed
    names = (*OTHER_LOSSES, "rm_ranking_loss", "rm_student")
    return [f"{name}={OTHER_LOSSES.get(name, changed[name])}" for name in names if name in changed]


def _length(prompt: str, response: str, answer: str | None) -> float:
    return float(len(response))


def worlds_of(job: Job) -> list[World]:
    """The worlds of its arms."""
    return job.world.worlds(job.world.arm(typed, label) for typed, label in job.arms)


def compile_in_part(job: Job) -> list[tuple[str, Result]]:
    """Compile the job's share."""
    with _compiling("share"):
        compile_share(job.share, job.world.policy, lambda: reward_models(worlds_of(job)))
    return []


def warm_up(job: Job) -> list[tuple[str, Result]]:
    """Run each arm for two yields on a small world like its own, so that all it needs is compiled; report the time."""
    from .prepare import Prepared, fine_tuned_reference, prepare
    from .run import run

    policy, stand_in = job.world.policy, UserVerifier("of the warm-up", _length, Path(__file__))

    def small(text: str) -> Prepared:
        task = load_task(text)
        start = fine_tuned_reference(task, policy, job.seed, brief=True)
        return prepare(task, policy, job.seed, 8, None if "rm=" in text else stand_in, start)

    with _compiling("done"):
        prepared = {text: small(text) for text in small_worlds(worlds_of(job))}
        for typed, label in job.arms:
            arm = job.world.arm(typed, label)
            yields: list[float] = []

            def count(share: float, metrics: Metrics, yields: list[float] = yields) -> None:
                yields.append(share)
                if len(yields) == 2:
                    raise _Enough

            with suppress(_Enough, InputError):  # what a small world lacks is compiled when the arm runs
                run(prepared[small_world(job.world.of(arm))], arm, progress=count)
    _compiled["seconds"] = _shares.pop("seconds")
    _shares.clear()
    return []


def _reporter(label: str, seed: int) -> Callable[[float, Metrics], None]:
    """Tell the parent where a run stands, ten times a second at most."""
    last = [0.0]

    def report(share: float, metrics: Metrics) -> None:
        now = time.perf_counter()
        if now - last[0] >= 0.1 or share >= 1.0:
            last[0] = now
            emit({"kind": "point", "label": label, "seed": seed, "share": share, "metrics": metrics})

    return report
