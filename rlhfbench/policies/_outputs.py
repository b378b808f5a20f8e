"""Where policies write what they return: arrays that the caller gives, or new ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..types import Float, Int, Rollout


def floats(out: Float | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Float:
    """`out`, or an array of whatever values."""
    return np.empty(shape, dtype) if out is None else _fitting(out, shape, dtype)


def rollout(out: Rollout | None, prompts: Int, uniforms: Float, dtype: np.dtype[Any]) -> Rollout:
    """The same for what is drawn by a row of uniforms for each prompt."""
    shape = uniforms.shape
    if len(prompts) != len(uniforms):
        raise ValueError(f"uniforms: came with shape {shape}, {len(prompts)} rows are needed: one a prompt")
    if out is None:
        return Rollout(np.empty(shape, np.int64), np.empty(shape, dtype), np.empty(shape, dtype))
    _fitting(out.responses, shape, np.dtype(np.int64))
    _fitting(out.mask, shape, dtype)
    _fitting(out.logprobs, shape, dtype)
    return out


def _fitting(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    if out.shape != shape or out.dtype != dtype:
        came = f"shape {out.shape} and dtype {out.dtype}"
        raise ValueError(f"out: came with {came}, {shape} and {dtype} is needed")
    if not (out.flags.c_contiguous and out.flags.writeable):
        came = "read-only" if out.flags.c_contiguous else "with gaps, or not in C order"
        raise ValueError(f"out: came {came}, an array in C order that can be written is needed")
    return out
