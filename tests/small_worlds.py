"""Worlds whose replies can be listed, with policies in float64, for identities that hold to the last digits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from rlhfbench import oracle
from rlhfbench.registry import load_task
from rlhfbench.room import Room
from rlhfbench.sft import make_policy


def double(policy):
    """A log-linear policy in float64."""
    policy.params, policy.grads = policy.params.astype(float), policy.grads.astype(float)
    policy._base, policy._row = policy._base.astype(float), policy._row.astype(float)
    policy._value_base = policy._value_base.astype(float)
    policy._bind()
    return policy


def two_policies(kind="tabular", spread=1.0):
    """Two policies with random weights on the lesson's words."""
    task = load_task("words")
    policy = double(make_policy(kind, task))
    reference = policy.clone()
    for seed, one in enumerate((policy, reference)):
        one.params[:] = spread * np.random.default_rng(seed).normal(size=one.params.size)
    return policy, reference


def listed(tokens=2):
    """All replies of the lesson's world, cut to their first token or whole."""
    replies = oracle.all_replies(load_task("words"))
    keep = slice(None) if tokens == 2 else replies.responses[:, 1] == 0  # one of each first token
    mask = replies.mask[keep].astype(float)
    mask[:, tokens:] = 0
    return oracle.Replies(replies.prompts[keep], replies.responses[keep], mask, replies.n_prompts)


def setup_of(policy, reference):
    """What shared parts of algorithms ask of their setup."""
    return SimpleNamespace(policy=policy, reference=reference, charge=lambda *work: None, room=Room())


def directional(value, policy, direction, step=1e-5):
    """Central difference of `value()` along a direction of the policy's parameters."""
    start, found = policy.params.copy(), []
    for sign in (1, -1):
        policy.params[:] = start + sign * step * direction
        found.append(value())
    policy.params[:] = start
    return (found[0] - found[1]) / (2 * step)
