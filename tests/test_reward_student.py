"""Reward distillation: the ridge fit, its count, and the student that algorithms ask in its teacher's place."""

from __future__ import annotations

import subprocess
import sys

import counted as numbers
import numpy as np
import pytest
from counted import Counted, counted

from rlhfbench.errors import InputError
from rlhfbench.policies._weights import views
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.reward_student import agreement, r_squared
from rlhfbench.reward_task import reward_report_from_task
from rlhfbench.rewards import distilled
from rlhfbench.rewards.transformer import TransformerRewardModel
from rlhfbench.run import run
from rlhfbench.worlds import load_world, pack_world

SMALL = "sentences-small:pairs=200,demos=200"


def problem(N=60, C=9, noise=0.5):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, C)) @ rng.normal(size=(C, C)) + 2.0
    return x, x @ rng.normal(size=C) + 1.5 + noise * rng.normal(size=N)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_the_fit_is_least_squares_with_a_penalty_on_all_but_the_bias(strength):
    x, y = problem()
    N, C = x.shape
    fit = distilled.fit_ridge(x, y, strength)
    penalty = strength * ((x - x.mean(axis=0)) ** 2).sum() / C
    stacked = np.block([[x, np.ones((N, 1))], [np.sqrt(penalty) * np.eye(C), np.zeros((C, 1))]])
    solution, *_ = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros(C)]), rcond=None)
    np.testing.assert_allclose(fit.weights, solution[:-1], rtol=1e-9)
    assert fit.bias == pytest.approx(solution[-1], rel=1e-9)
    assert fit.strength == strength


@pytest.mark.parametrize("noise", [0.01, 3.0, 30.0])
def test_the_strength_has_the_least_error_of_generalised_cross_validation(noise):
    x, y = problem(noise=noise)
    N, C = x.shape
    full = np.hstack([x, np.ones((N, 1))])
    unit = ((x - x.mean(axis=0)) ** 2).sum() / C
    errors = []
    for strength in distilled.STRENGTHS:
        penalty = np.diag([strength * unit] * C + [0.0])
        hat = full @ np.linalg.solve(full.T @ full + penalty, full.T)
        left = y - hat @ y
        errors.append(N * (left @ left) / (N - np.trace(hat)) ** 2)
    fit = distilled.fit_ridge(x, y)
    assert fit.strength == distilled.STRENGTHS[int(np.argmin(errors))]
    assert max(errors) > 1.01 * min(errors)


def factored(a):
    """Cholesky's lower factor and its inverse, as textbooks write them; a turned sign is no operation."""
    n = len(a)
    low, inverse = np.full((n, n), Counted(0.0)), np.full((n, n), Counted(0.0))
    for j in range(n):
        for i in range(j, n):
            left = a[i, j]
            for k in range(j):
                left = left - low[i, k] * low[j, k]
            low[i, j] = left.sqrt() if i == j else left / low[j, j]
    turned = [Counted(-low[i, i].value) for i in range(n)]
    for j in range(n):
        inverse[j, j] = 1.0 / low[j, j]
        for i in range(j + 1, n):
            total = low[i, j] * inverse[j, j]
            for k in range(j + 1, i):
                total = total + low[i, k] * inverse[k, j]
            inverse[i, j] = total / turned[i]
    return low, inverse


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_count_of_the_factor_and_its_inverse_is_that_of_the_textbook(n):
    matrix = np.eye(n) * n + 0.1
    numbers.reset()
    low, inverse = factored(counted(matrix))
    flops, roots = numbers.counts()
    found, back = (np.array([[v.value for v in row] for row in array]) for array in (low, inverse))
    np.testing.assert_allclose(found @ found.T, matrix)
    np.testing.assert_allclose(found @ back, np.eye(n), atol=1e-12)
    others = 1 + n + 2 * n * (2 * n - 1) + (2 * n * n + 1) + n * (2 * n - 1) + 2 * (2 * n - 1) + 3 + 5
    assert roots == n
    assert distilled._solving(n) == flops + others


# --- students ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["linear", "transformer"])
def pair(request):
    """The policy, a world with a teacher and the same with its student."""
    task = f"{SMALL},rm=unigrams"
    worlds = [prepare(load_task(text), request.param, 0, 64) for text in (task, f"{task},rm_student=ridge")]
    return request.param, *worlds


def score(world, model):
    p = world.preferences
    return model.score(p.prompts, p.chosen, p.chosen_mask)


def test_a_bag_learns_a_bag_by_heart():
    """A unigram model is linear in what the student of a log-linear policy sees."""
    teacher, taught = (
        prepare(load_task(f"{SMALL}{more}"), "linear", 0, 64) for more in ("", ",rm_student=ridge")
    )
    found = taught.facts["rm_student"]
    assert found["r2"] == pytest.approx(1.0, abs=1e-6)
    # The same words in another order are a tie but for rounding.
    assert found["agreement"] == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(
        score(teacher, teacher.reward_model), score(taught, taught.reward_model), atol=1e-3
    )


def test_a_student_is_nearly_its_teacher_and_normalised_as_that(pair):
    policy, teacher, taught = pair
    found = taught.facts["rm_student"]
    assert 0.5 < found["r2"] <= 1.0
    assert 0.8 < found["agreement"] <= 1.0
    assert isinstance(taught.reward_model, TransformerRewardModel) == (policy == "transformer")
    both = [score(world, world.reward_model) for world in (teacher, taught)]
    assert np.corrcoef(*both)[0, 1] ** 2 > 0.5
    assert abs(both[1].mean()) < 0.5
    assert both[1].std() == pytest.approx(1.0, abs=0.3)


def test_its_work_is_part_of_training_and_its_own_when_asked(pair):
    policy, teacher, taught = pair
    more = taught.meter.flops["rm_train"] - teacher.meter.flops["rm_train"]
    V, N = len(taught.task.vocab), 2048 * 3 // 4
    assert more > distilled._moments(N, 32 if policy == "transformer" else V)
    assert taught.meter.flops["sft"] == teacher.meter.flops["sft"]
    found = taught.facts["rm_student"]
    assert found["teacher_flops_per_reply"] == 2 * taught.task.max_length
    assert (found["flops_per_reply"] > 1000) == (policy == "transformer")
    result = run(taught, parse_arm("best_of_n:n=2", policy=policy))
    assert result.status == "done"


def test_the_frozen_backbone_is_the_references_and_the_head_is_linear_in_its_states(pair):
    policy, _, taught = pair
    if policy != "transformer":
        pytest.skip("a bag has no states")
    backbone, p = taught.reward_model.backbone, taught.preferences
    own = views(taught.reference.params, taught.reference.sizes)
    np.testing.assert_array_equal(views(backbone.params, backbone.sizes).table, own.table)
    replies = (p.prompts[:8], p.chosen[:8], p.chosen_mask[:8])
    states, _ = distilled.states(backbone, replies)
    head = views(backbone.params, backbone.sizes)
    np.testing.assert_allclose(
        states @ head.value + head.value_bias, taught.reward_model.score(*replies), rtol=1e-4, atol=1e-5
    )


def test_a_kept_world_has_its_student(pair, tmp_path):
    policy, _, taught = pair
    for name, content in pack_world(taught, policy).items():
        (tmp_path / name).write_bytes(content)
    inputs = {"seed": 0, "policy": policy, "episodes": 64}
    kept = load_world(tmp_path, load_task(f"{SMALL},rm=unigrams,rm_student=ridge"), inputs)
    np.testing.assert_array_equal(score(taught, kept.reward_model), score(taught, taught.reward_model))


def test_a_bag_beside_a_transformer_is_a_look_up_a_token(tmp_path):
    # From 200 pairs a transformer makes a score of which a bag explains two fifths.
    task = "sentences-small:pairs=1000,demos=200,rm_student=bag,rm_ridge=0.01"
    world = prepare(load_task(task), "transformer", 0, 64)
    found = world.facts["rm_student"]
    assert found["flops_per_reply"] == 2 * world.task.max_length
    assert found["teacher_flops_per_reply"] > 1000
    assert found["strength"] == 0.01
    assert found["r2"] > 0.5
    for name, content in pack_world(world, "transformer").items():
        (tmp_path / name).write_bytes(content)
    kept = load_world(tmp_path, load_task(task), {"seed": 0, "policy": "transformer", "episodes": 64})
    np.testing.assert_array_equal(score(world, kept.reward_model), score(world, world.reward_model))


def test_it_learns_from_several_members_as_well():
    world = prepare(load_task(f"{SMALL},rm_members=3,rm_aggregate=min,rm_student=ridge"), "linear", 0, 64)
    found = world.facts["rm_student"]
    assert found["teacher_flops_per_reply"] > 2 * found["flops_per_reply"]
    assert 0.5 < found["r2"] < 1.0


def test_rm_reports_on_the_student():
    """That of several members is one bag, fitted to log-odds, whose words can be shown."""
    task = f"{SMALL},rm_members=3,rm_aggregate=min,rm_student=bag"
    texts = task.removesuffix(",rm_student=bag"), task, f"{task},rm_ridge=100"
    teacher, taught, bent = (reward_report_from_task(text, held_out=400) for text in texts)
    assert "distilled into a bag of tokens" in taught.notes[0]
    assert taught.accuracy == pytest.approx(teacher.accuracy, abs=0.1)
    assert taught.log_loss != teacher.log_loss
    assert taught.positive != teacher.positive
    assert bent.log_loss > taught.log_loss  # shrunk to nothing
    assert bent.log_loss == pytest.approx(np.log(2), abs=0.05)


def test_agreement_and_r_squared():
    assert agreement(np.array([1.0, -2.0, 0.0, 3.0]), np.array([0.1, -0.1, 1.0, -1.0])) == 0.625
    assert agreement(np.zeros(2), np.zeros(2)) == 1.0
    assert r_squared(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])) == 1.0
    assert r_squared(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0)) == 0.0


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("rm_ridge=1", "rm_ridge must be left out without rm_student"),
        ("rm_student=ridge,rm_ridge=0", "rm_ridge must be above 0, got 0"),
        ("rm_student=rige", "did you mean 'ridge'?"),
    ],
)
def test_what_is_wrong_with_its_options(options, part):
    with pytest.raises(InputError) as caught:
        load_task(f"sentences:{options}")
    assert part in str(caught.value)


def test_workers_without_a_student_load_no_linear_algebra() -> None:
    probe = "import sys, rlhfbench.prepare, rlhfbench.run, rlhfbench.worlds; assert 'scipy.linalg' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)
