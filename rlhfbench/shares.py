"""What a comparison compiles, in shares that have little code in common: each is one process's, all at the same time.

A share calls kernels on a few numbers, of the types that a run has. The warm-up, which runs the arms themselves, then
finds machine code in the cache. What no share has named it compiles: a share may be missing, but never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["SMALL", "compile_share", "share_names"]

SMALL = "sentences-small:pairs=64,demos=64"
"""The task of the warm-up."""


def share_names(algorithms: Iterable[str]) -> list[str]:
    """The shares of a comparison of these algorithms: the one that takes longest first."""
    needed = set(algorithms)
    losses = {
        function: name for name, function in LOSSES.items() if name in needed
    }  # one share for each function
    return ["policy", "gradient", "tokens", *losses.values(), "rewards", "optimizer"]


def compile_share(name: str, policy: str, reward_models: Callable[[], Sequence[str]]) -> None:
    """Compile a share, or load it from the cache; without a cache, nothing: no other process would see it.

    Parameters
    ----------
    name : str
        One of `share_names`.
    policy : str
        ``name[:field=value,...]``.
    reward_models : callable
        Kinds of reward models that will be trained; asked for their share alone.
    """
    from kernels._jit import cache_folder

    from .policy_choice import choose_policy

    if cache_folder() is None:
        return
    if name in ("policy", "gradient"):
        transformer = choose_policy(policy).name == "transformer"
        if name == "policy":
            _policy(policy, whole=not transformer)
        elif transformer:
            _gradient(policy)
    elif name == "rewards":
        for kind in reward_models():
            _reward_model(kind)
    else:
        {**SHARED, **LOSSES}[name]()


def _policy(policy: str, whole: bool) -> None:
    """All that a policy can do, once; without `whole` neither gradients nor log-probabilities, which others compile."""
    from .registry import load_task
    from .seeding import stream
    from .sft import make_policy

    task, rng = load_task(SMALL), stream(0, "shares")
    model = make_policy(policy, task, rng)
    prompts = task.prompts(2, rng)
    rollout = model.sample(prompts, rng.random((2, task.max_length)))
    inputs = prompts, rollout.responses, rollout.mask
    logits, values = model.logits(*inputs), model.values(*inputs)
    if whole:
        model.backward(logits, values)
        model.logprobs(*inputs)


def _gradient(policy: str) -> None:
    """What only the gradient of a transformer needs."""
    from .registry import load_task
    from .seeding import stream
    from .sft import make_policy

    model: Any = make_policy(policy, load_task(SMALL), stream(0, "shares"))
    model.backward_of_nothing()


def _reward_model(kind: str) -> None:
    """The fit and the scores of a linear model; of a transformer the loss alone, for the rest is its policy's."""
    if kind == "transformer":
        from kernels.preference import bradley_terry

        bradley_terry(np.ones(2, np.float32), np.ones(2, np.float32))
        return
    from .rewards.bradley_terry import train_reward_model
    from .seeding import stream
    from .types import PreferencePairs

    rng = stream(0, "shares")
    prompts, chosen, rejected = (rng.integers(4, size=(8, 2)) for _ in range(3))
    mask = np.ones(chosen.shape, np.float32)
    pairs = PreferencePairs(prompts, chosen, mask, rejected, mask)
    model, _ = train_reward_model(pairs, vocab_size=4, features="unigrams", rng=rng)
    model.score(prompts, chosen, mask)


def _tokens() -> None:
    from kernels import categorical

    logits, tokens = np.ones((1, 2, 3), np.float32), np.zeros((1, 2), np.int64)
    d_logprobs = categorical.token_logprobs(logits, tokens)
    categorical.token_logprobs_backward(logits, tokens, d_logprobs)
    categorical.kl_divergence(logits, logits)
    categorical.entropy(logits)


def _optimizer() -> None:
    from .optimizer import AdamW

    AdamW(np.ones(2, np.float32), np.ones(2, np.float32), 0.1, max_grad_norm=1.0).step()


def _ppo() -> None:
    from kernels import policy_gradient

    x, mask = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    policy_gradient.gae(x, x, mask, 1.0, 0.95)
    policy_gradient.whiten(x, mask)
    policy_gradient.k1(x, x)
    policy_gradient.ppo_clip(x, x, x, mask, 0.2)
    policy_gradient.value_clip(x, x, x, mask, 0.2)


def _dpo() -> None:
    from kernels import preference

    x = np.ones(2, np.float32)
    preference.dpo(x, x, x, x, 0.1)


def _reinforce() -> None:
    from kernels import policy_gradient

    x = np.ones((2, 3), np.float32)
    policy_gradient.k1(x, x)
    policy_gradient.rloo_advantages(x[0, :2], 2)


SHARED: dict[str, Callable[[], None]] = {"tokens": _tokens, "optimizer": _optimizer}
"""Needed by whatever is compared."""
LOSSES: dict[str, Callable[[], None]] = {
    "ppo": _ppo,
    "ppo_lagrangian": _ppo,
    "dpo": _dpo,
    "reinforce": _reinforce,
}
"""By algorithm; of those of other people the warm-up takes care."""
