"""What determines a run, and what is compiled before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhfbench import prepare
from rlhfbench.jobs import small_worlds, warm_up, warm_up_job
from rlhfbench.plan import SHARED_SOURCES, make_world
from rlhfbench.registry import ROOT
from rlhfbench.sft import SFT

NOT_IN_THE_KEY = {
    "types.py",  # protocols
    "errors.py",
    "options.py",  # what it makes of an option is in the key itself
    "records.py",  # how a result is written
    "results.py",
    "run_folder.py",
    "registry.py",
    "preset_files.py",  # what a preset sets is part of the configuration
    "environment.py",  # what is said of the machine
    "file_places.py",  # where it stands what is wrong with a file
}


def imported(file: Path) -> set[Path]:
    """Files of the package that a file imports at its top."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parent if node.level == 1 else file.parent.parent
            base = folder.joinpath(*(node.module or "").split("."))
            names = [base, *(base / alias.name for alias in node.names)]
            found |= {path.with_suffix(".py") for path in names if path.with_suffix(".py").is_file()}
    return found


def test_all_code_that_runs_go_through_is_part_of_their_key() -> None:
    todo, seen = [ROOT / "prepare.py", ROOT / "run.py"], set[Path]()
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imported(file)
    used = {file.relative_to(ROOT).parts[0] for file in seen}
    assert "reward_models.py" in used
    assert used - NOT_IN_THE_KEY <= set(SHARED_SOURCES)
    assert all((ROOT / name).exists() for name in SHARED_SOURCES)


@pytest.mark.parametrize(
    ("task", "policy", "models"),
    [
        (None, None, ["transformer"]),
        (None, "linear", ["unigrams"]),
        ("words", "transformer", ["unigrams"]),
        ("sentences:rm=transformer", "linear", ["transformer"]),
        ("sentences:rm=bigrams", "transformer", ["bigrams"]),
        ("sentences:rm_ranking=3", "linear", ["unigrams,rm_ranking=3"]),
        ("sentences:rm_noise=0.1,rm_members=9", "linear", ["unigrams,rm_noise=0.1"]),
    ],
)
def test_the_warm_up_trains_the_reward_model_that_will_be_needed(
    task: str | None, policy: str | None, models: list[str]
) -> None:
    world = make_world(task, None, False, policy, None)
    assert [name.partition("rm=")[2] for name in small_worlds([world])] == models


def test_the_warm_up_trains_the_judge_of_a_file(data_dir: Path) -> None:
    world = make_world(None, str(data_dir / "hh_harmless.test.jsonl"), False, None, None)
    assert [name.partition("rm=")[2] for name in small_worlds([world])] == ["unigrams", "bigrams"]


@pytest.mark.parametrize(
    ("task", "arms", "tasks"),
    [
        ("sentences", ["ppo", "ppo:rm=unigrams", "dpo"], ["sentences-small,rm=unigrams"]),
        ("sentences", ["ppo:rm_noise=0.1", "ppo:rm_noise=0.2"], ["sentences-small,rm=unigrams,rm_noise=0.1"]),
        (
            "sentences",
            ["ppo", "ppo:rm=transformer,rm_noise=0.1"],
            ["sentences-small,rm=unigrams", "sentences-small,rm=transformer,rm_noise=0.1"],
        ),
        ("safety", ["ppo:rm_smoothing=0.2"], ["safety-small,rm=unigrams,rm_smoothing=0.1"]),
        (
            "arithmetic",
            ["grpo:rm=process", "ppo", "ppo:rm=bigrams"],
            [
                "arithmetic,rm=process,rm_solutions=64",
                "arithmetic",
                "sentences-small,rm=bigrams",
            ],
        ),
    ],
)
def test_each_arm_is_warmed_up_in_a_small_world_like_its_own(
    task: str, arms: list[str], tasks: list[str]
) -> None:
    world = make_world(task, None, False, "linear", None)
    found = small_worlds(world.worlds(world.arm(arm) for arm in arms))
    assert [name.replace(":pairs=64,demos=64", "") for name in found] == tasks


def test_beside_a_verifier_the_small_world_has_what_the_own_one_has(tmp_path: Path) -> None:
    """That of `sentences` has a constitution to revise by, that of `safety` labels of harm."""
    (tmp_path / "own.py").write_text("def verify(prompt, response, answer):\n    return len(response)\n")
    for name in ("sentences-small", "safety-small", "arithmetic"):
        world = make_world(name, None, False, "linear", None, f"{tmp_path}/own.py:verify")
        assert small_worlds([world]) == [f"{name}:pairs=64,demos=64"]


@pytest.mark.parametrize("policy", ["linear", "transformer"])
def test_the_warm_up_learns_for_one_epoch(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default of a transformer is 480 steps, which cost a worker more than all that it loads."""

    class Enough(Exception):
        pass

    def learn(*given: Any) -> None:
        raise Enough(given[-1])

    monkeypatch.setattr(prepare, "fine_tune", learn)
    world = make_world("sentences-small", None, False, policy, None)
    with pytest.raises(Enough) as seen:
        warm_up(warm_up_job([world.arm("ppo")], world))
    (settings,) = seen.value.args
    assert (settings.epochs, settings.fewest_steps) == (1, 0)
    assert settings.batch_size == SFT[policy].batch_size


WARM_UP = """
import sys
from numba.core.dispatcher import Dispatcher
from rlhfbench.jobs import warm_up, warm_up_job
from rlhfbench.plan import make_world
from rlhfbench.prepare import prepare
from rlhfbench.run import run

def compiled():
    modules = [vars(module) for name, module in list(sys.modules.items()) if name.startswith("kernels")]
    found = [one for names in modules for one in names.values() if isinstance(one, Dispatcher)]
    return {(one.__name__, signature) for one in found for signature in one.signatures}

task, verifier, *typed = sys.argv[1:]
world = make_world(task, None, False, "linear", None, verifier or None)
arms = [world.arm(text, text) for text in typed]
warm_up(warm_up_job(arms, world))
before = compiled()
for arm in arms:
    own = world.of(arm)
    run(prepare(own.open(), own.policy, 0, 8, own.open_verifier()), arm)
print("compiled late:", sorted({name for name, _ in compiled() - before}))
"""


@pytest.mark.parametrize(
    ("task", "verifier", "arms"),
    [
        ("arithmetic", False, ["grpo:rm=unigrams,updates=2", "ppo:rm=verifier,updates=2"]),
        ("sentences-small", False, ["ppo:updates=2", "ppo:rm=bigrams,rm_smoothing=0.1,updates=2"]),
        ("sentences-small", True, ["revise:replies=64"]),
    ],
)
def test_the_warm_up_leaves_nothing_to_compile(
    task: str, verifier: bool, arms: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text("def verify(prompt, response, answer):\n    return len(response)\n")
    own = f"{tmp_path}/own.py:verify" if verifier else ""
    command = [sys.executable, "-c", WARM_UP, f"{task}:pairs=64,demos=64", own, *arms]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.splitlines()[-1] == "compiled late: []"
