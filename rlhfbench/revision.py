"""Critique and revision by a constitution: find a violated rule, change the words that break it.

The supervised phase of constitutional AI (Bai et al. 2022, arXiv:2212.08073, section 3) has a language model criticise
and rewrite its own reply, principle by principle. Here a program does both. One round mends one rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from .constitution import WANTED, Constitution, Phrase, Rule, is_word, places

Words = Sequence[str]


def revised(
    constitution: Constitution,
    prompt: Words,
    reply: Words,
    known: Collection[str],
    most: int,
    fixed_length: bool = False,
) -> list[str]:
    """The reply after one round: the first violated rule that can be mended no longer is.

    A revision is taken only if it breaks no rule that was kept and raises the score; where none does, the reply stays
    as it was. So no round lowers the score, and a reply that violates k rules, each of which can be mended, violates
    none after k rounds.

    Parameters
    ----------
    constitution : Constitution
    prompt, reply : sequence of str
        Words.
    known : collection of str
        Words that may be written.
    most : int
        Words that a reply may have.
    fixed_length : bool
        Words may be replaced, but neither added nor taken away.
    """
    before = {rule.name for rule in constitution.violated(prompt, reply)}
    score = constitution.score(prompt, reply)
    for rule in constitution.rules:
        if rule.name not in before:
            continue
        for candidate in repairs(rule, constitution, prompt, reply, known):
            if len(candidate) > most or (fixed_length and len(candidate) != len(reply)):
                continue
            after = {r.name for r in constitution.violated(prompt, candidate)}
            if after <= before - {rule.name} and constitution.score(prompt, candidate) > score:
                return candidate
    return list(reply)


def repairs(
    rule: Rule, constitution: Constitution, prompt: Words, reply: Words, known: Collection[str]
) -> Iterator[list[str]]:
    """Ways to mend one violated rule, the one that changes least first; not all of them need to succeed."""
    if rule.kind in WANTED:
        yield from with_one_of(rule.asked_for(prompt), reply, known)
    elif rule.kind == "length":
        yield from of_right_length(rule, constitution, prompt, reply, known)
    else:
        wrong = offending(rule, reply)
        yield [word for i, word in enumerate(reply) if i not in wrong]
        yield replaced(reply, wrong, better_words(constitution, prompt, reply, known))


def offending(rule: Rule, reply: Words) -> set[int]:
    """Positions of the words that a rule of kind `avoid` or `repetition` does not want."""
    if rule.kind == "avoid":
        return {
            start + i
            for phrase in rule.phrases
            for start in places(phrase, reply)
            for i in range(len(phrase))
        }
    counted = [i for i, word in enumerate(reply) if is_word(word) and word not in rule.ignore]
    first: dict[str, int] = {}
    for i in counted:
        first.setdefault(reply[i], i)
    return {i for i in counted if i != first[reply[i]]}


def better_words(
    constitution: Constitution, prompt: Words, reply: Words, known: Collection[str]
) -> list[str]:
    """Words that some rule asks for, that may be written, and that are not in the reply yet."""
    asked = (phrase for rule in constitution.rules for phrase in rule.asked_for(prompt))
    single = dict.fromkeys(phrase[0] for phrase in asked if len(phrase) == 1)
    return [word for word in single if word in known and word not in reply]


def replaced(reply: Words, wrong: Collection[int], better: Words) -> list[str]:
    """The reply with better words at the wrong positions, as far as there are any, and none at the others."""
    fresh = iter(better)
    exchanged = [next(fresh, None) if i in wrong else word for i, word in enumerate(reply)]
    return [word for word in exchanged if word is not None]


def with_one_of(asked: Sequence[Phrase], reply: Words, known: Collection[str]) -> Iterator[list[str]]:
    """The reply with one of the phrases at its end, or in the place of one of its words."""
    usable = [phrase for phrase in asked if all(word in known for word in phrase)]
    for phrase in usable:
        yield [*reply, *phrase]
    for phrase in usable:
        for i in reversed(range(len(reply))):
            yield [*reply[:i], *phrase, *reply[i + 1 :]]


def of_right_length(
    rule: Rule, constitution: Constitution, prompt: Words, reply: Words, known: Collection[str]
) -> Iterator[list[str]]:
    """The reply without its least useful words, or with more words that some rule asks for."""
    made = list(reply)
    while rule.most is not None and sum(map(is_word, made)) > rule.most:
        # Of equally good ones the last goes, as if somebody had stopped earlier.
        gone = max(
            (i for i, word in enumerate(made) if is_word(word)),
            key=lambda i: (constitution.score(prompt, [*made[:i], *made[i + 1 :]]), i),
        )
        del made[gone]
    missing = 0 if rule.least is None else rule.least - sum(map(is_word, made))
    if missing > 0:
        made += better_words(constitution, prompt, reply, known)[:missing]
    yield made
