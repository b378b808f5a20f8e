"""`--policy name[:field=value,...]`: what is typed, what it means, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from rlhfbench.errors import InputError
from rlhfbench.policy_choice import OPTIONS, TransformerSizes, check_policy, choose_policy
from rlhfbench.registry import builtin_names, load_task
from rlhfbench.sft import POLICIES, SFT, make_policy
from rlhfbench.tasks.pairs import PairsTask


def test_every_policy_is_in_every_list() -> None:
    assert set(OPTIONS) == set(POLICIES) == set(SFT) == set(builtin_names("policies"))


def test_the_default_of_each_task_comes_first() -> None:
    tasks = [load_task(name) for name in ("words", "sentences", "sentences-small")]
    assert [check_policy(task, None) for task in tasks] == ["tabular", "transformer", "transformer"]
    assert check_policy(tasks[0], "linear") == "linear"
    assert PairsTask.policies[0] == "linear"


def test_the_shortest_form_names_it() -> None:
    sizes = TransformerSizes()
    same = f"transformer:width={sizes.width},heads={sizes.heads}"
    task = load_task("sentences")
    assert check_policy(task, same) == check_policy(task, "transformer") == "transformer"
    assert check_policy(task, "transformer:layers=1") == "transformer:layers=1"


def test_sizes_reach_the_policy() -> None:
    task = load_task("words")
    policy = make_policy("transformer:layers=3,width=24,heads=2", task)
    assert (policy.sizes.layers, policy.sizes.width, policy.sizes.heads) == (3, 24, 2)
    assert (policy.vocab_size, policy.max_length, policy.prompt_length) == (8, 2, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tablar", "did you mean 'tabular'?"),
        ("linear:width=3", "policy 'linear' has no options"),
        ("transformer:widht=3", "did you mean 'width'?"),
        ("transformer:width=30", "heads must be a divisor of width (30), got 4"),
        ("transformer:layers=0", "layers must be at least 1, got 0"),
        ("transformer:width=1.5", "must be a whole number"),
        ("transformer:", "expected name:field=value"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        choose_policy(text)
    assert says in str(refused.value)


def test_a_policy_that_does_not_fit() -> None:
    with pytest.raises(InputError, match="what fits is transformer or linear"):
        check_policy(load_task("sentences"), "tabular")


@pytest.mark.parametrize("name", ["linear", "transformer"])
def test_a_deep_copy_is_a_policy_of_its_own(name: str) -> None:
    policy = make_policy(name, load_task("sentences-small"), np.random.default_rng(0))
    policy.params += 0.1
    other = copy.deepcopy(policy)
    inputs = (np.zeros((1, 2), np.int64), np.ones((1, 3), np.int64), np.ones((1, 3), np.float32))
    before = policy.logits(*inputs).copy()
    np.testing.assert_array_equal(other.logits(*inputs), before)
    other.params[:] = 0
    assert not other.logits(*inputs).any()
    np.testing.assert_array_equal(policy.logits(*inputs), before)
