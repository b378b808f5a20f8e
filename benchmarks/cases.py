"""The table of cases: which kernels are timed, on which arguments, and what the right answer is.

`bench_kernels.py`, `bench_peers.py` and `table.py` all read `CASES`; there is no second list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import exact, inputs
from benchmarks.inputs import Arguments
from kernels import categorical, from_logits, optim, policy_gradient, preference, reference

Shape = tuple[int, ...]
Prepare = Callable[..., Callable[[], Any]]
"""From arguments to a call without any: whatever a user would do once, before a loop, is off the clock."""

# (B, T, V) by where the logits lie, on a core with 32 KiB + 1 MiB and some 32 MiB shared. 128 MiB leave any cache.
LOGITS: dict[str, Shape] = {
    "L1": (8, 8, 64),
    "L2": (128, 24, 64),
    "L2, V = 512": (16, 24, 512),
    "last level": (32, 32, 4096),
    "memory, V = 64": (4096, 128, 64),
    "memory": (256, 32, 4096),
    "memory, V = 50,257": (22, 32, 50_257),
    "memory, V = 151,936": (8, 29, 151_936),
}
QUICK_LOGITS = ("L1", "L2", "memory, V = 50,257")
TOKENS: dict[str, Shape] = {"small": (128, 24), "middle": (512, 128), "large": (8192, 128)}
PARAMETERS: dict[str, Shape] = {"small": (100_000,), "large": (20_000_000,)}


@dataclass(frozen=True)
class Case:
    """One function to be timed. `check(arguments, result)` raises where the result is not the float64 twin's."""

    name: str
    sizes: dict[str, Shape]
    arguments: Callable[..., Arguments]
    ours: dict[str, Prepare]
    check: Callable[[Arguments, Any], None]

    @property
    def over_vocabulary(self) -> bool:
        return self.sizes is LOGITS


def plainly(function: Any) -> dict[str, Prepare]:
    return {"rlhfbench": lambda *arguments: lambda: function(*arguments)}


def into(function: Any, *, field: int | None = None) -> dict[str, Prepare]:
    """With results in an array made before (`out=`), and, where that is a large one, also in a new array each time."""

    def prepare(*arguments: Any, **options: Any) -> Callable[[], Any]:
        result = function(*arguments)
        out = result if field is None else result[field]
        return lambda: function(*arguments, out=out, **options)

    return {"rlhfbench": prepare, "rlhfbench, new array": plainly(function)["rlhfbench"]}


def _forward_backward(backward: Any) -> dict[str, Prepare]:
    """Both in one pass over each row, as the peers' idioms do."""

    def prepare(*arguments: Any, **options: Any) -> Callable[[], Any]:
        value, d_logits = np.empty_like(arguments[-1]), np.empty_like(arguments[0])

        def call() -> Any:
            return value, backward(*arguments, out=d_logits, forward=value, **options)

        return call

    return {"rlhfbench": prepare}


def _losses() -> list[Case]:
    return [
        Case("sft_from_logits", LOGITS, inputs.sft, into(from_logits.sft_from_logits, field=1), exact.sft),
        Case("ppo_from_logits", LOGITS, inputs.ppo, into(from_logits.ppo_from_logits, field=1), exact.ppo),
        Case("grpo_from_logits", LOGITS, inputs.grpo, into(_grpo_call, field=1), exact.grpo),
        Case("dpo_from_logits", LOGITS, inputs.dpo, _dpo_calls(), exact.dpo),
    ]


def _grpo_call(*arguments: Any, **options: Any) -> Any:
    *given, beta, ref_logprobs = arguments
    return from_logits.grpo_from_logits(*given, beta=beta, ref_logprobs=ref_logprobs, **options)


def _dpo_calls() -> dict[str, Prepare]:
    def call(*arguments: Any, **options: Any) -> Any:
        *given, chosen_mask, rejected_mask = arguments
        masks = {"chosen_mask": chosen_mask, "rejected_mask": rejected_mask}
        return from_logits.dpo_from_logits(*given, **masks, **options)

    def prepare(*arguments: Any, **options: Any) -> Callable[[], Any]:
        out = np.empty_like(arguments[0]), np.empty_like(arguments[1])
        return lambda: call(*arguments, out=out, **options)

    return {"rlhfbench": prepare, "rlhfbench, new array": plainly(call)["rlhfbench"]}


def _row(name: str, arguments: Callable[..., Arguments], check: Any = None) -> list[Case]:
    function = getattr(categorical, name, None)
    if function is None:
        return []
    twin = getattr(reference, name)
    sides = into(function)
    if "backward" not in name and name != "log_softmax":
        sides.popitem()  # an (N,) result: whether it is new makes no difference
    return [Case(name, LOGITS, arguments, sides, check or exact.rows(twin))]


def _array(module: Any, name: str, arguments: Callable[..., Arguments], sizes: Any = TOKENS) -> Case:
    return Case(name, sizes, arguments, plainly(getattr(module, name)), exact.whole(getattr(reference, name)))


def _dense_grpo() -> list[Case]:
    if not hasattr(policy_gradient, "grpo"):
        return []

    def named(function: Any) -> Any:
        return lambda *a: function(*a[:5], beta=a[5], ref_logprobs=a[6])

    ours, twin = policy_gradient.grpo, named(reference.grpo)
    return [Case("grpo", TOKENS, inputs.token_grpo, plainly(named(ours)), exact.whole(twin))]


def _adamw() -> Case:
    def prepare(*arguments: Any) -> Callable[[], Any]:
        params, grads, m, v, step, rate = arguments
        state = params.copy(), grads, m.copy(), v.copy()

        def call() -> Any:
            optim.adamw(*state, step, rate)
            return state[0], state[2], state[3]

        return call

    return Case("adamw", PARAMETERS, inputs.optimiser, {"rlhfbench": prepare}, exact.adamw)


_DPO_FAMILY = (
    *("robust", "exo_pair", "discopop", "aot"),
    *("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down"),
)


def _all() -> list[Case]:
    tokens_both = _forward_backward(categorical.token_logprobs_backward)
    kl_both = _forward_backward(categorical.kl_divergence_backward)
    pg, pairs = policy_gradient, preference
    return [
        *_row("token_logprobs", inputs.with_tokens),
        *_row("entropy", inputs.one_row),
        *_row("log_softmax", inputs.one_row),
        *_row("kl_divergence", inputs.two_rows),
        *_row("sample", inputs.with_uniforms, exact.sample),
        *_row("token_logprobs_backward", inputs.with_tokens_and_gradient),
        *_row("entropy_backward", inputs.with_gradient),
        *_row("kl_divergence_backward", inputs.two_rows_and_gradient),
        Case("token log-probs, forward + backward", LOGITS, inputs.with_tokens_and_gradient, tokens_both,
             exact.forward_backward(reference.token_logprobs, reference.token_logprobs_backward)),
        Case("KL, forward + backward", LOGITS, inputs.two_rows_and_gradient, kl_both,
             exact.forward_backward(reference.kl_divergence, reference.kl_divergence_backward)),
        *_losses(),
        _array(pg, "gae", inputs.gae),
        _array(pg, "whiten", inputs.masked),
        _array(pg, "ppo_clip", inputs.clip),
        _array(pg, "value_clip", inputs.clip),
        *_dense_grpo(),
        *[_array(pg, kind, inputs.log_ratio) for kind in ("k1", "k2", "k3", "kl_estimate")],
        _array(pg, "group_advantages", inputs.grouped),
        _array(pg, "rloo_advantages", inputs.grouped),
        _array(pairs, "bradley_terry", inputs.pairs),
        _array(pairs, "dpo", inputs.quadruples),
        _array(pairs, "ipo", inputs.quadruples),
        _array(pairs, "hinge", inputs.quadruples),
        *[_array(pairs, name, inputs.quadruples) for name in _DPO_FAMILY],
        _array(pairs, "sigmoid_norm", inputs.with_lengths(4, 2.0)),
        _array(pairs, "kto", inputs.responses),
        _array(pairs, "simpo", inputs.with_lengths(2, 2.0, 1.0)),
        _array(pairs, "orpo", inputs.with_lengths(2, 0.1)),
        _array(pairs, "cpo", lambda B, T: (*inputs.pairs(B, T), 0.1)),
        _array(pairs, "log_sigmoid", lambda B, T: (inputs.draw(B * T),)),
        _array(pairs, "plackett_luce", lambda B, T: (inputs.draw(B * T // inputs.ITEMS, inputs.ITEMS),)),
        _adamw(),
        _array(optim, "global_norm", lambda P: (inputs.draw(P),), PARAMETERS),
    ]  # fmt: skip


CASES = {case.name: case for case in _all()}


def threaded() -> list[str]:
    """Cases of one kernel over the vocabulary that takes `threads`."""
    functions = {**vars(categorical), **vars(from_logits)}
    named = {
        name: functions[name] for name, case in CASES.items() if case.over_vocabulary and name in functions
    }
    return [name for name, function in named.items() if "threads" in inspect.signature(function).parameters]
