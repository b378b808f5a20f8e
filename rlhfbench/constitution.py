"""A constitution: rules with weights that anybody can read and edit, each with a test that a program can make.

Bai et al. 2022 (arXiv:2212.08073) put what they want of a model into sentences and have a language model judge by
them. Here each principle comes with a countable test of a reply's words, so that whoever reads the file knows what will
be rewarded. Words are those of `rlhfbench.text.words`: lower-case, punctuation marks apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

from .text import words

RuleKind: TypeAlias = Literal["use", "topic", "echo", "avoid", "repetition", "length"]
KINDS: tuple[RuleKind, ...] = get_args(RuleKind)
WANTED: frozenset[str] = frozenset({"use", "topic", "echo"})
"""Kinds whose amount earns the weight; that of the others costs it."""
Phrase: TypeAlias = tuple[str, ...]
"""One word, or several that stand in a row."""


@dataclass(frozen=True)
class Rule:
    """One principle and its test.

    Parameters
    ----------
    name, principle : str
        What to call it; the sentence that it stands for.
    weight : float
        What one unit of its amount earns or costs, > 0.
    kind : {"use", "topic", "echo", "avoid", "repetition", "length"}
        What is counted. `use`: how many of `phrases` occur; `topic`: how many of those that `topics` lists for a word
        of the prompt; `echo`: how many words of the prompt, but for `ignore`, come up again; `avoid`: occurrences of
        `phrases`; `repetition`: occurrences of words, but for `ignore`, after the first; `length`: words below `least`
        or above `most`. The first three are wanted, the others cost.
    phrases : tuple of phrases
    topics : tuple of (word, phrases)
    ignore : frozenset of str
    least, most : int, optional
    """

    name: str
    principle: str
    weight: float
    kind: RuleKind
    phrases: tuple[Phrase, ...] = ()
    topics: tuple[tuple[str, tuple[Phrase, ...]], ...] = ()
    ignore: frozenset[str] = frozenset()
    least: int | None = None
    most: int | None = None

    @cached_property
    def _by_topic(self) -> Mapping[str, tuple[Phrase, ...]]:
        return dict(self.topics)

    @cached_property
    def _asked(self) -> dict[tuple[str, ...], tuple[Phrase, ...]]:
        """What was asked for by the prompts so far: each has many replies."""
        return {}

    def asked_for(self, prompt: Sequence[str]) -> tuple[Phrase, ...]:
        """What a wanted kind hopes for in replies to this prompt; empty for the other kinds."""
        if self.kind not in WANTED:
            return ()
        key = tuple(prompt)
        if key not in self._asked:
            self._asked[key] = self._asks(key)
        return self._asked[key]

    def _asks(self, prompt: Sequence[str]) -> tuple[Phrase, ...]:
        if self.kind == "use":
            return self.phrases
        if self.kind == "topic":
            listed = (self._by_topic.get(word, ()) for word in prompt)
            return tuple(dict.fromkeys(phrase for phrases in listed for phrase in phrases))
        asked = dict.fromkeys(word for word in prompt if is_word(word) and word not in self.ignore)
        return tuple((word,) for word in asked)

    def amount(self, prompt: Sequence[str], reply: Sequence[str]) -> int:
        """How often a reply does what the rule is about."""
        if self.kind in WANTED:
            there = set(reply)
            found = [phrase for phrase in self.asked_for(prompt) if there.issuperset(phrase)]
            return sum(len(phrase) == 1 or occurrences(phrase, reply) > 0 for phrase in found)
        if self.kind == "avoid":
            there = set(reply)
            return sum(occurrences(phrase, reply) for phrase in self.phrases if phrase[0] in there)
        if self.kind == "repetition":
            if len(set(reply)) == len(reply):
                return 0
            counts = Counter(reply).items()
            return sum(n - 1 for word, n in counts if n > 1 and is_word(word) and word not in self.ignore)
        n = sum(map(is_word, reply))
        over = 0 if self.most is None else max(n - self.most, 0)
        return over + (0 if self.least is None else max(self.least - n, 0))

    def merit(self, prompt: Sequence[str], reply: Sequence[str]) -> float:
        """What the rule gives the reply: weight times amount, below 0 where the amount is not wanted."""
        sign = 1.0 if self.kind in WANTED else -1.0
        return sign * self.weight * self.amount(prompt, reply)

    def violated(self, prompt: Sequence[str], reply: Sequence[str]) -> bool:
        """Whether the reply does what is not wanted, or nothing of what is."""
        if self.kind in WANTED:
            return bool(self.asked_for(prompt)) and self.amount(prompt, reply) == 0
        return self.amount(prompt, reply) > 0


@dataclass(frozen=True)
class Constitution:
    """Rules in the order of their file; `digest` is of the file's bytes."""

    name: str
    about: str
    rules: tuple[Rule, ...]
    digest: str

    def score(self, prompt: Sequence[str], reply: Sequence[str]) -> float:
        """The sum over rules of what each gives the reply."""
        return sum(rule.merit(prompt, reply) for rule in self.rules)

    def violated(self, prompt: Sequence[str], reply: Sequence[str]) -> list[Rule]:
        """The critique: which rules the reply violates, in the file's order."""
        return [rule for rule in self.rules if rule.violated(prompt, reply)]

    def score_texts(self, prompt: str, reply: str) -> float:
        """The same of plain text."""
        return self.score(words(prompt), words(reply))


def is_word(word: str) -> bool:
    """Whether it is no punctuation mark."""
    return word[0].isalnum() or word[0] == "_"


def occurrences(phrase: Phrase, reply: Sequence[str]) -> int:
    """How often the words of `phrase` stand in a row.

    >>> occurrences(("as", "an"), "as an as an ai".split())
    2
    """
    if len(phrase) == 1:
        return reply.count(phrase[0])
    return len(places(phrase, reply))


def places(phrase: Phrase, reply: Sequence[str]) -> list[int]:
    """Where each occurrence begins."""
    found, i = [], -1
    for _ in range(reply.count(phrase[0])):
        i = reply.index(phrase[0], i + 1)
        if tuple(reply[i : i + len(phrase)]) == phrase:
            found.append(i)
    return found
