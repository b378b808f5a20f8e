"""A decoder-only transformer with a value head on the same backbone.

Pre-norm, learned positions, causal attention, GELU, tied embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from kernels import categorical, flops, nn, packing
from kernels.passes import CHUNK, Room

from ..types import Float, Int, Rollout
from . import _backbone, _decoding, _outputs, _work
from ._buffers import Buffers, aligned, equal, scratch
from ._packed import NOTHING, Packed, pack
from ._weights import Sizes, initialise, size, tensors, views
from .linear import NEVER

Charge: TypeAlias = Callable[[str, flops.Work, int], None]


class Kept(NamedTuple):
    """What `backward` reads again, and the prompts, responses, mask and parameters that it belongs to."""

    inputs: tuple[Int, Int, Float, Float]
    packed: Packed
    room: Room
    hidden: Float


class TransformerPolicy:
    """Blocks of x + attention(norm x) and x + perceptron(norm x), over prompt, start token and response.

    Sequences are packed without padding, and a prompt that several of them share passes once. A prompt's last token
    always stands at the same place, so that padding on the left changes nothing; of a longer prompt than
    `prompt_length` the last tokens count. Queries, keys and values have no bias of their own: the norm before has one.

    Parameters
    ----------
    prompt_vocab_size, vocab_size, max_length : int
        Prompt tokens, response tokens V, and T.
    prompt_length : int
        Most tokens of a prompt.
    layers, width, heads : int
        Blocks, C, and among how many heads it is divided.
    shared : bool
        Whether prompts and responses are written in the same tokens.
    eos : int or None
        Token that ends a response; None: every response has T tokens.
    never : int or None
        Token that is never sampled (the unknown word).
    rng : numpy.random.Generator or None
        Draws the initial weights; without it they are 0, to be filled.
    dtype : floating dtype

    Attributes
    ----------
    params, grads : (size,) arrays, of which all tensors are views.
    charge : callable ``(kind, Work, tokens)`` or None
        Where the work goes, as in `LinearPolicy`.

    Notes
    -----
    What `logits` returns lies in the policy's workspace, and holds until the next call of `logits`. `values` after
    `logits` of the same inputs and parameters, or the other way round, only adds its head. With ``keep=False`` they
    leave nothing for `backward`, and what they did keep stays. What does not outlast a call lies in one workspace
    that all policies of a thread share, where the next call puts its own.
    """

    def __init__(
        self,
        prompt_vocab_size: int,
        vocab_size: int,
        max_length: int,
        *,
        prompt_length: int,
        layers: int = 2,
        width: int = 64,
        heads: int = 4,
        shared: bool = False,
        eos: int | None = None,
        never: int | None = None,
        rng: np.random.Generator | None = None,
        dtype: type[np.floating] = np.float32,
    ) -> None:
        for name, given in (("layers", layers), ("width", width), ("heads", heads)):
            if given < 1:
                raise ValueError(f"{name}: came as {given}, at least 1 is needed")
        if width % heads:
            raise ValueError(f"heads: came as {heads}, a divisor of width ({width}) is needed")
        self.vocab_size, self.max_length, self.prompt_length = vocab_size, max_length, prompt_length
        self.eos, self.never = eos, never
        self.charge: Charge | None = None
        # Rows of the token table: the response's tokens, the start token, the prompt's.
        self._offset = 0 if shared else vocab_size + 1
        tokens = vocab_size + 1 + (0 if shared else prompt_vocab_size)
        self.sizes = Sizes(tokens, prompt_length + max_length, layers, width, heads)
        self.params: Float = aligned(size(self.sizes), np.dtype(dtype))
        self.grads: Float = aligned(len(self.params), np.dtype(dtype))
        self.params[:] = self.grads[:] = 0
        self._bind()
        if rng is not None:
            initialise(self._w, rng)

    def _bind(self) -> None:
        self._w, self._g = views(self.params, self.sizes), views(self.grads, self.sizes)
        self._tensors = tensors(self._w, self.params, self.sizes)
        self._slopes = tensors(self._g, self.grads, self.sizes)
        self._logits, self._keep = Buffers(self.params.dtype), Buffers(self.params.dtype)
        self._kept: Kept | None = None

    @property
    def _scratch(self) -> Buffers:
        return scratch(self.params.dtype)

    @property
    def nbytes(self) -> int:
        """What it holds beside parameters and gradients; what it shares with others is not counted."""
        return self._logits.nbytes + self._keep.nbytes

    def logits(self, prompts: Int, responses: Int, mask: Float, *, keep: bool = True) -> Float:
        """Next-token logits (B, T, V) at each response position; 0 where the mask is 0. Keeps activations."""
        get = self._scratch.begin()
        packed, hidden = self._forward(prompts, responses, mask, "logits", keep, get)
        out = self._logits.begin()("logits", *responses.shape, self.vocab_size)
        rows = out.reshape(-1, self.vocab_size)
        if packed.whole:
            self._head(hidden, rows, get)
        else:
            if len(packed.cells) < len(rows):
                rows[...] = 0
            done = 0
            for some in _slices(len(hidden)):
                part = get("some logits", some.stop - some.start, self.vocab_size)
                self._head(hidden[some], part, get)
                done = packing.move_jit(part, some.start, packed.sources, packed.cells, done, rows)
        work = _work.head(len(hidden), self.sizes.width, self.vocab_size)
        self._charge("logits", work, len(packed.cells))
        return out

    def values(
        self, prompts: Int, responses: Int, mask: Float, *, keep: bool = True, out: Float | None = None
    ) -> Float:
        """Values (B, T) of the states before each token; 0 where the mask is 0. Keeps activations."""
        get = self._scratch.begin()
        packed, hidden = self._forward(prompts, responses, mask, "values", keep, get)
        out = _outputs.floats(out, mask.shape, self.params.dtype)
        out[...] = 0
        found = np.matmul(hidden, self._w.value, out=get("values", len(hidden)))
        found += self._w.value_bias
        packing.move_jit(found[:, None], 0, packed.sources, packed.cells, 0, out.reshape(-1, 1))
        self._charge("values", _work.value(len(hidden), self.sizes.width), len(packed.cells))
        return out

    def states(self, prompts: Int, responses: Int, mask: Float) -> Float:
        """(rows, C) what logits and values are linear in, where the mask is 1, row after row; keeps nothing."""
        packed, hidden = self._forward(prompts, responses, mask, "values", False, self._scratch.begin())
        return hidden[packed.sources[np.argsort(packed.cells)]]

    def logprobs(self, prompts: Int, responses: Int, mask: Float, *, out: Float | None = None) -> Float:
        """Log-probabilities (B, T) of the response tokens; 0 where the mask is 0. Keeps nothing."""
        get = self._scratch.begin()
        packed = self._pack(prompts, responses, mask, get)
        out = _outputs.floats(out, responses.shape, self.params.dtype)
        out[...] = 0
        hidden, _ = self._pass(packed, None, get)
        tokens, found, M = responses.reshape(-1), out.reshape(-1), len(packed.cells)
        for some in _slices(M):
            cells, n = packed.cells[some], some.stop - some.start
            states, part = get("some states", n, self.sizes.width), get("some logits", n, self.vocab_size)
            np.take(hidden, packed.sources[some], axis=0, out=states, mode="clip")  # "raise" takes a copy
            self._head(states, part, get)
            drawn = np.take(tokens, cells, out=get.ints("some tokens", n), mode="clip")
            found[cells] = categorical.token_logprobs(part, drawn, out=get("some", n))
        done = _work.head(M, self.sizes.width, self.vocab_size)
        done += _work.forward(packed, self.sizes, keep=False)
        done += flops.work("token_logprobs", M, self.vocab_size)
        self._charge("logprobs", done, M)
        return out

    def backward(self, d_logits: Float | None = None, d_values: Float | None = None) -> None:
        """Accumulate gradients for the latest inputs; `d_logits` (B, T, V), `d_values` (B, T)."""
        assert self._kept is not None, "backward() before logits() or values()"
        _, packed, room, hidden = self._kept
        C, M, picked = self.sizes.width, len(packed.cells), len(packed.picks)
        if not M or (d_logits is None and d_values is None):
            return
        get = self._scratch.begin()
        d_hidden = get("d_picked", picked, C)
        if d_logits is not None:
            d_rows = self._collected(d_logits, packed, get)
            table, d_table = (w.table[: self.vocab_size] for w in (self._w, self._g))
            nn.product_jit(d_rows, table, nn.TIMES, 0, get.panel, d_hidden)
            nn.product_jit(d_rows, hidden, nn.TURNED_TIMES, 0, get.panel, d_table)
            work = _work.head_backward(picked, C, self.vocab_size)
            self._charge("backward", work + _work.collect(M - picked, self.vocab_size), 0)
        if d_values is not None:
            slopes, given = get("d_values", picked), np.ascontiguousarray(d_values, self.params.dtype)
            packing.move_jit(given.reshape(-1, 1), 0, packed.cells, packed.sources, 0, slopes[:, None])
            share = get("d_from_value", picked, C) if d_logits is not None else d_hidden
            np.dot(slopes[:, None], self._w.value[None], out=share)  # `multiply` would make an array for it
            if d_logits is not None:
                d_hidden += share
            self._g.value[...] += np.matmul(hidden.T, slopes)
            self._g.value_bias[...] += slopes.sum()
            work = _work.value_backward(picked, C, d_logits is not None)
            self._charge("values_backward", work + _work.collect(M - picked, 1), 0)
        if picked < packed.rows - packed.prompt_rows:
            spread = get("d_hidden", packed.rows - packed.prompt_rows, C)
            spread[...] = 0
            spread[packed.picks] = d_hidden
            d_hidden = spread
        _backbone.backward(d_hidden, packed, self._tensors, self._slopes, self.sizes, room, get)
        kind = "backward" if d_logits is not None else "values_backward"
        self._charge(kind, _work.backward(packed, self.sizes), M)

    def backward_of_nothing(self) -> None:
        """`backward` through the blocks of no rows: compiles it, and nothing of `logits`."""
        room, nothing = self._scratch.begin(), np.zeros((0, self.sizes.width), self.params.dtype)
        activations = _backbone.kept(NOTHING, self.sizes, room, room)
        _backbone.backward(nothing, NOTHING, self._tensors, self._slopes, self.sizes, activations, room)

    def sample(self, prompts: Int, uniforms: Float, *, out: Rollout | None = None) -> Rollout:
        """One response per prompt by inverse CDF from `uniforms` (B, T) in [0, 1)."""
        out = _outputs.rollout(out, prompts, uniforms, self.params.dtype)
        if uniforms.size:
            self._decode(prompts, uniforms, out)
        return out

    def _decode(self, prompts: Int, uniforms: Float, out: Rollout) -> None:
        """Writes what is drawn by `uniforms` (B, T)."""
        get, sizes = self._scratch.begin(), self.sizes
        replies = self._pack(prompts, *_one_token_each(len(prompts), self.params.dtype), get)
        model = _decoding.Model(
            self._tensors, sizes, self.vocab_size, self.prompt_length, self.eos, self.never
        )
        tokens, keys = _decoding.decode(model, replies, uniforms, out, get)
        self._charge("sample", _work.sample(replies, tokens, keys, sizes, self.vocab_size), tokens)

    def clone(self) -> TransformerPolicy:
        """A copy that shares no memory with this one and charges the same account."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.params = aligned(len(self.params), self.params.dtype)
        twin.grads = aligned(len(self.params), self.params.dtype)
        twin.params[:], twin.grads[:] = self.params, 0
        twin._bind()
        return twin

    def __deepcopy__(self, memo: object) -> TransformerPolicy:
        return self.clone()  # tensors have to stay views of the parameters

    def _pack(self, prompts: Int, responses: Int, mask: Float, room: Buffers) -> Packed:
        fixed = self.sizes.heads, self.prompt_length, self.vocab_size, self._offset
        return pack(prompts, responses, mask, *fixed, room.ints)

    def _forward(
        self, prompts: Int, responses: Int, mask: Float, kind: str, keep: bool, get: Buffers
    ) -> tuple[Packed, Float]:
        """The rows that predict what counts, computed anew only if inputs or parameters are others than they were."""
        now = (prompts, responses, mask, self.params)
        if self._kept is not None and all(map(equal, self._kept.inputs, now, repeat(get))):
            return self._kept.packed, self._kept.hidden
        if keep:
            self._kept = None
        room = self._keep.begin() if keep else get
        packed = self._pack(prompts, responses, mask, room)
        self._charge(kind, _work.forward(packed, self.sizes, keep), 0)
        hidden, activations = self._pass(packed, room if keep else None, get)
        if keep:
            tokens = room.ints("prompts", *prompts.shape), room.ints("responses", *responses.shape)
            copies = *tokens, room("mask", *mask.shape), room("params", len(self.params))
            for copy, given in zip(copies, now, strict=True):
                copy[...] = given
            self._kept = Kept(copies, packed, activations, hidden)
        return packed, hidden

    def _pass(self, packed: Packed, keep: Buffers | None, get: Buffers) -> tuple[Float, Room]:
        """The last norm's output where it predicts what counts, and what `backward` reads if it is to be kept."""
        hidden, room = _backbone.forward(packed, self._tensors, self.sizes, keep, get)
        if len(packed.picks) < len(hidden):
            picked = (get if keep is None else keep)("hidden", len(packed.picks), self.sizes.width)
            hidden = np.take(hidden, packed.picks, axis=0, out=picked, mode="clip")
        return hidden, room

    def _head(self, hidden: Float, out: Float, get: Buffers) -> None:
        """Writes logits (rows, V)."""
        table = self._w.table[: self.vocab_size]
        nn.product_jit(hidden, table, nn.TIMES_TURNED, 0, get.panel, out)
        if self.never is not None:
            out[:, self.never] = NEVER

    def _collected(self, d_logits: Float, packed: Packed, get: Buffers) -> Float:
        """Of each picked row, the gradient of its logits, without what would go to a constant."""
        d_rows = np.ascontiguousarray(d_logits, self.params.dtype).reshape(-1, self.vocab_size)
        if packed.whole and self.never is None:
            return d_rows
        sums = get("d_some", len(packed.picks), self.vocab_size)
        packing.move_jit(d_rows, 0, packed.cells, packed.sources, 0, sums)
        if self.never is not None:
            sums[:, self.never] = 0
        return sums

    def _charge(self, kind: str, done: flops.Work, tokens: int) -> None:
        if self.charge is not None:
            self.charge(kind, done, tokens)


@lru_cache(64)
def _slices(rows: int) -> tuple[slice, ...]:
    """As many rows at a time as stay in the cache from one product to the next."""
    return tuple(slice(row, min(row + CHUNK, rows)) for row in range(0, rows, CHUNK))


@lru_cache(64)
def _one_token_each(rows: int, dtype: np.dtype[Any]) -> tuple[Int, Float]:
    """Responses and mask (rows, 1) that nobody writes to."""
    return np.zeros((rows, 1), np.int64), np.ones((rows, 1), dtype)
