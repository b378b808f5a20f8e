"""Readable float64 twins of `kernels.loglinear`, in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def logits(
    prompts: Array, responses: Array, mask: Array, w_prompt: Array, w_prev: Array, w_pos: Array
) -> Array:
    """(B, T, V): mean of the prompt's rows, plus the previous token's row, plus the position's; 0 where masked."""
    B, T = responses.shape
    out = np.zeros((B, T, w_prompt.shape[1]))
    for b in range(B):
        words = prompts[b][prompts[b] >= 0]
        base = w_prompt[words].mean(axis=0) if len(words) else np.zeros(w_prompt.shape[1])
        for t in np.flatnonzero(mask[b]):
            previous = responses[b, t - 1] + 1 if t > 0 else 0
            out[b, t] = base
            if len(w_prev):
                out[b, t] += w_prev[previous]
            if len(w_pos):
                out[b, t] += w_pos[t]
    return out


def logprobs(
    prompts: Array, responses: Array, mask: Array, w_prompt: Array, w_prev: Array, w_pos: Array
) -> Array:
    """(B, T): log-softmax of `logits` at the response tokens; 0 where masked."""
    scores = logits(prompts, responses, mask, w_prompt, w_prev, w_pos)
    normalised = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return np.take_along_axis(normalised, responses[..., None], axis=-1)[..., 0] * (mask > 0)
