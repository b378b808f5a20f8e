"""The default world: replies of several words, a known gold reward, and annotators who are noisy and like length.

The reward model sees a bag of words, so it cannot tell the fifth repetition of a good word from the first, nor an
on-topic word from an off-topic one; an optimiser that trusts it too far finds both out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..rankings import Rankings
from ..types import Demonstrations, Float, GoldKind, Int, PreferencePairs, Sampler
from .annotators import label_pairs, rank_replies
from .labels import LabelOptions, LabelSource
from .reward_choice import RewardModelName, RewardOptions, check_reward_model

TOPICS = ("garden", "music", "travel", "cooking")
REQUESTS = ("explain", "advise", "compare")
GOOD = {
    "garden": ("prune", "compost", "sunlight", "seedling", "mulch"),
    "music": ("rhythm", "melody", "chord", "tempo", "harmony"),
    "travel": ("itinerary", "passport", "ferry", "hostel", "map"),
    "cooking": ("simmer", "season", "knead", "roast", "whisk"),
}
BAD = ("whatever", "stupid", "wrong", "boring", "never", "hate", "useless", "shut")
FILLER = (
    "well",
    "so",
    "really",
    "just",
    "like",
    "basically",
    "very",
    "actually",
    "perhaps",
    "maybe",
    "quite",
)
EOS, TRAP = "<eos>", "amazing"


@dataclass(frozen=True)
class Sentences(RewardOptions, LabelOptions):
    """Knobs of the world beside `RewardOptions` and `LabelOptions`; every field can be set as
    ``--task sentences:field=value``.

    Parameters
    ----------
    pairs : int
        Preference pairs for the reward model and for direct alignment.
    demos : int
        Demonstrations for supervised fine-tuning.
    flips : float
        Share of labels turned at random, in [0, .5].
    temperature : float
        Of the annotators' Bradley-Terry choice, in units of gold, > 0.
    length_bias : float
        Log-odds an annotator adds for each word a reply is longer than the other.
    repeat_penalty : float
        Gold lost for each repetition of a word.
    trap : float
        Share of demonstrated words that are a word which annotators like (+1) and gold dislikes (-3).
    coverage : float
        Share of the good words of a topic that demonstrations use, in (0, 1].
    labels : {"human", "ai"}
        Whose labels the pairs have: those of the noisy annotators, or of an AI labeller (`LabelOptions`).
    rm : {"auto", "unigrams", "bigrams", "transformer"}
        What the reward model is: linear in a bag of words, or of words and pairs of neighbours, or a transformer that
        starts as the SFT policy; auto: a transformer where the policy is one, else unigrams.
    """

    pairs: int = 2000
    demos: int = 2000
    flips: float = 0.15
    temperature: float = 0.68
    length_bias: float = 0.1
    repeat_penalty: float = 0.5
    trap: float = 0.0
    coverage: float = 1.0
    labels: LabelSource = "human"
    rm: RewardModelName = "auto"

    name: ClassVar[str] = "sentences"
    gold: ClassVar[GoldKind] = "exact"
    enumerable: ClassVar[bool] = False
    policies: ClassVar[tuple[str, ...]] = ("transformer", "linear")
    max_length: ClassVar[int] = 12
    unknown: ClassVar[int | None] = None
    strengths: ClassVar[bool] = True
    ranks: ClassVar[bool] = True
    of_people: ClassVar[tuple[str, ...]] = ("temperature", "flips", "length_bias")
    sizes: ClassVar[tuple[int, int, int, int, int]] = (4, 3, 5, 8, 11)
    """Topics, requests, good words a topic, bad words, filler words."""

    def __post_init__(self) -> None:
        from ..options import require

        require(self.pairs >= 2, "pairs", self.pairs, "at least 2")
        require(self.demos >= 1, "demos", self.demos, "at least 1")
        require(0 <= self.flips <= 0.5, "flips", self.flips, "between 0 and 0.5")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(0 <= self.trap < 1, "trap", self.trap, "at least 0 and below 1")
        require(0 < self.coverage <= 1, "coverage", self.coverage, "above 0 and at most 1")
        check_reward_model(self.rm, self)
        self.check_labels()

    @cached_property
    def vocab(self) -> tuple[str, ...]:
        topics, _, good, bad, filler = self.sizes
        words = [word for topic in TOPICS[:topics] for word in GOOD[topic][:good]]
        return (*words, *BAD[:bad], *FILLER[:filler], *([TRAP] if self.trap else []), EOS)

    @cached_property
    def prompt_vocab(self) -> tuple[str, ...]:
        return (*REQUESTS[: self.sizes[1]], *TOPICS[: self.sizes[0]])

    @property
    def eos(self) -> int:
        return len(self.vocab) - 1

    def for_seed(self, rng: np.random.Generator) -> Sentences:
        return self

    def prompts(self, n: int, rng: np.random.Generator) -> Int:
        """(n, 2): a request and a topic."""
        topics, requests, *_ = self.sizes
        return np.stack([rng.integers(requests, size=n), requests + rng.integers(topics, size=n)], axis=1)

    evaluation_prompts = prompts

    @cached_property
    def _kinds(self) -> Int:
        """(V,) topic of each good word; -1 bad, -2 filler, -3 trap, -4 end of reply."""
        topics, _, good, bad, filler = self.sizes
        kinds = [topic for topic in range(topics) for _ in range(good)]
        kinds += [-1] * bad + [-2] * filler + [-3] * (self.trap > 0) + [-4]
        return np.array(kinds)

    def _topic(self, prompts: Int) -> Int:
        return prompts[:, -1] - self.sizes[1]

    def demonstrations(self, rng: np.random.Generator) -> Demonstrations:
        """Replies as people write them: some words to the point, much filler, now and then a bad one."""
        prompts = self.prompts(self.demos, rng)
        n, T = self.demos, self.max_length
        responses = np.zeros((n, T), np.int64)
        weights = np.stack([self._word_weights(topic) for topic in range(self.sizes[0])])
        cumulative = np.cumsum(weights, axis=1)[self._topic(prompts)]
        cumulative /= cumulative[:, -1:]
        lengths = 2 + rng.binomial(T - 2, 0.45, size=n)
        for t in range(T):
            words = (rng.random((n, 1)) >= cumulative).sum(axis=1)
            responses[:, t] = np.where(t < lengths, words, np.where(t == lengths, self.eos, 0))
        mask = (np.arange(T) <= lengths[:, None]).astype(np.float32)
        return Demonstrations(prompts, responses, mask)

    def _word_weights(self, topic: int) -> Float:
        kinds = self._kinds
        good = self.sizes[2]
        used = max(1, round(self.coverage * good))
        covered = np.concatenate([np.arange(good) < used] * self.sizes[0])
        weights = np.zeros(len(kinds))
        on, off = kinds == topic, (kinds >= 0) & (kinds != topic)
        covered = np.concatenate([covered, np.zeros(len(kinds) - len(covered), bool)])
        shares = {"on": 0.385, "off": 0.08, "bad": 0.2, "filler": 0.335}
        for where, share in (
            (on & covered, shares["on"]),
            (off & covered, shares["off"]),
            (kinds == -1, shares["bad"]),
            (kinds == -2, shares["filler"]),
            (kinds == -3, self.trap),
        ):
            if where.any():
                weights[where] = share / where.sum()
        return weights

    def gold_score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) +1 per distinct on-topic good word, -1 per bad word, -.5 per repetition, -.1 per filler word."""
        return self._score(prompts, responses, mask, trap=-3.0)

    def _score(self, prompts: Int, responses: Int, mask: Float, trap: float) -> Float:
        counts = np.zeros((len(responses), len(self.vocab)))
        rows = np.arange(len(responses))
        for t in range(responses.shape[1]):
            counts[rows, responses[:, t]] += mask[:, t]
        counts[:, self.eos] = 0
        kinds = self._kinds
        on_topic = kinds == self._topic(prompts)[:, None]
        score = ((counts > 0) & on_topic).sum(axis=1) - counts[:, kinds == -1].sum(axis=1)
        score = score - self.repeat_penalty * np.maximum(counts - 1, 0).sum(axis=1)
        score = score - 0.1 * counts[:, kinds == -2].sum(axis=1)
        return np.asarray(score + trap * counts[:, kinds == -3].sum(axis=1))

    def preferences(self, n: int | None, rng: np.random.Generator, reference: Sampler) -> PreferencePairs:
        """Two replies of the reference to each prompt, labelled by a noisy annotator or by the AI labeller."""
        prompts = self.prompts(self.affordable(self.pairs) if n is None else n, rng)
        if self.by_ai:
            return self.pairs_by_ai(prompts, reference, rng)
        appeal = self._appeal(prompts)
        return label_pairs(prompts, reference, appeal, rng, self.max_length, **self._annotator)

    def rankings(self, n: int, replies: int, rng: np.random.Generator, reference: Sampler) -> Rankings:
        """`n` rankings of as many replies of the reference, by the same annotators."""
        prompts = self.prompts(n, rng)
        appeal = self._appeal(prompts)
        return rank_replies(prompts, reference, appeal, rng, self.max_length, replies, **self._annotator)

    def _appeal(self, prompts: Int) -> Callable[[Int, Float], Float]:
        return lambda responses, mask: self._score(prompts, responses, mask, trap=1.0)

    @property
    def _annotator(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in Sentences.of_people}

    def judge_preferences(self) -> PreferencePairs | None:
        return None

    def prompt_text(self, prompt: Int) -> str:
        return " ".join(self.prompt_vocab[i] for i in prompt if i >= 0)

    def response_text(self, response: Int, mask: Float) -> str:
        return " ".join(self.vocab[i] for i, m in zip(response, mask, strict=True) if m > 0 and i != self.eos)


@dataclass(frozen=True)
class SentencesSmall(Sentences):
    """`sentences` cut down until every reply can be listed: 19,608 replies to each prompt."""

    name: ClassVar[str] = "sentences-small"
    enumerable: ClassVar[bool] = True
    max_length: ClassVar[int] = 5
    sizes: ClassVar[tuple[int, int, int, int, int]] = (2, 1, 2, 2, 1)
