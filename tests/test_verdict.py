"""The decision for each kind of outcome, its sentence word for word, and, slowly, how often it claims too much."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfbench.statistics import Array
from rlhfbench.verdict import ArmScores, metric_verdict, verdict

SPREAD = np.array([-1.0, 0.8, -0.6, 0.4, -0.2, 0.2, -0.4, 0.6, -0.8, 1.0])


def arm(rm: float, gold: float, flops: float | None = None, noise: float = 0.1, n: int = 10) -> ArmScores:
    """Scores about the means given, start at 0; arms of equal noise differ by exactly their means."""
    spread = np.resize(SPREAD, n)
    counts = None if flops is None else flops * (1 + 0.02 * np.roll(spread, int(flops) % 7))
    return ArmScores(rm + noise * spread, gold + noise * np.roll(spread, 1), np.zeros(n), np.zeros(n), counts)


def jittered(scores: ArmScores, size: float, seed: int = 0) -> ArmScores:
    """The same arm with independent noise on gold."""
    gold = np.asarray(scores.gold_score)
    gold = gold + size * np.random.default_rng(seed).permutation(np.resize(SPREAD, gold.size))
    return ArmScores(scores.rm_score, gold, scores.rm_reference, scores.gold_reference, scores.flops)


PPO = arm(2.0, 1.0, 100.0, noise=0.2)
SPLIT = {"ppo": PPO, "dpo": jittered(arm(1.56, 1.15, 41.0), 0.1)}
BETTER = {"ppo": PPO, "dpo": jittered(arm(2.1, 1.15, 41.0), 0.1)}
WORSE = {"ppo": PPO, "dpo": jittered(arm(2.0, 0.7), 0.1)}
EQUIVALENT = {"ppo": PPO, "dpo": jittered(arm(2.0, 1.01, 41.0), 0.05)}
OPEN = {"ppo": PPO, "dpo": jittered(arm(2.0, 1.05, 41.0), 0.3)}
THREE = {
    "ppo": PPO,
    "dpo": jittered(arm(2.2, 1.5, 41.0), 0.1),
    "rloo": jittered(arm(2.0, 1.25, 50.0), 0.1, 1),
}
THREE_SPLIT = {**THREE, "dpo": jittered(arm(1.5, 1.5, 41.0), 0.1)}
THREE_OPEN = {**THREE, "rloo": jittered(arm(2.1, 1.5, 50.0), 0.1, 2)}
FEW = {"ppo": arm(2.0, 1.0, 100.0, n=3), "dpo": arm(1.56, 1.15, 41.0, n=3)}
FIVE = {"ppo": arm(2.0, 1.0, 100.0, n=5), "dpo": arm(1.56, 1.15, 41.0, n=5)}
ZERO = ArmScores(*[np.zeros(10)] * 5)
MISSING = ArmScores(np.ones(10), np.full(10, np.nan), np.zeros(10), np.full(10, np.nan), [None, *range(9)])
EMPTY = ArmScores([], [], [], [], [])

CASES: dict[str, tuple[Mapping[str, ArmScores], str, str | None]] = {
    "split": (SPLIT, "split", None),
    "better": (BETTER, "better", "dpo"),
    "worse": (WORSE, "better", "ppo"),
    "equivalent": (EQUIVALENT, "equivalent", None),
    "inconclusive": (OPEN, "inconclusive", None),
    "identical": ({"ppo": PPO, "ppo#2": PPO}, "equivalent", None),
    "all zero": ({"a": ZERO, "b": ZERO}, "equivalent", None),
    "three": (THREE, "better", "dpo"),
    "three, split": (THREE_SPLIT, "split", None),
    "three, open": (THREE_OPEN, "inconclusive", None),
    "three, equivalent": ({**EQUIVALENT, "rloo": PPO}, "equivalent", None),
    "three seeds": (FEW, "no_claim", None),
    "five seeds": (FIVE, "no_claim", None),
    "three arms, three seeds": ({**FEW, "rloo": arm(2.0, 1.0, n=3)}, "no_claim", None),
    "no seeds": ({"ppo": EMPTY, "dpo": EMPTY}, "no_claim", None),
    "one arm": ({"ppo": PPO}, "no_claim", None),
    "no arm": ({}, "no_claim", None),
    "no gold": ({"ppo": PPO, "dpo": MISSING}, "no_claim", None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("gold", ["exact", "judge"])
def test_every_outcome_has_its_kind_and_is_json(case: str, gold: str) -> None:
    arms, kind, better = CASES[case]
    got = verdict(arms, gold=gold, failed={"ppo": 1})
    assert (got.kind, got.better) == (kind, better)
    block = json.loads(json.dumps(got.as_dict(), allow_nan=False))
    assert list(block) == ["kind", "better", "text", "rm_score", "gold_score", "flops"]
    for name in ("rm_score", "gold_score"):
        assert list(block[name]) == ["kind", "better", "difference", "low", "high", "p"]
        assert block[name]["kind"] in {"better", "equivalent", "inconclusive", "no_claim"}
        assert (block[name]["kind"] == "better") == (block[name]["better"] is not None)
    assert list(block["flops"]) == ["ratio", "low", "high"]
    check_prose(got.text)


def check_prose(text: str) -> None:
    for blot in ("-0.00 ", "-0.00]", "+0.00 ", "nan", "None", "inf ", "  ", "..", " ,", "[]"):
        assert blot not in text
    assert text.endswith(".")


# --- the sentence, word for word ---------------------------------------------------------------------------------

TEXTS = {
    "split": (
        "RM score and gold disagree: ppo wins on RM score, dpo on gold. dpo reaches 78 % [76, 80] of "
        "ppo's RM-score gain with 0.410 × [0.407, 0.413] the FLOPs, and more gold (+0.15 [0.05, 0.24]): "
        "ppo over-optimises the reward model (n = 10)."
    ),
    "better": (
        "dpo is better on gold: dpo reaches 105 % [102, 108] of ppo's RM-score gain with 0.410 × [0.407,"
        " 0.413] the FLOPs, and more gold (+0.15 [0.05, 0.24]; n = 10)."
    ),
    "worse": (
        "ppo is better on gold: dpo reaches 100 % [97, 103] of ppo's RM-score gain, and less gold (-0.30"
        " [-0.40, -0.21]; n = 10)."
    ),
    "equivalent": (
        "ppo and dpo are equivalent on gold: dpo reaches 100 % [97, 103] of ppo's RM-score gain with "
        "0.410 × [0.407, 0.413] the FLOPs, with a gold difference of +0.01 [-0.07, 0.08], within 10 % of"
        " the larger gain (n = 10)."
    ),
    "inconclusive": (
        "dpo against ppo is inconclusive on gold: dpo reaches 100 % [97, 103] of ppo's RM-score gain "
        "with 0.410 × [0.407, 0.413] the FLOPs, with a gold difference of +0.04 [-0.17, 0.25] (n = 10); "
        "about 460 more seeds for 80 % power."
    ),
    "identical": (
        "ppo and ppo#2 are equivalent on gold: ppo#2 reaches 100 % [100, 100] of ppo's RM-score gain "
        "with 1.00 × [1.00, 1.00] the FLOPs, with a gold difference of 0.00 [0.00, 0.00], within 10 % of"
        " the larger gain (n = 10)."
    ),
    "all zero": (
        "a and b are equivalent on gold: b ends 0.00 [0.00, 0.00] above a in RM score, with a gold "
        "difference of 0.00 [0.00, 0.00], within 10 % of the larger gain (n = 10)."
    ),
    "three": (
        "dpo is better on gold: dpo beats ppo and rloo; rloo beats ppo. Leader against runner-up: dpo "
        "reaches 110.0 % [109.7, 110.3] of rloo's RM-score gain with 0.82 × [0.80, 0.84] the FLOPs, and "
        "more gold (+0.26 [0.18, 0.32]; n = 10; Holm over 3 pairs)."
    ),
    "three, split": (
        "RM score and gold disagree: ppo and rloo beat dpo on RM score; on gold dpo beats ppo and rloo; "
        "rloo beats ppo. Leader against runner-up: dpo reaches 75.0 % [74.3, 75.7] of rloo's RM-score "
        "gain with 0.82 × [0.80, 0.84] the FLOPs, and more gold (+0.26 [0.18, 0.32]): ppo and rloo over-"
        "optimise the reward model (n = 10; Holm over 3 pairs)."
    ),
    "three, open": (
        "Inconclusive on gold, no arm beats every other: dpo beats ppo; rloo beats ppo. Leader against "
        "runner-up: dpo reaches 104.8 % [104.6, 104.9] of rloo's RM-score gain with 0.82 × [0.80, 0.84] "
        "the FLOPs, with a gold difference of +0.01 [-0.05, 0.05], within 10 % of the larger gain (n = "
        "10; Holm over 3 pairs)."
    ),
    "three, equivalent": (
        "ppo, dpo and rloo are equivalent on gold. Leader against runner-up: dpo reaches 100 % [97, 103]"
        " of ppo's RM-score gain with 0.410 × [0.407, 0.413] the FLOPs, with a gold difference of +0.01 "
        "[-0.07, 0.08], within 10 % of the larger gain (n = 10; Holm over 3 pairs)."
    ),
    "three seeds": (
        "No claim is possible under 6 seeds: dpo reaches 78 % of ppo's RM-score gain with 0.41 × the "
        "FLOPs, with a gold difference of +0.15 (n = 3)."
    ),
    "five seeds": (
        "No claim is possible under 6 seeds: dpo reaches 77.8 % [77.0, 78.7] of ppo's RM-score gain with"
        " 0.41 × [0.40, 0.42] the FLOPs, with a gold difference of +0.15 [0.15, 0.15] (n = 5)."
    ),
    "three arms, three seeds": (
        "No claim is possible under 6 seeds: dpo reaches 78 % of ppo's RM-score gain with 0.41 × the "
        "FLOPs, with a gold difference of +0.15 (n = 3; Holm over 3 pairs)."
    ),
    "no seeds": ("No claim is possible under 6 seeds: dpo and ppo lack scores to compare (n = 0)."),
    "one arm": ("No claim is possible: only ppo was run, there is nothing to compare (n = 10)."),
    "no arm": ("No claim is possible: nothing was run, there is nothing to compare (n = 0)."),
    "no gold": ("No claim is possible without scores: dpo and ppo lack scores to compare (n = 10)."),
}


@pytest.mark.parametrize("case", TEXTS)
def test_the_sentence(case: str) -> None:
    assert verdict(CASES[case][0]).text == TEXTS[case]


def test_verifiers_are_named_so() -> None:
    both = verdict(SPLIT, gold="verifier", reward="verifier").text
    assert both.startswith(
        "Verifier score and accuracy disagree: ppo wins on verifier score, dpo on accuracy. dpo reaches 78 %"
    )
    assert "of ppo's verifier-score gain" in both
    assert "over-optimises the verifier" in both
    assert "and higher accuracy (+0.15 [" in verdict(BETTER, gold="verifier").text
    assert "and lower accuracy (-0.30 [" in verdict(WORSE, gold="verifier").text
    for arms in (SPLIT, BETTER, WORSE):
        text = verdict(arms, gold="verifier", reward="gold").text
        assert "RM" not in text
        assert "gold" not in text
        assert "accuracy gain" in text


def test_a_judge_is_named_so() -> None:
    assert verdict(SPLIT, gold="judge").text.startswith(
        "RM score and judge score disagree: ppo wins on RM score, dpo on judge score. dpo reaches 78 %"
    )
    assert "and a higher judge score (+0.15 [" in verdict(BETTER, gold="judge").text
    assert "and a lower judge score (-0.30 [" in verdict(WORSE, gold="judge").text
    for arms in (BETTER, WORSE, EQUIVALENT, OPEN, THREE, FEW):
        assert "gold" not in verdict(arms, gold="judge").text


def test_failed_runs_are_named() -> None:
    text = verdict(BETTER, failed={"ppo": 1, "dpo": 2}).text
    assert text.endswith(
        " 1 of 10 runs of ppo diverged or failed and counts with its starting score."
        " 2 of 10 runs of dpo diverged or failed and count with their starting scores."
    )
    assert verdict(BETTER, failed={"ppo": 0}).text == verdict(BETTER).text
    assert "4 runs of ppo" in verdict(FEW, failed={"ppo": 4}).text


def test_differences_stand_in_where_a_share_of_the_gain_says_nothing() -> None:
    lost = arm(-0.5, 1.0)  # its gain is negative
    assert (
        "dpo ends 2.06 [2.06, 2.06] above ppo in RM score, and"
        in verdict({"ppo": lost, "dpo": SPLIT["dpo"]}).text
    )
    assert "ppo ends 2.50 [2.44, 2.56] below dpo in RM score, with" in verdict({"dpo": PPO, "ppo": lost}).text
    assert "in RM score" in verdict({"ppo": arm(0.01, 1.0, noise=1.0), "dpo": PPO}).text


def test_a_winner_on_rm_score_alone_is_named() -> None:
    worse = ArmScores(np.asarray(PPO.rm_score) - 0.5, PPO.gold_score, PPO.rm_reference, PPO.gold_reference)
    got = verdict({"ppo": PPO, "dpo": worse})
    assert (got.kind, got.rm_score.better) == ("equivalent", "ppo")
    assert got.text.startswith("ppo and dpo are equivalent on gold, though ppo wins on RM score: ")


def test_no_number_of_seeds_is_promised_beyond_reason() -> None:
    same = {"ppo": PPO, "dpo": jittered(arm(2.0, 1.0), 0.5)}
    assert "; more than 1,000 more seeds for 80 % power." in verdict(same).text


# --- the decision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "kind"),
    [
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "better"),
        ([1.0, 1.1, 1.2, 1.3, 1.4], "no_claim"),
        ([1.0] * 7 + [-0.1] * 3, "inconclusive"),  # 70 % of the seeds
        ([1.0] * 9 + [-0.1] * 3, "better"),  # 75 %
        ([1.0] * 9 + [-9.0], "inconclusive"),  # one disaster: trimmed away, but the sign flips see it
        ([0.1] * 18 + [-50.0] * 6, "inconclusive"),  # the mean is on the other side
        ([0.01] * 10, "better"),  # a claim goes before an equivalence
        ([0.1, -0.1] * 5, "equivalent"),
        ([0.0] * 10, "equivalent"),
        ([1.0, np.nan] * 5, "no_claim"),
    ],
)
def test_a_claim_needs_all_three(d: list[float], kind: str) -> None:
    got, mirror = (metric_verdict("a", "b", sign * np.array(d), larger_gain=2.0) for sign in (1, -1))
    assert got.kind == mirror.kind == kind
    assert (got.better, mirror.better) == (("b", "a") if kind == "better" else (None, None))


def test_a_larger_p_from_other_comparisons_takes_the_claim_away() -> None:
    d = np.linspace(1, 2, 6)
    assert metric_verdict("a", "b", d, 2.0).p == 2 / 2**6
    assert metric_verdict("a", "b", d, 2.0, p=6 / 2**6).kind == "inconclusive"
    six = {name: arm(0.0, gold, n=6) for name, gold in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    got = verdict(six)
    assert (got.kind, got.gold_score.p) == ("inconclusive", 3 * 2 / 2**6)
    assert verdict({name: six[name] for name in "ab"}).better == "b"


def test_equivalence_is_measured_against_the_larger_gain() -> None:
    d = np.array([0.1, -0.1] * 5)
    assert metric_verdict("a", "b", d, larger_gain=0.99).kind == "inconclusive"
    assert metric_verdict("a", "b", d, larger_gain=1.01).kind == "equivalent"
    losing = {name: arm(0.0, -2.0) for name in "ab"}
    assert verdict({**losing, "b": jittered(losing["b"], 0.1)}).kind == "equivalent"


def test_the_second_arm_is_compared_with_the_first() -> None:
    got = verdict(BETTER).as_dict()
    assert got["gold_score"]["better"] == "dpo"
    assert got["gold_score"]["difference"] == pytest.approx(0.15, abs=0.01)
    assert got["flops"]["ratio"] == pytest.approx(0.41, abs=0.01)


def test_the_leader_of_three_is_compared_with_the_runner_up() -> None:
    for order in (["ppo", "dpo", "rloo"], ["rloo", "ppo", "dpo"], ["dpo", "rloo", "ppo"]):
        got = verdict({label: THREE[label] for label in order})
        assert (got.better, got.gold_score.better) == ("dpo", "dpo")
        assert got.gold_score.difference == pytest.approx(0.25, abs=0.02)
        assert got.flops is not None
        assert got.flops.estimate == pytest.approx(0.82, abs=0.01)


def test_the_runner_up_is_who_the_leader_was_not_told_apart_from() -> None:
    wild = arm(0.0, 1.2, noise=3.0)
    got = verdict({"dpo": THREE["dpo"], "ppo": PPO, "wild": wild})
    assert got.kind == got.gold_score.kind == "inconclusive"
    assert "dpo beats ppo" in got.text
    assert "Leader against runner-up: dpo" in got.text
    assert " wild" in got.text


def test_a_run_without_a_score_counts_with_its_starting_score() -> None:
    rm, gold = np.array(PPO.rm_score), np.array(PPO.gold_score)
    rm[3], gold[3] = np.nan, np.inf
    start = np.full(10, -0.5)
    lost = ArmScores(rm, gold, start, start)
    counted = ArmScores(*(np.where(np.arange(10) == 3, -0.5, x) for x in (rm, gold, start, start)))
    assert verdict({"ppo": lost, "dpo": PPO}) == verdict({"ppo": counted, "dpo": PPO})


@pytest.mark.parametrize("flops", [None, np.zeros(10), np.full(10, np.nan), [1.0] * 9 + [None]])
def test_a_ratio_of_missing_flops_is_null(flops: Any) -> None:
    other = ArmScores(PPO.rm_score, PPO.gold_score, PPO.rm_reference, PPO.gold_reference, flops)
    for arms in ({"a": PPO, "b": other}, {"a": other, "b": PPO}):
        got = verdict(arms)
        assert got.as_dict()["flops"] == {"ratio": None, "low": None, "high": None}
        assert "FLOPs" not in got.text


def test_arms_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="paired by seed"):
        verdict({"a": PPO, "b": arm(1.0, 1.0, n=9)})
    with pytest.raises(ValueError, match="a: scores and starting scores"):
        verdict({"a": ArmScores(np.ones(10), np.ones(10), np.zeros(10), np.zeros(1)), "b": PPO})


# --- properties --------------------------------------------------------------------------------------------------

drawn = st.builds(
    lambda seed, n, rm, gold, spread: {
        label: ArmScores(*draw_scores(seed + i, n, i * rm, i * gold, spread)) for i, label in enumerate("ab")
    },
    st.integers(0, 10_000),
    st.integers(1, 20),
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.sampled_from([0.01, 1.0]),
)


def draw_scores(seed: int, n: int, rm: float, gold: float, spread: float) -> tuple[Array, ...]:
    rng = np.random.default_rng(seed)
    start = np.zeros(n)
    return (
        rm + spread * rng.normal(size=n),
        gold + spread * rng.normal(size=n),
        start,
        start,
        1 + rng.random(n),
    )


@given(drawn)
def test_exchanged_arms_mirror_the_verdict(arms: dict[str, ArmScores]) -> None:
    there, back = verdict(arms), verdict({"b": arms["b"], "a": arms["a"]})
    assert (there.kind, there.better) == (back.kind, back.better)
    for metric, mirror in ((there.rm_score, back.rm_score), (there.gold_score, back.gold_score)):
        assert (metric.kind, metric.better, metric.p) == (mirror.kind, mirror.better, mirror.p)
        turned = mirror.mirrored()
        for a, b in (
            (metric.difference, turned.difference),
            (metric.low, turned.low),
            (metric.high, turned.high),
        ):
            assert (a is None and b is None) or a == pytest.approx(b, abs=1e-9)
    assert there.flops is not None
    assert back.flops is not None
    assert there.flops.estimate == pytest.approx(1 / (back.flops.estimate or 0.0))
    check_prose(there.text)


@given(drawn, st.floats(-10, 10))
def test_what_all_arms_share_changes_nothing(arms: dict[str, ArmScores], shift: float) -> None:
    def shifted(x: ArmScores) -> ArmScores:
        scores = (x.rm_score, x.gold_score, x.rm_reference, x.gold_reference)
        rm, gold, rm_start, gold_start = (np.asarray(s) + shift for s in scores)
        return ArmScores(rm, gold, rm_start, gold_start, x.flops)

    before, after = verdict(arms), verdict({label: shifted(x) for label, x in arms.items()})
    assert (before.kind, before.better) == (after.kind, after.better)
    assert before.gold_score.difference == pytest.approx(after.gold_score.difference, abs=1e-9)


# --- how often it claims too much --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["normal", "lognormal"])
@pytest.mark.parametrize("n", [6, 10])
def test_false_claims_about_two_runs_of_one_arm_are_rare(shape: str, n: int) -> None:
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(4000, 2, n))
    scores = np.exp(scores) if shape == "lognormal" else scores
    claims = [metric_verdict("a", "b", b - a, 1.0).kind == "better" for a, b in scores]
    print(f"{shape} n={n} {np.mean(claims):.4f}")
    assert np.mean(claims) <= 0.05


@pytest.mark.slow
def test_false_claims_among_three_runs_of_one_arm_are_rare() -> None:
    rng = np.random.default_rng(8)
    claimed = []
    for _ in range(500):
        gold, start = rng.lognormal(size=(3, 10)), np.zeros(10)
        got = verdict({label: ArmScores(g, g, start, start) for label, g in zip("abc", gold, strict=True)})
        claimed.append("no arm beats another" not in got.text)
    print(f"three arms {np.mean(claimed):.4f}")
    assert np.mean(claimed) <= 0.05
