"""Options that do nothing without another are refused in one line, and pass where one arm goes by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfbench.cli import main
from rlhfbench.plan import check_arms, make_world
from rlhfbench.registry import parse_arm, parse_arms


def refusal(capsys, *arguments: str) -> str:
    """The one line that a command is refused with."""
    assert main([*arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("dpo:label_debias=true", "label_debias must be left out unless labels=ai, got True"),
        ("dpo:label_position_bias=0", "label_position_bias must be left out unless labels=ai, got 0.0"),
        ("dpo:label_decoding=greedy", "label_decoding must be left out unless labels=ai, got greedy"),
        ("dpo:label_temperature=1", "label_temperature must be left out unless labels=ai, got 1.0"),
        ("dpo:rm_ranking_loss=pairwise", "rm_ranking_loss must be left out unless rm_ranking is 3 or more"),
        ("dpo:discopop_tau=0.1", "discopop_tau must be left out unless loss_type=discopop, got 0.1"),
        ("ppo:kl_target=3", "kl_target must be left out unless kl_controller adapts beta, got 3.0"),
        ("ppo:beta_max=3", "beta_max must be left out unless kl_controller adapts beta, got 3.0"),
        (
            "ppo:kl_controller=doubling,kl_horizon=9",
            "kl_horizon must be left out unless kl_controller is ziegler",
        ),
    ],
)
def test_an_option_without_the_one_that_it_belongs_to_is_refused(arm, message, tmp_path: Path, capsys):
    assert message in refusal(capsys, "compare", "revise", arm, "--out", str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "ppo", "dpo", "--task", "sentences:label_constitution=text"),
        ("compare", "revise", "dpo:label_constitution=text"),
        ("sweep", "dpo", "--beta", "1", "--task", "words:label_constitution=text"),
        ("rm", "--task", "words:label_constitution=text"),
    ],
)
def test_a_constitution_that_nobody_goes_by_is_refused(command, capsys):
    expected = "label_constitution must be left out unless labels=ai, or with revise, got text"
    assert expected in refusal(capsys, *command)


@pytest.mark.parametrize(
    ("arms", "task", "message"),
    [
        (["dpo", "ppo"], "sentences:label_debias=true", "label_debias must be left out unless labels=ai"),
        (["dpo:labels=bt"], "words:label_temperature=1", "label_temperature must be left out"),
        (
            ["dpo", "dpo:labels=ai,label_temperature=2"],
            "sentences:label_temperature=1",
            "label_temperature must be left out unless labels=ai, got 1.0",
        ),
        (
            ["ppo", "dpo"],
            "arithmetic:rm=unigrams,rm_ranking_loss=pairwise",
            "rm_ranking_loss must be left out unless rm_ranking is 3 or more",
        ),
        (["ppo:rm_ranking=2"], "sentences:rm_ranking_loss=pairwise", "rm_ranking_loss must be left out"),
        (
            ["ppo", "ppo:rm_ranking=2,rm_ranking_loss=pairwise"],
            "sentences:rm_ranking=4",
            "rm_ranking_loss must be left out unless rm_ranking is 3 or more, got pairwise",
        ),
    ],
)
def test_an_option_that_none_of_those_it_was_given_to_goes_by_is_refused(arms, task, message, capsys):
    assert message in refusal(capsys, "compare", *arms, "--task", task)


@pytest.mark.parametrize("option", ["label_decoding=greedy", "rm_ranking_loss=pairwise"])
def test_rm_and_sweep_refuse_what_nobody_uses(option, capsys):
    for command in (("rm",), ("sweep", "dpo", "--beta", "1")):
        assert "must be left out unless" in refusal(capsys, *command, "--task", f"sentences:{option}")


def test_an_arm_leaves_out_what_it_makes_no_use_of():
    world = make_world(
        "sentences:rm_ranking=4,rm_ranking_loss=pairwise,label_debias=true", None, False, "linear", None
    )
    ranks, pairs, asked = parse_arms(["ppo", "ppo:rm_ranking=2", "ppo:labels=ai,rm_ranking=2"], world.arm)
    assert world.of(ranks).task == "sentences:rm_ranking=4,rm_ranking_loss=pairwise"
    assert world.of(pairs).task == "sentences:rm_ranking=2"
    assert world.of(asked).task == "sentences:rm_ranking=2,label_debias=true,labels=ai"


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "ppo", "dpo", "--task", "sentences:labels=ai,flips=0"),
        ("compare", "ppo:labels=ai", "dpo:labels=ai", "--task", "sentences:flips=0"),
        ("rm", "--task", "sentences:labels=ai,flips=0"),
    ],
)
def test_what_annotators_do_is_refused_where_there_are_none(command, capsys):
    assert "flips must be left out unless people label the pairs, got 0.0" in refusal(capsys, *command)


@pytest.mark.parametrize(
    ("arms", "task"),
    [
        (["dpo", "revise"], "sentences:label_constitution=text"),
        (["dpo", "revise:label_constitution=text"], "sentences"),
        (["dpo", "dpo:labels=ai,label_constitution=text,label_debias=true"], "sentences"),
        (["dpo", "dpo:labels=ai"], "sentences:label_constitution=text"),
        (["dpo", "dpo:labels=human"], "sentences:labels=ai,label_constitution=text,label_debias=true"),
        (["dpo", "dpo:labels=ai"], "sentences:flips=0"),
        (["ppo_lagrangian:labels=ai"], "safety:flips=0"),
        (["dpo", "dpo:rm_ranking=3,rm_ranking_loss=pairwise"], "sentences"),
        (["ppo", "ppo:rm_ranking=2"], "sentences:rm_ranking=4,rm_ranking_loss=pairwise"),
        (["ppo", "ppo:rm_ranking=4"], "sentences:rm_ranking_loss=pairwise"),
        (["ppo:rm_ranking=3", "ppo:rm_ranking=4"], "sentences:rm_ranking_loss=pairwise"),
        (["dpo", "dpo:labels=ai"], "sentences:label_temperature=1"),
        (["ppo:labels=ai", "ppo:labels=ai,label_temperature=1"], "sentences:label_debias=true"),
        (["ppo:rm_ranking=2"], "sentences:rm_ranking=4,rm_ranking_loss=plackett_luce"),
    ],
)
def test_what_one_arm_goes_by_passes(arms, task):
    world = make_world(task, None, False, "linear", None)
    check_arms(parse_arms(arms, world.arm), world)


def test_an_adaptive_controller_has_its_options():
    parse_arm("ppo:kl_controller=doubling,kl_target=3,beta_max=3")
    parse_arm("ppo:kl_controller=dual,kl_horizon=9")


@pytest.mark.parametrize("command", [("compare", "ppo"), ("sweep", "ppo", "--beta", "1"), ("rm",)])
def test_strict_is_about_a_file(command, capsys):
    assert "--strict came without --data FILE" in refusal(capsys, *command, "--strict")
