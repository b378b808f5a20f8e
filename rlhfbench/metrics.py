"""Diagnostics. They are the observer's, not the method's: no update depends on them and nothing here is charged."""

from __future__ import annotations

import numpy as np

from .types import Float


def mean(values: Float) -> float:
    """Mean of all entries."""
    return float(values.mean())


def sequence_mean(values: Float) -> float:
    """Mean over sequences of the sum over tokens; `values` (B, T) with 0 on padding."""
    return float(values.sum(axis=1).mean())


def sequence_difference(one: Float, two: Float) -> float:
    """Mean over sequences of the sum over tokens of `one` less `two`; both (B, T) with 0 on padding."""
    return float((one - two).sum(axis=1).mean())


def accuracy(higher: Float, lower: Float) -> float:
    """Share of entries where `higher` is above `lower`; ties count half."""
    right, ties = np.count_nonzero(higher > lower), np.count_nonzero(higher == lower)
    return right / higher.size + 0.5 * (ties / higher.size)


def implicit_rewards(
    beta: float, logps: Float, ref_logps: Float | float = 0.0, lengths: Float | float = 1.0
) -> Float:
    """What a method that trains no reward model takes for a response's reward: beta log pi/ref, or its mean."""
    return np.asarray(beta * (logps - ref_logps) / lengths)
