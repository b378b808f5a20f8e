"""The lesson's toy: three prompts, four good and four bad words, replies of exactly two words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import numpy as np

from ..errors import InputError
from ..options import require
from ..types import Demonstrations, Float, GoldKind, Int, PreferencePairs, Sampler
from .annotators import label_pairs, quarters
from .reward_choice import RewardOptions, check_reward_model

ATTEMPTS = 100
"""Batches of candidates that are looked through for pairs that differ in gold."""


@dataclass(frozen=True)
class Words(RewardOptions):
    """Knobs of the toy beside `RewardOptions`; every field can be set as ``--task words:field=value``.

    Parameters
    ----------
    pairs, demos : int
        Preference pairs and demonstrations.
    labels : {"lesson", "bt"}
        `lesson`: the reply with more good words wins, always. `bt`: a Bradley-Terry choice.
    """

    pairs: int = 500
    demos: int = 500
    labels: Literal["lesson", "bt"] = "lesson"

    name: ClassVar[str] = "words"
    vocab: ClassVar[tuple[str, ...]] = (
        *("clear", "specific", "kind", "thorough"),
        *("vague", "rude", "wrong", "short"),
    )
    prompt_vocab: ClassVar[tuple[str, ...]] = ("help me", "answer me", "explain this")
    max_length: ClassVar[int] = 2
    eos: ClassVar[int | None] = None
    unknown: ClassVar[int | None] = None
    gold: ClassVar[GoldKind] = "exact"
    enumerable: ClassVar[bool] = True
    policies: ClassVar[tuple[str, ...]] = ("tabular", "linear", "transformer")
    rm: ClassVar[str] = "unigrams"
    strengths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.pairs >= 2, "pairs", self.pairs, "at least 2")
        require(self.demos >= 1, "demos", self.demos, "at least 1")
        check_reward_model(self.rm, self)

    def for_seed(self, rng: np.random.Generator) -> Words:
        return self

    def prompts(self, n: int, rng: np.random.Generator) -> Int:
        """(n, 1) one of the three prompts."""
        return rng.integers(len(self.prompt_vocab), size=(n, 1))

    evaluation_prompts = prompts

    def demonstrations(self, rng: np.random.Generator) -> Demonstrations:
        """Two words, each good three times in five."""
        good = rng.random((self.demos, 2)) < 0.6
        responses = rng.integers(4, size=(self.demos, 2)) + np.where(good, 0, 4)
        return Demonstrations(self.prompts(self.demos, rng), responses, np.ones((self.demos, 2), np.float32))

    def gold_score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) good words minus bad words."""
        return np.asarray((np.where(responses < 4, 1.0, -1.0) * mask).sum(axis=1))

    def preferences(self, n: int | None, rng: np.random.Generator, reference: Sampler) -> PreferencePairs:
        """Pairs of replies of the reference; under `lesson` labels those that differ in gold."""
        n = self.pairs if n is None else n
        if self.labels == "bt":
            return self._label(self.prompts(n, rng), rng, reference, temperature=1.0)
        found: list[PreferencePairs] = []
        for _ in range(ATTEMPTS):
            candidates = self._label(self.prompts(4 * n + 64, rng), rng, reference, temperature=0.0)
            found.append(candidates.take(np.flatnonzero(self._margins(candidates) > 0)))
            if sum(map(len, found)) >= n:
                return self._with_strengths(concatenated(found).take(np.arange(n)))
        raise InputError(
            f"pairs: replies of the reference differ in gold too seldom to make {n} pairs; more demos help"
        )

    def _margins(self, pairs: PreferencePairs) -> Float:
        chosen = self.gold_score(pairs.prompts, pairs.chosen, pairs.chosen_mask)
        return np.asarray(chosen - self.gold_score(pairs.prompts, pairs.rejected, pairs.rejected_mask))

    def _with_strengths(self, pairs: PreferencePairs) -> PreferencePairs:
        """Graded among these pairs, instead of each among the batch that it was found in."""
        return replace(pairs, strength=quarters(self._margins(pairs)) / 3)

    def _label(
        self, prompts: Int, rng: np.random.Generator, reference: Sampler, temperature: float
    ) -> PreferencePairs:
        def appeal(responses: Int, mask: Float) -> Float:
            return self.gold_score(prompts, responses, mask)

        options = {"temperature": temperature, "flips": 0.0, "length_bias": 0.0}
        return label_pairs(prompts, reference, appeal, rng, self.max_length, **options)

    def judge_preferences(self) -> PreferencePairs | None:
        return None

    def prompt_text(self, prompt: Int) -> str:
        return self.prompt_vocab[int(prompt[-1])]

    def response_text(self, response: Int, mask: Float) -> str:
        return " ".join(self.vocab[i] for i in response)


def concatenated(parts: Sequence[PreferencePairs]) -> PreferencePairs:
    """All pairs of `parts`, in order, without strengths."""
    names = [f.name for f in fields(PreferencePairs) if f.name != "strength"]
    return PreferencePairs(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))
