"""The lesson's policy: one softmax over the vocabulary for each prompt, the same at every position."""

from __future__ import annotations

from typing import Any

from .linear import LinearPolicy


class TabularPolicy(LinearPolicy):
    """logits[b, t] = table[prompt of b]; the log-linear policy with neither previous token nor position."""

    def __init__(self, prompt_vocab_size: int, vocab_size: int, max_length: int, **options: Any) -> None:
        super().__init__(prompt_vocab_size, vocab_size, max_length, context=False, **options)
