"""Problems with one right answer (`--data FILE --task problems`): words in, the digits of a number out.

Gold is exact: 1 where the reply is the answer digit for digit. The file is read once per process; each seed splits
it anew.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..options import require
from ..problems import read_problems
from ..text import sanitize, words
from ..tokenizer import EOS, UNKNOWN
from ..types import Demonstrations, Float, GoldKind, Int, PreferencePairs, Sampler
from .pairs import deal
from .reward_choice import RewardOptions, VerifiedReward, check_reward_model

SHARES = {"sft": 0.4, "rl": 0.4, "evaluation": 0.2}
"""What each part gets of the problems; RL asks those of the first part, too."""
FEWEST = 20
ATTEMPTS = 100
"""Other problems that are looked at for one with another answer."""
DIGITS = (*"0123456789", ".", "-", EOS)


@dataclass(frozen=True)
class Encoded:
    """A file as tokens: `prompts` (N, P), the answers' `responses` and `mask` (N, T), and the answers as text."""

    vocab: tuple[str, ...]
    prompts: Int
    responses: Int
    mask: Float
    answers: list[str]
    facts: dict[str, Any]

    @cached_property
    def number_of(self) -> dict[bytes, int]:
        """The problem that a prompt's tokens belong to."""
        return {prompt.tobytes(): number for number, prompt in enumerate(self.prompts)}


@dataclass(frozen=True)
class ProblemsTask(RewardOptions):
    """A file of problems.

    Parameters
    ----------
    path : str
        JSON lines, see `rlhfbench.problems`.
    vocabulary : int
        Words of prompts that are known: the most frequent ones. Numbers are read digit by digit and always known.
    prompt_words : int
        Last words and digits of the prompt that the policy sees.
    rm : {"verifier", "auto", "unigrams", "bigrams", "transformer"}
        The reward: whether the answer is right, or a model trained on pairs of the answer and that of another problem.
    strict : bool
        Refuse a file with problems that cannot be used.
    """

    path: str
    vocabulary: int = 1024
    prompt_words: int = 80
    rm: VerifiedReward = "verifier"
    strict: bool = False
    _split: dict[str, Int] | None = field(default=None, init=False, repr=False, compare=False)

    name: ClassVar[str] = "problems"
    vocab: ClassVar[tuple[str, ...]] = DIGITS
    eos: ClassVar[int | None] = len(DIGITS) - 1
    unknown: ClassVar[int | None] = None
    gold: ClassVar[GoldKind] = "verifier"
    own_words: ClassVar[float] = 0.0
    enumerable: ClassVar[bool] = False
    policies: ClassVar[tuple[str, ...]] = ("transformer", "linear")

    def __post_init__(self) -> None:
        require(self.vocabulary >= 2, "vocabulary", self.vocabulary, "at least 2")
        require(self.prompt_words >= 1, "prompt_words", self.prompt_words, "at least 1")
        check_reward_model(self.rm, self)
        assert self._encoded is not None  # bad files are refused here, before anything has been spent

    @cached_property
    def _encoded(self) -> Encoded:
        try:
            path = Path(self.path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        except (OSError, ValueError):
            digest = ""  # read_problems says what is wrong
        return _encode(self.path, digest, self.strict, self.vocabulary, self.prompt_words)

    @property
    def prompt_vocab(self) -> tuple[str, ...]:
        return self._encoded.vocab

    @property
    def max_length(self) -> int:
        return int(self._encoded.responses.shape[1])

    def for_seed(self, rng: np.random.Generator) -> ProblemsTask:
        """This file, split into parts for supervised fine-tuning, RL and evaluation."""
        part_of = deal(np.arange(len(self._encoded.prompts)), list(SHARES.values()), rng)
        task = copy.copy(self)
        object.__setattr__(task, "_split", {p: np.flatnonzero(part_of == i) for i, p in enumerate(SHARES)})
        return task

    def rows(self, *parts: str) -> Int:
        """Numbers of the problems in these parts, in file order."""
        if self._split is None:
            raise RuntimeError("this task has not been split: call for_seed first")
        return np.asarray(np.sort(np.concatenate([self._split[part] for part in parts])))

    def prompts(self, n: int, rng: np.random.Generator) -> Int:
        """(n, P) drawn from the problems that are not for evaluation."""
        return np.asarray(self._encoded.prompts[rng.choice(self.rows("sft", "rl"), size=n)])

    def evaluation_prompts(self, n: int, rng: np.random.Generator) -> Int:
        """(n, P), each problem of the evaluation part equally often, but for a rest."""
        return np.asarray(self._encoded.prompts[np.resize(rng.permutation(self.rows("evaluation")), n)])

    def demonstrations(self, rng: np.random.Generator) -> Demonstrations:
        """The answers of the part for supervised fine-tuning."""
        rows, encoded = self.rows("sft"), self._encoded
        return Demonstrations(encoded.prompts[rows], encoded.responses[rows], encoded.mask[rows])

    def preferences(self, n: int | None, rng: np.random.Generator, reference: Sampler) -> PreferencePairs:
        """The answer over another problem's, for at most `n` problems not for evaluation; `reference` is not asked."""
        encoded, rows = self._encoded, rng.permutation(self.rows("sft", "rl"))
        answers, other = np.array(encoded.answers), rows.copy()
        for shift in range(1, min(len(rows), ATTEMPTS)):
            same = answers[other] == answers[rows]
            other[same] = np.roll(rows, shift)[same]
        rows, other = (found[answers[other] != answers[rows]][:n] for found in (rows, other))
        return PreferencePairs(
            encoded.prompts[rows],
            *(encoded.responses[rows], encoded.mask[rows]),
            *(encoded.responses[other], encoded.mask[other]),
        )

    def judge_preferences(self) -> PreferencePairs | None:
        return None

    def gold_score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) 1 where the reply is the answer digit for digit and ends after it, else 0."""
        encoded = self._encoded
        rows = [encoded.number_of[np.ascontiguousarray(prompt).tobytes()] for prompt in prompts]
        same = (responses == encoded.responses[rows]) | (encoded.mask[rows] == 0)
        return np.asarray((same & ((mask > 0) == (encoded.mask[rows] > 0))).all(axis=1), float)

    def answer(self, prompt: Int) -> str:
        """The answer as the file spells it, for a verifier of the user's."""
        return self._encoded.answers[self._encoded.number_of[np.ascontiguousarray(prompt).tobytes()]]

    def facts(self) -> dict[str, Any]:
        """What a reader of the results has to know: losses, and problems per part once it is split."""
        facts = {**self._encoded.facts}
        if self._split is not None:
            facts["problems_per_part"] = {part: len(rows) for part, rows in self._split.items()}
        return facts

    def prompt_text(self, prompt: Int) -> str:
        return sanitize(" ".join(self.prompt_vocab[token] for token in prompt[prompt >= 0]))

    def response_text(self, response: Int, mask: Float) -> str:
        """The digits before the end."""
        return "".join(self.vocab[i] for i, m in zip(response, mask, strict=True) if m > 0 and i != self.eos)


def parts_of(prompt: str) -> Iterator[str]:
    """Words of a prompt, numbers digit by digit."""
    for word in words(prompt):
        if word.isdecimal():
            yield from word
        else:
            yield word


@lru_cache(maxsize=4)
def _encode(path: str, digest: str, strict: bool, vocabulary: int, prompt_words: int) -> Encoded:
    """Read and tokenise; `digest`, of the file's bytes, is there for the cache to see when the file has changed."""
    file = read_problems(path, strict=strict)
    if len(file.problems) < FEWEST:
        raise InputError(f"{path}: {len(file.problems)} usable problems; at least {FEWEST} are needed")
    if len({problem.answer for problem in file.problems}) < 2:
        raise InputError(f"{path}: all problems have one answer, at least two are needed")
    whole = [list(parts_of(problem.prompt)) for problem in file.problems]
    asked = [parts[-prompt_words:] for parts in whole]
    counts = Counter(word for parts in asked for word in parts if word not in DIGITS)
    known = [UNKNOWN, *DIGITS[:-1], *(word for word, _ in counts.most_common(vocabulary))]
    index = {word: i for i, word in enumerate(known)}
    prompts = np.full((len(asked), min(prompt_words, max(map(len, asked)))), -1, np.int64)
    for row, parts in zip(prompts, asked, strict=True):
        row[len(row) - len(parts) :] = [index.get(word, 0) for word in parts]
    _, first = np.unique(prompts, axis=0, return_index=True)  # one answer for what the policy sees
    kept = np.sort(first)
    answers = [file.problems[i].answer for i in kept]
    responses = np.zeros((len(kept), max(map(len, answers)) + 1), np.int64)
    for row, answer in zip(responses, answers, strict=True):
        row[: len(answer) + 1] = [DIGITS.index(char) for char in answer] + [len(DIGITS) - 1]
    lengths = np.array([len(answer) + 1 for answer in answers])
    mask = (np.arange(responses.shape[1]) < lengths[:, None]).astype(np.float32)
    words_asked = [word for parts in asked for word in parts]
    facts = {
        "file": path,
        "sha256": file.sha256,
        "problems": len(kept),
        "skipped_lines": file.skipped,
        "alike": len(file.problems) - len(kept),
        "unknown_share": sum(word not in index for word in words_asked) / max(len(words_asked), 1),
        "prompt_cut_share": sum(len(parts) > prompt_words for parts in whole) / len(whole),
        "unit": "digit",
    }
    return Encoded(tuple(map(sanitize, known)), prompts[kept], responses, mask, answers, facts)
