"""Rewards of steps: what they add up to, and how the model that gives them is trained, kept and charged."""

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
from rlhfbench.policies._weights import views
from rlhfbench.rewards import process, process_training
from rlhfbench.rewards.process import AGGREGATES, StepRewardModel
from rlhfbench.rewards.transformer import TransformerRewardModel
from rlhfbench.types import LabelledSteps
from rlhfbench.worlds import REWARD_MODELS

COMPILED = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="minutes of plain Python")
V, T = 5, 4
SOME = np.array([True, False, True, False, False])
"""Tokens 0 and 2 end a step."""
LENGTHS = [3, 4, 4, 1, 4, 0]
"""Of the replies of `MASK`, the last token that counts."""


def model_on(sft, aggregate="product", tokens=SOME, seed=0):
    """A model with some head, as training would leave it."""
    backbone = process_training.start_from(sft, 0.0, np.random.default_rng(0))
    views(backbone.params, backbone.sizes).value[:] = np.random.default_rng(seed).normal(
        size=backbone.sizes.width
    )
    return StepRewardModel(backbone, tokens, aggregate)


# --- what a step earns -------------------------------------------------------------------------------------------


def plainly(aggregate, probabilities):
    """The score of a reply whose steps are right with these probabilities."""
    if aggregate == "product":
        return float(np.prod(probabilities))
    if aggregate == "min":
        return min(probabilities, default=1.0)
    if aggregate == "sum":
        return sum(probabilities)
    return probabilities[-1] if len(probabilities) else 0.0


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_step_earns_what_it_adds(aggregate):
    rng = np.random.default_rng(0)
    right, ends = rng.random((40, 6)), rng.random((40, 6)) < 0.5
    found = process.increments(right, ends, aggregate)
    assert not found[~ends].any()
    for b in range(40):
        so_far = process.NOTHING_SAID[aggregate]
        for t in np.flatnonzero(ends[b]):
            now = plainly(aggregate, right[b, : t + 1][ends[b, : t + 1]].tolist())
            assert found[b, t] == pytest.approx(now - so_far, abs=1e-12)
            so_far = now


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_rewards_add_up_to_the_score_which_is_the_aggregate(aggregate):
    model, mask = model_on(make(), aggregate), MASK.astype(float)
    log_odds, ends = model.log_odds(PROMPTS, RESPONSES, mask)
    want = [
        plainly(aggregate, (1 / (1 + np.exp(-z[e]))).tolist()) for z, e in zip(log_odds, ends, strict=True)
    ]
    np.testing.assert_allclose(model.score(PROMPTS, RESPONSES, mask), want, atol=1e-12)
    scaled = model.normalised(np.array([1.0, 3.0]))
    scores, (tokens, where) = (
        scaled.score(PROMPTS, RESPONSES, mask),
        scaled.rewards(PROMPTS, RESPONSES, mask),
    )
    np.testing.assert_allclose(scores, np.array(want) - 2.0, atol=1e-12)
    np.testing.assert_array_equal(tokens.sum(axis=1), scores)
    np.testing.assert_array_equal(where, ends)
    some = ends.any(axis=1)
    assert not tokens[some][~ends[some]].any()
    np.testing.assert_allclose(
        scaled.normalised(np.array([0.0, 4.0])).score(PROMPTS, RESPONSES, mask), (scores - 2) / 2
    )


def test_a_step_ends_at_its_tokens_and_with_the_reply():
    responses = np.array([[2, 1, 1, 0], [1, 0, 3, 3], [2, 2, 2, 2], [0, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], float)
    want = [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(process.step_ends(SOME, responses, mask), np.array(want, bool))
    np.testing.assert_array_equal(
        process.step_ends(SOME & False, responses, mask).sum(axis=1), [1, 1, 1, 0]
    )  # one step: an outcome reward model


def test_a_step_is_judged_by_what_was_written_by_then():
    model, mask = model_on(make()), MASK.astype(float)
    log_odds, ends = model.log_odds(PROMPTS, RESPONSES, mask)
    np.testing.assert_array_equal(ends, process.step_ends(SOME, RESPONSES, mask))
    whole = TransformerRewardModel(model.backbone)
    for t in range(T):
        prefix = whole.score(PROMPTS, RESPONSES[:, : t + 1], mask[:, : t + 1])
        np.testing.assert_allclose(log_odds[ends[:, t], t], prefix[ends[:, t]], atol=1e-12)
    assert not log_odds[~ends].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rewards_have_the_dtype_of_the_mask(dtype):
    model, mask = model_on(make(np.float32)), MASK.astype(dtype)
    assert model.score(PROMPTS, RESPONSES, mask).dtype == dtype
    assert model.rewards(PROMPTS, RESPONSES, mask).tokens.dtype == dtype


def test_replies_that_are_too_long_are_refused():
    long = np.zeros((6, 5), np.int64)
    with pytest.raises(ValueError, match="responses: came with 5 tokens, at most 4 are needed"):
        model_on(make()).score(PROMPTS, long, np.ones(long.shape))


def test_equal_scores_only_lose_their_mean_and_copies_share_nothing():
    model = model_on(make())
    assert model.normalised(np.full(5, 0.25)).sd == 1.0
    twin = copy.deepcopy(model)
    twin.backbone.params[:] = 0
    assert model.backbone.params.any()
    mask = MASK.astype(float)
    least, scaled = model.aggregating("min"), model.normalised(np.array([0.0, 4.0])).aggregating("min")
    np.testing.assert_array_equal(
        least.score(PROMPTS, RESPONSES, mask), scaled.score(PROMPTS, RESPONSES, mask)
    )


# --- training, keeping, charging -----------------------------------------------------------------------------------


def labelled(n, seed=0):
    """Solutions whose steps are right where the token is 2; 3 words and more of anything else."""
    rng = np.random.default_rng(seed)
    responses = rng.integers(0, V, (n, T))
    mask = (np.arange(T) < rng.integers(1, T + 1, (n, 1))).astype(np.float32)
    return LabelledSteps(
        rng.integers(0, 7, (n, 3)), responses, mask, process.step_ends(SOME, responses, mask), responses == 2
    )


@COMPILED
def test_gradients_by_central_differences():
    backbone = model_on(make(layers=1, width=4)).backbone
    mask = MASK.astype(float)
    ends = process.step_ends(SOME, RESPONSES, mask)
    labels = np.random.default_rng(0).random(ends.shape) < 0.5
    solutions = LabelledSteps(PROMPTS, RESPONSES, mask, ends, labels)

    def objective(params):
        backbone.params[:] = params
        z = process.read_steps(backbone, PROMPTS, RESPONSES, ends)[ends]
        p, y = 1 / (1 + np.exp(-z)), labels[ends]
        return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))

    start = backbone.params.copy()
    loss, _ = process_training.gradients(backbone, solutions)
    assert loss == pytest.approx(objective(start), abs=1e-12)
    np.testing.assert_allclose(backbone.grads, gradient(objective, start), atol=1e-7)


@COMPILED
@pytest.mark.parametrize("tokens", [SOME, SOME & False], ids=["process", "outcome"])
def test_training_learns_what_the_labels_say(tokens):
    sft = make(np.float32)
    before, solutions = sft.params.copy(), labelled(400)
    if not tokens.any():
        ends = process.step_ends(tokens, solutions.responses, solutions.mask)
        solutions = LabelledSteps(
            solutions.prompts, solutions.responses, solutions.mask, ends, solutions.labels & ends
        )
    config = process_training.StepTrainingConfig(epochs=6, learning_rate=1e-2)
    model, training = process_training.train_step_reward_model(
        solutions, sft, tokens, np.random.default_rng(0), config=config
    )
    np.testing.assert_array_equal(sft.params, before)
    assert (training.labels, training.solutions) == (solutions.ends.sum(), 400)
    fresh = labelled(200, seed=1)
    log_odds, ends = model.log_odds(fresh.prompts, fresh.responses, fresh.mask)
    assert ((log_odds > 0) == fresh.labels)[ends].mean() > 0.95
    assert process_training.cross_entropy(log_odds[ends], fresh.labels[ends]) < 0.2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("warmup", 1.0),
        ("weight_decay", -1.0),
        ("head", -1.0),
    ],
)
def test_hyper_parameters_that_cannot_be(field, value):
    with pytest.raises(InputError, match=f"{field} must be"):
        process_training.StepTrainingConfig(**{field: value})


def test_solutions_without_a_label_are_refused():
    none = labelled(3)
    none = LabelledSteps(none.prompts, none.responses, none.mask, none.ends & False, none.labels)
    with pytest.raises(InputError, match="solutions must be at least one label, got 3 with 0 labels"):
        process_training.train_step_reward_model(none, make(), SOME, np.random.default_rng(0))


def put(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_it_comes_back_to_the_bit(tmp_path):
    model = model_on(make(np.float32), "min").normalised(np.array([0.1, 0.6]))
    put(tmp_path, pack_reward_model("rm", model, "words"))
    back = load_reward_model(tmp_path, "rm", REWARD_MODELS, "words")
    assert isinstance(back, StepRewardModel)
    mask = MASK.astype(np.float32)
    np.testing.assert_array_equal(back.score(PROMPTS, RESPONSES, mask), model.score(PROMPTS, RESPONSES, mask))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"aggregate": "mean"}, "aggregate: came as 'mean', one of sum, product, min, last is needed"),
        ({"sd": 0.0}, "mean, sd: came as 0.0, 0.0, numbers with sd above 0 are needed"),
        ({"step_tokens": np.ones(3, np.uint8)}, r"step_tokens: came with shape \(3,\), \(5,\) is needed"),
    ],
)
def test_what_was_damaged_is_refused_in_one_line(tmp_path, changes, problem):
    fields, arrays = model_on(make(np.float32)).state()
    fields |= {"model": "steps", "vocabulary": "words"}
    fields |= {name: value for name, value in changes.items() if name in fields}
    arrays |= {name: value for name, value in changes.items() if name in arrays}
    put(tmp_path, pack("rm", "reward model", fields, arrays))
    with pytest.raises(InputError, match=problem):
        load_reward_model(tmp_path, "rm", REWARD_MODELS, "words")


def test_work_equals_the_operations_executed():
    program = Path(__file__).with_name("recount_process_rewards.py")
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
