"""The table of cases: which kernels are timed, on which arguments, and what the right answer is.

`bench_kernels.py`, `bench_peers.py` and `table.py` all read `CASES`; there is no second list. A case whose kernel this
checkout does not have is left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import exact
from kernels import categorical, optim, policy_gradient, preference, reference

try:
    from kernels import from_logits  # type: ignore[attr-defined]
except ImportError:
    from_logits = None

Arguments = tuple[Any, ...]
Shape = tuple[int, ...]
Prepare = Callable[..., Callable[[], Any]]
"""From arguments to a call without any: whatever a user would do once, before a loop, is off the clock."""

F32 = np.float32

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
GROUP, ITEMS = 8, 4


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


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, F32)


def lengths_mask(B: int, T: int) -> Any:
    lengths = np.random.default_rng(1).integers(1, T + 1, size=(B, 1))
    return (np.arange(T) < lengths).astype(F32)


def tokens_of(*shape: int, V: int, seed: int = 2) -> Any:
    return np.random.default_rng(seed).integers(V, size=shape)


# Logits and what goes with a row: (N, V)


def _logits(B: int, T: int, V: int) -> Any:
    return draw(B * T, V) * F32(3)


def _one_row(B: int, T: int, V: int) -> Arguments:
    return (_logits(B, T, V),)


def _with_tokens(B: int, T: int, V: int) -> Arguments:
    return _logits(B, T, V), tokens_of(B * T, V=V)


def _with_tokens_and_gradient(B: int, T: int, V: int) -> Arguments:
    return *_with_tokens(B, T, V), draw(B * T, seed=3)


def _with_gradient(B: int, T: int, V: int) -> Arguments:
    return _logits(B, T, V), draw(B * T, seed=3)


def _two_rows(B: int, T: int, V: int) -> Arguments:
    x = _logits(B, T, V)
    return x, x + draw(B * T, V, seed=4)


def _two_rows_and_gradient(B: int, T: int, V: int) -> Arguments:
    return *_two_rows(B, T, V), draw(B * T, seed=3)


def _with_uniforms(B: int, T: int, V: int) -> Arguments:
    return _logits(B, T, V), np.random.default_rng(5).random(B * T)


# Whole losses: logits (B, T, V)


def _sequences(B: int, T: int, V: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Logits, tokens, and log-probabilities of an older policy that is near."""
    logits, tokens = draw(B, T, V, seed=seed) * F32(3), tokens_of(B, T, V=V, seed=seed)
    old = exact.token_logprobs(logits, tokens) + 0.2 * draw(B, T, seed=seed + 1)
    return logits, tokens, old.astype(F32)


def _sft(B: int, T: int, V: int) -> Arguments:
    return *_sequences(B, T, V)[:2], lengths_mask(B, T)


def _ppo(B: int, T: int, V: int) -> Arguments:
    return *_sequences(B, T, V), draw(B, T, seed=6), lengths_mask(B, T), 0.2


def _grpo(B: int, T: int, V: int) -> Arguments:
    logits, tokens, old = _sequences(B, T, V)
    return logits, tokens, old, draw(B, seed=6), lengths_mask(B, T), 0.2, 0.04, old + F32(0.1)


def _dpo(B: int, T: int, V: int) -> Arguments:
    """B / 2 pairs, so that the logits of both sides take what one array takes elsewhere."""
    chosen, rejected = (_sequences(B // 2, T, V, seed) for seed in (0, 10))
    masks = lengths_mask(B // 2, T), lengths_mask(B // 2, T)[::-1].copy()
    sums = [(old * mask).sum(-1) for (_, _, old), mask in zip((chosen, rejected), masks, strict=True)]
    return chosen[0], rejected[0], chosen[1], rejected[1], *sums, 0.1, *masks


# Arrays of one entry a token or a pair


def _gae(B: int, T: int) -> Arguments:
    return draw(B, T), draw(B, T, seed=1), lengths_mask(B, T), 1.0, 0.95


def _masked(B: int, T: int) -> Arguments:
    return draw(B, T), lengths_mask(B, T)


def _clip(B: int, T: int) -> Arguments:
    a = draw(B, T)
    return a, a + F32(0.1) * draw(B, T, seed=1), draw(B, T, seed=2), lengths_mask(B, T), 0.2


def _log_ratio(B: int, T: int) -> Arguments:
    a = draw(B, T)
    return a, a + F32(0.3) * draw(B, T, seed=1)


def _grouped(B: int, T: int) -> Arguments:
    return draw(B * T), GROUP


def _pairs(B: int, T: int) -> Arguments:
    return draw(B * T), draw(B * T, seed=1)


def _quadruples(B: int, T: int) -> Arguments:
    return *(draw(B * T, seed=seed) for seed in range(4)), 0.1


def _optimiser(P: int) -> Arguments:
    params, grads, m = (draw(P, seed=seed) for seed in range(3))
    return params, grads, m, draw(P, seed=3) ** 2, 2, 1e-3


def plainly(function: Any) -> dict[str, Prepare]:
    return {"rlhfbench": lambda *arguments: lambda: function(*arguments)}


def into(function: Any, *, field: int | None = None) -> dict[str, Prepare]:
    """With results in an array made before (`out=`), and, where that is a large one, also in a new array each time."""

    def prepare(*arguments: Any, **options: Any) -> Callable[[], Any]:
        result = function(*arguments)
        out = result if field is None else result[field]
        return lambda: function(*arguments, out=out, **options)

    return {"rlhfbench": prepare, "rlhfbench, new array": plainly(function)["rlhfbench"]}


def _forward_backward(forward: Any, backward: Any, inputs: int) -> dict[str, Prepare]:
    def prepare(*arguments: Any, **options: Any) -> Callable[[], Any]:
        value, d_logits = np.empty_like(arguments[-1]), np.empty_like(arguments[0])
        given = arguments[:inputs]
        return lambda: (forward(*given, out=value, **options), backward(*arguments, out=d_logits, **options))

    return {"rlhfbench": prepare}


def _losses() -> list[Case]:
    if from_logits is None:
        return []
    return [
        Case("sft_from_logits", LOGITS, _sft, into(from_logits.sft_from_logits, field=1), exact.sft),
        Case("ppo_from_logits", LOGITS, _ppo, into(from_logits.ppo_from_logits, field=1), exact.ppo),
        Case("grpo_from_logits", LOGITS, _grpo, into(_grpo_call, field=1), exact.grpo),
        Case("dpo_from_logits", LOGITS, _dpo, _dpo_calls(), exact.dpo),
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

    def arguments(B: int, T: int) -> Arguments:
        logprobs, old, _, mask, cliprange = _clip(B, T)
        return logprobs, old, draw(B, seed=2), mask, cliprange, 0.04, old + F32(0.1) * draw(B, T, seed=3)

    ours, twin = policy_gradient.grpo, named(reference.grpo)
    return [Case("grpo", TOKENS, arguments, plainly(named(ours)), exact.whole(twin))]


def _adamw() -> Case:
    def prepare(*arguments: Any) -> Callable[[], Any]:
        params, grads, m, v, step, rate = arguments
        state = params.copy(), grads, m.copy(), v.copy()

        def call() -> Any:
            optim.adamw(*state, step, rate)
            return state[0], state[2], state[3]

        return call

    return Case("adamw", PARAMETERS, _optimiser, {"rlhfbench": prepare}, exact.adamw)


def _all() -> list[Case]:
    tokens_both = _forward_backward(categorical.token_logprobs, categorical.token_logprobs_backward, 2)
    kl_both = _forward_backward(categorical.kl_divergence, categorical.kl_divergence_backward, 2)
    pg, pairs = policy_gradient, preference
    return [
        *_row("token_logprobs", _with_tokens),
        *_row("entropy", _one_row),
        *_row("log_softmax", _one_row),
        *_row("kl_divergence", _two_rows),
        *_row("sample", _with_uniforms, exact.sample),
        *_row("token_logprobs_backward", _with_tokens_and_gradient),
        *_row("entropy_backward", _with_gradient),
        *_row("kl_divergence_backward", _two_rows_and_gradient),
        Case("token log-probs, forward + backward", LOGITS, _with_tokens_and_gradient, tokens_both,
             exact.forward_backward(reference.token_logprobs, reference.token_logprobs_backward)),
        Case("KL, forward + backward", LOGITS, _two_rows_and_gradient, kl_both,
             exact.forward_backward(reference.kl_divergence, reference.kl_divergence_backward)),
        *_losses(),
        _array(pg, "gae", _gae),
        _array(pg, "whiten", _masked),
        _array(pg, "ppo_clip", _clip),
        _array(pg, "value_clip", _clip),
        *_dense_grpo(),
        *[_array(pg, kind, _log_ratio) for kind in ("k1", "k2", "k3", "kl_estimate")],
        _array(pg, "group_advantages", _grouped),
        _array(pg, "rloo_advantages", _grouped),
        _array(pairs, "bradley_terry", _pairs),
        _array(pairs, "dpo", _quadruples),
        _array(pairs, "ipo", _quadruples),
        _array(pairs, "hinge", _quadruples),
        _array(pairs, "log_sigmoid", lambda B, T: (draw(B * T),)),
        _array(pairs, "plackett_luce", lambda B, T: (draw(B * T // ITEMS, ITEMS),)),
        _adamw(),
        _array(optim, "global_norm", lambda P: (draw(P),), PARAMETERS),
    ]  # fmt: skip


CASES = {case.name: case for case in _all()}


def threaded() -> list[str]:
    """Cases of one kernel over the vocabulary that takes `threads`."""
    functions = {**vars(categorical), **(vars(from_logits) if from_logits else {})}
    named = {
        name: functions[name] for name, case in CASES.items() if case.over_vocabulary and name in functions
    }
    return [name for name, function in named.items() if "threads" in inspect.signature(function).parameters]
