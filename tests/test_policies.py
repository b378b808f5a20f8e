"""Policies: values against the reference twin, gradients by central differences, sampling, memory."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import reference_loglinear
from rlhfbench.policies.linear import LinearPolicy
from rlhfbench.policies.tabular import TabularPolicy
from rlhfbench.policies.transformer import TransformerPolicy
from rlhfbench.types import Rollout

PROMPTS = np.array([[-1, 2], [0, 1], [-1, -1], [3, 3]])
RESPONSES = np.array([[1, 0, 4], [2, 4, 0], [3, 3, 3], [4, 0, 0]])
MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0]])
KINDS = {"linear": LinearPolicy, "tabular": TabularPolicy}


def make(kind: str, dtype: type = np.float64, **options: object) -> LinearPolicy:
    policy = KINDS[kind](4, 5, 3, eos=4, dtype=dtype, **options)
    policy.params[:] = np.random.default_rng(0).normal(size=policy.params.size)
    return policy


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_and_logprobs_equal_the_reference_twin(kind, dtype):
    policy, mask = make(kind, dtype), MASK.astype(dtype)
    weights = [np.asarray(w, float) for w in policy._w[:3]]
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    logits = policy.logits(PROMPTS, RESPONSES, mask)
    assert logits.dtype == dtype
    np.testing.assert_allclose(
        logits, reference_loglinear.logits(PROMPTS, RESPONSES, MASK, *weights), atol=tolerance
    )
    logprobs = policy.logprobs(PROMPTS, RESPONSES, mask)
    assert logprobs.dtype == dtype
    np.testing.assert_allclose(
        logprobs, reference_loglinear.logprobs(PROMPTS, RESPONSES, MASK, *weights), atol=tolerance
    )


def test_gradients_by_central_differences(kind):
    policy, mask = make(kind), MASK.astype(float)
    rng = np.random.default_rng(1)
    d_logits, d_values = rng.normal(size=(4, 3, 5)), rng.normal(size=(4, 3))

    def objective() -> float:
        logits = policy.logits(PROMPTS, RESPONSES, mask)
        values = policy.values(PROMPTS, RESPONSES, mask)
        return float((logits * d_logits).sum() + (values * d_values).sum())

    objective()
    policy.backward(d_logits, d_values)
    numeric = np.empty_like(policy.params)
    for i in range(policy.params.size):
        kept = policy.params[i]
        sides = []
        for step in (1e-6, -1e-6):
            policy.params[i] = kept + step
            sides.append(objective())
        policy.params[i] = kept
        numeric[i] = (sides[0] - sides[1]) / 2e-6
    np.testing.assert_allclose(policy.grads, numeric, atol=1e-7)


def test_gradients_accumulate(kind):
    policy, mask = make(kind), MASK.astype(float)
    d = np.ones((4, 3, 5))
    policy.logits(PROMPTS, RESPONSES, mask)
    policy.backward(d)
    once = policy.grads.copy()
    policy.backward(d)
    np.testing.assert_allclose(policy.grads, 2 * once)


def test_what_is_not_kept_leaves_what_was(kind):
    policy, mask = make(kind), MASK.astype(float)
    d = np.ones((4, 3, 5))
    policy.logits(PROMPTS, RESPONSES, mask)
    policy.backward(d)
    once, policy.grads[:] = policy.grads.copy(), 0
    policy.logits(PROMPTS[::-1], RESPONSES[::-1], mask[::-1], keep=False)
    policy.values(PROMPTS[::-1], RESPONSES[::-1], mask[::-1], keep=False)
    policy.backward(d)
    np.testing.assert_array_equal(policy.grads, once)


def test_padding_changes_nothing(kind):
    policy, mask = make(kind), MASK.astype(float)
    other = np.where(MASK > 0, RESPONSES, 3)
    other[2, 1] = RESPONSES[2, 1]  # a hole in the mask is still the next token's context
    np.testing.assert_array_equal(
        policy.logprobs(PROMPTS, RESPONSES, mask), policy.logprobs(PROMPTS, other, mask)
    )


def test_samples_follow_the_probabilities(kind):
    policy = make(kind, np.float32)
    n = 40_000
    prompts = np.repeat(PROMPTS[1:2], n, axis=0)
    rollout = policy.sample(prompts, np.random.default_rng(0).random((n, 3)))
    np.testing.assert_allclose(
        rollout.logprobs, policy.logprobs(prompts, rollout.responses, rollout.mask), atol=1e-5
    )
    ended = (rollout.responses == 4) & (rollout.mask > 0)
    assert ((rollout.mask.sum(axis=1) == 3) | (ended.sum(axis=1) == 1)).all()
    codes, counts = np.unique(rollout.responses @ [25, 5, 1], return_counts=True)
    first = {code: i for i, code in reversed(list(enumerate(rollout.responses @ [25, 5, 1])))}
    expected = np.exp([rollout.logprobs[first[code]].sum() for code in codes])
    np.testing.assert_allclose(counts / n, expected, atol=5 * np.sqrt(0.25 / n))


def test_nothing_is_sampled_after_the_end_and_same_uniforms_give_the_same_replies(kind):
    policy = make(kind, np.float32)
    uniforms = np.random.default_rng(0).random((4, 3))
    one, two = policy.sample(PROMPTS, uniforms), policy.clone().sample(PROMPTS, uniforms)
    np.testing.assert_array_equal(one.responses, two.responses)
    after = np.cumsum((one.responses == 4) & (one.mask > 0), axis=1) - (one.responses == 4)
    assert (one.mask[after > 0] == 0).all()


def test_a_forbidden_token_has_probability_zero_even_for_an_empty_prompt():
    policy = LinearPolicy(4, 5, 3, eos=4, never=0)
    logits = policy.logits(PROMPTS, RESPONSES, np.ones((4, 3), np.float32))
    assert (np.exp(logits[..., 0] - logits.max(axis=-1)) == 0).all()
    rollout = policy.sample(PROMPTS, np.zeros((4, 3)))
    assert (rollout.responses[rollout.mask > 0] != 0).all()


def test_a_clone_shares_no_memory(kind):
    policy = make(kind)
    twin = policy.clone()
    for name in ("params", "grads", "_base", "_row", "_value_base"):
        assert not np.shares_memory(getattr(policy, name), getattr(twin, name))
    twin.params[:] = 0
    twin.logits(PROMPTS, RESPONSES, MASK.astype(float))
    twin.backward(np.ones((4, 3, 5)))
    assert policy.params.any()
    assert not policy.grads.any()


def test_tensors_are_views_of_the_flat_arrays(kind):
    policy = make(kind)
    assert all(np.shares_memory(w, policy.params) for w in policy._w if w.size)
    assert sum(w.size for w in policy._w) == policy.params.size


@pytest.mark.parametrize("policy", ["linear", "transformer"])
def test_a_row_of_uniforms_for_each_prompt_is_asked_for(policy):
    one = make("linear") if policy == "linear" else TransformerPolicy(4, 5, 3, prompt_length=2, width=8)
    with pytest.raises(
        ValueError, match=r"uniforms: came with shape \(5, 3\), 4 rows are needed: one a prompt"
    ):
        one.sample(PROMPTS, np.zeros((5, 3)))


@pytest.mark.parametrize("policy", ["linear", "tabular", "transformer"])
def test_results_go_where_they_are_asked_to(policy):
    if policy == "transformer":
        rng = np.random.default_rng(0)
        one = TransformerPolicy(4, 5, 3, prompt_length=2, width=8, eos=4, rng=rng, dtype=np.float64)
    else:
        one = make(policy)
    inputs, shape = (PROMPTS, RESPONSES, MASK.astype(float)), MASK.shape
    for call in (one.values, one.logprobs):
        out = np.full(shape, 7.0)
        assert call(*inputs, out=out) is out
        np.testing.assert_array_equal(out, call(*inputs))
        apart, fixed = np.full((*shape, 2), 7.0)[..., 0], out.copy()
        fixed.flags.writeable = False
        for wrong in (out[1:].copy(), out.astype(np.float32), out.T.copy().T, apart, fixed):
            with pytest.raises(ValueError, match=r"^out: "):
                call(*inputs, out=wrong)
    uniforms = np.random.default_rng(0).random(shape)
    arrays = np.full(shape, 3), np.full(shape, 7.0), np.full(shape, 7.0)
    rollout, expected = Rollout(*arrays), one.sample(PROMPTS, uniforms)
    assert one.sample(PROMPTS, uniforms, out=rollout) is rollout
    for name, wanted in vars(expected).items():
        np.testing.assert_array_equal(getattr(rollout, name), wanted)
    for wrong in ((arrays[1], *arrays[1:]), (arrays[0], arrays[1][1:], arrays[2])):
        with pytest.raises(ValueError, match=r"^out: "):
            one.sample(PROMPTS, uniforms, out=Rollout(*wrong))
