"""An AI labeller: it prefers one of two replies by a constitution, as a language model asked for its choice would.

Lee et al. 2023 (RLAIF, arXiv:2309.00267): a model is shown two replies and gives the probability of its answers "1" and
"2"; which reply comes first sways it, so they ask in both orders and average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from .constitution import Constitution
from .revision import revised
from .text import words
from .types import Flags, Float, Int, Revision

Decoding: TypeAlias = Literal["sampled", "greedy"]


@dataclass(frozen=True)
class AILabeller:
    """Prefers the reply in position 1 with probability sigmoid((s_1 - s_2) / temperature + position_bias).

    Parameters
    ----------
    constitution : Constitution
        Gives the scores s.
    temperature : float
        In units of the constitution's score, > 0.
    position_bias : float
        Log-odds in favour of whatever comes first.
    debias : bool
        Ask in both orders and average the two probabilities: two calls a label.
    decoding : {"sampled", "greedy"}
        The label is drawn with that probability, or is the likelier one.
    """

    constitution: Constitution
    temperature: float
    position_bias: float
    debias: bool = False
    decoding: Decoding = "sampled"

    @property
    def calls(self) -> int:
        """Questions asked for one label."""
        return 2 if self.debias else 1

    def probability(self, margin: Float, shown_first: Flags) -> Float:
        """(N,) that it prefers reply a over b.

        Parameters
        ----------
        margin : (N,)
            s_a - s_b.
        shown_first : (N,)
            Whether a is in position 1; of no account with `debias`.
        """
        x = margin / self.temperature
        first, second = sigmoid(x + self.position_bias), sigmoid(x - self.position_bias)
        if self.debias:
            return np.asarray((first + second) / 2)
        return np.where(shown_first, first, second)

    def prefers(self, margin: Float, rng: np.random.Generator) -> Flags:
        """(N,) whether it says a; positions are drawn at random."""
        probability = self.probability(margin, rng.random(len(margin)) < 0.5)
        u = rng.random(len(margin))
        if self.decoding == "sampled":
            return np.asarray(u < probability)
        return np.where(probability == 0.5, u < 0.5, probability > 0.5)


@dataclass
class TokenLabeller:
    """A constitution for replies in a task's tokens: what algorithms ask (`rlhfbench.types.Labeller`).

    Each question about one reply is a call: what it scores, whether it violates a rule, how to mend it. `charge` is
    told how many there were and what one costs; a program's answers cost no FLOPs.
    """

    constitution: Constitution
    vocab: Sequence[str]
    prompt_vocab: Sequence[str]
    max_length: int
    eos: int | None
    unknown: int | None
    price: float
    charge: Callable[[int, float], None] | None = None
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        silent = {self.eos, self.unknown}
        self._index = {word: i for i, word in enumerate(self.vocab) if i not in silent}

    def _asked(self, calls: int) -> None:
        if self.charge is not None:
            self.charge(calls, self.price)

    def texts(self, prompts: Int, responses: Int, mask: Float) -> list[tuple[list[str], list[str]]]:
        """Words of each prompt and of each reply, its end left out."""
        vocab, eos = self.vocab, self.eos
        known: dict[tuple[int, ...], list[str]] = {}
        asked = []
        for prompt in map(tuple, prompts.tolist()):
            if prompt not in known:
                known[prompt] = words(" ".join(self.prompt_vocab[i] for i in prompt if i >= 0))
            asked.append(known[prompt])
        lengths = np.where(mask > 0, np.arange(1, mask.shape[1] + 1), 0).max(axis=1).tolist()
        replies = [
            [vocab[i] for i in row[:n] if i != eos]
            for row, n in zip(responses.tolist(), lengths, strict=True)
        ]
        return list(zip(asked, replies, strict=True))

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) the constitution's scores."""
        self._asked(len(prompts))
        return np.array([self.constitution.score(*texts) for texts in self.texts(prompts, responses, mask)])

    def violations(self, prompts: Int, responses: Int, mask: Float) -> Int:
        """(B,) how many rules each reply violates."""
        self._asked(len(prompts))
        found = [len(self.constitution.violated(*texts)) for texts in self.texts(prompts, responses, mask)]
        return np.array(found, np.int64)

    def revise(self, prompts: Int, responses: Int, mask: Float) -> Revision:
        """One round: a critique of every reply, and a revision of those that violate a rule."""
        violated = self.violations(prompts, responses, mask)
        responses, mask = responses.copy(), mask.copy()
        wrong = np.flatnonzero(violated)
        self._asked(len(wrong))
        texts = self.texts(prompts[wrong], responses[wrong], mask[wrong])
        for row, (prompt, reply) in zip(wrong, texts, strict=True):
            better = revised(
                self.constitution, prompt, reply, self._index, self.max_length, fixed_length=self.eos is None
            )
            if better != reply:
                responses[row], mask[row] = self._tokens(better, mask.dtype)
        return Revision(responses, mask, violated)

    def _tokens(self, reply: Sequence[str], dtype: np.dtype[np.floating]) -> tuple[Int, Float]:
        """(T,) tokens with their end, where it fits, and (T,) mask; what has no index is the unknown word."""
        tokens, mask = np.zeros(self.max_length, np.int64), np.zeros(self.max_length, dtype)
        ids = [self._index.get(word, self.unknown or 0) for word in reply]
        if self.eos is not None and len(ids) < self.max_length:
            ids.append(self.eos)
        tokens[: len(ids)] = ids
        mask[: len(ids)] = 1.0
        if self.unknown is not None:
            mask[tokens == self.unknown] = 0.0
        return tokens, mask


def sigmoid(x: Float) -> Float:
    """1 / (1 + exp(-x)), without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)
