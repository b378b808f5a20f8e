"""SciPy where it has the function, by blocks of rows that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from benchmarks.peers import Idiom, blocks

Call = Callable[[], Any]


def _rows(function: Callable[..., Any], *, wide: bool = False) -> Idiom:
    """`function` of one block of each argument, written into an array made before."""

    def prepare(*arguments: Any) -> Call:
        logits = arguments[0]
        out, parts = np.empty_like(logits if wide else logits[:, 0]), blocks(logits)

        def call() -> Any:
            for s in parts:
                out[s] = function(*[a[s] for a in arguments])
            return out

        return call

    return prepare


def _token_logprobs(x: Any, tokens: Any) -> Any:
    return x[np.arange(len(x)), tokens] - special.logsumexp(x, axis=-1)


def _entropy(x: Any) -> Any:
    return special.entr(special.softmax(x, axis=-1)).sum(-1)


def _kl_divergence(x: Any, y: Any) -> Any:
    return special.rel_entr(special.softmax(x, axis=-1), special.softmax(y, axis=-1)).sum(-1)


def _log_softmax(x: Any) -> Any:
    return special.log_softmax(x, axis=-1)


IDIOMS: dict[str, dict[str, Idiom]] = {
    "token_logprobs": {"scipy blocks": _rows(_token_logprobs)},
    "entropy": {"scipy blocks": _rows(_entropy)},
    "kl_divergence": {"scipy blocks": _rows(_kl_divergence)},
    "log_softmax": {"scipy blocks": _rows(_log_softmax, wide=True)},
    "log_sigmoid": {"scipy": lambda x: lambda: special.log_expit(x)},
}
