"""Words of a text, their hashed bags, and text made safe for a terminal."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kernels.bag import Bag

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
"""A run of letters, digits or underscores, apostrophes inside it included, or one punctuation mark."""


def words(text: str) -> list[str]:
    """Lower-case words, numbers and punctuation marks, in order.

    >>> words("Don't panic: it's 42!")
    ["don't", 'panic', ':', "it's", '42', '!']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


class Hasher:
    """Words to buckets by CRC-32, which is the same in every process; remembers which words fell where.

    Parameters
    ----------
    bits : int
        There are 2**bits buckets, 1 to 24.
    bigrams : bool
        Hash pairs of neighbouring words too.
    """

    def __init__(self, bits: int = 16, *, bigrams: bool = False) -> None:
        if not 1 <= bits <= 24:
            raise ValueError(f"bits must be between 1 and 24, got {bits}")
        self.size, self.bigrams = 1 << bits, bigrams
        self._bucket: dict[str, int] = {}

    def bag(self, texts: Iterable[str]) -> Bag:
        """One row a text, features in order of appearance; what occurs twice stands there twice with 1."""
        from kernels.bag import Bag  # here, so that `sanitize` costs nobody the import of Numba

        bucket, top = self._bucket, self.size - 1
        indices: list[int] = []
        indptr = [0]
        for text in texts:
            found = words(text)
            if self.bigrams:
                found += [f"{a} {b}" for a, b in pairwise(found)]
            for word in found:
                index = bucket.get(word)
                if index is None:
                    index = bucket[word] = zlib.crc32(word.encode("utf-8", "surrogatepass")) & top
                indices.append(index)
            indptr.append(len(indices))
        return Bag(np.array(indptr, np.int64), np.array(indices, np.int32), np.ones(len(indices), np.float32))

    def names(self) -> dict[int, str]:
        """The words seen in each bucket, joined by ``|``, in order of first appearance."""
        found: dict[int, str] = {}
        for word, index in self._bucket.items():
            found[index] = f"{found[index]}|{word}" if index in found else word
        return found


def sanitize(text: str) -> str:
    """`text` with nothing in it that a terminal would obey: line ends and tabs stay, the rest is shown as ``\\xNN``.

    Controls (C0, C1, DEL), separators of lines other than newline, direction overrides and other format
    characters, surrogates and private-use characters are spelled out. Rich markup is the caller's to escape.

    >>> sanitize("a\\x1b[31mred")
    'a\\\\x1b[31mred'
    """
    return "".join(char if _harmless(char) else _spelled(char) for char in text)


def _harmless(char: str) -> bool:
    if char.isprintable() or char in "\n\t":
        return True
    return unicodedata.category(char) == "Zs"


def _spelled(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
