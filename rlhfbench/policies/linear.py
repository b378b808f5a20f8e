"""The log-linear policy: shared parameters, conditioned on the prompt, the previous token and the position."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from kernels import flops, loglinear

from ..types import Float, Int, Rollout
from . import _outputs

NEVER = -1e4
"""A logit whose token has probability exactly 0 in float32 and float64, yet stays finite."""

Charge: TypeAlias = Callable[[str, flops.Work, int], None]


class LinearPolicy:
    """logits[t] = mean over prompt words of w_prompt + w_prev[previous token] + w_pos[t]; values likewise.

    Parameters
    ----------
    prompt_vocab_size, vocab_size, max_length : int
        Rows of the prompt table, V, and T.
    eos : int or None
        Token that ends a response; None: every response has T tokens.
    never : int or None
        Token that is never sampled (the unknown word).
    context : bool
        Whether previous token and position count. Without them it is the tabular softmax over prompts.
    dtype : floating dtype

    Attributes
    ----------
    params, grads : (size,) arrays, of which all tensors are views.
    charge : callable ``(kind, Work, tokens)`` or None
        Where the work goes; `kind` is sample, logits, logprobs, values, backward
        or values_backward.
    """

    def __init__(
        self,
        prompt_vocab_size: int,
        vocab_size: int,
        max_length: int,
        *,
        eos: int | None = None,
        never: int | None = None,
        context: bool = True,
        dtype: type[np.floating] = np.float32,
    ) -> None:
        self.vocab_size, self.max_length, self.eos, self.context = vocab_size, max_length, eos, context
        self.prompt_vocab_size = prompt_vocab_size
        self.charge: Charge | None = None
        rows = (prompt_vocab_size, vocab_size + 1, max_length) if context else (prompt_vocab_size, 0, 0)
        size = sum(rows) * (vocab_size + 1)
        self.params: Float = np.zeros(size, dtype)
        self.grads: Float = np.zeros(size, dtype)
        self._shapes = [(n, vocab_size) for n in rows] + [(n, 1) for n in rows]
        self._bind()
        self._base: Float = np.zeros(vocab_size, dtype)
        self._row: Float = np.zeros(vocab_size, dtype)
        self._value_base: Float = np.zeros(1, dtype)
        self._inputs: tuple[Int, Int, Float] | None = None
        if never is not None:  # in the one term that every logit has exactly once
            self._w[2 if context else 0][:, never] = NEVER

    def _bind(self) -> None:
        def views(flat: Float) -> list[Float]:
            parts, start = [], 0
            for shape in self._shapes:
                stop = start + shape[0] * shape[1]
                parts.append(flat[start:stop].reshape(shape))
                start = stop
            return parts

        self._w, self._g = views(self.params), views(self.grads)

    def logits(self, prompts: Int, responses: Int, mask: Float, *, keep: bool = True) -> Float:
        """Next-token logits (B, T, V); 0 where the mask is 0. Keeps the inputs for `backward`."""
        B, T = responses.shape
        out = np.empty((B, T, self.vocab_size), self.params.dtype)
        loglinear.logits_jit(prompts, responses, mask, *self._w[:3], self._base, out)
        if keep:
            self._inputs = (prompts, responses, mask)
        self._charge("logits", "loglinear_logits", prompts, mask, self.vocab_size)
        return out

    def logprobs(self, prompts: Int, responses: Int, mask: Float, *, out: Float | None = None) -> Float:
        """Log-probabilities (B, T) of the response tokens; 0 where the mask is 0. Keeps nothing."""
        out = _outputs.floats(out, responses.shape, self.params.dtype)
        loglinear.logprobs_jit(prompts, responses, mask, *self._w[:3], self._base, self._row, out)
        self._charge("logprobs", "loglinear_logprobs", prompts, mask, self.vocab_size)
        return out

    def values(
        self, prompts: Int, responses: Int, mask: Float, *, keep: bool = True, out: Float | None = None
    ) -> Float:
        """Values (B, T) of the states before each token; 0 where the mask is 0. Keeps the inputs for `backward`."""
        out = _outputs.floats(out, responses.shape, self.params.dtype)
        loglinear.logits_jit(prompts, responses, mask, *self._w[3:], self._value_base, out[..., None])
        if keep:
            self._inputs = (prompts, responses, mask)
        self._charge("values", "loglinear_logits", prompts, mask, 1)
        return out

    def backward(self, d_logits: Float | None = None, d_values: Float | None = None) -> None:
        """Accumulate gradients for the latest inputs; `d_logits` (B, T, V), `d_values` (B, T)."""
        assert self._inputs is not None, "backward() before logits() or values()"
        prompts, responses, mask = self._inputs
        if d_logits is not None:
            loglinear.backward_jit(prompts, responses, mask, d_logits, self._base, *self._g[:3])
            self._charge("backward", "loglinear_backward", prompts, mask, self.vocab_size)
        if d_values is not None:
            d = d_values[..., None]
            loglinear.backward_jit(prompts, responses, mask, d, self._value_base, *self._g[3:])
            self._charge("values_backward", "loglinear_backward", prompts, mask, 1)

    def sample(self, prompts: Int, uniforms: Float, *, out: Rollout | None = None) -> Rollout:
        """One response per prompt by inverse CDF from `uniforms` (B, T) in [0, 1)."""
        out = _outputs.rollout(out, prompts, uniforms, self.params.dtype)
        eos = -1 if self.eos is None else self.eos
        scratch = (self._base, self._row, *loglinear.sample_scratch(self.vocab_size, self.params.dtype))
        written = out.responses, out.mask, out.logprobs
        loglinear.sample_jit(prompts, uniforms, eos, *self._w[:3], *scratch, *written)
        self._charge("sample", "loglinear_sample", prompts, out.mask, self.vocab_size)
        return out

    def clone(self) -> LinearPolicy:
        """A copy that shares no memory with this one and charges the same account."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.params, twin.grads = self.params.copy(), np.zeros_like(self.grads)
        twin._base, twin._row = self._base.copy(), self._row.copy()
        twin._value_base, twin._inputs = self._value_base.copy(), None
        twin._bind()
        return twin

    def __deepcopy__(self, memo: object) -> LinearPolicy:
        return self.clone()  # tensors have to stay views of the parameters

    def _charge(self, kind: str, kernel: str, prompts: Int, mask: Float, width: int) -> None:
        if self.charge is None:
            return
        lengths = np.count_nonzero(prompts >= 0, axis=1)
        tokens = int(np.count_nonzero(mask))
        shape = (int(lengths.sum()), int((lengths > 1).sum()), tokens, 2 * self.context, width)
        self.charge(kind, flops.work(kernel, *shape), tokens)
