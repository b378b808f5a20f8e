"""The user's own preference pairs (`--data FILE`) as a world of words, or of a tokenizer's pieces.

No gold reward is known here, so a judge is trained on pairs that neither the policy nor the reward model sees.
The file is read and turned into tokens once per process; each seed only splits it anew.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ..data import TextPair, read_pairs
from ..errors import InputError
from ..labeller import TokenLabeller
from ..text import sanitize
from ..tokenizer import UNKNOWN, Choice, Splitter, choose
from ..types import Demonstrations, Float, GoldKind, Int, PreferencePairs, Sampler
from .annotators import turned
from .labels import LabelOptions, LabelSource, margins_of_file
from .reward_choice import RewardModelName, RewardOptions, check_reward_model

SHARES = {"sft": 0.3, "rm": 0.35, "judge": 0.25, "evaluation": 0.1}
"""What each part gets of the pairs. The reward model's pairs are also those of direct alignment."""
FEWEST_PAIRS = 20
FEWEST_PROMPTS = 40
"""From so many distinct prompts on, no prompt stands in two parts."""

_MARKS = re.compile(r"\n\n(?:Human|Assistant):")


@dataclass(frozen=True)
class Encoded:
    """A file as tokens: its pairs in file order, the number of each pair's prompt, and what was lost on the way.

    `parts` are what the splitter knows the tokens by, `vocab` the same made harmless for a terminal.
    """

    splitter: Splitter
    parts: tuple[str, ...]
    vocab: tuple[str, ...]
    pairs: PreferencePairs
    prompt_of: Int
    facts: dict[str, Any]
    unsaid: int | None
    """Line of the first pair without a strength, if there is one."""


@dataclass(frozen=True)
class PairsTask(RewardOptions, LabelOptions):
    """A file of preference pairs.

    Parameters
    ----------
    path : str
        JSON lines, see `rlhfbench.data`.
    vocabulary : int
        Words or pieces that are known: the most frequent ones; the unknown one and the end come on top.
    length : int
        Tokens of a reply, its end included where it fits; longer ones are cut.
    prompt_words : int
        Last words or pieces of the prompt that the policy sees.
    tokenizer : str
        ``words``; ``bpe``, a byte-level BPE of `vocabulary` pieces trained on the file; or a ``tokenizer.json``.
    eos_token, pad_token : str, optional
        Tokens of the ``tokenizer.json`` for end and padding, where they have unusual names.
    labels : {"human", "ai"}
        Whose labels the pairs for reward model and direct alignment have: the file's own, or those of an AI labeller
        that reads whole replies (`LabelOptions`). The judge and the demonstrations keep the file's.
    rm : {"auto", "unigrams", "bigrams", "transformer"}
        What the reward model is: linear in a bag of words, or of words and pairs of neighbours, or a transformer that
        starts as the SFT policy; auto: a transformer where the policy is one, else unigrams. The judge is a bag
        of words and pairs of neighbours.
    strict : bool
        Refuse a file with pairs that cannot be used.
    """

    path: str
    vocabulary: int = 1024
    length: int = 24
    prompt_words: int = 16
    tokenizer: str = "words"
    eos_token: str | None = None
    pad_token: str | None = None
    labels: LabelSource = "human"
    rm: RewardModelName = "auto"
    strict: bool = False
    _split: dict[str, Int] | None = field(default=None, init=False, repr=False, compare=False)

    name: ClassVar[str] = "pairs"
    unknown: ClassVar[int | None] = 0
    gold: ClassVar[GoldKind] = "judge"
    enumerable: ClassVar[bool] = False
    policies: ClassVar[tuple[str, ...]] = ("linear", "transformer")
    strengths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        from ..options import require

        require(self.vocabulary >= 2, "vocabulary", self.vocabulary, "at least 2")
        require(self.length >= 2, "length", self.length, "at least 2")
        require(self.prompt_words >= 1, "prompt_words", self.prompt_words, "at least 1")
        check_reward_model(self.rm, self)
        self.check_labels()
        unsaid = self._encoded.unsaid  # bad files are refused here, before anything has been spent
        if self.rm_margin and unsaid is not None:
            raise InputError(
                f"{self.path}: line {unsaid}: margin: missing; with rm_margin={self.rm_margin:g} every pair needs one, "
                "or score_chosen and score_rejected"
            )

    @property
    def _digest(self) -> str:
        try:
            path = Path(self.path)
            return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        except (OSError, ValueError):
            return ""  # read_pairs says what is wrong

    @cached_property
    def _encoded(self) -> Encoded:
        sizes = (self.vocabulary, self.length, self.prompt_words)
        return _encode(self.path, self._digest, self.strict, self._choice, *sizes)

    @cached_property
    def _choice(self) -> Choice:
        return choose(self.tokenizer, self.eos_token, self.pad_token)

    def inputs(self) -> dict[str, Any]:
        """The options that determine a run; where files lie does not."""
        own = ("vocabulary", "length", "prompt_words", "rm", "strict", "labels")
        names = (*own, *(f.name for f in fields(RewardOptions)))
        chosen = {name: getattr(self, name) for name in names}
        return chosen | self._choice.inputs() | self.label_inputs()

    @property
    def own_constitution(self) -> str:
        return "text"

    @property
    def vocab(self) -> tuple[str, ...]:
        return self._encoded.vocab

    prompt_vocab = vocab

    @property
    def eos(self) -> int | None:
        return len(self.vocab) - 1

    @property
    def max_length(self) -> int:
        return self.length

    @property
    def split_by(self) -> Literal["prompt", "pair"]:
        """Whether the parts share no prompt, or merely no pair."""
        return "prompt" if self._encoded.prompt_of.max() + 1 >= FEWEST_PROMPTS else "pair"

    def for_seed(self, rng: np.random.Generator) -> PairsTask:
        """This file, split into parts for supervised fine-tuning, reward model, judge and evaluation."""
        prompt_of = self._encoded.prompt_of
        groups = prompt_of if self.split_by == "prompt" else np.arange(len(prompt_of))
        part_of = deal(groups, list(SHARES.values()), rng)
        task = copy.copy(self)
        object.__setattr__(task, "_split", {p: np.flatnonzero(part_of == i) for i, p in enumerate(SHARES)})
        return task

    def rows(self, *parts: str) -> Int:
        """Numbers of the pairs in these parts, in file order."""
        if self._split is None:
            raise RuntimeError("this task has not been split: call for_seed first")
        return np.asarray(np.sort(np.concatenate([self._split[part] for part in parts])))

    def prompts(self, n: int, rng: np.random.Generator) -> Int:
        """(n, P) drawn from the pairs of policy and reward model."""
        rows: Int = rng.choice(self.rows("sft", "rm"), size=n)
        return np.asarray(self._encoded.pairs.prompts[rows])

    def evaluation_prompts(self, n: int, rng: np.random.Generator) -> Int:
        """(n, P), each distinct prompt of the evaluation part equally often, but for a rest."""
        rows = self.rows("evaluation")
        _, first = np.unique(self._encoded.prompt_of[rows], return_index=True)
        order = rows[rng.permutation(first)]
        return np.asarray(self._encoded.pairs.prompts[np.resize(order, n)])

    def demonstrations(self, rng: np.random.Generator) -> Demonstrations:
        """Chosen replies of the part for supervised fine-tuning."""
        pairs = self._encoded.pairs.take(self.rows("sft"))
        return Demonstrations(pairs.prompts, pairs.chosen, pairs.chosen_mask)

    def preferences(self, n: int | None, rng: np.random.Generator, reference: Sampler) -> PreferencePairs:
        """The reward model's part, or at most `n` pairs of it; `reference` is not asked."""
        rows = self.rows("rm")
        n = self.affordable(len(rows)) if n is None else n
        if n < len(rows):
            rows = np.sort(rng.permutation(rows)[:n])
        pairs = self._encoded.pairs.take(rows)
        if not self.by_ai:
            return pairs
        return turned(pairs, ~self.ai.prefers(self._margins[rows], rng))

    @property
    def _margins(self) -> Float:
        """(N,) by how much the constitution prefers the chosen reply of each pair of the file."""
        return margins_of_file(self.path, self._encoded.facts["sha256"], self.strict, self.constitution)

    def told_apart(self, pairs: PreferencePairs) -> bool:
        """Whether a rule makes a difference in any pair of the reward model's part, read as a whole."""
        return bool(self._margins[self.rows("rm")].any())

    def labeller(self, charge: Callable[[int, float], None] | None = None) -> TokenLabeller:
        """What algorithms ask about replies; a constitution is about words, and pieces are none."""
        if self.tokenizer != "words":
            raise InputError(f"tokenizer: {self.tokenizer} came, words is needed to judge and revise replies")
        return super().labeller(charge)

    def judge_preferences(self) -> PreferencePairs | None:
        return self._encoded.pairs.take(self.rows("judge"))

    def gold_score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        raise NotImplementedError("nobody knows the gold reward of a file of pairs; a judge stands in for it")

    def facts(self) -> dict[str, Any]:
        """What a reader of the results has to know: losses, and pairs per part once it is split."""
        facts = {**self._encoded.facts, "split_by": self.split_by}
        if self._split is not None:
            facts["pairs_per_part"] = {part: len(rows) for part, rows in self._split.items()}
        return facts

    def prompt_text(self, prompt: Int) -> str:
        return self._text(prompt[prompt >= 0])

    def response_text(self, response: Int, mask: Float) -> str:
        """Words up to the last one that counts; unknown words in between are shown as such."""
        last = int(np.flatnonzero(mask > 0)[-1]) + 1 if (mask > 0).any() else 0
        return self._text(response[:last][response[:last] != self.eos])

    def _text(self, tokens: Int) -> str:
        encoded = self._encoded
        return sanitize(encoded.splitter.join([encoded.parts[token] for token in tokens]))


def deal(groups: Int, shares: list[float], rng: np.random.Generator) -> Int:
    """(N,) part of each row: whole groups, in random order, each to the part that lacks most of its share."""
    names, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    part_of = np.zeros(len(names), np.int64)
    filled = [0.0] * len(shares)
    for group in rng.permutation(len(names)):
        part = min(range(len(shares)), key=lambda i: filled[i])
        part_of[group] = part
        filled[part] += sizes[group] / shares[part]
    return part_of[inverse]


@lru_cache(maxsize=4)
def _encode(
    path: str, digest: str, strict: bool, choice: Choice, vocabulary: int, length: int, prompt_words: int
) -> Encoded:
    """Read and tokenise; `digest`, of the file's bytes, is there for the cache to see when the file has changed."""
    file = read_pairs(path, strict=strict)
    if len(file.pairs) < FEWEST_PAIRS:
        raise InputError(
            f"{path}: {len(file.pairs)} usable pairs; at least {FEWEST_PAIRS} are needed for policy, reward model, "
            "judge and evaluation"
        )
    texts = list(dict.fromkeys(text for pair in file.pairs for text in (pair.chosen, pair.rejected)))
    prompt_number: dict[str, int] = {}
    for pair in file.pairs:
        prompt_number.setdefault(pair.prompt, len(prompt_number))
    prompt_texts = [_MARKS.sub(" ", prompt) for prompt in prompt_number]
    splitter = choice.splitter([*prompt_texts, *texts], vocabulary)
    found = dict(zip(texts, splitter.split(texts), strict=True))
    whole = splitter.split(prompt_texts)
    asked = [parts[-prompt_words:] for parts in whole]

    # what is cut off need not be known; ties go to the word that comes first in the file
    counts = Counter(
        itertools.chain(
            *asked, *(found[text][:length] for pair in file.pairs for text in (pair.chosen, pair.rejected))
        )
    )
    del counts[UNKNOWN]
    known = [word for word, _ in counts.most_common(vocabulary)]
    if not known:
        raise InputError(
            f"{path}: nothing of it is known to {splitter.about}, a vocabulary that fits is needed"
        )
    index = {word: i for i, word in enumerate(known, 1)}
    eos = len(known) + 1

    prompts = np.full((len(asked), prompt_words), -1, np.int64)
    for row, prompt in zip(prompts, asked, strict=True):
        if prompt:
            row[-len(prompt) :] = [index.get(word, 0) for word in prompt]
    chosen = _replies([found[pair.chosen] for pair in file.pairs], index, length, eos)
    rejected = _replies([found[pair.rejected] for pair in file.pairs], index, length, eos)
    prompt_of = np.array([prompt_number[pair.prompt] for pair in file.pairs])
    same = int(((chosen[0] == rejected[0]) & (chosen[1] == rejected[1])).all(axis=1).sum())
    parts = (UNKNOWN, *known, splitter.eos)
    unsaid = next((pair.line for pair in file.pairs if pair.strength is None), None)
    strength = None if unsaid else np.array([pair.strength for pair in file.pairs])
    return Encoded(
        splitter,
        parts,
        tuple(map(sanitize, parts)),
        PreferencePairs(prompts[prompt_of], *chosen, *rejected, strength),
        prompt_of,
        {
            "file": path,
            "sha256": file.sha256,
            "pairs": len(file.pairs),
            "prompts": len(prompt_number),
            "skipped": len(file.skipped),
            "skipped_lines": file.skipped_text(),
            "identical_after_cut": same,
            "prompt_cut_share": sum(len(parts) > prompt_words for parts in whole) / len(whole),
            "tokenizer": splitter.about,
            "unit": splitter.unit,
            **_losses(file.pairs, found, index, length),
        },
        unsaid,
    )


def _replies(found: list[list[str]], index: dict[str, int], length: int, eos: int) -> tuple[Int, Float]:
    """Tokens (N, T) and mask (N, T): 0 on padding and on unknown words."""
    tokens = np.zeros((len(found), length), np.int64)
    for row, reply in zip(tokens, found, strict=True):
        ids = [index.get(word, 0) for word in reply[:length]]
        if len(reply) < length:
            ids.append(eos)
        row[: len(ids)] = ids
    return tokens, (tokens > 0).astype(np.float32)


def _losses(
    pairs: list[TextPair], found: dict[str, list[str]], index: dict[str, int], length: int
) -> dict[str, float]:
    total = unknown = cut = 0
    for pair in pairs:
        for text in (pair.chosen, pair.rejected):
            reply = found[text]
            total += min(len(reply), length)
            unknown += sum(word not in index for word in reply[:length])
            # a reply of exactly `length` words keeps all of them, only its end does not fit
            cut += len(reply) > length
    return {"unknown_share": unknown / max(total, 1), "cut_share": cut / (2 * len(pairs))}
