"""Exact answers where every reply can be listed: KL, E[gold], the optimum under a KL penalty, best-of-n.

Each prompt's replies carry their probability under a policy; nothing here is sampled.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from .errors import InputError
from .types import Float, Int, Policy, Task

MOST_REPLIES = 65_536


@dataclass(frozen=True)
class Replies:
    """Every reply to every prompt of a task: arrays (N, ...), N = prompts times replies, a prompt's replies together.

    `n_prompts` prompts, each with N / n_prompts replies.
    """

    prompts: Int
    responses: Int
    mask: Float
    n_prompts: int

    def by_prompt(self, values: Float) -> Float:
        """(N,) -> (n_prompts, replies)."""
        return np.asarray(values, float).reshape(self.n_prompts, -1)


def all_replies(task: Task) -> Replies:
    """List every reply of an enumerable task.

    Raises
    ------
    InputError
        Where there are more than 65,536 replies a prompt.
    """
    V, T = len(task.vocab), task.max_length
    open_words = V if task.eos is None else V - 1
    count = V**T if task.eos is None else sum(open_words**t for t in range(T + 1))
    if not task.enumerable or count > MOST_REPLIES:
        raise InputError(f"task '{task.name}' has too many replies to list; use words or sentences-small")
    words = [w for w in range(V) if w != task.eos]
    responses, mask = np.zeros((count, T), np.int64), np.zeros((count, T), np.float32)
    row = 0
    for length in range(T + 1) if task.eos is not None else [T]:
        for reply in itertools.product(words, repeat=length):
            ended = task.eos is not None and length < T
            responses[row, :length] = reply
            if ended:
                responses[row, length] = task.eos
            mask[row, : length + ended] = 1
            row += 1
    prompts = all_prompts(task)
    n = len(prompts)
    return Replies(np.repeat(prompts, count, axis=0), np.tile(responses, (n, 1)), np.tile(mask, (n, 1)), n)


def all_prompts(task: Task) -> Int:
    """Every distinct prompt of a small task."""
    return np.unique(task.prompts(4096, np.random.default_rng(0)), axis=0)


def log_probabilities(policy: Policy, replies: Replies) -> Float:
    """(n_prompts, replies) log pi(y|x); each row's probabilities sum to 1."""
    return replies.by_prompt(
        policy.logprobs(replies.prompts, replies.responses, replies.mask).sum(axis=1, dtype=np.float64)
    )


def kl_divergence(logp: Float, ref_logp: Float) -> float:
    """KL(pi || ref) in nats, averaged over prompts; arguments (n_prompts, replies)."""
    return float((np.exp(logp) * (logp - ref_logp)).sum(axis=1).mean())


def expectation(logp: Float, values: Float) -> float:
    """E[values] under pi, averaged over prompts."""
    return float((np.exp(logp) * values).sum(axis=1).mean())


def optimum(ref_logp: Float, scores: Float, beta: float) -> tuple[Float, float]:
    """The policy ref exp(score / beta) / Z that maximises E[score] - beta KL, and its value beta log Z.

    Rafailov et al. 2023 (arXiv:2305.18290), equation 4. The value is averaged over prompts.
    """
    tilted = ref_logp + scores / beta
    top = tilted.max(axis=1, keepdims=True)
    log_z = top + np.log(np.exp(tilted - top).sum(axis=1, keepdims=True))
    return tilted - log_z, float(beta * log_z.mean())


def objective(logp: Float, ref_logp: Float, scores: Float, beta: float) -> float:
    """E[score] - beta KL(pi || ref), averaged over prompts."""
    return expectation(logp, scores) - beta * kl_divergence(logp, ref_logp)


def best_of_n(ref_logp: Float, scores: Float, n: int) -> Float:
    """(n_prompts, replies) log-probabilities of best-of-n: F(y)^n - F(y-)^n, ties shared by reference mass.

    Beirami et al. 2024 (arXiv:2401.01879), Lemma 1.
    """
    out = np.empty_like(ref_logp)
    for p, (logp, score) in enumerate(zip(ref_logp, scores, strict=True)):
        levels, level = np.unique(score, return_inverse=True)
        mass = np.bincount(level, weights=np.exp(logp), minlength=len(levels))
        below = np.concatenate([[0.0], np.cumsum(mass)])
        below /= below[-1]
        won = below[1:] ** n - below[:-1] ** n
        with np.errstate(divide="ignore"):
            out[p] = np.log(won)[level] + logp - np.log(mass)[level]
    return out
