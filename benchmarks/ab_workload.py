"""What `benchmarks.compare` times: every public kernel, on tiny arrays (`[call]`) and at one or two working sizes.

One row a kernel. The table has to load beside kernels of any revision: it imports NumPy alone, and a kernel that a
revision lacks is listed, not an error. All is float32, fixed, and large enough that the call overhead, which has
rows of its own, is a small part of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

Arguments = tuple[Any, ...]
Make = Callable[..., Arguments]

SMALL, LARGE = (64, 512), (8, 50_257)  # rows and vocabulary: in the second-level cache, and beyond it
SEQUENCES = ((2, 2, 5), (8, 8, 512), (2, 4, 50_257))
TOKENS = (256, 64)  # results below 128 kB: larger ones are mapped anew by every call, and that would be timed


class Workload(NamedTuple):
    """One benchmark; `function` is written module.name, below the package `kernels`."""

    name: str
    function: str
    arguments: Callable[[], Arguments]


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def normals(count: int, *shape: int) -> list[Any]:
    rng = random()
    return [rng.standard_normal(shape, np.float32) for _ in range(count)]


def floats(count: int, *constants: Any) -> Make:
    return lambda *shape: (*normals(count, *shape), *constants)


def with_tokens(*shape: int) -> Arguments:
    return (*normals(1, *shape), random().integers(shape[-1], size=shape[:-1]))


def with_tokens_backward(*shape: int) -> Arguments:
    return (*with_tokens(*shape), *normals(1, *shape[:-1]))


def two_backward(*shape: int) -> Arguments:
    return (*normals(2, *shape), *normals(1, *shape[:-1]))


def one_backward(*shape: int) -> Arguments:
    return (*normals(1, *shape), *normals(1, *shape[:-1]))


def with_uniforms(*shape: int) -> Arguments:
    return (*normals(1, *shape), random().random(shape[:-1]))


def masked(count: int, *constants: Any) -> Make:
    def make(*shape: int) -> Arguments:
        lengths = random().integers(1, shape[1] + 1, size=(shape[0], 1))
        return (*normals(count, *shape), (np.arange(shape[1]) < lengths).astype(np.float32), *constants)

    return make


def near(count: int, constant: float) -> Make:
    """As `masked`, its second array close to the first, so that the clip is not all that is timed."""

    def make(*shape: int) -> Arguments:
        first, second, *rest = masked(count, constant)(*shape)
        return (first, first + np.float32(0.1) * second, *rest)

    return make


def grouped(*constants: Any) -> Make:
    return lambda groups, size: (*normals(1, groups * size), size, *constants)


def optimiser(n: int) -> Arguments:
    params, grads = normals(2, n)
    return params, grads, np.zeros(n, np.float32), np.zeros(n, np.float32), 2, 1e-3


def bag(rows: int, words: int, features: int, seed: int = 0) -> Arguments:
    """CSR rows of words: a few are frequent, most are rare."""
    rng = np.random.default_rng(seed)
    indices = (rng.zipf(1.3, size=rows * words) % features).astype(np.int32)
    return np.arange(rows + 1) * words, indices, np.ones(rows * words, np.float32)


def bag_with_weights(rows: int, words: int, features: int) -> Arguments:
    return (*normals(1, features), *bag(rows, words, features))


def two_bags(rows: int, words: int, features: int) -> Arguments:
    return bag(rows, words, features), bag(rows, words, features, seed=1), features


def signed_bag(rows: int, words: int, features: int) -> Arguments:
    indptr, indices, data = bag(rows, words, features)
    signs = random().choice(np.array([-1, 1], np.float32), data.size)
    return indptr, indices, data * signs, features, random().permutation(rows), 0.1, 1e-3, 20


def model(B: int, T: int, V: int) -> Arguments:
    """Prompts, responses, mask, and the three weight arrays of a log-linear policy."""
    rng = random()
    prompts, responses = rng.integers(V, size=(B, 4)), rng.integers(V, size=(B, T))
    weights = [rng.standard_normal((rows, V), np.float32) for rows in (V, V + 1, T)]
    return prompts, responses, np.ones((B, T), np.float32), *weights


def model_logits(B: int, T: int, V: int) -> Arguments:
    return (*model(B, T, V), np.empty(V, np.float32), np.empty((B, T, V), np.float32))


def model_logprobs(B: int, T: int, V: int) -> Arguments:
    return (*model(B, T, V), *np.empty((2, V), np.float32), np.empty((B, T), np.float32))


def model_backward(B: int, T: int, V: int) -> Arguments:
    prompts, responses, mask, *weights = model(B, T, V)
    gradients = [np.zeros_like(w) for w in weights]
    small = np.float32(1e-6) * normals(1, B, T, V)[0]  # they accumulate from call to call
    return prompts, responses, mask, small, np.empty(V, np.float32), *gradients


def model_sample(B: int, T: int, V: int) -> Arguments:
    from kernels import loglinear

    prompts, responses, mask, *weights = model(B, T, V)
    scratch = list(np.empty((2, V), np.float32))
    if hasattr(loglinear, "sample_scratch"):  # later revisions want more of it
        scratch += loglinear.sample_scratch(V, np.float32)
    return prompts, random().random((B, T)), -1, *weights, *scratch, responses, mask, mask.copy()


def sequences(B: int, T: int, V: int, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Logits, tokens, log-probabilities of an older policy, and a mask of their lengths."""
    rng = np.random.default_rng(seed)
    logits, noise = rng.standard_normal((B, T, V), np.float32), rng.standard_normal((B, T), np.float32)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(B, 1))).astype(np.float32)
    return logits, rng.integers(V, size=(B, T)), np.float32(0.1) * noise - np.float32(np.log(V)), mask


def sft_sequences(B: int, T: int, V: int) -> Arguments:
    logits, tokens, _, mask = sequences(B, T, V)
    return logits, tokens, mask


def ppo_sequences(B: int, T: int, V: int) -> Arguments:
    logits, tokens, old, mask = sequences(B, T, V)
    return logits, tokens, old, *normals(1, B, T), mask, 0.2


def grpo_sequences(B: int, T: int, V: int) -> Arguments:
    logits, tokens, old, mask = sequences(B, T, V)
    return logits, tokens, old, *normals(1, B), mask, 0.2


def dpo_sequences(B: int, T: int, V: int) -> Arguments:
    chosen, rejected = sequences(B, T, V), sequences(B, T, V, seed=1)
    return chosen[0], rejected[0], chosen[1], rejected[1], chosen[2].sum(1), rejected[2].sum(1), 0.1


def grpo_tokens(B: int, T: int) -> Arguments:
    logprobs, noise, mask = masked(2)(B, T)
    return logprobs, logprobs + np.float32(0.1) * noise, *normals(1, B), mask, 0.2


def with_lengths(count: int, *constants: float) -> Make:
    """Log-probabilities of whole responses, below 0, and the tokens of both responses."""

    def make(n: int) -> Arguments:
        lengths = random().integers(1, 20, size=(2, n)).astype(np.float32)
        return (*(-np.float32(1) - np.abs(x) for x in normals(count, n)), *lengths, *constants)

    return make


DPO_FAMILY = (
    "robust",
    "exo_pair",
    "discopop",
    "aot",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
)

# Function, how its arguments are made, the sizes. The first size is that of `[call]`.
TABLE: tuple[tuple[str, Make, tuple[tuple[int, ...], ...]], ...] = (
    ("categorical.log_softmax", floats(1), ((2, 5), SMALL, LARGE)),
    ("categorical.token_logprobs", with_tokens, ((2, 5), SMALL, LARGE)),
    ("categorical.token_logprobs_backward", with_tokens_backward, ((2, 5), SMALL, LARGE)),
    ("categorical.entropy", floats(1), ((2, 5), SMALL, LARGE)),
    ("categorical.entropy_backward", one_backward, ((2, 5), SMALL, LARGE)),
    ("categorical.kl_divergence", floats(2), ((2, 5), SMALL, LARGE)),
    ("categorical.kl_divergence_backward", two_backward, ((2, 5), SMALL, LARGE)),
    ("categorical.sample", with_uniforms, ((2, 5), SMALL, LARGE)),
    ("from_logits.sft_from_logits", sft_sequences, SEQUENCES),
    ("from_logits.ppo_from_logits", ppo_sequences, SEQUENCES),
    ("from_logits.grpo_from_logits", grpo_sequences, SEQUENCES),
    ("from_logits.dpo_from_logits", dpo_sequences, ((2, 2, 5), (4, 8, 512), (1, 4, 50_257))),
    ("preference.log_sigmoid", floats(1), ((4,), (16_384,))),
    ("preference.bradley_terry", floats(2), ((4,), (16_384,))),
    ("preference.plackett_luce", floats(1), ((2, 4), (2048, 4))),
    ("preference.dpo", floats(4, 0.1), ((4,), (16_384,))),
    ("preference.ipo", floats(4, 0.1), ((4,), (16_384,))),
    ("preference.hinge", floats(4, 0.1), ((4,), (16_384,))),
    *((f"preference.{name}", floats(4, 0.1), ((4,), (16_384,))) for name in DPO_FAMILY),
    ("preference.sigmoid_norm", with_lengths(4, 2.0), ((4,), (16_384,))),
    ("preference.kto", floats(3, 0.1, 0.1), ((4,), (16_384,))),
    ("preference.simpo", with_lengths(2, 2.0, 1.0), ((4,), (16_384,))),
    ("preference.orpo", with_lengths(2, 0.1), ((4,), (16_384,))),
    ("preference.cpo", floats(2, 0.1), ((4,), (16_384,))),
    ("policy_gradient.kl_estimate", floats(2), ((2, 3), (256, 120))),
    ("policy_gradient.k1", floats(2), ((2, 3), (256, 120))),
    ("policy_gradient.k2", floats(2), ((2, 3), (256, 120))),
    ("policy_gradient.k3", floats(2), ((2, 3), TOKENS)),
    ("policy_gradient.gae", masked(2, 1.0, 0.95), ((2, 3), TOKENS)),
    ("policy_gradient.whiten", masked(1), ((2, 3), TOKENS)),
    ("policy_gradient.ppo_clip", near(3, 0.2), ((2, 3), TOKENS)),
    ("policy_gradient.grpo", grpo_tokens, ((2, 3), TOKENS)),
    ("policy_gradient.value_clip", near(3, 0.2), ((2, 3), TOKENS)),
    ("policy_gradient.group_advantages", grouped(), ((2, 3), (2048, 8))),
    ("policy_gradient.rloo_advantages", grouped(), ((2, 3), (2048, 8))),
    ("optim.adamw", optimiser, ((4,), (1 << 18,))),
    ("optim.global_norm", floats(1), ((4,), (1 << 18,))),
    ("bag.bag_scores", bag_with_weights, ((2, 3, 16), (512, 60, 1 << 15))),
    ("bag.bag_difference", two_bags, ((2, 3, 16), (512, 60, 1 << 15))),
    ("bag.bradley_terry_bag", bag_with_weights, ((2, 3, 16), (512, 60, 1 << 15))),
    ("bag_fit.fit_bradley_terry", signed_bag, ((4, 3, 16), (512, 60, 1 << 12))),
    ("loglinear.logits_jit", model_logits, ((2, 3, 5), (32, 24, 512))),
    ("loglinear.logprobs_jit", model_logprobs, ((2, 3, 5), (32, 24, 512))),
    ("loglinear.backward_jit", model_backward, ((2, 3, 5), (32, 24, 512))),
    ("loglinear.sample_jit", model_sample, ((2, 3, 5), (32, 24, 512))),
)


def workloads() -> Iterator[Workload]:
    """Every row at each of its sizes; names are like `entropy[call]` and `entropy[64x512]`."""
    for function, make, sizes in TABLE:
        for i, size in enumerate(sizes):
            label = "x".join(map(str, size)) if i else "call"
            yield Workload(f"{function.rpartition('.')[2]}[{label}]", function, partial(make, *size))
