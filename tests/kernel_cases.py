"""One table of all dense kernels: how to make their arguments. Tests run over it.

Run as a program it computes everything once and writes it to a file, so that processes with other settings
(without the JIT, with counting numbers) can be compared: `python kernel_cases.py values|counts FILE`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nn_public_cases
import numpy as np

from kernels import (
    categorical,
    from_logits,
    nn,
    optim,
    policy_gradient,
    preference,
    reference,
    reference_from_logits,
    reference_nn,
)

Kwargs = dict[str, Any]
MODULES = (categorical, preference, policy_gradient, optim, from_logits, nn)
TWINS = (reference, reference_from_logits, reference_nn)
IN_PLACE = ("params", "m", "v", "key_cache", "value_cache")  # what a kernel changes
NO_KERNELS = {
    "keys_shape",
    "panels_shape",
    "sample_scratch",
    "spans_of",
    "step_room",
    "turned_shape",
    "with_room",
}
"""Functions that prepare arguments."""


@dataclass(frozen=True)
class Case:
    """`make(rng, B, T, V, dtype)` gives a kernel's arguments; `shape(B, T, V)` is what `flops.work` is asked for."""

    name: str
    make: Callable[[np.random.Generator, int, int, int, Any], Kwargs]
    shape: Callable[[int, int, int], tuple[int, ...]]
    work: str = ""  # name of the formula where it is not the kernel's
    kernel: str = ""  # name of the function where the case is a variant of it

    @property
    def function(self) -> Callable[..., Any]:
        return next(getattr(m, self.public) for m in MODULES if hasattr(m, self.public))

    @property
    def twin(self) -> Callable[..., Any]:
        return next(getattr(m, self.public) for m in TWINS if hasattr(m, self.public))

    @property
    def public(self) -> str:
        return self.kernel or self.name


def logits(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Any:
    """Normal, but every fourth row spread out to about +-50."""
    x = rng.standard_normal(shape)
    flat = x.reshape(-1, shape[-1])
    flat[::4] *= 50 / np.maximum(np.abs(flat[::4]).max(axis=1, keepdims=True, initial=0.1), 0.1)
    return x.astype(dtype)


def mask(rng: np.random.Generator, B: int, T: int, dtype: Any) -> Any:
    """Padding anywhere; the last row of several is all padding."""
    m = rng.random((B, T)) < 0.7
    if B > 1:
        m[-1] = False
    return m.astype(dtype)


def _one(rng, B, T, V, dtype):
    return {"logits": logits(rng, (B, T, V), dtype)}


def _tokens(rng, B, T, V, dtype):
    return {**_one(rng, B, T, V, dtype), "tokens": rng.integers(0, V, (B, T))}


def _two(rng, B, T, V, dtype):
    return {**_one(rng, B, T, V, dtype), "ref_logits": logits(rng, (B, T, V), dtype)}


def _normal(*names, scale=1.0):
    def make(rng, B, T, V, dtype):
        return {name: (scale * rng.standard_normal((B, T))).astype(dtype) for name in names}

    return make


def _with(make, **more):
    """Further arguments: constants, or functions like `make`."""

    def extended(rng, B, T, V, dtype):
        extra = {k: v(rng, B, T, V, dtype) if callable(v) else v for k, v in more.items()}
        return {**make(rng, B, T, V, dtype), **extra}

    return extended


def _small(rng, B, T, V, dtype):
    return rng.standard_normal((B, T)).astype(dtype)


def _mask(rng, B, T, V, dtype):
    return mask(rng, B, T, dtype)


def _old(rng, B, T, V, dtype):
    return (-np.log(V) + 0.3 * rng.standard_normal((B, T))).astype(dtype)


def _ones(rng, B, T, V, dtype):
    return np.ones((B, T), dtype)


def _each(rng, B, T, V, dtype):
    return rng.standard_normal(B).astype(dtype)


def _halves(rng, B, T, V, dtype):
    """Chosen and rejected responses, of different lengths."""
    lengths = {"chosen": T, "rejected": T + 1}
    x = {f"{name}_logits": logits(rng, (B, n, V), dtype) for name, n in lengths.items()}
    t = {f"{name}_tokens": rng.integers(0, V, (B, n)) for name, n in lengths.items()}
    refs = {f"ref_{name}": -rng.random(B).astype(dtype) * n for name, n in lengths.items()}
    return {**x, **t, **refs, "beta": 0.1}


def _uniforms(rng, B, T, V, dtype):
    return rng.random((B, T))


def _lengths(rng, B, T, V, dtype):
    return rng.integers(1, 9, (B, T)).astype(dtype)


def _below_zero(*names):
    """Log-probabilities of responses, of a few tokens each."""

    def make(rng, B, T, V, dtype):
        return {name: -(1 + 9 * rng.random((B, T))).astype(dtype) for name in names}

    return make


def _desirable(rng, B, T, V, dtype):
    return (rng.random((B, T)) < 0.5).astype(dtype)


def _rewards(rng, B, T, V, dtype):
    return {"rewards": rng.standard_normal((B, V)).astype(dtype), "group_size": V}


def _rewards_of_several(rng, B, T, V, dtype):
    return _rewards(rng, B, T, max(V, 2), dtype)


def _adamw(rng, B, T, V, dtype):
    values = {name: rng.standard_normal((B, T)).astype(dtype) for name in ("params", "grads", "m")}
    v = rng.random((B, T)).astype(dtype)
    return {**values, "v": v, "step": 3, "learning_rate": 0.01, "weight_decay": 0.1}


def _ranking(rng, B, T, V, dtype):
    return {"scores": logits(rng, (B, T, V), dtype)}


def _bt(B, T, V):
    return (B, T)


def _btv(B, T, V):
    return (B, T, V)


_pair = _normal("chosen", "rejected", scale=10.0)
_policies = _normal("pi_chosen", "pi_rejected", "ref_chosen", "ref_rejected", scale=10.0)
_per_token = {"chosen_lengths": _lengths, "rejected_lengths": _lengths}
_responses = _below_zero("pi_chosen", "pi_rejected")
_logprobs = _normal("logprobs", "ref_logprobs")
_ppo = _with(_normal("logprobs", "old_logprobs", "advantages", scale=0.3), mask=_mask, cliprange=0.2)
_grpo = _with(_ppo, advantages=lambda rng, B, T, V, dtype: _small(rng, B, T, V, dtype)[:, 0])
_values = _normal("values", "old_values", "returns")

_fused = _with(_tokens, old_logprobs=_old, advantages=_small, mask=_ones, cliprange=0.2)

CASES = (
    Case("log_softmax", _one, _btv),
    Case("token_logprobs", _tokens, _btv),
    Case("token_logprobs_backward", _with(_tokens, d_logprobs=_small), _btv),
    Case("entropy", _one, _btv),
    Case("entropy_backward", _with(_one, d_entropy=_small), _btv),
    Case("kl_divergence", _two, _btv),
    Case("kl_divergence_backward", _with(_two, d_kl=_small), _btv),
    Case("sample", _with(_one, uniforms=_uniforms, temperature=0.7), _btv),
    Case("log_sigmoid", _normal("x", scale=30.0), _bt),
    Case("bradley_terry", _pair, _bt),
    Case(
        "bradley_terry_smooth",
        _with(_pair, margin=_small, temperature=0.5, label_smoothing=0.1, centering=0.01),
        _bt,
        work="bradley_terry",
        kernel="bradley_terry",
    ),
    Case(
        "bradley_terry_noisy",
        _with(_pair, margin=0.5, temperature=2.0, noise=0.1, centering=0.01),
        _bt,
        work="noisy_bradley_terry",
        kernel="bradley_terry",
    ),
    Case("plackett_luce", _ranking, _btv),
    Case("dpo", _with(_policies, beta=0.1, label_smoothing=0.1), _bt),
    Case("ipo", _with(_policies, tau=0.3), _bt),
    Case(
        "ipo_per_token",
        _with(_policies, tau=0.3, chosen_lengths=_lengths, rejected_lengths=_lengths),
        _bt,
        kernel="ipo",
    ),
    Case("hinge", _with(_policies, beta=0.1), _bt),
    Case("robust", _with(_policies, beta=0.1, label_smoothing=0.2), _bt),
    Case("exo_pair", _with(_policies, beta=0.1, label_smoothing=0.1), _bt),
    Case("discopop", _with(_policies, beta=0.1, tau=0.3), _bt),
    Case("aot", _with(_policies, beta=0.1, label_smoothing=0.1), _bt),
    Case("sigmoid_norm", _with(_policies, beta=0.5, **_per_token), _bt),
    Case("nca_pair", _with(_policies, beta=0.1), _bt),
    Case("bco_pair", _with(_policies, beta=0.1, delta=0.3), _bt),
    Case("sppo_hard", _with(_policies, beta=0.5), _bt),
    Case("apo_zero", _with(_policies, beta=0.1), _bt),
    Case("apo_down", _with(_policies, beta=0.1), _bt),
    Case(
        "kto",
        _with(
            _normal("logps", "ref_logps", scale=10.0),
            desirable=_desirable,
            kl=0.5,
            beta=0.1,
            desirable_weight=1.3,
            undesirable_weight=0.8,
        ),
        _bt,
    ),
    Case("simpo", _with(_responses, beta=2.0, gamma=1.0, **_per_token), _bt),
    Case("orpo", _with(_responses, beta=0.1, **_per_token), _bt),
    Case("cpo", _with(_responses, beta=0.1, label_smoothing=0.1), _bt),
    Case("cpo_per_token", _with(_responses, beta=0.1, alpha=0.5, chosen_lengths=_lengths), _bt, kernel="cpo"),
    *(Case(kind, _logprobs, _bt) for kind in ("k1", "k2", "k3")),
    *(
        Case(f"kl_{k}", _with(_logprobs, kind=k), _bt, work=k, kernel="kl_estimate")
        for k in ("k1", "k2", "k3")
    ),
    Case("gae", _with(_normal("rewards", "values"), mask=_mask, gamma=0.9, lam=0.8), _bt),
    Case("whiten", _with(_normal("x"), mask=_mask), _bt),
    Case("whiten_unshifted", _with(_normal("x"), mask=_mask, shift_mean=False), _bt, "whiten", "whiten"),
    Case("ppo_clip", _ppo, _bt),
    *(
        Case(
            f"grpo_{loss_type}",
            _with(_grpo, ref_logprobs=_small, beta=0.1, cliprange_high=0.3, loss_type=loss_type),
            _bt,
            work="grpo",
            kernel="grpo",
        )
        for loss_type in ("grpo", "bnpo", "dr_grpo")
    ),
    Case("grpo_without_kl", _grpo, _bt, kernel="grpo"),
    Case("value_clip", _with(_values, mask=_mask, cliprange_value=0.2), _bt),
    Case("group_advantages", _rewards, lambda B, T, V: (B, V)),
    Case(
        "group_advantages_unscaled",
        _with(_rewards, scale=False),
        lambda B, T, V: (B, V),
        work="group_advantages",
        kernel="group_advantages",
    ),
    Case("rloo_advantages", _rewards_of_several, lambda B, T, V: (B, max(V, 2))),
    Case("sft_from_logits", _tokens, _btv),
    Case("ppo_from_logits", _fused, _btv),
    Case("grpo_from_logits", _with(_fused, advantages=_each), _btv),
    Case("dpo_from_logits", _halves, lambda B, T, V: (B, 2 * T + 1, V)),
    Case("adamw", _adamw, _bt),
    Case("global_norm", _normal("grads"), _bt),
    *(Case(name, *rest) for name, *rest in nn_public_cases.CASES),
)
BY_NAME = {case.name: case for case in CASES}
SHAPES = ((1, 1, 1), (1, 5, 4), (3, 1, 7), (2, 3, 1), (5, 4, 33), (1, 2, 100))


def jitted() -> dict[str, Any]:
    """Every jitted form that a module shows."""
    return {name: getattr(m, name) for m in MODULES for name in m.__all__ if name.endswith("_jit")}


def compute(function: Callable[..., Any], kwargs: Kwargs) -> list[Any]:
    """All that a kernel changes in place, on a copy, and gives, as a list."""
    changed = {name: kwargs[name].copy() for name in IN_PLACE if name in kwargs}
    result = function(**{**kwargs, **changed})
    if not isinstance(result, tuple):
        result = () if result is None else (result,)
    return [*changed.values(), *result]


def every(dtype: Any):
    """(key, case, shape, arguments) of each case in each shape; the same in every process."""
    for case in CASES:
        for shape in SHAPES:
            rng = np.random.default_rng([*shape, *case.name.encode()])
            yield f"{case.name} {shape} {np.dtype(dtype)}", case, shape, case.make(rng, *shape, dtype)


def values() -> dict[str, Any]:
    """Every output of every case, in float32 and float64."""
    return {
        f"{key} {i}": np.asarray(output)
        for dtype in (np.float32, np.float64)
        for key, case, _, kwargs in every(dtype)
        for i, output in enumerate(compute(case.function, kwargs))
    }


_BOUNDED = {"uniforms", "chosen_lengths", "rejected_lengths"}


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def counts() -> dict[str, Any]:
    """The operations of every case, counted by the numbers themselves, and whether the outputs are right.

    Counted with the drawn values, with all of them (masks too) 0, and with all of them 30 times as large.
    """
    import counted

    result = {}
    for key, case, shape, kwargs in every(np.float64):
        found = []
        # From logits a masked token costs nothing: its work is counted with all of them there.
        kept = {*_BOUNDED, "mask"} if "logits" in case.public else _BOUNDED
        if case.public == "gelu":  # a number too large is replaced by a constant, which does not count itself
            kept = {"x", "bias"}
        for factor in (0.0, 30.0, 1.0):
            numbers = {
                k: counted.counted(v * (1 if k in kept else factor)) if _is_float(v) else v
                for k, v in kwargs.items()
            }
            counted.reset()
            outputs = compute(case.function, numbers)
            found.append(counted.counts())
        right = all(
            np.allclose(counted.plain(np.asarray(a, object)), b, atol=1e-9, equal_nan=True)
            for a, b in zip(outputs, compute(case.twin, kwargs), strict=True)
        )
        result[key] = {
            "kernel": case.work or case.name,
            "shape": case.shape(*shape),
            "counted": found,
            "right": right,
        }
    return result


if __name__ == "__main__":
    if sys.argv[1] == "values":
        np.savez(sys.argv[2], **values())
    else:
        Path(sys.argv[2]).write_text(json.dumps(counts()))
