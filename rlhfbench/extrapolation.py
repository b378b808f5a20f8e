"""What methods would cost with a model of another size: the ledger's formulas, evaluated where nothing was run.

The formulas count our transformer; a model of N parameters is taken as one of its kind, 128 numbers a token for each
layer, as models in use have. An extrapolation, and to be shown as one: cards, batching and engines change seconds,
not operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from kernels.flops import work

from .options import require

WIDTH_OF_A_LAYER = 128
HEAD = 128  # numbers of an attention head
VOCABULARY = 32_000
EPOCHS = 4  # of PPO over a rollout


@dataclass(frozen=True)
class Workload:
    """What is trained on.

    Parameters
    ----------
    parameters : float
        Of the policy, embedding left aside.
    rm_parameters : float
        Of the reward model.
    pairs : int
        Preference pairs, or problems with a verifier.
    prompt, reply : int
        Tokens.
    """

    parameters: float
    rm_parameters: float
    pairs: int
    prompt: int = 256
    reply: int = 256

    def __post_init__(self) -> None:
        for name in ("parameters", "rm_parameters"):
            require(1e6 <= getattr(self, name) <= 1e13, name, getattr(self, name), "between 1M and 10T")
        for name in ("pairs", "prompt", "reply"):
            require(1 <= getattr(self, name) <= 10**9, name, getattr(self, name), "between 1 and 10^9")

    @cached_property
    def policy(self) -> Costs:
        return costs(self.parameters, self.prompt, self.reply)

    @cached_property
    def reward_model(self) -> Costs:
        return costs(self.rm_parameters, self.prompt, self.reply)


@dataclass(frozen=True)
class Costs:
    """FLOPs of one sequence: a forward pass, a backward pass, drawing the reply with cached keys and values."""

    forward: float
    backward: float
    generate: float

    @property
    def train(self) -> float:
        return self.forward + self.backward


def shape_of(parameters: float) -> tuple[float, float]:
    """(layers, width) of a model with 12 layers width^2 parameters.

    >>> layers, width = shape_of(6.7e9)
    >>> round(layers), round(width)
    (32, 4150)
    """
    layers = (parameters / (12 * WIDTH_OF_A_LAYER**2)) ** (1 / 3)
    return layers, WIDTH_OF_A_LAYER * layers


def costs(parameters: float, prompt: int, reply: int) -> Costs:
    """Of one sequence of `prompt` + `reply` tokens, logits at the reply."""
    layers, exact = shape_of(parameters)
    heads = max(round(exact / HEAD), 1)
    width, hidden, rows = heads * HEAD, 4 * heads * HEAD, prompt + reply
    scale = layers * (exact / width) ** 2  # the width is rounded to whole heads
    seen = rows * (rows + 1) // 2
    products = float(
        sum(work("matmul", 1, k, n).flops for k, n in ((width, 4 * width), (width, hidden), (hidden, width)))
    )
    others = float(work("gelu", 1, hidden).flops + 2 * work("residual_norm", 1, width).flops)
    attention = float(work("attention", heads, HEAD, seen, seen).flops)
    backward_attention = float(work("attention_backward", heads, HEAD, seen, seen).flops)
    head = float(work("matmul", reply, width, VOCABULARY).flops)
    forward = scale * (rows * (products + others) + attention)
    # Two products for each of the forward pass: one for the input's gradient, one for the weights'.
    backward = scale * (rows * (2 * products + 2 * others) + backward_attention)
    return Costs(forward + head, backward + 2 * head, forward + head)


OfMethod: TypeAlias = Callable[[Workload, bool], float]


def _reward_model(w: Workload) -> float:
    return 2 * w.pairs * w.reward_model.train


def _online(
    samples: int, steps: float, values: bool = False, reference: bool = True, models: int = 1
) -> OfMethod:
    """A prompt's replies: drawn, scored by `models`, held against the reference; `steps` passes of training a reply."""

    def of(w: Workload, learnt: bool) -> float:
        each = w.policy.generate + steps * w.policy.train
        each += w.policy.forward * (reference + values)
        each += models * w.reward_model.forward if learnt else 0.0
        return w.pairs * samples * each + ((models - 1) * _reward_model(w) if learnt else 0.0)

    return of


_ONLINE = {
    "ppo": _online(1, EPOCHS, values=True),
    "ppo_lagrangian": _online(1, EPOCHS, values=True, models=2),  # the second of harm, from as many pairs
    "grpo": _online(8, 1),
    "rloo": _online(4, 1),
    "online_dpo": _online(2, 1),
    "raft": _online(4, 1 / 4, reference=False),  # trained on the best of four
}
_DIRECT = {"dpo", "kto"}
METHODS = (*_ONLINE, "dpo", "kto", "best_of_n")
BEST_OF = 16


def flops_of(method: str, workload: Workload, learnt_reward: bool) -> float:
    """Training FLOPs of a method; `learnt_reward`: with a reward model, whose training is part of it.

    >>> w = Workload(7e9, 7e9, 100_000)
    >>> round(flops_of("ppo", w, True) / flops_of("dpo", w, True), 2)
    2.75
    """
    trained = _reward_model(workload) if learnt_reward else 0.0
    if method in _DIRECT:
        return 2 * workload.pairs * (workload.policy.train + workload.policy.forward)
    if method == "best_of_n":
        return trained
    return trained + _ONLINE[method](workload, learnt_reward)


def flops_per_reply(method: str, workload: Workload, learnt_reward: bool) -> float:
    """What a served reply costs."""
    if method != "best_of_n":
        return workload.policy.generate
    return BEST_OF * (workload.policy.generate + (workload.reward_model.forward if learnt_reward else 0.0))


def parse_size(text: str) -> float:
    """A number of parameters as people write it.

    >>> parse_size("7B"), parse_size("350M"), parse_size("1.5e9")
    (7000000000.0, 350000000.0, 1500000000.0)
    """
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:].upper())
    digits = text if factor is None else text[:-1]
    try:
        value = float(digits) * (factor or 1.0)
    except ValueError:
        value = math.nan
    require(
        math.isfinite(value) and value > 0, "size", repr(text), "a number of parameters such as 7B or 350M"
    )
    return value
