"""What every built-in algorithm has to keep to, through the same checks that `rlhfbench check` runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rlhfbench import conformance, preset_files
from rlhfbench.cli import main
from rlhfbench.conformance import check
from rlhfbench.errors import InputError
from rlhfbench.prepare import Prepared, prepare
from rlhfbench.registry import algorithm_names, load_algorithm, load_task, parse_arm, parse_arms
from rlhfbench.run import run


@pytest.fixture(scope="module")
def world() -> Prepared:
    return prepare(load_task("words"), "tabular", 0, 256)


@pytest.mark.parametrize("policy", ["tabular", "transformer"])
@pytest.mark.parametrize("name", algorithm_names())
def test_conforms(name, policy):
    failed = [c for c in check(name, policy).checks if not c.passed]
    assert not failed


PRESETS = [f"{name}@{preset}" for name in algorithm_names() for preset in load_algorithm(name)[0].presets]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_run(world, preset):
    if "cost_model" in parse_arm(preset).spec.needs:
        world = prepare(load_task("safety-small"), "tabular", 0, 64)
    assert all(c.passed for c in conformance.short_run(world, preset, "tabular"))


def test_check_all_goes_on_after_a_failure_and_exits_3(tmp_path, monkeypatch, capsys):
    (tmp_path / "ipo.toml").write_text('[odd]\nsource = "nobody"\n[odd.fields]\nbta = 1\n', encoding="utf-8")
    monkeypatch.setattr(preset_files, "FOLDER", tmp_path)
    monkeypatch.setattr(conformance, "algorithm_names", lambda: ["gone", "ipo", "best_of_n"])
    assert main(["check", "--all", "--json", "-"]) == 3
    out, err = capsys.readouterr()
    found = {one["name"]: one for one in json.loads(out)["algorithms"]}
    assert [found[name]["passed"] for name in ("gone", "ipo", "best_of_n")] == [False, False, True]
    assert "no field 'bta'; did you mean 'beta'?" in found["ipo"]["checks"][-1]["detail"]
    assert len(found["best_of_n"]["checks"]) == 9
    for part in ("FAILED  gone", "passed  best_of_n", "1 of 3 algorithms passed"):
        assert part in err
    assert max(map(len, err.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [[], ["ppo", "--all"]])
def test_check_takes_one_algorithm_or_all(arguments, capsys):
    assert main(["check", *arguments]) == 2
    assert "an algorithm or --all is needed" in capsys.readouterr().err


def misbehaving(function, needs=frozenset({"reward_model"})):
    arm = parse_arm("reinforce:updates=4,batch_size=8")
    return replace(arm, spec=replace(arm.spec, function=function, needs=needs))


def test_the_conformance_checks_catch_what_they_are_for(world, tmp_path):
    source = """
from dataclasses import dataclass
import numpy as np
from rlhfbench.types import register

@dataclass(frozen=True)
class Config:
    cheat: str = "none"

@register("bad", Config, needs={"reward_model"})
def bad(setup, config):
    for step in setup.steps(4):
        if config.cheat == "reference":
            setup._prepared.reference.params[:] += 0.1
        if config.cheat == "gold":
            setup._prepared.gold.score(setup.prompts(2), np.zeros((2, 2), int), np.ones((2, 2)))
        if config.cheat == "random":
            setup.policy.params[:] += np.random.default_rng().normal(size=setup.policy.params.size)
        yield {"loss": float("nan") if config.cheat == "nan" else 0.0}
"""
    file = tmp_path / "bad.py"
    file.write_text(source)

    def failing(cheat: str) -> set[str]:
        return {c.name for c in check(f"{file}:bad:cheat={cheat}").checks if not c.passed}

    assert "improves on the lesson's task" in failing("none")
    assert "reference untouched" in failing("reference")
    assert "gold never read" in failing("gold")
    assert "deterministic per seed" in failing("random")
    assert "finishes" in failing("nan")


def test_an_undeclared_need_is_refused(world):
    def sneaky(setup, config):
        setup.reward_model.score(setup.prompts(1), np.zeros((1, 2), np.int64), np.ones((1, 2), np.float32))
        yield {}

    with pytest.raises(InputError, match="does not declare it"):
        run(world, misbehaving(sneaky, needs=frozenset()))


def test_what_an_arm_writes_reaches_neither_evaluation_nor_the_other_arms(world):
    def vandal(setup, config):
        for array in (*setup.reward_model._tables.values(), setup.reward_model.weights):
            array[:] = 100.0
        pairs = setup.preferences
        for array in (pairs.prompts, pairs.chosen, pairs.rejected, pairs.chosen_mask, pairs.rejected_mask):
            array[:] = 0
        yield {}

    needs = frozenset({"reward_model", "preferences"})
    before = run(world, parse_arm("dpo:epochs=1"))
    vandalised = run(world, misbehaving(vandal, needs=needs))
    assert vandalised.rm_score == vandalised.reference["rm_score"]
    after = run(world, parse_arm("dpo:epochs=1"))
    assert (after.reference, after.curve) == (before.reference, before.curve)


def test_a_run_that_diverges_or_fails_keeps_its_starting_scores(world):
    def explode(setup, config):
        for _ in setup.steps(4):
            setup.policy.params[:] = np.nan
            yield {}

    def fail(setup, config):
        yield {}
        raise ZeroDivisionError("oops")

    for function, status in ((explode, "diverged"), (fail, "error")):
        result = run(world, misbehaving(function))
        assert result.status == status
        assert result.rm_score == result.reference["rm_score"]
        assert result.gold_score == result.reference["gold_score"]
        assert result.message
        assert result.compute["flops_per_reply"] is None  # nothing was served


def test_numbers_that_overflow_make_a_run_diverge_without_warnings(world):
    assert run(world, parse_arm("ppo:beta=1e300,updates=2")).status == "diverged"


def test_a_run_that_takes_too_long_is_stopped_and_counts_with_its_starting_score(world):
    result = run(world, parse_arm("ppo"), time_limit=0.0)
    assert result.status == "timeout"
    assert "update 1" in result.message
    assert result.rm_score == result.reference["rm_score"]


def test_the_reference_is_frozen(world):
    def meddle(setup, config):
        setup.reference.params[:] += 1.0
        yield {}

    result = run(world, misbehaving(meddle))
    assert result.status == "error"
    assert "read-only" in result.message


def test_a_budget_is_overshot_by_one_yield_at_most_and_lets_an_arm_go_on(world):
    free = run(world, parse_arm("ppo:updates=4,batch_size=32"))
    a_step = (free.compute["flops"] - free.compute["by_phase"]["rm_train"]) // 4
    budget = free.compute["by_phase"]["rm_train"] + 20 * a_step
    longer = run(world, parse_arm("ppo:updates=4,batch_size=32"), budget=budget)
    assert budget <= longer.compute["flops"] <= budget + 2 * a_step
    assert longer.curve[-1]["update"] >= 19
    none = run(world, parse_arm("ppo"), budget=1)
    assert (none.status, none.message) == ("done", "the budget was spent before the first update")
    assert none.rm_score == none.reference["rm_score"]


def test_what_is_served_is_evaluated_once_an_update_with_a_budget_too(world):
    free = run(world, parse_arm("best_of_n"))
    limited = run(world, parse_arm("best_of_n"), budget=2 * free.compute["by_phase"]["rm_train"])
    assert len(free.curve) == len(limited.curve) == 2
    assert limited.rm_score == free.rm_score


def test_curves_have_twenty_points_after_the_first_and_end_at_the_end(world):
    result = run(world, parse_arm("ppo:updates=40,batch_size=16"))
    assert [p["update"] for p in result.curve] == list(range(0, 41, 2))
    assert {"objective/kl", "policy/clipfrac_avg", "loss/value_avg"} <= set(result.curve[-1])


def test_the_same_algorithm_twice_has_two_labels_and_other_randomness(world):
    one, two = parse_arms(["ppo:updates=4", "ppo:updates=4"])
    assert (one.label, two.label) == ("ppo", "ppo#2")
    assert run(world, one).rm_score != run(world, two).rm_score


def test_ppo_beats_nothing_it_should_not(world):
    """First-step PPO is REINFORCE: at ratio 1 the clipped loss has the policy gradient's gradient."""
    from kernels import policy_gradient

    rng = np.random.default_rng(0)
    logprobs, advantages = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    mask = np.ones((4, 3))
    clip = policy_gradient.ppo_clip(logprobs, logprobs, advantages, mask, 0.2)
    np.testing.assert_allclose(clip.d_logprobs, -advantages / 12)


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("pppo", "did you mean 'ppo'"),
        ("ppo:betta=1", "did you mean 'beta'"),
        ("ppo:beta=nan", "finite"),
        ("ppo:beta=", "field=value"),
        ("ppo:beta=-1", "at least 0"),
        ("ppo:kl_coef=3,beta=0.1", "'beta' is given twice"),
        ("ppo:updates=1.5", "whole number"),
        ("ppo:updates=0", "at least 1"),
        ("ppo@lessn", "did you mean 'lesson'"),
        ("ppo:kl_controller=zigler", "ziegler"),
        ("ppo:whiten_rewards=maybe", "true or false"),
        ("./nowhere.py:fn", "no such file"),
        ("dpo:label_smoothing=0.5", "below 0.5"),
    ],
)
def test_wrong_arms_are_explained_in_one_line(text, needle):
    with pytest.raises(InputError) as caught:
        parse_arm(text)
    assert needle in str(caught.value)
    assert "\n" not in str(caught.value)


def test_presets_and_aliases():
    assert parse_arm("ppo@lesson").config.kl_controller == "doubling"
    assert parse_arm("ppo@lesson:kl_coef=0.5").config.beta == 0.5
    assert parse_arm("ppo@lesson").label == "ppo@lesson"


def test_under_a_budget_progress_begins_at_0_whatever_the_reward_model_cost():
    world = prepare(load_task("sentences-small:pairs=64,demos=64"), "transformer", 0, 16)
    seen = []

    def watching(setup, config):
        for _ in setup.steps(10):
            seen.append(setup.progress())
            setup.charge("elementwise", 10**6)
            yield {}

    paid = world.meter.flops["rm_train"]
    result = run(world, misbehaving(watching), budget=paid + 4 * 10**6)
    assert result.status == "done"
    assert seen == pytest.approx([0.0, 0.25, 0.5, 0.75])
