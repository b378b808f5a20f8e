"""Critique and revision: no round lowers the score, and k rounds mend k violated rules."""

from __future__ import annotations

import numpy as np
import pytest

from rlhfbench.cli import main
from rlhfbench.constitution import KINDS, Constitution, Rule
from rlhfbench.constitution_file import read_constitution
from rlhfbench.errors import InputError
from rlhfbench.harness import compare
from rlhfbench.oracle import all_replies
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.revision import revised
from rlhfbench.run import run

SENTENCES = read_constitution("sentences")
KNOWN = load_task("sentences").vocab[:-1]
PROMPT = ["explain", "garden"]


def once(reply, constitution=SENTENCES, prompt=PROMPT, most=12, **options):
    return revised(constitution, prompt, reply.split(), KNOWN, most, **options)


@pytest.mark.parametrize(
    ("reply", "after"),
    [
        ("prune stupid mulch hate", "prune mulch"),  # offending words go
        ("prune mulch prune", "prune mulch"),
        ("well so", "well so prune"),  # what is wanted comes
        ("", "prune"),
        ("prune mulch", "prune mulch"),
        (
            "prune well so very quite perhaps maybe just hostel chord",
            "prune well so very quite perhaps maybe just",
        ),
        ("well so very quite perhaps maybe just wrong", "well so very quite perhaps maybe just prune"),
        ("stupid rhythm stupid", "rhythm"),  # one rule a round: the next adds a word on the topic
    ],
)
def test_a_round_by_hand(reply, after):
    assert " ".join(once(reply)) == after


def test_where_nothing_can_be_taken_away_words_are_replaced():
    words = read_constitution("words")
    known = load_task("words").vocab
    assert revised(words, ["help", "me"], ["rude", "kind"], known, 2, fixed_length=True) == ["clear", "kind"]
    assert revised(words, ["help", "me"], ["short", "short"], known, 2, fixed_length=True) == [
        "short",
        "clear",
    ]


def test_what_cannot_be_mended_stays():
    rules = Constitution("c", "-", (Rule("r", "p", 1.0, "avoid", phrases=(("bad",),)),), "")
    assert revised(rules, [], ["bad", "well"], ["bad", "well"], 2, fixed_length=True) == ["bad", "well"]
    both = (Rule("long", "p", 1.0, "length", least=2), Rule("none", "p", 1.0, "avoid", phrases=(("bad",),)))
    torn = Constitution("c", "-", both, "")
    assert revised(torn, [], ["bad", "well"], ["bad", "well"], 2) == [
        "bad",
        "well",
    ]  # one rule against the other


def mended(constitution, prompt, reply, known, most, **options):
    """Replies after each round, as many rounds as rules are violated."""
    rounds = [list(reply)]
    for _ in constitution.violated(prompt, reply):
        rounds.append(revised(constitution, prompt, rounds[-1], known, most, **options))
    return rounds


def test_k_violated_rules_are_mended_in_k_rounds_and_none_lowers_the_score():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(3000):
        prompt = [
            str(rng.choice(["explain", "advise"])),
            str(rng.choice(["garden", "music", "travel", "cooking"])),
        ]
        reply = [str(word) for word in rng.choice(rng.choice(KNOWN, 6), rng.integers(0, 13))]
        rounds = mended(SENTENCES, prompt, reply, KNOWN, 12)
        seen.add(len(rounds) - 1)
        assert not SENTENCES.violated(prompt, rounds[-1])
        left = [len(SENTENCES.violated(prompt, one)) for one in rounds]
        assert left == sorted(left, reverse=True)
        scores = [SENTENCES.score(prompt, one) for one in rounds]
        assert scores == sorted(scores)
        assert len(rounds[-1]) <= 12
    assert seen == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("name", ["words", "sentences-small"])
def test_every_reply_that_there_is_ends_without_a_violation(name):
    task = load_task(name)
    labeller, replies = task.labeller(), all_replies(task)
    alike = (replies.prompts == replies.prompts[0]).all(axis=1)  # one prompt's are enough, and half the time
    prompts, responses, mask = replies.prompts[alike], replies.responses[alike], replies.mask[alike]
    before = labeller.score(prompts, responses, mask)
    left = labeller.violations(prompts, responses, mask)
    assert set(left) == set(range(left.max() + 1))
    while left.any():
        at_fault = left > 0
        prompts, left = prompts[at_fault], left[at_fault]
        revision = labeller.revise(prompts, responses[at_fault], mask[at_fault])
        responses, mask = revision.responses, revision.mask
        after = labeller.score(prompts, responses, mask)
        assert (after > before[at_fault]).all()
        if task.eos is not None:  # they are replies: one end, unless there is no room, and nothing behind it
            ends = ((responses == task.eos) & (mask > 0)).sum(axis=1)
            assert ((ends == 1) | (mask.sum(axis=1) == task.max_length)).all()
            assert (np.diff(mask, axis=1) <= 0).all()
        fewer = labeller.violations(prompts, responses, mask)
        assert (fewer < left).all()
        before, left = after, fewer


def random_constitution(rng, known):
    def some():
        return tuple((str(word),) for word in rng.choice(known, rng.integers(1, 4), replace=False))

    rules = []
    for i in range(rng.integers(1, 6)):
        kind = str(rng.choice(KINDS))
        fields = {
            "use": lambda: {"phrases": some()},
            "avoid": lambda: {"phrases": some()},
            "topic": lambda: {"topics": (("p", some()),)},
            "length": lambda: {"least": int(rng.integers(0, 3)), "most": int(rng.integers(3, 6))},
        }.get(kind, dict)()
        rules.append(Rule(f"r{i}", "p", float(rng.uniform(0.1, 2)), kind, **fields))
    return Constitution("random", "-", tuple(rules), "")


@pytest.mark.parametrize("fixed_length", [False, True])
def test_whatever_the_rules_no_round_lowers_the_score_or_breaks_another_rule(fixed_length):
    rng, known, changed = np.random.default_rng(1), [*"abcdefp"], 0
    for _ in range(1500):
        constitution = random_constitution(rng, known)
        reply = [str(word) for word in rng.choice(known, rng.integers(0, 7))]
        after = revised(constitution, ["p"], reply, known, 6, fixed_length)
        changed += after != reply
        assert constitution.score(["p"], after) >= constitution.score(["p"], reply)
        broken = [{r.name for r in constitution.violated(["p"], one)} for one in (after, reply)]
        assert broken[0] < broken[1] or after == reply
        assert len(after) <= 6
        assert not fixed_length or len(after) == len(reply)
    assert changed > 300


def test_calls_of_the_labeller_are_counted_and_paid():
    task, asked = load_task("sentences:label_price=0.25,labels=ai"), []
    labeller = task.labeller(lambda n, cost: asked.append((n, cost)))
    index = task.vocab.index
    rows = [[index("prune"), task.eos], [index("stupid"), task.eos]]
    responses = np.array([row + [0] * 10 for row in rows])
    mask = np.array([[1.0] * 2 + [0.0] * 10] * 2)
    prompts = np.array([[0, 3], [0, 3]])
    revision = labeller.revise(prompts, responses, mask)
    assert asked == [(2, 0.25), (1, 0.25)]  # a critique each, and a revision of the one at fault
    assert revision.violated.tolist() == [0, 2]
    assert revision.responses[1, 0] == task.eos
    assert responses[1, 0] == index("stupid")  # what came in stays as it was


def test_revise_learns_what_the_constitution_asks_for_and_pays_for_calls_alone():
    world = prepare(load_task("sentences-small:pairs=64,demos=400"), "linear", 0, 256)
    result = run(world, parse_arm("revise:replies=400,epochs=4"))
    labeller, policy = world.task.labeller(), []
    run(world, parse_arm("revise:replies=400,epochs=4"), keep=policy.append)
    inputs = world.evaluation_prompts, world.evaluation_uniforms
    before, after = (
        labeller.score(inputs[0], r.responses, r.mask).mean()
        for r in (world.reference.sample(*inputs), policy[0].sample(*inputs))
    )
    assert after > before + 0.3
    compute = result.compute
    assert compute["by_phase"]["rm_train"] == compute["rm_calls"] == 0
    assert 400 < compute["labels"] <= 2 * 4 * 400
    assert compute["label_cost"] == pytest.approx(0.1 * compute["labels"])
    first = result.curve[1]
    assert first["revision/violated"] > first["revision/violated_last"]


def test_a_task_without_a_constitution_is_refused_in_one_line():
    world = prepare(load_task("arithmetic:pairs=32,demos=64"), "linear", 0, 16)
    with pytest.raises(
        InputError, match="'revise': task arithmetic has no constitution, sentences, words or"
    ):
        run(world, parse_arm("revise"))


def test_it_is_refused_before_anything_runs(tmp_path, capsys):
    out = tmp_path / "runs"
    assert main(["compare", "revise", "dpo", "--task", "arithmetic", "--out", str(out)]) == 2
    shown = capsys.readouterr().err
    assert "task arithmetic has no constitution" in shown
    assert len(shown.strip().splitlines()) == 1
    assert not out.exists()


def test_beside_a_verifier_it_runs_too(tmp_path):
    file = tmp_path / "v.py"
    file.write_text("def verify(prompt, response, answer):\n    return float(len(response))\n")
    options = {"verifier": f"{file}:verify", "seeds": 1, "jobs": 0, "out": str(tmp_path / "runs")}
    found = compare(
        ["revise:replies=64,epochs=1"], task="sentences-small:pairs=64,demos=64", policy="linear", **options
    )
    assert [run.status for run in found.runs["revise"]] == ["done"]


@pytest.mark.parametrize("field", ["replies", "rounds", "epochs", "batch_size", "learning_rate"])
def test_what_is_out_of_range_is_named(field):
    with pytest.raises(InputError, match=f"{field} must be"):
        parse_arm(f"revise:{field}=0")
