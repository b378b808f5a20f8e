"""A Bradley-Terry reward model as in InstructGPT: a scalar head on a copy of the SFT policy's backbone.

The score is read at the state after a reply's last token, so the backbone has one place more than the policy.
Ouyang et al. 2022 (arXiv 2203.02155), section 3.5 and appendix C.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np

from kernels import flops

from ..policies._weights import Sizes, size, views
from ..policies.transformer import TransformerPolicy
from ..room import Room
from ..types import Float, Int
from .penalty import total

Charge: TypeAlias = Callable[[flops.Work, int], None]

SIZES = ("tokens", "layers", "width", "heads")
CHUNK = 256
"""Replies that are scored at a time: the workspace stays small however many come."""


class TransformerRewardModel:
    """score = head . (state after the reply's last token) + bias, of a transformer that reads prompt and reply.

    Padding counts nothing, and neither do tokens after the last that the mask leaves. Of a reply without any token
    the state after the prompt is read.

    Parameters
    ----------
    backbone : TransformerPolicy
        Its value head is the score; replies may have one token less than its `max_length`.

    Attributes
    ----------
    charge : callable ``(Work, sequences)`` or None
        Where the work of `score` goes.
    """

    kind: ClassVar[str] = "transformer"

    def __init__(self, backbone: TransformerPolicy) -> None:
        self.backbone = backbone
        self.charge: Charge | None = None
        self._room = Room()

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) scores of responses (B, T) in the mask's dtype, float32 or float64."""
        works: list[flops.Work] = []
        self.backbone.charge = lambda kind, work, tokens: works.append(work)
        out = np.empty(len(responses), mask.dtype)
        for begin in range(0, len(responses), CHUNK):
            some = slice(begin, begin + CHUNK)
            replies = prompts[some], responses[some], mask[some]
            out[some] = read_scores(self.backbone, *replies, keep=False, room=self._room)[0]
        if self.charge is not None:
            self.charge(total(*works), len(responses))
        return out

    def normalised(self, reference_scores: Float) -> TransformerRewardModel:
        """A copy whose scores have mean 0 and standard deviation 1 where this one gave `reference_scores`.

        Where they are all equal, only the mean is taken off.
        """
        given = np.asarray(reference_scores, np.float64)
        mean, sd = float(given.mean()), float(given.std())
        if not sd > 1e-6 * max(1.0, float(np.abs(given).max())):  # what rounding leaves of equal scores
            sd = 1.0
        backbone = self.backbone.clone()
        head = views(backbone.params, backbone.sizes)
        head.value[:] = head.value / sd
        head.value_bias[:] = (head.value_bias - mean) / sd
        copy = TransformerRewardModel(backbone)
        copy.charge = self.charge
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformerRewardModel:
        # The backbone's tensors have to stay views of its parameters.
        copy = TransformerRewardModel(self.backbone.clone())
        copy.charge = self.charge
        return copy

    def state(self) -> tuple[dict[str, Any], dict[str, Float]]:
        """All that `from_state` needs: fields that JSON holds, and arrays."""
        b = self.backbone
        own = {name: getattr(b, name) for name in ("vocab_size", "max_length", "prompt_length")}
        return own | {name: getattr(b.sizes, name) for name in SIZES}, {"params": b.params}

    @classmethod
    def from_state(cls, fields: Mapping[str, Any], arrays: Mapping[str, Float]) -> TransformerRewardModel:
        """The model that gave this `state`: it scores the same bits."""
        for name in ("vocab_size", "max_length", "prompt_length", *SIZES):
            if type(fields[name]) is not int or fields[name] < 0:
                raise TypeError(f"{name}: came as {fields[name]!r}, a whole number from 0 on is needed")
        if fields["vocab_size"] >= fields["tokens"]:
            raise ValueError(f"vocab_size: came as {fields['vocab_size']}, less than tokens is needed")
        params = arrays["params"]
        places = fields["prompt_length"] + fields["max_length"]
        sizes = Sizes(fields["tokens"], places, *(fields[name] for name in SIZES[1:]))
        # Before anything is allocated: a damaged field may ask for any amount of memory.
        if (
            sizes.layers > params.size
            or params.shape != (size(sizes),)
            or params.dtype not in (np.float32, np.float64)
        ):
            came = f"{params.dtype} of shape {params.shape}"
            raise ValueError(f"params: came as {came}, float32 or float64 numbers for {sizes} are needed")
        dtype = params.dtype.type
        backbone = blank(sizes, fields["vocab_size"], fields["max_length"], fields["prompt_length"], dtype)
        backbone.params[:] = params
        return cls(backbone)


def read_scores(
    backbone: TransformerPolicy,
    prompts: Int,
    responses: Int,
    mask: Float,
    *,
    keep: bool = True,
    room: Room | None = None,
) -> tuple[Float, Int]:
    """(B,) values at the states after the replies' last tokens, and how many tokens come before."""
    longer, ends, lengths = after(backbone, responses, mask, room)
    out = None if room is None else room.like("values", ends)
    values = backbone.values(prompts, longer, ends, keep=keep, out=out)
    return values[np.arange(len(lengths)), lengths], lengths


def read_states(backbone: TransformerPolicy, prompts: Int, responses: Int, mask: Float) -> Float:
    """(B, C) what the values are linear in, at the states after the replies' last tokens."""
    longer, ends, _ = after(backbone, responses, mask)
    return backbone.states(prompts, longer, ends)


def after(
    backbone: TransformerPolicy, responses: Int, mask: Float, room: Room | None = None
) -> tuple[Int, Float, Int]:
    """Responses (B, T + 1), a mask that leaves the place after each one's last token alone, and where that is (B,)."""
    (B, T), room = responses.shape, room or Room()
    if backbone.max_length <= T:
        raise ValueError(f"responses: came with {T} tokens, at most {backbone.max_length - 1} are needed")
    longer, ends = room("longer", (B, T + 1), np.int64), room("ends", (B, T + 1), backbone.params.dtype)
    longer[:, :T], longer[:, T] = responses, 0
    ends[:, 0], ends[:, 1:] = 1, mask > 0
    lengths = T - ends[:, ::-1].argmax(axis=1)
    ends[...] = 0
    ends[np.arange(B), lengths] = 1
    return longer, ends, lengths


def at(places: Int, numbers: Float, width: int) -> Float:
    """(B, width) with one of `numbers` in each row, at its place, and 0 elsewhere."""
    out = np.zeros((len(places), width), numbers.dtype)
    out[np.arange(len(places)), places] = numbers
    return out


def blank(
    sizes: Sizes, vocab_size: int, max_length: int, prompt_length: int, dtype: Any
) -> TransformerPolicy:
    """A transformer of these sizes, its parameters 0."""
    own = sizes.tokens - vocab_size - 1
    return TransformerPolicy(
        own,
        vocab_size,
        max_length,
        prompt_length=prompt_length,
        layers=sizes.layers,
        width=sizes.width,
        heads=sizes.heads,
        shared=own == 0,
        dtype=dtype,
    )
