"""What determines a run, and what is compiled before it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rlhfbench.jobs import small_worlds
from rlhfbench.plan import SHARED_SOURCES, make_world
from rlhfbench.registry import ROOT

NOT_IN_THE_KEY = {
    "types.py",  # protocols
    "errors.py",
    "options.py",  # what it makes of an option is in the key itself
    "records.py",  # how a result is written
    "results.py",
    "run_folder.py",
    "registry.py",
    "environment.py",  # what is said of the machine
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
        ("sentences:rm_ranking=3", "linear", ["unigrams", "unigrams,rm_ranking=3"]),
        ("sentences:rm_noise=0.1,rm_members=9", "linear", ["unigrams", "unigrams,rm_noise=0.1"]),
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
