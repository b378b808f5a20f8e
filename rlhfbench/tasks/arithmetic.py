"""Sums whose answers a program checks: gold is exact, 1 for the right answer and 0 for any other.

The demonstrations are wrong more often than not, each wrong one in one step, so that the right answer is what the
reference says most often and yet not often enough: that is where a policy gradient finds something to raise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..options import require
from ..types import (
    Demonstrations,
    Flags,
    Float,
    GoldKind,
    Int,
    LabelledSteps,
    PreferencePairs,
    Sampler,
    StepAggregate,
)
from .reward_choice import RewardOptions, StepReward, check_reward_model, check_step_options

EOS = "<eos>"
SOLUTIONS = 4000
"""What a reward model of steps or answers is trained on, unless told otherwise."""
MISTAKES = np.array([-2, -1, 1, 2])
"""By how much a wrong step is off; numbers go round at the end of the vocabulary."""


@dataclass(frozen=True)
class Arithmetic(RewardOptions):
    """Knobs of the world beside `RewardOptions`; every field can be set as ``--task arithmetic:field=value``.

    Parameters
    ----------
    terms : int
        Numbers to be added up.
    largest : int
        They lie between 0 and this.
    worked : bool
        Demonstrations give the running sums, the last of which is the answer, instead of the answer alone. Gold looks
        at the answer only.
    sft_accuracy : float
        Share of demonstrations with the right answer.
    pairs : int
        Preference pairs, a right reply over a wrong one, for direct alignment and for a trained reward model.
    demos : int
        Demonstrations for supervised fine-tuning.
    flips : float
        Share of pairs that prefer the wrong reply, and of steps and answers labelled wrongly, in [0, .5].
    rm : {"verifier", "auto", "unigrams", "bigrams", "transformer", "process", "outcome"}
        The reward: gold's own verifier, a model trained on the pairs, or one trained on the reference's solutions: on a
        label for each step (process) or one for the answer (outcome). A bag of words does not see the prompt, so it
        cannot tell right from wrong.
    rm_solutions : int, optional
        Solutions that a process or outcome reward model is trained on; 4,000.
    rm_aggregate_steps : {"sum", "product", "min", "last"}, optional
        What a process reward model's score is of the probabilities that steps are right: sum, as published for PPO and
        GRPO. What a step earns is what it adds to that.
    """

    terms: int = 3
    largest: int = 4
    worked: bool = True
    sft_accuracy: float = 0.35
    pairs: int = 2000
    demos: int = 2000
    flips: float = 0.1
    rm: StepReward = "verifier"
    rm_solutions: int | None = None
    rm_aggregate_steps: StepAggregate | None = None

    name: ClassVar[str] = "arithmetic"
    gold: ClassVar[GoldKind] = "verifier"
    own_words: ClassVar[float] = 0.0
    enumerable: ClassVar[bool] = False
    policies: ClassVar[tuple[str, ...]] = ("transformer", "linear")
    unknown: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        require(2 <= self.terms <= 8, "terms", self.terms, "between 2 and 8")
        require(1 <= self.largest <= 99, "largest", self.largest, "between 1 and 99")
        require(0 <= self.sft_accuracy <= 1, "sft_accuracy", self.sft_accuracy, "between 0 and 1")
        require(self.pairs >= 2, "pairs", self.pairs, "at least 2")
        require(self.demos >= 1, "demos", self.demos, "at least 1")
        require(0 <= self.flips <= 0.5, "flips", self.flips, "between 0 and 0.5")
        check_reward_model(self.rm, self)
        check_step_options(self.rm, self.rm_solutions, self.rm_aggregate_steps)

    @cached_property
    def vocab(self) -> tuple[str, ...]:
        return (*map(str, range(self.terms * self.largest + 1)), EOS)

    @cached_property
    def prompt_vocab(self) -> tuple[str, ...]:
        return (*map(str, range(self.largest + 1)), "+")

    @property
    def eos(self) -> int:
        return len(self.vocab) - 1

    @property
    def steps(self) -> int:
        """Numbers in a demonstrated reply."""
        return self.terms - 1 if self.worked else 1

    @property
    def max_length(self) -> int:
        """One number more than is needed, and the end."""
        return self.steps + 2

    def for_seed(self, rng: np.random.Generator) -> Arithmetic:
        return self

    def prompts(self, n: int, rng: np.random.Generator) -> Int:
        """(n, 2 terms - 1): numbers with a plus sign between them."""
        prompts = np.full((n, 2 * self.terms - 1), self.largest + 1)
        prompts[:, ::2] = rng.integers(self.largest + 1, size=(n, self.terms))
        return prompts

    evaluation_prompts = prompts

    def demonstrations(self, rng: np.random.Generator) -> Demonstrations:
        """Replies of which `sft_accuracy` are right."""
        prompts = self.prompts(self.demos, rng)
        wrong = rng.random(self.demos) >= self.sft_accuracy
        return Demonstrations(prompts, *self._replies(prompts, wrong, rng))

    def _replies(self, prompts: Int, wrong: np.ndarray, rng: np.random.Generator) -> tuple[Int, Float]:
        """Tokens and mask; where `wrong`, one step goes wrong and those after it go on from there."""
        n, T = len(prompts), self.max_length
        sums = np.cumsum(prompts[:, ::2], axis=1)[:, -self.steps :]
        slip = np.where(wrong, rng.choice(MISTAKES, size=n), 0)[:, None]
        slips = np.arange(self.steps) >= rng.integers(self.steps, size=n)[:, None]
        responses = np.zeros((n, T), np.int64)
        responses[:, : self.steps] = (sums + slip * slips) % self.eos
        responses[:, self.steps] = self.eos
        mask = np.zeros((n, T), np.float32)
        mask[:, : self.steps + 1] = 1
        return responses, mask

    def gold_score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) 1 where the last number before the end is the sum, else 0, as where the end is missing."""
        ends = (responses == self.eos) & (mask > 0)
        last = np.argmax(ends, axis=1)
        answers = np.take_along_axis(responses, np.maximum(last - 1, 0)[:, None], axis=1)[:, 0]
        right = ends.any(axis=1) & (last > 0) & (answers == prompts[:, ::2].sum(axis=1))
        return np.asarray(right, float)

    def answer(self, prompt: Int) -> str:
        """The sum, for a verifier of the user's."""
        return str(int(prompt[::2].sum()))

    @property
    def step_tokens(self) -> Flags:
        """(V,) all of them: a number is a step, and so is the end, which says that the last number is the answer."""
        return np.ones(len(self.vocab), bool)

    def step_labels(self, prompts: Int, responses: Int) -> Flags:
        """(B, T) whether each step is right, judged on its own whatever came before.

        A number is right where it is the running sum of the prompt so far, which stays what it is once all numbers are
        added up; the end is right after the whole sum.
        """
        sums = np.cumsum(prompts[:, ::2], axis=1)[:, -self.steps :]
        sums = np.pad(sums, ((0, 0), (0, self.max_length - self.steps)), mode="edge")
        answered = np.zeros(responses.shape, bool)
        answered[:, 1:] = responses[:, :-1] == sums[:, -1:]
        return np.where(responses == self.eos, answered, responses == sums)

    def solutions(self, n: int | None, rng: np.random.Generator, reference: Sampler) -> LabelledSteps:
        """Replies of `reference`, each step labelled by a program that is wrong on `flips` of them."""
        n = (self.rm_solutions or SOLUTIONS) if n is None else n
        prompts = self.prompts(n, rng)
        rollout = reference.sample(prompts, rng.random((n, self.max_length)))
        labels = self.step_labels(prompts, rollout.responses)
        labels ^= rng.random(labels.shape) < self.flips
        return LabelledSteps(prompts, rollout.responses, rollout.mask, rollout.mask > 0, labels)

    def whole(self, solutions: LabelledSteps, rng: np.random.Generator) -> LabelledSteps:
        """The same solutions, labelled at their ends by their answers, `flips` of them wrongly."""
        answers = self.gold_score(solutions.prompts, solutions.responses, solutions.mask) > 0
        answers ^= rng.random(len(answers)) < self.flips
        places = np.where(solutions.mask > 0, np.arange(self.max_length), -1)
        ends = (places == places.max(axis=1, keepdims=True)) & (places >= 0)
        return replace(solutions, ends=ends, labels=ends & answers[:, None])

    def preferences(self, n: int | None, rng: np.random.Generator, reference: Sampler) -> PreferencePairs:
        """A right and a wrong reply to each prompt, written as the demonstrations are; `reference` is not asked."""
        n = self.pairs if n is None else n
        prompts = self.prompts(n, rng)
        right = self._replies(prompts, np.zeros(n, bool), rng)
        wrong = self._replies(prompts, np.ones(n, bool), rng)
        flip = (rng.random(n) < self.flips)[:, None]
        chosen = [np.where(flip, b, a) for a, b in zip(right, wrong, strict=True)]
        rejected = [np.where(flip, a, b) for a, b in zip(right, wrong, strict=True)]
        return PreferencePairs(prompts, *chosen, *rejected)

    def judge_preferences(self) -> PreferencePairs | None:
        return None

    def prompt_text(self, prompt: Int) -> str:
        return " ".join(self.prompt_vocab[i] for i in prompt)

    def response_text(self, response: Int, mask: Float) -> str:
        """The numbers before the end; a reply without an end shows that it has none."""
        words = [self.vocab[i] for i, m in zip(response, mask, strict=True) if m > 0]
        return " ".join(words[:-1] if words and words[-1] == EOS else [*words, "…"])
