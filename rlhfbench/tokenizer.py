"""How text becomes tokens: words, a byte-level BPE trained on the data, or the user's own ``tokenizer.json``.

The last two need Hugging Face's `tokenizers` (extra `text`), which is loaded when one of them is asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

from .errors import InputError
from .text import sanitize, words

UNKNOWN, EOS = "<unk>", "<eos>"
WORDS, BPE = "words", "bpe"
EOS_NAMES = ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "[EOS]")
PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>")

_NO_SPACE = re.compile(r" (?=[.,;:!?)\]}%])|(?<=[(\[{]) ")


class Splitter(Protocol):
    """Takes texts apart and puts them together; `eos` is the name of the end, `unit` what the parts are."""

    eos: str
    unit: Literal["word", "piece"]
    about: str

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """The parts of each text."""
        ...

    def join(self, parts: Sequence[str]) -> str:
        """The text of some parts, `UNKNOWN` among them."""
        ...


class Words:
    """Lower-case words, numbers and punctuation marks."""

    eos = EOS
    unit: Literal["word", "piece"] = "word"
    about = WORDS

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """The words of each text."""
        return [words(text) for text in texts]

    def join(self, parts: Sequence[str]) -> str:
        """Words with blanks between them, but for punctuation."""
        return _NO_SPACE.sub("", " ".join(parts))


class Pieces:
    """The pieces of a tokenizer of `tokenizers`; its end and padding, where the text spells them, are left out."""

    unit: Literal["word", "piece"] = "piece"

    def __init__(self, tokenizer: Any, about: str, eos: str = EOS, pad: str | None = None) -> None:
        self.eos, self.about, self._tokenizer = eos, about, tokenizer
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._silent, self._unknown = {eos, pad}, {unknown} - {None}

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """The pieces of each text; what the tokenizer itself does not know is `UNKNOWN`."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            [
                UNKNOWN if piece in self._unknown else piece
                for piece in one.tokens
                if piece not in self._silent
            ]
            for one in found
        ]

    def join(self, parts: Sequence[str]) -> str:
        """What the tokenizer's own decoder makes of the pieces."""
        decoder = self._tokenizer.decoder
        return str(decoder.decode(list(parts)) if decoder is not None else " ".join(parts)).strip()


@dataclass(frozen=True)
class Choice:
    """Which tokenizer: ``words``, ``bpe`` or a file; of a file its content, and what its end and padding are called."""

    name: str
    content: str | None = None
    eos: str | None = None
    pad: str | None = None

    def inputs(self) -> dict[str, Any]:
        """What of it determines a run: not where a file lies, but what is in it, and who reads it."""
        if self.name == WORDS:
            return {"tokenizer": WORDS}
        digest = None if self.content is None else hashlib.sha256(self.content.encode()).hexdigest()
        return {
            "tokenizer": digest or BPE,
            "eos": self.eos,
            "pad": self.pad,
            "version": _package().__version__,
        }

    def splitter(self, texts: Sequence[str], size: int) -> Splitter:
        """The tokenizer; a BPE is trained on `texts` to at most `size` pieces."""
        if self.name == WORDS:
            return Words()
        return _trained(texts, size) if self.content is None else _own(self, self.content)


def choose(name: str, eos: str | None = None, pad: str | None = None) -> Choice:
    """Check which tokenizer is asked for, and read its file.

    Parameters
    ----------
    name : str
        ``words``, ``bpe``, or a ``tokenizer.json``.
    eos, pad : str, optional
        Tokens of the file that end and fill up a text, where their names are none of the usual ones.
    """
    if name in (WORDS, BPE):
        for field, value in (("eos_token", eos), ("pad_token", pad)):
            if value is not None:
                raise InputError(f"{field}: '{value}' came with tokenizer={name}, a tokenizer.json is needed")
        if name == BPE:
            _package()
        return Choice(name)
    path = Path(name)
    if not path.is_file():
        raise InputError(f"tokenizer: '{name}' is no file, words, bpe or a tokenizer.json is needed")
    try:
        content = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read ({error}), a tokenizer.json is needed") from None
    _package()
    return Choice(name, content, eos, pad)


def _package() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            "tokenizer: the package tokenizers is not installed: python3 -m pip install 'rlhfbench[text]'"
        ) from None
    return tokenizers


def _trained(texts: Sequence[str], size: int) -> Pieces:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    return Pieces(tokenizer, f"byte-level BPE of {tokenizer.get_vocab_size():,} pieces, trained on the file")


def _own(choice: Choice, content: str) -> Pieces:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the package raises nothing more specific
        raise InputError(f"{choice.name}: not a tokenizer ({error}), a tokenizer.json is needed") from None
    if not tokenizer.get_vocab_size(with_added_tokens=False):
        raise InputError(f"{choice.name}: its vocabulary is empty, a trained tokenizer is needed")
    padding = (tokenizer.padding or {}).get("pad_token")
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def named(field: str, asked: str | None, usual: tuple[str, ...]) -> str:
        for name in usual if asked is None else (asked,):
            if tokenizer.token_to_id(name) is not None:
                return name
        _lacks(choice.name, field, asked, usual)

    pad = named("pad_token", choice.pad, (padding, *PAD_NAMES) if padding else PAD_NAMES)
    about = f"{sanitize(choice.name)} of {tokenizer.get_vocab_size():,} pieces"
    return Pieces(tokenizer, about, named("eos_token", choice.eos, EOS_NAMES), pad)


def _lacks(path: str, field: str, asked: str | None, usual: tuple[str, ...]) -> NoReturn:
    what = {"eos_token": "the end of a text", "pad_token": "padding"}[field]
    if asked is not None:
        raise InputError(f"{field}: '{asked}' is not in {path}, a token of its vocabulary is needed")
    raise InputError(
        f"{path}: no token for {what} (none of {', '.join(usual)}), name one: pairs:tokenizer=FILE,{field}=TOKEN"
    )
