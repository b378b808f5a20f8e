"""Ensembles, length, filtering and rankings as a comparison has them: options, scores, charges, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import counted
import numpy as np
import pytest

from kernels import flops
from rlhfbench.checkpoints import load_reward_model, pack_reward_model
from rlhfbench.errors import InputError
from rlhfbench.jobs import open_task
from rlhfbench.policy_choice import choose_policy
from rlhfbench.prepare import Prepared, contradicted, prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.reward_models import REWARD_MODELS, choose_reward_model
from rlhfbench.reward_task import reward_report_from_task
from rlhfbench.rewards.bags import BagFeatures
from rlhfbench.rewards.bradley_terry import LinearRewardModel
from rlhfbench.rewards.composed import ComposedRewardModel, Scale, Scheme
from rlhfbench.run import run
from rlhfbench.tasks.annotators import label_pairs, quarters, rank_replies
from rlhfbench.tasks.reward_choice import reward_options
from rlhfbench.types import Rollout

SMALL = "sentences-small:pairs=200,demos=200"
V, T = 6, 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("rm_temperature=0", "rm_temperature must be above 0, got 0.0"),
        ("rm_smoothing=0.6", "rm_smoothing must be between 0 and 0.5, got 0.6"),
        ("rm_noise=0.5", "rm_noise must be at least 0 and below 0.5, got 0.5"),
        ("rm_noise=0.1,rm_smoothing=0.1", "rm_noise must be 0 beside rm_smoothing, got 0.1"),
        ("rm_centering=-1", "rm_centering must be at least 0, got -1.0"),
        ("rm_margin=-1", "rm_margin must be at least 0"),
        ("rm_words=-1", "rm_words must be at least 0, got -1.0"),
        ("rm=unigrams,rm_words=1", "rm_words must be left out unless rm=transformer, got 1.0"),
        ("rm_ranking=1", "rm_ranking must be between 2 and 16, got 1"),
        ("rm_ranking=4,rm_filter=agreement", "rm_filter must be none beside rm_ranking"),
        ("rm_ranking=4,rm_margin=1", "rm_margin must be 0 beside rm_ranking"),
        ("rm_ranking=4,rm_noise=0.1", "rm_noise must be 0 beside rankings, unless rm_ranking_loss=pairwise"),
        ("rm_ranking_loss=listwise", "rm_ranking_loss: 'listwise' is not valid"),
        ("rm_members=0", "rm_members must be between 1 and 100, got 0"),
        ("rm_aggregate=min", "rm_aggregate must be mean, unless rm_members is 2 or more, got min"),
        ("rm_members=2,rm_uncertainty=1", "rm_uncertainty must be left out unless rm_aggregate=uwo, got 1.0"),
        ("rm_members=2,rm_aggregate=uwo,rm_uncertainty=-1", "rm_uncertainty must be at least 0"),
        ("rm_length_penalty=1", "rm_length_penalty must be left out unless rm_length=penalised, got 1.0"),
        ("rm_folds=3", "rm_folds must be left out unless rm_filter=agreement, got 3"),
        ("rm_filter=agreement,rm_folds=1", "rm_folds must be between 2 and 100, got 1"),
    ],
)
def test_what_is_wrong_is_named(options: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        load_task(f"sentences:{options}")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            "arithmetic:rm_members=2",
            "rm_members must be left out with rm=verifier, where no model is trained, got 2",
        ),
        (
            "arithmetic:rm=unigrams,rm_margin=1",
            "rm_margin must be 0 where no strength of preference is known",
        ),
        ("words:rm_ranking=3", "rm_ranking must be 2 on this task, whose annotators compare pairs, got 3"),
    ],
)
def test_what_a_task_lacks_is_named(task: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        load_task(task)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("rm_noise=0.1,rm_margin=1", "linear in a bag of unigrams; noise 0.1, margin 1"),
        (
            "rm_ranking=4,rm_ranking_loss=pairwise",
            "linear in a bag of unigrams; rankings of 4 by their pairs",
        ),
        ("rm_members=4,rm_aggregate=uwo", "linear in a bag of unigrams; 4 members, mean less 0.5 variance"),
        ("rm_length=penalised", "linear in a bag of unigrams; less 0.1 a token"),
        ("rm_filter=agreement", "linear in a bag of unigrams; pairs filtered by agreement, 5 folds"),
    ],
)
def test_a_report_says_what_it_is(options: str, text: str) -> None:
    assert choose_reward_model(load_task(f"{SMALL},{options}"), choose_policy("linear")).text == text


# --- annotators --------------------------------------------------------------------------------------------------


class Draws:
    """Replies of one token, drawn evenly."""

    def sample(self, prompts: Any, uniforms: Any) -> Rollout:
        tokens = (uniforms * V).astype(np.int64)
        return Rollout(tokens, np.ones_like(uniforms), uniforms)


def test_every_two_of_a_ranking_are_ordered_as_a_pair_is() -> None:
    worth, N = np.array([0.0, 0.3, 0.6, 1.0, 1.5, 2.0]), 40_000
    options: dict[str, float] = {"temperature": 0.7, "flips": 0.1, "length_bias": 0.0}
    prompts, rng = np.zeros((N, 1), np.int64), np.random.default_rng(0)

    def appeal(tokens: Any, mask: Any) -> Any:
        return worth[tokens[:, 0]]

    pairs = label_pairs(prompts, Draws(), appeal, rng, 1, **options)
    ranked = rank_replies(prompts, Draws(), appeal, rng, 1, 4, **options)
    better, worse = np.triu_indices(4, 1)
    sides = [
        (pairs.chosen[:, 0], pairs.rejected[:, 0]),
        (ranked.responses[:, better, 0].ravel(), ranked.responses[:, worse, 0].ravel()),
    ]
    for low, high in ((0, 5), (1, 3), (3, 4)):
        wanted = 1 / (1 + np.exp(-(worth[high] - worth[low]) / 0.7))
        wanted = 0.9 * wanted + 0.1 * (1 - wanted)
        for chosen, rejected in sides:
            right = ((chosen == high) & (rejected == low)).sum()
            share = right / (right + ((chosen == low) & (rejected == high)).sum())
            assert share == pytest.approx(wanted, abs=0.025)
    assert pairs.strength is not None
    gaps = np.abs(worth[pairs.chosen[:, 0]] - worth[pairs.rejected[:, 0]])
    means = [gaps[pairs.strength == step / 3].mean() for step in range(4)]
    assert means == sorted(means)


def test_quarters() -> None:
    assert quarters(np.array([4.0, 1.0, 3.0, 2.0])).tolist() == [3, 0, 2, 1]
    assert quarters(np.ones(5)).tolist() == [0] * 5


# --- the composed model ------------------------------------------------------------------------------------------


def members(n: int, seed: int = 0) -> list[LinearRewardModel]:
    rng = np.random.default_rng(seed)
    return [LinearRewardModel(rng.normal(size=V), BagFeatures.of("unigrams", V)) for _ in range(n)]


def replies(n: int, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, (n, 1))).astype(float)
    return np.zeros((n, 1), np.int64), rng.integers(V, size=(n, T)), mask


def plain_scores(n: int, inputs: tuple[Any, Any, Any], per_token: bool = False) -> tuple[Any, Any]:
    lengths = inputs[2].sum(axis=1)
    raw = np.stack([m.score(*inputs) for m in members(n)])
    raw = raw / lengths if per_token else raw
    return (raw - raw.mean(axis=1, keepdims=True)) / raw.std(axis=1, keepdims=True), lengths


def correlated(a: Any, b: Any) -> bool:
    return bool(np.corrcoef(a, b)[0, 1] > 1 - 1e-9)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("length", ["none", "normalised", "penalised", "residual"])
@pytest.mark.parametrize("aggregate", ["mean", "min", "uwo"])
def test_what_a_composed_model_scores(n: int, length: Any, aggregate: Any) -> None:
    inputs = replies(300)
    model = ComposedRewardModel.fitted(members(n), Scheme(aggregate, 0.7, length, 0.25), inputs, None)
    found = model.score(*inputs)
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert found.std() == pytest.approx(1)
    z, lengths = plain_scores(n, inputs, per_token=length == "normalised")
    wanted = {"mean": z.mean(axis=0), "min": z.min(axis=0), "uwo": z.mean(axis=0) - 0.7 * z.var(axis=0)}[
        aggregate
    ]
    if length == "penalised":
        wanted = wanted - 0.25 * lengths
    if length == "residual":
        wanted = wanted - np.polyval(np.polyfit(lengths, wanted, 1), lengths)
        assert np.corrcoef(found, lengths)[0, 1] == pytest.approx(0, abs=1e-12)
    assert correlated(found, wanted)
    assert model.score(*inputs[:2], inputs[2].astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("aggregate", ["mean", "min", "uwo"])
def test_an_ensemble_of_one_and_the_same_is_that_model(aggregate: Any) -> None:
    inputs = replies(100)
    (one,) = members(1)
    alone = one.normalised(one.score(*inputs)).score(*inputs)
    model = ComposedRewardModel.fitted([one] * 3, Scheme(aggregate, 2.0), inputs, None)
    np.testing.assert_allclose(model.score(*inputs), alone, atol=1e-12)


def test_it_is_kept_and_read_again(tmp_path: Path) -> None:
    inputs = replies(50)
    model = ComposedRewardModel.fitted(members(3), Scheme("uwo", 0.2, "residual"), inputs, None)
    for name, content in pack_reward_model("rm", model, "words").items():
        (tmp_path / name).write_bytes(content)
    again = load_reward_model(tmp_path, "rm", REWARD_MODELS, "words")
    np.testing.assert_array_equal(again.score(*inputs), model.score(*inputs))
    header = json.loads((tmp_path / "rm.json").read_text())
    for path, value, says in (
        (("scheme", "aggregate"), "median", "aggregate: came as 'median', one of mean, min, uwo is needed"),
        (("scale", "means"), [0.0], "means, sds: came as 1 and 3 for 3 members"),
        (("members",), [], "means, sds: came as 3 and 3 for 0 members"),
    ):
        damaged = json.loads(json.dumps(header))
        where = damaged["fields"]
        for key in path[:-1]:
            where = where[key]
        where[path[-1]] = value
        (tmp_path / "rm.json").write_text(json.dumps(damaged))
        with pytest.raises(InputError) as refused:
            load_reward_model(tmp_path, "rm", REWARD_MODELS, "words")
        assert says in str(refused.value)


@pytest.mark.parametrize("length", ["none", "normalised", "penalised"])
@pytest.mark.parametrize("aggregate", ["mean", "min", "uwo"])
def test_its_work_is_counted(length: Any, aggregate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recounted on numbers that count their own operations; the members' is theirs, each call of each."""
    prompts, tokens, mask = replies(5)
    model = ComposedRewardModel.fitted(members(3), Scheme(aggregate, 0.5, length, 0.1), replies(50), None)
    charged: list[tuple[flops.Work, int]] = []
    model.charge = lambda work, n: charged.append((work, n))
    model.score(prompts, tokens, mask)
    *theirs, (own, calls) = charged
    assert ([n for _, n in theirs], calls) == ([5, 5, 5], 0)
    assert all(work == flops.work("token_scores", 5, T, 0) for work, _ in theirs)

    monkeypatch.setattr(counted.Counted, "__float__", lambda x: float(x.value), raising=False)
    raw = counted.counted(np.ones((3, 5)) + np.arange(5))
    monkeypatch.setattr(
        ComposedRewardModel, "_raw", lambda self, *inputs: (raw, counted.counted(mask.sum(axis=1)))
    )
    model.charge = None
    counted.reset()
    model.score(prompts, tokens, mask)
    before = flops.work("elementwise", 5, T - 1 + 3 * (length == "normalised"))  # lengths and their division
    assert counted.counts() == (own.flops - before.flops, 0)


def test_members_of_none_or_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="one of each a member is needed"):
        ComposedRewardModel([], Scheme(), Scale((), ()))


# --- in a world --------------------------------------------------------------------------------------------------


def world(options: str, policy: str = "linear", pairs: int = 200) -> Prepared:
    task = f"sentences-small:demos=200,pairs={pairs}{options and ','}{options}"
    return prepare(load_task(task), policy, 0, 16)


def test_members_differ_and_each_is_paid_for() -> None:
    one, four = world(""), world("rm_members=4,rm_aggregate=min")
    model = four.reward_model
    assert isinstance(model, ComposedRewardModel)
    weights = np.stack([m.weights for m in model.members])  # type: ignore[union-attr]
    assert len(np.unique(weights, axis=0)) == 4
    assert min(np.corrcoef(weights)[0]) > 0.5
    # three more are trained, and each scores the replies that decide its scale
    scoring = flops.work("token_scores", 2048, 5, 0).flops
    assert four.meter.flops["rm_train"] - one.meter.flops["rm_train"] > 3 * scoring
    inputs = four.evaluation_prompts, *replies(16)[1:]
    arms = [run(w, parse_arm("best_of_n:n=2"), checkpoints=1).compute for w in (one, four)]
    assert arms[1]["rm_calls"] == 4 * arms[0]["rm_calls"]
    assert model.score(*inputs).shape == (16,)


def test_transformers_differ_in_their_head_and_order() -> None:
    made = world("rm_members=2", "transformer").reward_model
    assert isinstance(made, ComposedRewardModel)
    first, second = (m.backbone.params for m in made.members)  # type: ignore[union-attr]
    assert np.abs(first - second).max() > 0.1


def test_a_filter_leaves_out_turned_labels_and_is_paid_for() -> None:
    plain, kept = (world(f"flips=0.3{more}", pairs=600) for more in ("", ",rm_filter=agreement"))
    found = kept.facts["rm_filter"]
    assert found == {
        "pairs": 600,
        "kept": len(kept.preferences),
        "wrong": contradicted(plain.task, plain.preferences),
        "wrong_kept": contradicted(kept.task, kept.preferences),
    }
    assert found["wrong_kept"] / found["kept"] < 0.5 * found["wrong"] / found["pairs"]
    assert kept.filtering is not None
    assert kept.meter.flops["rm_train"] > plain.meter.flops["rm_train"] > 0
    # direct alignment learns from the rest: it pays for the filter, for all labels, and for no reward model
    dpo = run(kept, parse_arm("dpo:epochs=1"), checkpoints=1).compute
    assert dpo["by_phase"]["rm_train"] == kept.filtering.work.flops > 0
    assert dpo["labels"] == 600
    ppo = run(kept, parse_arm("best_of_n:n=2"), checkpoints=1).compute
    assert ppo["by_phase"]["rm_train"] == kept.meter.flops["rm_train"] > kept.filtering.work.flops
    assert ppo["labels"] == 600
    assert run(plain, parse_arm("dpo:epochs=1"), checkpoints=1).compute["by_phase"]["rm_train"] == 0


def test_rankings_cost_labels_of_their_own() -> None:
    ranked = world("rm_ranking=4")
    assert ranked.own_labels == 200 // 5 * 5
    assert len(ranked.preferences) == 200
    assert ranked.labels({"reward_model"}) == ranked.labels({"preferences"}) == 200
    assert ranked.labels({"reward_model", "preferences"}) == 400
    assert world("").labels({"reward_model", "preferences"}) == 200
    np.testing.assert_array_equal(ranked.preferences.chosen, world("").preferences.chosen)


@pytest.mark.parametrize("policy", ["linear", "transformer"])
@pytest.mark.parametrize(
    "options",
    ["rm_noise=0.1,rm_margin=1", "rm_ranking=3", "rm_ranking=3,rm_ranking_loss=pairwise,rm_centering=0.1"],
)
def test_losses_work_with_either_model(options: str, policy: str) -> None:
    made, plain = world(options, policy, 600), world("", policy, 600)
    inputs = plain.evaluation_prompts, *replies(16)[1:]
    scores, others = made.reward_model.score(*inputs), plain.reward_model.score(*inputs)
    assert np.isfinite(scores).all()
    assert not np.array_equal(scores, others)
    assert made.facts["rm_gold_correlation"] > 0.3


def test_the_loss_of_words_has_a_weight_and_none_on_sums() -> None:
    plain, given, off = (world(options, "transformer") for options in ("", "rm_words=0.5", "rm_words=0"))
    inputs = plain.evaluation_prompts, *replies(16)[1:]
    scores = plain.reward_model.score(*inputs)
    np.testing.assert_array_equal(given.reward_model.score(*inputs), scores)
    assert not np.array_equal(off.reward_model.score(*inputs), scores)
    assert off.meter.flops["rm_train"] < plain.meter.flops["rm_train"] == given.meter.flops["rm_train"]
    assert reward_options(load_task("arithmetic:rm=transformer")).words == 0
    with pytest.raises(InputError, match="rm_words must be left out beside a bag"):
        choose_reward_model(load_task(f"{SMALL},rm_words=1"), choose_policy("linear"))


def test_the_default_is_untouched_by_the_options() -> None:
    """What options do not change stays the same bits: same pairs, same reward."""
    plain, loud = world(""), world("rm_temperature=1,rm_ranking=2,rm_members=1,rm_length=none,rm_filter=none")
    np.testing.assert_array_equal(plain.reward_model.weights, loud.reward_model.weights)  # type: ignore[union-attr]
    assert plain.meter.flops == loud.meter.flops


# --- files -------------------------------------------------------------------------------------------------------


def file_of_pairs(path: Path, **extra: Any) -> str:
    with path.open("w", encoding="utf-8") as out:
        for i in range(60):
            pair = {"prompt": f"p{i}", "chosen": f"good word {i % 7}", "rejected": f"bad word {i % 5}"}
            out.write(json.dumps(pair | extra) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("extra", "strength"),
    [
        ({"margin": 2}, 2),
        ({"score_chosen": 8.5, "score_rejected": 7}, 1.5),
        ({"score_chosen": 1, "score_rejected": 2}, 0),
    ],
)
def test_a_file_may_say_how_strong_a_preference_is(
    tmp_path: Path, extra: dict[str, Any], strength: float
) -> None:
    path = file_of_pairs(tmp_path / "f.jsonl", **extra)
    task = open_task("pairs:rm_margin=1", path).for_seed(np.random.default_rng(0))
    pairs = task.preferences(None, np.random.default_rng(0), Draws())
    assert pairs.strength is not None
    assert (pairs.strength == strength).all()
    assert np.isfinite(
        prepare(open_task("pairs:rm_margin=1", path), "linear", 0, 8).facts["rm_gold_correlation"]
    )


@pytest.mark.parametrize("extra", [{}, {"margin": "much"}, {"margin": float("nan")}, {"score_chosen": 1}])
def test_a_file_that_does_not_say_is_refused(tmp_path: Path, extra: dict[str, Any]) -> None:
    path = file_of_pairs(tmp_path / "f.jsonl", **extra)
    open_task("pairs", path)
    with pytest.raises(
        InputError, match=r"f.jsonl: line 1: margin: missing; with rm_margin=1 every pair needs one"
    ):
        open_task("pairs:rm_margin=1", path)


# --- the report of a reward model --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "model", "words"),
    [
        (
            "rm_members=3,rm_aggregate=uwo",
            "linear in a bag of unigrams; 3 members, mean less 0.5 variance",
            True,
        ),
        ("rm=bigrams", "linear in a bag of bigrams", True),
        ("rm=transformer,rm_noise=0.1", "a transformer of 2 layers and width 32; noise 0.1", False),
        ("rm_ranking=4", "linear in a bag of unigrams; rankings of 4 by their likelihood", True),
    ],
)
def test_rm_reports_the_variant(options: str, model: str, words: bool) -> None:
    report = reward_report_from_task(f"sentences-small:pairs=600,demos=200,{options}", held_out=400)
    assert (report.pairs, report.held_out) == (600, 400)
    ranked = ("Trained on 120 rankings, which count as 600 labels.",) if "ranking" in options else ()
    assert report.notes == (f"Model: {model}.", *ranked)
    assert bool(report.positive) == words
    assert report.gold_accuracy is not None
    assert report.gold_accuracy > 0.55
    # in log-odds, whatever the scores of an ensemble are in
    assert report.log_loss < 0.9
    assert len(report.as_dict()) == 8


def test_rm_says_what_a_filter_kept() -> None:
    report = reward_report_from_task("sentences-small:pairs=300,demos=200,rm_filter=agreement")
    model, kept = report.notes
    assert model.endswith("pairs filtered by agreement, 5 folds.")
    assert kept == f"Filter: {report.pairs:,} of 300 pairs kept, which cross-fitted models agree with."
    assert report.pairs < 300


def test_rm_refuses_pairs_that_no_model_agrees_with() -> None:
    with pytest.raises(InputError, match="rm_filter: no model agrees with any of 2 pairs"):
        reward_report_from_task("sentences-small:pairs=2,demos=64,rm_filter=agreement")


def test_labels_that_buy_no_ranking_are_refused() -> None:
    with pytest.raises(InputError, match="rm_ranking: 4 came, which takes 5 labels a ranking; 2 buy none"):
        world("rm_ranking=4", pairs=2)
