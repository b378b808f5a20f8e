"""The reward model on the backbone: what it reads, how it is trained, kept and charged."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from differences import gradient
from test_transformer import MASK, PROMPTS, RESPONSES, make

from rlhfbench.checkpoints import load_reward_model, pack, pack_reward_model
from rlhfbench.errors import InputError
from rlhfbench.optimizer import AdamW
from rlhfbench.policies._weights import views
from rlhfbench.policies.transformer import TransformerPolicy
from rlhfbench.rankings import Rankings
from rlhfbench.rewards import transformer, transformer_training
from rlhfbench.rewards.objective import Objective
from rlhfbench.rewards.transformer import TransformerRewardModel
from rlhfbench.rewards.transformer_training import RewardModelConfig, train_transformer_reward_model
from rlhfbench.types import PreferencePairs
from rlhfbench.worlds import REWARD_MODELS

COMPILED = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="minutes of plain Python")
V, T = 5, 4


def model_on(sft, seed=0):
    """A model with some head, as training would leave it."""
    backbone = transformer_training.with_one_more_place(sft)
    C = backbone.sizes.width
    backbone.params[-C - 1 :] = np.random.default_rng(seed).normal(size=C + 1)
    return TransformerRewardModel(backbone)


def likes_a_word(n, seed=0):
    """Pairs of which the chosen reply has more of word 2, and 40 prompts."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (2, n, T))
    mask = (np.arange(T) < rng.integers(1, T + 1, (2, n, 1))).astype(np.float32)
    counts = ((tokens == 2) * mask).sum(axis=2) + 1e-3 * rng.random((2, n))
    best, rows = counts.argmax(axis=0), np.arange(n)
    chosen, rejected = (best, rows), (1 - best, rows)
    prompts = rng.integers(0, 7, (n, 3))
    return PreferencePairs(prompts, tokens[chosen], mask[chosen], tokens[rejected], mask[rejected])


def test_the_backbone_computes_what_the_sft_policy_does():
    sft = make()
    sft.params[-9:] = 1
    more = transformer_training.with_one_more_place(sft)
    longer, ends = np.pad(RESPONSES, ((0, 0), (0, 1))), np.pad(MASK, ((0, 0), (0, 1))).astype(float)
    np.testing.assert_array_equal(
        more.logits(PROMPTS, longer, ends)[:, :T], sft.logits(PROMPTS, RESPONSES, MASK.astype(float))
    )
    assert not more.values(PROMPTS, longer, ends).any()
    assert not np.shares_memory(more.params, sft.params)


def test_the_score_is_the_value_after_the_last_token():
    model, mask = model_on(make()), MASK.astype(float)
    longer = np.pad(RESPONSES, ((0, 0), (0, 1)))
    values = model.backbone.values(PROMPTS, longer, np.ones(longer.shape))
    lengths = [3, 4, 4, 1, 4, 0]
    np.testing.assert_allclose(
        model.score(PROMPTS, RESPONSES, mask), values[np.arange(6), lengths], atol=1e-12
    )


def test_padding_and_batch_change_no_score():
    model, mask = model_on(make()), MASK.astype(float)
    want = model.score(PROMPTS, RESPONSES, mask)
    assert np.isfinite(want).all()
    after = np.where(np.cumsum(MASK[:, ::-1], axis=1)[:, ::-1] > 0, RESPONSES, 3)
    np.testing.assert_array_equal(model.score(PROMPTS, after, mask), want)
    wide = np.pad(PROMPTS, ((0, 0), (2, 0)), constant_values=-1)
    np.testing.assert_array_equal(model.score(wide, RESPONSES, mask), want)
    for b, length in enumerate([3, 4, 4, 1, 4, 0]):
        one = model.score(PROMPTS[b : b + 1], RESPONSES[b : b + 1, :length], mask[b : b + 1, :length])
        np.testing.assert_allclose(one, want[b : b + 1], atol=1e-12)


def test_many_replies_are_scored_in_parts(monkeypatch):
    model, mask = model_on(make()), MASK.astype(float)
    want = model.score(PROMPTS, RESPONSES, mask)
    monkeypatch.setattr(transformer, "CHUNK", 4)
    np.testing.assert_allclose(model.score(PROMPTS, RESPONSES, mask), want, atol=1e-12)
    assert model.score(PROMPTS[:0], RESPONSES[:0], mask[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_have_the_dtype_of_the_mask(dtype):
    model = model_on(make(np.float32))
    assert model.score(PROMPTS, RESPONSES, MASK.astype(dtype)).dtype == dtype


def test_replies_that_are_too_long_are_refused():
    model = model_on(make())
    long = np.zeros((6, 5), np.int64)
    with pytest.raises(ValueError, match="responses: came with 5 tokens, at most 4 are needed"):
        model.score(PROMPTS, long, np.ones(long.shape))


@COMPILED
@pytest.mark.parametrize(
    "objective",
    [Objective(), Objective(noise=0.2, centering=0.1, margin=2.0), Objective(smoothing=0.1, temperature=0.5)],
    ids=str,
)
def test_gradients_by_central_differences(objective):
    backbone = model_on(make(layers=1, width=4)).backbone
    mask = MASK.astype(float)
    pairs = PreferencePairs(PROMPTS, RESPONSES, mask, RESPONSES[::-1], mask[::-1], np.linspace(0, 1, 6))
    check_gradients(backbone, Rankings.of(pairs), objective)


@COMPILED
@pytest.mark.parametrize("objective", [Objective(), Objective(listwise=False, noise=0.2)], ids=str)
def test_gradients_of_rankings_by_central_differences(objective):
    backbone = model_on(make(layers=1, width=4)).backbone
    turned = [np.roll(np.arange(6), k) for k in range(3)]
    ranked = Rankings(
        PROMPTS,
        np.stack([RESPONSES[rows] for rows in turned], axis=1),
        np.stack([MASK[rows].astype(float) for rows in turned], axis=1),
    )
    check_gradients(backbone, ranked, objective)


def check_gradients(backbone, ranked, objective):
    def loss(params):
        backbone.params[:] = params
        scores = [
            transformer.read_scores(backbone, ranked.prompts, ranked.responses[:, k], ranked.mask[:, k])[0]
            for k in range(ranked.replies)
        ]
        return objective(np.stack(scores, axis=1), ranked.strength).loss

    start = backbone.params.copy()
    work = transformer_training._gradients(objective, 0.0, backbone, ranked)
    assert work == objective(np.zeros((6, ranked.replies)), ranked.strength).work
    np.testing.assert_allclose(backbone.grads, gradient(loss, start), atol=1e-7)


@COMPILED
def test_gradients_of_the_loss_of_words_by_central_differences():
    backbone, mask = model_on(make(layers=1, width=4)).backbone, MASK.astype(float)
    ranked = Rankings.of(PreferencePairs(PROMPTS, RESPONSES, mask, RESPONSES[::-1], mask[::-1]))

    def loss(params):
        backbone.params[:] = params
        scores, each = [], []
        for replies, some in ((RESPONSES, mask), (RESPONSES[::-1], mask[::-1])):
            found, lengths = transformer.read_scores(backbone, PROMPTS, replies, some)
            longer = np.pad(replies, ((0, 0), (0, 1)))
            logits = backbone.logits(PROMPTS, longer, np.ones(longer.shape))[np.arange(6), lengths]
            logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            words = [logprobs[b, replies[b, some[b] > 0]] for b in range(6)]
            scores.append(found)
            each += [-w.mean() if len(w) else 0.0 for w in words]
        assert 0.0 in each
        return Objective()(np.stack(scores, axis=1)).loss + 0.7 * np.mean(each)

    start = backbone.params.copy()
    transformer_training._gradients(Objective(), 0.7, backbone, ranked)
    np.testing.assert_allclose(backbone.grads, gradient(loss, start), atol=1e-7)


@COMPILED
def test_the_loss_of_words_makes_the_state_remember_them():
    def known(words):
        config = RewardModelConfig(epochs=4, batch_size=16, weight_decay=0.1, words=words)
        pairs = likes_a_word(300)
        model, _ = train_transformer_reward_model(pairs, make(np.float32), np.random.default_rng(0), config)
        longer, ends, lengths = transformer.after(model.backbone, pairs.chosen, pairs.chosen_mask)
        logits = model.backbone.logits(pairs.prompts, longer, ends)[np.arange(300), lengths]
        has = np.zeros((300, V), bool)
        rows, places = np.nonzero(pairs.chosen_mask)
        has[rows, pairs.chosen[rows, places]] = True
        return has[np.arange(300), logits.argmax(axis=1)].mean()

    assert known(2.0) > known(0.0) + 0.1


@COMPILED
@pytest.mark.parametrize(
    "sizes", [{}, {"layers": 1, "width": 4, "heads": 1}, {"width": 16, "shared": True}], ids=str
)
def test_training_learns_what_the_pairs_say(sizes):
    rng = np.random.default_rng(0)
    sft = TransformerPolicy(
        7, V, T, rng=rng, **{"prompt_length": 3, "layers": 2, "width": 8, "heads": 2} | sizes
    )
    before = sft.params.copy()
    config = RewardModelConfig(epochs=8, batch_size=16, learning_rate=1e-2, weight_decay=0.1, validation=0.2)
    model, training = train_transformer_reward_model(likes_a_word(600), sft, np.random.default_rng(1), config)
    np.testing.assert_array_equal(sft.params, before)
    fresh = likes_a_word(300, seed=1)
    chosen = model.score(fresh.prompts, fresh.chosen, fresh.chosen_mask)
    rejected = model.score(fresh.prompts, fresh.rejected, fresh.rejected_mask)
    assert (chosen > rejected).mean() > 0.7
    assert training.pairs == 600
    assert training.accuracy > 0.7
    assert training.log_loss == min(loss for _, loss in training.path) == dict(training.path)[training.epoch]
    assert training.record()["flops"] == training.work.flops
    json.dumps(training.record(), allow_nan=False)
    again, _ = train_transformer_reward_model(likes_a_word(600), sft, np.random.default_rng(1), config)
    np.testing.assert_array_equal(again.backbone.params, model.backbone.params)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_a_handful_of_pairs_is_enough(n, validation):
    config = RewardModelConfig(epochs=2, validation=validation)
    model, training = train_transformer_reward_model(
        likes_a_word(n), make(np.float32), np.random.default_rng(0), config
    )
    assert np.isfinite(model.backbone.params).all()
    none = validation == 0 or n == 1
    assert (training.log_loss is None) == (training.accuracy is None) == (not training.path) == none
    assert training.epoch == 2 or not none


def test_training_starts_from_the_sft_policy_with_a_random_head():
    sft = make()
    more = transformer_training.with_one_more_place(sft).params
    head = np.random.default_rng(0).normal(scale=0.5, size=8)
    backbone = transformer_training.start_from(sft, 0.5, np.random.default_rng(0))
    np.testing.assert_array_equal(backbone.params, np.concatenate([more[:-9], head, [0]]))


def test_words_that_no_pair_has_stay_what_they_were():
    pairs, sft = likes_a_word(40), make(np.float32)
    some = PreferencePairs(
        pairs.prompts, pairs.chosen % 3, pairs.chosen_mask, pairs.rejected % 3, pairs.rejected_mask
    )
    config = RewardModelConfig(epochs=1, batch_size=8, weight_decay=5.0, words=0.0)
    model, _ = train_transformer_reward_model(some, sft, np.random.default_rng(0), config)
    before, after = views(sft.params, sft.sizes), views(model.backbone.params, model.backbone.sizes)
    np.testing.assert_array_equal(after.table[3:V], before.table[3:V])
    assert (after.table[:3] != before.table[:3]).any(axis=1).all()


def test_what_is_spared_does_not_decay():
    rng = np.random.default_rng(0)
    start, slopes = rng.normal(size=5), rng.normal(size=5)

    def stepped(weight_decay, spared):
        optimizer = AdamW(start.copy(), slopes.copy(), 0.1, weight_decay=weight_decay)
        optimizer.spared = spared
        optimizer.step()
        assert not optimizer.grads.any()
        return optimizer.params

    want = np.concatenate([stepped(0.0, 0)[:2], stepped(0.5, 0)[2:]])
    np.testing.assert_array_equal(stepped(0.5, 2), want)
    np.testing.assert_array_equal(stepped(0.5, 5), stepped(0.0, 0))


def test_no_pairs_are_refused():
    none = likes_a_word(1).take(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="no preference pairs"):
        train_transformer_reward_model(none, make(np.float32), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0), ("warmup", 1.0), ("weight_decay", -1.0)]
    + [("max_grad_norm", -1.0), ("head", -1.0), ("words", -1.0), ("validation", 1.0)],
)
def test_hyper_parameters_that_cannot_be(field, value):
    with pytest.raises(InputError, match=field):
        RewardModelConfig(**{field: value})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalised_scores_have_mean_0_and_sd_1_on_the_reference(dtype):
    model, mask = model_on(make(dtype)), MASK.astype(dtype)
    raw = model.score(PROMPTS, RESPONSES, mask)
    scores = model.normalised(raw).score(PROMPTS, RESPONSES, mask)
    np.testing.assert_allclose(scores, (raw - raw.mean()) / raw.std(), atol=1e-5)
    np.testing.assert_array_equal(model.score(PROMPTS, RESPONSES, mask), raw)
    same = model.normalised(np.full(4, raw[0]))
    np.testing.assert_allclose(same.score(PROMPTS, RESPONSES, mask), raw - raw[0], atol=1e-5)


def test_a_deep_copy_shares_nothing_and_can_be_normalised():
    model, mask = model_on(make()), MASK.astype(float)
    want = model.score(PROMPTS, RESPONSES, mask)
    twin = copy.deepcopy(model)
    model.backbone.params[:] = 0
    np.testing.assert_array_equal(twin.score(PROMPTS, RESPONSES, mask), want)
    np.testing.assert_allclose(twin.normalised(want).score(PROMPTS, RESPONSES, mask).std(), 1)


def test_scoring_charges_its_work_to_whoever_scores():
    model, mask, charged = model_on(make()), MASK.astype(float), []
    model.score(PROMPTS, RESPONSES, mask)
    shallow = copy.copy(model)
    shallow.charge = lambda work, sequences: charged.append((work.flops, sequences))
    model.score(PROMPTS[1:], RESPONSES[1:], mask[1:])
    assert not charged
    shallow.score(PROMPTS, RESPONSES, mask)
    ((work, sequences),) = charged
    assert work > 6 * 2 * 8
    assert sequences == 6
    assert shallow.normalised(np.arange(3.0)).charge is shallow.charge


# --- kept ------------------------------------------------------------------------------------------------------


def put(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("shared", [False, True])
def test_it_comes_back_to_the_bit(tmp_path, shared):
    mask = MASK.astype(np.float32)
    model = model_on(make(np.float32, shared=shared)).normalised(np.random.default_rng(0).normal(size=50))
    prompts = np.minimum(PROMPTS, V - 1)
    put(tmp_path, pack_reward_model("rm", model, "words"))
    again = load_reward_model(tmp_path, "rm", REWARD_MODELS, "words")
    assert isinstance(again, TransformerRewardModel)
    np.testing.assert_array_equal(
        again.score(prompts, RESPONSES, mask), model.score(prompts, RESPONSES, mask)
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"width": 16}, r"params: came as float32 of shape \(\d+,\), .*width=16"),
        ({"max_length": 6}, "params: came as float32 of shape"),
        ({"layers": 10**12}, "params: came as float32 of shape"),
        ({"tokens": -(10**12)}, "tokens: came as -1000000000000"),
        ({"heads": 3}, r"heads: came as 3, a divisor of width \(8\)"),
        ({"heads": 0}, r"heads: came as 0, at least 1"),
        ({"width": "8"}, "width: came as '8', a whole number from 0 on is needed"),
        ({"layers": ...}, "'layers' is missing, a 'transformer' model needs it"),
        ({"vocab_size": 10**6}, "vocab_size: came as 1000000"),
        ({"prompt_length": -1, "max_length": 9}, "prompt_length: came as -1"),
    ],
    ids=str,
)
def test_one_of_another_shape_is_refused_in_one_line(tmp_path, changes, problem):
    fields, arrays = model_on(make(np.float32)).state()
    fields |= {"model": "transformer", "vocabulary": "words"} | changes
    fields = {name: value for name, value in fields.items() if value is not ...}
    put(tmp_path, pack("rm", "reward model", fields, arrays))
    with pytest.raises(InputError, match=problem) as caught:
        load_reward_model(tmp_path, "rm", REWARD_MODELS, "words")
    assert "\n" not in str(caught.value)


def test_one_without_parameters_or_with_whole_numbers_is_refused(tmp_path):
    fields, arrays = model_on(make(np.float32)).state()
    fields |= {"model": "transformer", "vocabulary": "words"}
    for wrong, problem in (({}, "'params' is missing"), ({"params": arrays["params"].astype(int)}, "int64")):
        put(tmp_path, pack("rm", "reward model", fields, wrong))
        with pytest.raises(InputError, match=problem):
            load_reward_model(tmp_path, "rm", REWARD_MODELS, "words")


# --- work ------------------------------------------------------------------------------------------------------


def test_work_equals_the_operations_executed():
    program = Path(__file__).with_name("recount_reward_transformer.py")
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for entry in json.loads(done.stdout):
        assert entry["charged"] == entry["executed"], entry["call"]
        assert entry["executed"][0] > 0
