"""Options of labels and rewards that a world has but nothing goes by."""

from __future__ import annotations

from ..options import require_left_out
from ..types import Task
from .labels import HOW_ASKED, LabelOptions
from .reward_choice import RewardOptions

OF_A_CHOICE = (*HOW_ASKED, "rm_ranking_loss")
"""Options that say how labels or rewards of one kind are made, and nothing of those of another."""


def idle_options(task: Task, revised: bool = False) -> dict[str, str]:
    """Options that do nothing in a world, whatever they are set to, each with what it would need.

    Parameters
    ----------
    task : Task
        The world.
    revised : bool
        Replies are revised by its constitution, whoever labels pairs.
    """
    idle: dict[str, str] = {}
    if isinstance(task, LabelOptions):
        if task.by_ai:
            idle |= dict.fromkeys(task.of_people, "people label the pairs")
        else:
            idle |= dict.fromkeys(HOW_ASKED, "labels=ai")
            if not revised:
                idle["label_constitution"] = "labels=ai, or with revise"
    if isinstance(task, RewardOptions) and task.rm_ranking == 2:
        idle["rm_ranking_loss"] = "rm_ranking is 3 or more"
    return idle


def check_used(task: Task) -> None:
    """Refuse what does nothing where this world is all there is."""
    for name, unless in idle_options(task).items():
        require_left_out(task, unless, name)
