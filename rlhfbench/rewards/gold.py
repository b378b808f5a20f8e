"""Who judges in the end: the task's own gold reward, or a judge model trained on a disjoint split.

Only evaluation may hold one of these; no algorithm ever sees it.
"""

from __future__ import annotations

from typing import Protocol

from ..types import Float, Int, RewardModel, Task


class Gold(Protocol):
    def score(self, prompts: Int, responses: Int, mask: Float) -> Float: ...


class TaskGold:
    """The known reward of a synthetic task."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        return self.task.gold_score(prompts, responses, mask)


class Judge:
    """A reward model trained on other pairs, with another seed and richer features."""

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    def score(self, prompts: Int, responses: Int, mask: Float) -> Float:
        return self.model.score(prompts, responses, mask)
