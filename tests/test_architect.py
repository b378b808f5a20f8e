"""The architect and its gates: five parts for every wish, refusals, prices that agree with the ledger."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhfbench
from rlhfbench.architect import architect, request
from rlhfbench.architect_knowledge import DIAGNOSTICS, SOURCES, STAGES, TARGETS
from rlhfbench.architect_report import skill
from rlhfbench.cli import main
from rlhfbench.comparison_gates import judge
from rlhfbench.doctor_rules import RULES
from rlhfbench.errors import InputError
from rlhfbench.extrapolation import (
    METHODS,
    VOCABULARY,
    Workload,
    costs,
    flops_of,
    flops_per_reply,
    parse_size,
)
from rlhfbench.gates import GATES, Proposal, guard
from rlhfbench.plan import make_world
from rlhfbench.policies._buffers import Buffers
from rlhfbench.policies._packed import pack
from rlhfbench.policies._weights import Sizes
from rlhfbench.policies._work import backward, forward, head, head_backward

SKILL = Path(__file__).resolve().parents[1] / "outputs" / "skill-rlhf-architect.md"
WISH: dict[str, Any] = {"size": "7B", "target": "alignment", "source": "human", "budget": 1e21}


# --- designs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "source"), list(itertools.product(TARGETS, SOURCES)))
def test_every_target_and_source_has_a_design_in_five_parts(target: str, source: str) -> None:
    design = architect(request(**WISH | {"target": target, "source": source}))
    content = design.as_dict()
    for part in ("stage", "source", "kl_strategy", "diagnostics", "safety_gate", "options"):
        assert content[part]
    assert design.method == STAGES[target, source].methods[0]
    assert content["extrapolated"] is True
    json.dumps(content, allow_nan=False)


def test_a_bound_on_harm_costs_a_second_model() -> None:
    workload = Workload(1e9, 2e9, 1000)
    one, two = (flops_of(method, workload, True) for method in ("ppo", "ppo_lagrangian"))
    model = workload.reward_model
    assert two - one == pytest.approx(1000 * (2 * model.train + model.forward))
    assert flops_of("ppo", workload, False) == flops_of("ppo_lagrangian", workload, False)


def test_the_budget_decides_between_methods() -> None:
    prices = {option.method: option.flops for option in architect(request(**WISH)).options}
    assert prices["dpo"] < prices["ppo"]
    between = architect(request(**WISH | {"budget": (prices["dpo"] + prices["ppo"]) / 2}))
    assert (between.method, between.fits) == ("dpo", True)
    below = architect(request(**WISH | {"budget": prices["dpo"] / 2}))
    assert (below.method, below.fits) == ("dpo", False)


def test_diagnostics_are_rules_of_the_doctor() -> None:
    rules = {rule.name for rule in RULES}
    assert {rule for rows in DIAGNOSTICS.values() for _, _, rule in rows} <= rules


def test_stages_name_methods_that_have_a_price() -> None:
    assert {method for stage in STAGES.values() for method in stage.methods} <= set(METHODS)


# --- gates ----------------------------------------------------------------------------------------------------------

REFUSED = {
    "kl-monitor": {"kl_monitor": False},
    "rm-size": {"rm_size": "1B"},
    "length-reward": {"reward": "length"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsafe_plan_is_refused_and_lifting_is_recorded(name: str) -> None:
    wish = request(**WISH, **REFUSED[name])
    with pytest.raises(InputError, match=f"refused: .*--i-know {name} lifts") as caught:
        architect(wish)
    assert "\n" not in str(caught.value)
    for other in set(REFUSED) - {name}:
        with pytest.raises(InputError, match=f"--i-know {name}"):
            architect(wish, [other])
    assert architect(wish, [name]).as_dict()["lifted"] == [name]


def test_a_safe_plan_lifts_nothing() -> None:
    assert architect(request(**WISH), list(REFUSED)).lifted == []


def test_direct_alignment_needs_no_monitor_and_no_reward_model() -> None:
    assert architect(request(**WISH, method="dpo", kl_monitor=False, rm_size="1B")).lifted == []


def test_a_plan_without_people_is_flagged() -> None:
    assert architect(request(**WISH)).as_dict()["flags"] == ["human-evaluation"]
    assert architect(request(**WISH, human_evaluation=True)).as_dict()["flags"] == []


def test_what_is_not_known_passes() -> None:
    assert guard(Proposal(methods=("ppo",))).flags == []


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"size": "7X"}, "size must be a number of parameters"),
        ({"size": None}, "--size needed"),
        ({"target": "alignmnt"}, "did you mean 'alignment'"),
        ({"source": "nobody"}, "unknown source 'nobody'"),
        ({"method": "pppo"}, "did you mean 'ppo'"),
        ({"budget": float("nan")}, "budget must be above 0"),
        ({"pairs": 0}, "pairs must be between 1"),
    ],
)
def test_bad_wishes(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        architect(request(**WISH | wish))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["architect", "--size", "7B", "--target", "refusal", "--source", "ai", "--budget", "1e21"]
    assert main([*typed, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["method"] == "ppo_lagrangian"
    assert "Extrapolated" in err
    assert main(["architect", "--skill", "--json", "-"]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert main([*typed, "--reward", "length"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


# --- in front of a comparison ----------------------------------------------------------------------------------------

SMALL = "sentences-small:pairs=64,demos=64,rm=transformer,rm_layers=1,rm_width=8"


def test_a_comparison_with_a_small_reward_model_is_refused_or_recorded(tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": SMALL, "policy": "transformer", "seeds": 1, "jobs": 0}
    with pytest.raises(InputError, match="a reward model smaller than the policy"):
        rlhfbench.compare(["ppo:updates=1"], out=str(tmp_path), **options)
    # DPO has no reward model that could be too small: the one that scores it is evaluation's.
    found = rlhfbench.compare(["dpo:epochs=1"], out=str(tmp_path), **options)
    assert found.as_dict()["gates"]["lifted"] == []
    found = rlhfbench.compare(["ppo:updates=1"], out=str(tmp_path), i_know=["rm-size"], **options)
    assert found.as_dict()["gates"]["lifted"] == ["rm-size"]
    manifest = json.loads((Path(found.example) / "manifest.json").read_text("utf-8"))
    assert manifest["gates_lifted"] == ["rm-size"]


def test_a_gate_judges_what_algorithms_ask() -> None:
    """A student that is a bag has no size, whatever its teacher's is."""
    world = make_world(f"{SMALL},rm_student=bag", None, False, "transformer", None)
    found = judge([world.arm("ppo:updates=1")], world)
    assert found.lifted == ()
    assert any(note.startswith("Gate rm-size not judged") for note in found.notes)


def test_families_that_differ_get_a_note(tmp_path: Path) -> None:
    found = rlhfbench.compare(["best_of_n:n=2"], task="words", seeds=1, jobs=0, out=str(tmp_path))
    assert "not both transformers" in " ".join(found.as_dict()["gates"]["notes"])


# --- prices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "width"), [(1, 128), (2, 256)])
def test_the_price_of_a_sequence_is_what_the_ledger_counts(layers: int, width: int) -> None:
    """At sizes that exist; the ledger leaves out what nobody reads of a prompt, so that it is short here."""
    prompt, reply = 2, 62
    sizes = Sizes(11, 66, layers, width, width // 128)
    tokens, mask = np.zeros((1, reply), np.int64), np.ones((1, reply))
    room = Buffers(np.dtype(np.int64))
    packed = pack(np.zeros((1, prompt), np.int64), tokens, mask, sizes.heads, prompt, 0, 1, room)
    found = costs(12.0 * layers * width**2, prompt, reply)
    ours = forward(packed, sizes, keep=True).plus(head(reply, width, VOCABULARY))
    assert found.forward == pytest.approx(ours.flops, rel=0.03)
    ours = backward(packed, sizes).plus(head_backward(reply, width, VOCABULARY))
    assert found.backward == pytest.approx(ours.flops, rel=0.03)


def test_prices_grow_with_size_pairs_and_length() -> None:
    base = Workload(1e9, 1e9, 1000)
    for more in (Workload(2e9, 2e9, 1000), Workload(1e9, 1e9, 2000), Workload(1e9, 1e9, 1000, reply=512)):
        for method in METHODS:
            assert flops_of(method, more, True) > flops_of(method, base, True)
    assert flops_per_reply("best_of_n", base, True) > 16 * flops_per_reply("dpo", base, True)


@pytest.mark.parametrize("text", ["7B", "7b", "7e9", "7000M"])
def test_sizes(text: str) -> None:
    assert parse_size(text) == 7e9


# --- the skill file --------------------------------------------------------------------------------------------------


def test_the_skill_file_says_what_the_architect_knows() -> None:
    """`rlhfbench architect --skill > outputs/skill-rlhf-architect.md` writes it."""
    if not SKILL.exists():
        pytest.skip("needs the checkout: outputs/ is not part of the wheel")
    assert SKILL.read_text("utf-8") == skill()


def test_its_front_matter_and_gates() -> None:
    text = skill()
    for line in ("name: rlhf-architect", "version: 1.0.0", "phase: 9", "lesson: 9"):
        assert f"\n{line}\n" in text
    assert "\ntags: [rl, rlhf, alignment, llm]\n" in text
    assert all(gate.what in text and gate.instead in text for gate in GATES)
