"""What the parts agree on: protocols, frozen records of arrays, and `register`.

Dimensions: B batch, P prompt length, T response length, V vocabulary, F features.
Token arrays are int64, masks and log-probabilities have the policy's dtype (float32).
A response's mask is 1 where the token counts and 0 on padding; padding holds token 0, so that every entry of a
token array is a valid index. Prompts are padded on the left with -1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
    runtime_checkable,
)

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .room import Room

Float: TypeAlias = NDArray[np.floating[Any]]
Int: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
Metrics: TypeAlias = dict[str, float]
Status: TypeAlias = Literal["done", "diverged", "error", "timeout", "interrupted"]
Need: TypeAlias = Literal["reward_model", "preferences", "cost_model", "labeller"]
GoldKind: TypeAlias = Literal["exact", "judge", "verifier"]
"""The true reward is known; a judge stands in for it; it is whether a reply is right, which a program checks."""
RewardKind: TypeAlias = Literal["model", "verifier", "gold"]
"""What algorithms are rewarded by: a trained model, a verifier of the user's, or the task's own, which is gold."""
StepAggregate: TypeAlias = Literal["sum", "product", "min", "last"]
"""What a reply's score is of the probabilities that its steps are right."""


@dataclass(frozen=True)
class Rollout:
    """Responses drawn from a policy: `responses` (B, T), `mask` (B, T), `logprobs` (B, T) of the sampled tokens."""

    responses: Int
    mask: Float
    logprobs: Float


@dataclass(frozen=True)
class Demonstrations:
    """What supervised fine-tuning learns from: `prompts` (N, P), `responses` (N, T), `mask` (N, T)."""

    prompts: Int
    responses: Int
    mask: Float

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, index: Int) -> Demonstrations:
        return Demonstrations(self.prompts[index], self.responses[index], self.mask[index])


@dataclass(frozen=True)
class PreferencePairs:
    """`prompts` (N, P); `chosen`, `rejected` (N, T) with their masks (N, T).

    `strength` (N,) is how much better the chosen reply was said to be, from 0 on; None where nobody was asked.
    """

    prompts: Int
    chosen: Int
    chosen_mask: Float
    rejected: Int
    rejected_mask: Float
    strength: Float | None = None
    replies: ClassVar[int] = 2
    """To a prompt."""

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, index: Int) -> PreferencePairs:
        return PreferencePairs(
            self.prompts[index],
            self.chosen[index],
            self.chosen_mask[index],
            self.rejected[index],
            self.rejected_mask[index],
            None if self.strength is None else self.strength[index],
        )


@dataclass(frozen=True, kw_only=True)
class HarmPairs(PreferencePairs):
    """Labels of harm: `chosen` is the safer reply; `chosen_unsafe`, `rejected_unsafe` (N,) say which are unsafe."""

    chosen_unsafe: Flags
    rejected_unsafe: Flags

    def take(self, index: Int) -> HarmPairs:
        flags = self.chosen_unsafe[index], self.rejected_unsafe[index]
        return HarmPairs(**vars(super().take(index)), chosen_unsafe=flags[0], rejected_unsafe=flags[1])


@dataclass(frozen=True)
class Revision:
    """Replies after a round of critique: `responses` (B, T), `mask` (B, T); rules `violated` (B,) before it."""

    responses: Int
    mask: Float
    violated: Int


@dataclass(frozen=True)
class LabelledSteps:
    """What a process reward model learns from: `prompts` (N, P); `responses`, `mask`, `ends`, `labels` (N, T).

    Where a step `ends`, its label is 1 if the step is right, else 0.
    """

    prompts: Int
    responses: Int
    mask: Float
    ends: Flags
    labels: Flags

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, index: Int) -> LabelledSteps:
        rows = self.responses[index], self.mask[index], self.ends[index], self.labels[index]
        return LabelledSteps(self.prompts[index], *rows)


class Sampler(Protocol):
    """Anything that answers prompts: a policy, or what an algorithm puts into `Setup.served`."""

    def sample(self, prompts: Int, uniforms: Float) -> Rollout:
        """Draw one response per prompt by inverse CDF from `uniforms` (B, T) in [0, 1)."""
        ...


class Policy(Sampler, Protocol):
    """A language model with a value head. `params` and `grads` are flat (size,) arrays, its tensors views into them."""

    params: Float
    grads: Float
    vocab_size: int
    max_length: int

    def logits(self, prompts: Int, responses: Int, mask: Float, *, keep: bool = True) -> Float:
        """(B, T, V) next-token logits at each response position, activations kept for `backward` unless told otherwise.

        They hold until the next call of this policy's `logits`, and the caller may write into them, a gradient for
        instance.
        """
        ...

    def logprobs(self, prompts: Int, responses: Int, mask: Float, *, out: Float | None = None) -> Float:
        """(B, T) log-probabilities of the response tokens, 0 where the mask is 0; nothing is kept."""
        ...

    def values(
        self, prompts: Int, responses: Int, mask: Float, *, keep: bool = True, out: Float | None = None
    ) -> Float:
        """(B, T) value of the state before each response token, activations kept as by `logits`."""
        ...

    def sample(self, prompts: Int, uniforms: Float, *, out: Rollout | None = None) -> Rollout:
        """As `Sampler`; what is drawn is written to `out`, or new arrays."""
        ...

    def backward(self, d_logits: Float | None = None, d_values: Float | None = None) -> None:
        """Accumulate into `grads` for the latest `logits` and/or `values` call."""
        ...

    def clone(self) -> Policy:
        """A copy that shares no memory with this one."""
        ...


class RewardModel(Protocol):
    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) scores: a model's in standard deviations of the reference policy's scores, reference mean 0."""
        ...


class Labeller(Protocol):
    """An AI labeller that goes by a constitution; what it is asked of one reply is a call, and has its price."""

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) what the constitution gives each reply; one call each."""
        ...

    def violations(self, prompts: Int, responses: Int, mask: Float) -> Int:
        """(B,) how many rules each reply violates; one call each."""
        ...

    def revise(self, prompts: Int, responses: Int, mask: Float) -> Revision:
        """One round: a critique of each reply, one call, and one more to revise those that violate a rule."""
        ...


class StepRewards(NamedTuple):
    """What each step of some replies earns: `tokens` (B, T), 0 but where a step `ends` (B, T)."""

    tokens: Float
    ends: Flags

    def take(self, index: Int) -> StepRewards:
        return StepRewards(self.tokens[index], self.ends[index])


@runtime_checkable
class DenseReward(Protocol):
    """A reward model that also says which step of a reply earned what."""

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float: ...

    def rewards(self, prompts: Int, responses: Int, mask: Float) -> StepRewards:
        """A reply's rewards add up to its score."""
        ...


class Optimizer(Protocol):
    def step(self, scale: float = 1.0) -> None:
        """One update with the learning rate times `scale`, from the accumulated gradients, which it then clears."""
        ...


class Setup(Protocol):
    """All that an algorithm may touch."""

    policy: Policy
    reference: Policy
    reward_model: RewardModel
    cost_model: RewardModel
    """Scores harm: above 0 a reply is unsafe; its unit is the deviation of the reference's scores."""
    preferences: PreferencePairs
    labeller: Labeller
    rng: np.random.Generator
    room: Room
    """Where a batch's arrays lie."""
    served: Sampler

    def prompts(self, n: int) -> Int:
        """(n, P) training prompts, drawn from the arm's own stream."""
        ...

    def optimizer(self, learning_rate: float, **options: float) -> Optimizer: ...

    def steps(self, planned: int) -> Iterator[int]:
        """Indices of the updates: `planned` of them, or as many as the budget allows if one is given."""
        ...

    def progress(self) -> float:
        """Share of the planned updates, or of the budget, that is done; in [0, 1]."""
        ...

    def charge(self, kernel: str, *shape: int) -> None:
        """Charge `kernels.flops.work(kernel, *shape)` to phase `update`."""
        ...


@runtime_checkable
class Task(Protocol):
    """A world: prompts, demonstrations, preference pairs, and, where it is known, the gold reward."""

    @property
    def name(self) -> str: ...
    @property
    def vocab(self) -> tuple[str, ...]: ...
    @property
    def prompt_vocab(self) -> tuple[str, ...]: ...
    @property
    def max_length(self) -> int: ...
    @property
    def eos(self) -> int | None:
        """Token that ends a response; None where all have `max_length` tokens."""
        ...

    @property
    def unknown(self) -> int | None:
        """Token that is never sampled."""
        ...

    @property
    def gold(self) -> GoldKind: ...

    @property
    def enumerable(self) -> bool:
        """Whether all replies can be listed."""
        ...

    @property
    def policies(self) -> tuple[str, ...]:
        """Those that fit, the default first."""
        ...

    def for_seed(self, rng: np.random.Generator) -> Task:
        """This world with its per-seed choices (for a file: the split) made."""
        ...

    def prompts(self, n: int, rng: np.random.Generator) -> Int:
        """(n, P) training prompts."""
        ...

    def evaluation_prompts(self, n: int, rng: np.random.Generator) -> Int:
        """(n, P) prompts for evaluation."""
        ...

    def demonstrations(self, rng: np.random.Generator) -> Demonstrations: ...

    def preferences(self, n: int | None, rng: np.random.Generator, reference: Sampler) -> PreferencePairs:
        """`n` labelled pairs (None: the task's own number), for the reward model and for direct alignment."""
        ...

    def judge_preferences(self) -> PreferencePairs | None:
        """Pairs disjoint from `preferences` for the judge; None where gold is known."""
        ...

    def gold_score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) the true reward; only evaluation may ask. Raises where gold is not known."""
        ...

    def prompt_text(self, prompt: Int) -> str: ...

    def response_text(self, response: Int, mask: Float) -> str: ...


@runtime_checkable
class Verifiable(Protocol):
    """A task whose prompts have an answer."""

    def answer(self, prompt: Int) -> str:
        """The right answer to one prompt (P,)."""
        ...


@runtime_checkable
class SafetyLabelled(Protocol):
    """A task with labels of harm beside those of helpfulness, and prompts that should be declined."""

    def harm_labels(self, rng: np.random.Generator, reference: Sampler) -> HarmPairs:
        """Labelled pairs for the cost model."""
        ...

    def harm(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) the true harm, above 0 where a reply is unsafe; only evaluation may ask."""
        ...

    def safety(self, prompts: Int, responses: Int, mask: Float) -> dict[str, float | None]:
        """What is told of replies: `rlhfbench.records.SAFETY` but for the cost; only evaluation may ask."""
        ...


@runtime_checkable
class Constitutional(Protocol):
    """A task with a constitution."""

    def labeller(self, charge: Callable[[int, float], None] | None = None) -> Labeller:
        """Who judges and revises replies to its prompts; `charge` is told of calls, and what one costs."""
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A task whose replies are worked out in steps that can be labelled."""

    @property
    def step_tokens(self) -> Flags:
        """(V,) which tokens end a step; the last token of a reply does in any case."""
        ...

    def step_labels(self, prompts: Int, responses: Int) -> Flags:
        """(B, T) whether the step that ends with a token is right."""
        ...

    def solutions(self, n: int | None, rng: np.random.Generator, reference: Sampler) -> LabelledSteps:
        """`n` of the reference's solutions (None: the task's own number) with a label for each step."""
        ...

    def whole(self, solutions: LabelledSteps, rng: np.random.Generator) -> LabelledSteps:
        """The same with one label a solution, at its end: whether the answer is right."""
        ...


Algorithm: TypeAlias = Callable[[Any, Any], Iterator[Metrics]]
F = TypeVar("F", bound=Algorithm)


@dataclass(frozen=True)
class AlgorithmSpec:
    """What `register` attaches to an algorithm: its name, configuration, needs and presets."""

    name: str
    config: type[Any]
    needs: frozenset[Need]
    function: Algorithm
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cautions: Callable[[Any], list[str]] | None = None


def register(
    name: str,
    config: type[Any],
    *,
    needs: set[Need] | frozenset[Need] = frozenset(),
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    policy_defaults: Mapping[str, Mapping[str, Any]] | None = None,
    cautions: Callable[[Any], list[str]] | None = None,
) -> Callable[[F], F]:
    """Mark a generator function `(setup, config) -> Iterator[Metrics]` as the algorithm `name`.

    Parameters
    ----------
    name : str
        What people type.
    config : type
        Frozen dataclass of hyper-parameters; its defaults are the algorithm's.
    needs : set of {"reward_model", "preferences", "cost_model", "labeller"}
        What it learns from: training the models, the labels and calls of the labeller are charged accordingly.
    presets : mapping, optional
        `name@preset` overrides these fields.
    policy_defaults : mapping, optional
        With the policy of this name, such as "transformer", these fields have other defaults; "transformer/gold":
        with it where gold itself, a verifier, is the reward.
    cautions : callable (configuration) -> list of str, optional
        What a person should know before a run with this configuration; shown once, and kept with the run.
    """

    def mark(function: F) -> F:
        spec = AlgorithmSpec(
            name,
            config,
            frozenset(needs),
            function,
            dict(presets or {}),
            dict(policy_defaults or {}),
            cautions,
        )
        function.spec = spec  # type: ignore[attr-defined]
        return function

    return mark
