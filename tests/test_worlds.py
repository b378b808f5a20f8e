"""What a comparison keeps beside its runs: policies and worlds that give the same numbers again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhfbench.errors import InputError
from rlhfbench.evaluation import scored_replies
from rlhfbench.harness import compare
from rlhfbench.jobs import open_task
from rlhfbench.prepare import Prepared, prepare
from rlhfbench.results import load_run, world_folder
from rlhfbench.worlds import KeptWorld, load_world, pack_served, pack_world, world_inputs

PPO = "ppo:updates=3,batch_size=32,num_ppo_epochs=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    compare([PPO, "dpo:epochs=1", "best_of_n:n=4"], task="words", seeds=2, jobs=0, out=str(root))
    return root


def opened(folder: Path, label: str, seed: int = 0) -> tuple[KeptWorld, Path, Any]:
    run = next((folder / "runs").glob(f"{label}-s{seed}-*"))
    manifest, result = load_run(run)
    inputs = manifest["inputs"]
    place = world_folder(folder, world_inputs(inputs))
    return load_world(place, open_task(inputs["task"], None), inputs), run, result


def test_each_seed_has_one_world_and_each_policy_its_files(folder: Path) -> None:
    assert len(list((folder / "worlds").iterdir())) == 2
    for run in (folder / "runs").iterdir():
        files = {path.name for path in run.iterdir()}
        assert {"policy.npz", "policy.json"} <= files or run.name.startswith("best_of_n")
        assert "policy.npz" not in files or not run.name.startswith("best_of_n")


@pytest.mark.parametrize("label", ["ppo", "dpo"])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_was_kept_gives_the_last_point_of_the_curve_again(folder: Path, label: str, seed: int) -> None:
    world, run, result = opened(folder, label, seed)
    replies = scored_replies(world, world.served(run), world.prompts, world.uniforms)
    assert np.mean([r.rm_score for r in replies]) == pytest.approx(result.rm_score, abs=1e-6)
    assert np.mean([r.gold_score for r in replies]) == pytest.approx(result.gold_score, abs=1e-9)
    assert [r.text for r in replies[:20]] == [row["reply"] for row in result.replies]
    before = scored_replies(world, world.reference, world.prompts[:20], world.uniforms[:20])
    assert [r.text for r in before] == [row["reference"] for row in result.replies]


def test_a_world_comes_back_to_the_bit(tmp_path: Path) -> None:
    prepared = prepare(open_task("words", None), "tabular", 5, 32)
    for name, content in pack_world(prepared, "tabular").items():
        (tmp_path / name).write_bytes(content)
    world = load_world(tmp_path, open_task("words", None), {"seed": 5, "policy": "tabular", "episodes": 32})
    np.testing.assert_array_equal(world.reference.params, prepared.reference.params)
    np.testing.assert_array_equal(world.prompts, prepared.evaluation_prompts)
    np.testing.assert_array_equal(world.uniforms, prepared.evaluation_uniforms)
    mine = scored_replies(prepared, prepared.reference, world.prompts, world.uniforms)
    assert scored_replies(world, world.reference, world.prompts, world.uniforms) == mine


@pytest.mark.parametrize("policy", ["linear", "transformer"])
def test_an_ensemble_comes_back_to_the_bit(tmp_path: Path, policy: str) -> None:
    task = "sentences-small:pairs=64,demos=64,rm_members=2,rm_aggregate=min,rm_length=residual"
    prepared = prepare(open_task(task, None), policy, 5, 32)
    for name, content in pack_world(prepared, policy).items():
        (tmp_path / name).write_bytes(content)
    inputs = {"seed": 5, "policy": policy, "episodes": 32}
    world = load_world(tmp_path, open_task(task, None), inputs)
    mine = scored_replies(prepared, prepared.reference, world.prompts, world.uniforms)
    assert scored_replies(world, world.reference, world.prompts, world.uniforms) == mine
    with pytest.raises(InputError, match=r"reward_model\.json: 2 members came, 3 are needed"):
        load_world(tmp_path, open_task(task.replace("members=2", "members=3"), None), inputs)


def test_a_judge_is_kept_too(tmp_path: Path) -> None:
    lines = [{"prompt": f"q {i}", "chosen": f"good {i % 7} x", "rejected": "bad y"} for i in range(60)]
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepared = prepare(open_task("pairs", str(path)), "linear", 0, 16)
    files = pack_world(prepared, "linear")
    assert set(files) == {
        f"{n}.{end}" for n in ("reference", "reward_model", "judge") for end in ("npz", "json")
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    inputs = {"seed": 0, "policy": "linear", "episodes": 16}
    world = load_world(tmp_path, open_task("pairs", str(path)), inputs)
    mine = scored_replies(prepared, prepared.reference, world.prompts, world.uniforms)
    assert scored_replies(world, world.reference, world.prompts, world.uniforms) == mine
    lines[0]["chosen"] = "another word"  # the same file with another vocabulary
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"judge\.json: made for vocabulary"):
        load_world(tmp_path, open_task("pairs", str(path)), inputs)


def test_only_a_policy_of_the_references_kind_is_kept() -> None:
    prepared: Prepared = prepare(open_task("words", None), "tabular", 0, 16)

    class Sampler:
        params = prepared.reference.params

        def sample(self, prompts: Any, uniforms: Any) -> Any:
            return prepared.reference.sample(prompts, uniforms)

    assert pack_served(Sampler(), prepared, "tabular") == {}
    assert set(pack_served(prepared.reference, prepared, "tabular")) == {"policy.npz", "policy.json"}


def test_another_arm_shares_the_world_and_a_budget_too(tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": "words", "seeds": 1, "jobs": 0, "out": str(tmp_path)}
    compare([PPO], **options)
    world = next((tmp_path / "worlds").iterdir())
    before = world.stat().st_mtime_ns
    compare([PPO, "dpo:epochs=1"], budget=0.05, **options)
    assert list((tmp_path / "worlds").iterdir()) == [world]
    assert world.stat().st_mtime_ns == before


@pytest.mark.parametrize(("field", "value"), [("heads", 2), ("vocab_size", 3), ("max_length", 4)])
def test_a_reward_model_of_another_shape_is_refused(tmp_path: Path, field: str, value: int) -> None:
    root = tmp_path / "store"
    task = "sentences-small:pairs=32,demos=32"
    compare(["dpo:epochs=1"], task=task, policy="transformer", seeds=1, jobs=0, out=str(root))
    opened(root, "dpo")
    (header,) = root.glob("worlds/*/reward_model.json")
    content = json.loads(header.read_text())
    content["fields"][field] = value
    if field == "max_length":  # as many places in all
        content["fields"]["prompt_length"] += 6 - value
    header.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"reward_model\.json: .* needed"):
        opened(root, "dpo")
