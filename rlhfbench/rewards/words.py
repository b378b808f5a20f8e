"""A second loss for a reward model's backbone: the state that is scored has to tell which words the reply has.

An SFT policy need not remember them, and the labels of a few thousand pairs say little of each. As the "bag-of-word
loss" of Zhao, Zhao and Eskenazi 2017 (arXiv 1703.10960) keeps the meaning of a reply in one vector; PV-DBOW of Le and
Mikolov 2014 (1405.4053) is the same loss. What it does here stands in docs/adr/0012.
"""

from __future__ import annotations

import numpy as np

from kernels import categorical, flops

from ..policies.transformer import TransformerPolicy
from ..types import Float, Int
from .transformer import after


def recall(
    backbone: TransformerPolicy, prompts: Int, responses: Int, mask: Float, weight: float
) -> tuple[Float, flops.Work]:
    """Gradient of `weight` times the replies' mean of a reply's mean -log p(word), and the work of that loss alone.

    p are the policy's own probabilities, at the state after the reply's last token. A reply without words counts 0.

    Returns
    -------
    d_logits : (B, T + 1, V)
        In the backbone's workspace, where its logits were: for `backward` at once.
    work : Work
    """
    longer, ends, lengths = after(backbone, responses, mask)
    logits = backbone.logits(prompts, longer, ends)
    rows, places = np.nonzero(mask > 0)
    tokens, counts = responses[rows, places], np.bincount(rows, minlength=len(responses))
    everyone, first = np.arange(len(responses)), longer[:, 0]
    shares = spread(counts, weight, logits)
    # As if each reply had its first word alone, which is then put right.
    slopes = categorical.token_logprobs_backward(logits[everyone, lengths], first, -shares)
    slopes[everyone, first] += shares
    np.subtract.at(slopes, (rows, tokens), (shares / np.maximum(counts, 1))[rows])
    logits[everyone, lengths] = slopes
    work = flops.work("token_logprobs_backward", *slopes.shape)
    return logits, work + flops.work("elementwise", 3 * len(responses) + len(rows))


def spread(counts: Int, weight: float, like: Float) -> Float:
    """(B,) the weight in equal shares, in the type of `like`; 0 where there is nothing to count."""
    return np.where(counts > 0, weight / len(counts), 0.0).astype(like.dtype)
