"""Exact identities on tasks whose replies can be listed (the numbers E1, E2, E3 of the field)."""

from __future__ import annotations

import numpy as np
import pytest

from rlhfbench import oracle
from rlhfbench.errors import InputError
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.run import run


@pytest.fixture(scope="module", params=["words", "sentences-small:pairs=200,demos=200"])
def world(request):
    task = load_task(request.param)
    return prepare(task, task.policies[0], 0, 64), oracle.all_replies(task)


def exact(prepared, replies):
    scores = prepared.reward_model.score(replies.prompts, replies.responses, replies.mask)
    return oracle.log_probabilities(prepared.reference, replies), replies.by_prompt(scores)


def test_every_reply_is_listed_once_and_probabilities_sum_to_one(world):
    prepared, replies = world
    logp, _ = exact(prepared, replies)
    np.testing.assert_allclose(np.exp(logp).sum(axis=1), 1.0, atol=1e-5)
    code = np.concatenate([replies.prompts, replies.responses, replies.mask.astype(int)], axis=1)
    assert len(np.unique(code, axis=0)) == len(code)


def test_large_tasks_are_refused():
    with pytest.raises(InputError, match="too many replies"):
        oracle.all_replies(load_task("sentences"))


def test_the_optimum_beats_its_neighbours_and_has_the_value_of_the_partition_function(world):
    logp, scores = exact(*world)
    best, value = oracle.optimum(logp, scores, 0.5)
    assert oracle.objective(best, logp, scores, 0.5) == pytest.approx(value, abs=1e-9)
    for beta in (0.4, 0.6):
        other, _ = oracle.optimum(logp, scores, beta)
        assert oracle.objective(other, logp, scores, 0.5) < value


@pytest.mark.parametrize("n", [1, 2, 16, 64])
def test_best_of_n_kl_is_below_its_bound_and_its_win_rate_too(world, n):
    logp, scores = exact(*world)
    chosen = oracle.best_of_n(logp, scores, n)
    np.testing.assert_allclose(np.exp(chosen).sum(axis=1), 1.0, atol=1e-9)
    with np.errstate(invalid="ignore"):
        kl = np.nansum(np.exp(chosen) * (chosen - logp), axis=1)
    assert (kl <= np.log(n) - (n - 1) / n + 1e-6).all()
    if logp.shape[1] < 100:
        for reference, mine, score in zip(np.exp(logp), np.exp(chosen), scores, strict=True):
            beaten = (score[None, :] < score[:, None]) @ reference
            tied = (score[None, :] == score[:, None]) @ reference
            assert mine @ (beaten + 0.5 * tied) <= n / (n + 1) + 1e-6


def test_best_of_n_sampler_follows_the_exact_distribution():
    prepared = prepare(load_task("words"), "tabular", 0, 64)
    replies = oracle.all_replies(prepared.task)
    logp, scores = exact(prepared, replies)
    from rlhfbench.algorithms.best_of_n import BestOfN

    sampler = BestOfN(prepared.reference, prepared.reward_model, 4)
    n = 20_000
    prompts = np.zeros((n, 1), np.int64)
    rollout = sampler.sample(prompts, np.random.default_rng(1).random((n, 2)))
    counts = np.bincount(rollout.responses @ [8, 1], minlength=64) / n
    expected = np.exp(oracle.best_of_n(logp, scores, 4))[0]
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(0.25 / n))


def test_ppo_reaches_the_closed_form_optimum_within_one_percent():
    task = load_task("words:labels=bt")
    prepared = prepare(task, "tabular", 0, 64)
    replies = oracle.all_replies(task)
    logp, scores = exact(prepared, replies)
    beta = 0.3
    kept = {}

    def keep(setup):
        kept["policy"] = setup.policy

    arm = parse_arm(f"ppo:beta={beta},updates=300,batch_size=512,learning_rate=0.02")
    function = arm.spec.function

    def watched(setup, config):
        keep(setup)
        yield from function(setup, config)

    from dataclasses import replace

    run(prepared, replace(arm, spec=replace(arm.spec, function=watched)), checkpoints=1)
    reached = oracle.objective(oracle.log_probabilities(kept["policy"], replies), logp, scores, beta)
    _, best = oracle.optimum(logp, scores, beta)
    start = oracle.objective(logp, logp, scores, beta)
    assert best - reached <= 0.01 * (best - start)
    assert best - reached <= 0.01 * abs(best)


def test_dpo_on_the_population_loss_reaches_the_closed_form_optimum_within_one_percent():
    """All pairs, soft labels sigmoid(r_i - r_j): the minimum of DPO's loss is the optimum itself (Rafailov 23)."""
    from kernels import categorical, preference
    from rlhfbench.optimizer import AdamW

    task = load_task("words:labels=bt")
    prepared = prepare(task, "tabular", 0, 64)
    replies = oracle.all_replies(task)
    ref_logp, scores = exact(prepared, replies)
    beta, n = 0.3, scores.shape[1]
    i, j = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    policy = prepared.reference.clone()
    optimizer = AdamW(policy.params, policy.grads, 0.05)
    for step in range(400):
        logits = policy.logits(replies.prompts, replies.responses, replies.mask)
        logps = replies.by_prompt(
            (categorical.token_logprobs(logits, replies.responses) * replies.mask).sum(axis=1)
        )
        d_logps = np.zeros_like(logps)
        for p in range(replies.n_prompts):
            label = 1 / (1 + np.exp(-(scores[p, i] - scores[p, j])))
            loss = preference.dpo(logps[p, i], logps[p, j], ref_logp[p, i], ref_logp[p, j], beta)
            np.add.at(d_logps[p], i, label * loss.d_chosen)
            np.add.at(d_logps[p], j, label * loss.d_rejected)
        d = d_logps.ravel()[:, None].astype(np.float32) * replies.mask
        policy.backward(categorical.token_logprobs_backward(logits, replies.responses, d))
        optimizer.step(scale=1 - step / 400)
    reached = oracle.objective(oracle.log_probabilities(policy, replies), ref_logp, scores, beta)
    _, best = oracle.optimum(ref_logp, scores, beta)
    assert best - reached <= 0.01 * abs(best)
