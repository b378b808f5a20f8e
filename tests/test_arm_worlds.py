"""Arms that choose their own labels or reward: one reference a seed, a world for each choice, RM scores kept apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhfbench.claims import ArmScores
from rlhfbench.cli import main
from rlhfbench.comparison import Comparison
from rlhfbench.conformance import check
from rlhfbench.errors import InputError
from rlhfbench.harness import compare
from rlhfbench.plan import make_world
from rlhfbench.prepare import fine_tuned_reference, prepare
from rlhfbench.registry import load_task, parse_arm, parse_arms
from rlhfbench.samples import samples
from rlhfbench.verdict import verdict

TASK = "sentences-small:pairs=64,demos=64"
PPO = "ppo:updates=2,batch_size=16"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    """Two arms with different reward models, and one with that of the first."""
    root = tmp_path_factory.mktemp("made")
    arms = [PPO, f"{PPO},rm=bigrams", "dpo:epochs=1"]
    return compare(arms, task=TASK, policy="linear", seeds=2, jobs=0, out=str(root)), root


def test_what_is_the_tasks_goes_to_the_world_and_what_is_the_algorithms_stays() -> None:
    arm = parse_arm("dpo:rm=bigrams,label_smoothing=0.1,beta=0.2")
    assert arm.world == {"rm": "bigrams"}
    assert (arm.config.label_smoothing, arm.config.beta) == (0.1, 0.2)


def test_an_arms_options_go_before_the_tasks() -> None:
    world = make_world("sentences:pairs=10,rm=unigrams", None, False, "linear", None)
    plain, own, same = parse_arms(["ppo", "ppo:rm=bigrams", "dpo:rm=bigrams"])
    assert world.of(plain) is world
    assert (world.of(own).open().rm, world.of(own).open().pairs) == ("bigrams", 10)
    assert world.worlds([plain, own, same]) == [world, world.of(own)]


def test_defaults_suit_the_reward_that_an_arm_will_have() -> None:
    world = make_world("arithmetic", None, False, "transformer", None)
    program, learnt = world.arm("grpo"), world.arm("grpo:rm=transformer")
    assert (program.config.beta, program.config.updates) == (0.04, 120)
    assert (learnt.config.beta, learnt.config.updates) == (0.2, 40)
    assert world.arm("grpo:beta=0.5").config.beta == 0.5
    assert make_world("arithmetic", None, False, "linear", None).arm("grpo").config.beta == 0.3
    assert make_world("sentences", None, False, "transformer", None).arm("grpo").config.beta == 0.2


def test_worlds_of_a_seed_share_reference_pairs_and_evaluation() -> None:
    start = fine_tuned_reference(load_task(TASK), "linear", 3)
    one = prepare(load_task(TASK), "linear", 3, 16, start=start)
    two = prepare(load_task(f"{TASK},rm=bigrams"), "linear", 3, 16, start=start)
    alone = prepare(load_task(f"{TASK},rm=bigrams"), "linear", 3, 16)
    for other in (two, alone):
        np.testing.assert_array_equal(one.reference.params, other.reference.params)
        np.testing.assert_array_equal(one.preferences.chosen, other.preferences.chosen)
        np.testing.assert_array_equal(one.evaluation_uniforms, other.evaluation_uniforms)
    assert one.meter.flops["rm_train"] < two.meter.flops["rm_train"] == alone.meter.flops["rm_train"]
    assert one.meter.flops["sft"] == two.meter.flops["sft"] == alone.meter.flops["sft"]


def test_a_run_is_the_same_whether_the_arm_or_the_task_chose(
    made: tuple[Comparison, Path], tmp_path: Path
) -> None:
    comparison, _ = made
    task = compare([PPO, PPO], task=f"{TASK},rm=bigrams", policy="linear", seeds=2, jobs=0, out=str(tmp_path))
    ours, theirs = comparison.runs["ppo#2"][1], task.runs["ppo#2"][1]
    assert ours.curve == theirs.curve
    assert ours.compute["flops"] == theirs.compute["flops"]


def test_rm_scores_of_different_models_are_not_compared(made: tuple[Comparison, Path]) -> None:
    comparison, _ = made
    assert not comparison.one_reward
    assert comparison.chosen("ppo#2") == {"rm": "bigrams"}
    assert comparison.chosen("dpo") == {}
    record = comparison.as_dict()
    assert record["rewards"]["ppo#2"]["rm"] == "bigrams"
    known = record["arm_facts"]
    assert known["ppo"] == known["dpo"] == record["facts"]
    assert known["ppo#2"]["reward_model"] == "linear in a bag of bigrams"


def scores(gold: float, rm: float, reward: str) -> ArmScores:
    noise, zero = np.linspace(0, 0.01, 10), np.zeros(10)
    return ArmScores(rm + noise, gold + noise[::-1], zero, zero, np.full(10, 5.0), reward)


def test_the_verdict_goes_by_gold_alone_where_rewards_differ() -> None:
    first, second = scores(1.0, 3.0, "people"), scores(2.0, 1.0, "program")
    apart = verdict({"a": first, "b": second})
    assert (apart.kind, apart.better, apart.rm_score.kind) == ("better", "b", "no_claim")
    assert apart.rm_score.difference is None
    assert "whose labels or reward are not a's" in apart.text
    assert verdict({"a": first, "b": scores(2.0, 1.0, "people")}).kind == "split"


def test_samples_shows_arms_of_different_worlds_beside_each_other(made: tuple[Comparison, Path]) -> None:
    comparison, root = made
    found = samples(str(root), prompts=3, seed=1)
    assert set(found.arms) == {"ppo", "ppo#2", "dpo"}
    kept = comparison.runs["ppo#2"][1].replies[0]
    shown = found.arms["ppo#2"].replies[0]
    assert shown is not None
    assert (shown.text, shown.rm_score) == (kept["reply"], pytest.approx(kept["reply_rm_score"]))
    assert (found.reward, found.one_reward) == ("model", False)
    assert [reply.rm_score for reply in found.reference] == [None] * 3
    assert all(reply.gold_score is not None for reply in found.reference)


@pytest.mark.parametrize("rewards", [("", ":rm=outcome"), (":rm=outcome", "")])
def test_samples_of_a_program_and_a_model_say_whose_scores_they_are(
    rewards: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = [f"{name}{reward}" for name, reward in zip(("dpo", "kto"), rewards, strict=True)]
    compare(arms, task="arithmetic:pairs=64,demos=64", policy="linear", seeds=1, jobs=0, out=str(tmp_path))
    assert main(["samples", str(tmp_path), "--prompts", "2", "--json", str(tmp_path / "a.json")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Reward: an RM's in standard deviations" in shown
    assert "each is scored by its own, the reference by none" in shown
    assert shown.count("reward accuracy") == 2
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["reward"] == "mixed"
    for sample in record["samples"]:
        assert sample["reference"]["rm_score"] is None
        assert all(reply["rm_score"] is not None for reply in sample["replies"].values())


def test_the_report_says_what_each_arm_learns_from(
    made: tuple[Comparison, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, root = made
    arms = [PPO, f"{PPO},rm=bigrams", "dpo:epochs=1"]
    code = main(["compare", *arms, "--task", TASK, "--policy", "linear", "--seeds", "2", "--out", str(root)])
    shown = capsys.readouterr().out
    assert code == 0
    assert "ppo#2 (rm=bigrams): RM: linear in a bag of bigrams" in shown
    assert max(len(line) for line in shown.splitlines() if str(root) not in line) <= 80


@pytest.mark.parametrize(
    ("arm", "task", "message"),
    [
        ("ppo:rmx=1", "sentences", "ppo: no field 'rmx'"),
        ("ppo:rm_widht=8", "sentences", "task sentences: no field 'rm_widht'; did you mean 'rm_width'?"),
        ("ppo:rm=verifier", "sentences", "rm: 'verifier' is not valid"),
        ("ppo:rm=bigrams", "words", "task words: no field 'rm'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    arm: str, task: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        compare([arm, "dpo"], task=task, out=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


DIES = """
from dataclasses import dataclass
from rlhfbench.types import register

@dataclass(frozen=True)
class Config:
    pass

@register("bad", Config)
def bad(setup, config):
    for step in setup.steps(3):
        yield {}
        raise RuntimeError("no more")
"""


def test_an_arm_without_any_run_takes_no_report_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text(DIES)
    arms = ["dpo:labels=ai,epochs=1", f"{tmp_path / 'bad.py'}:bad"]
    code = main(
        [
            "compare",
            *arms,
            "--task",
            TASK,
            "--policy",
            "linear",
            "--seeds",
            "1",
            "--jobs",
            "0",
            "--out",
            str(tmp_path),
        ]
    )
    assert code == 3
    assert "by the AI labeller" in capsys.readouterr().out


def test_a_price_is_that_of_whoever_labels() -> None:
    world = make_world(f"{TASK},label_price=3", None, False, "linear", None)
    human, ai = (world.of(parse_arm(arm)).open() for arm in ("dpo:labels=human", "dpo:labels=ai"))
    assert (human.label_cost, ai.label_cost) == (3, 0.1)
    own = world.of(parse_arm("dpo:labels=ai,label_price=0.5")).open()
    assert own.label_cost == 0.5


def test_a_preset_whose_file_is_edited_meanwhile_is_not_kept_under_the_old_key(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    text = '[mine]\nsource = "me"\n[mine.fields]\nepochs = 1\nlearning_rate = {}\n'
    preset.write_text(text.format(0.001))

    def edit(event: dict[str, Any]) -> None:
        if event["kind"] == "plan":
            preset.write_text(text.format(0.5))

    with pytest.raises(InputError, match="was changed while the comparison ran"):
        compare([f"dpo@{preset}"], task=TASK, policy="linear", seeds=1, jobs=0, out=str(tmp_path), watch=edit)


def test_rewards_that_come_to_the_same_are_the_same(tmp_path: Path) -> None:
    arms = ["best_of_n:n=2", "best_of_n:n=2,rm=unigrams"]
    made = compare(arms, task=TASK, policy="linear", seeds=1, jobs=0, out=str(tmp_path))
    assert made.one_reward


def test_check_opens_the_world_of_an_arm() -> None:
    with pytest.raises(InputError, match="labels"):
        check("dpo:labels=martian")
