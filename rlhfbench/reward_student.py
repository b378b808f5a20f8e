"""A reward that is cheap to ask in place of the one that was trained, and how far the two agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels import flops

from .compute import ComputeMeter
from .reward_models import Single, Trained, scores_of
from .rewards.distilled import Replies, Ridge, student
from .sft import Model
from .tasks.reward_choice import RewardOptions
from .types import Float, PreferencePairs, Task


@dataclass(frozen=True)
class Distiller:
    """Fits a student to a teacher's scores; that is part of training the reward, how good it is part of evaluation."""

    task: Task
    reference: Model
    options: RewardOptions
    meter: ComputeMeter

    def distilled(
        self, teacher: Trained, inputs: Replies, pairs: PreferencePairs
    ) -> tuple[Trained, dict[str, float]]:
        """The student, its scores of `inputs` normalised, and how far it agrees with its teacher.

        It learns from the scores of three quarters of `inputs`, replies of the reference; of the others R^2 is taken,
        of `pairs` the share that both order alike.
        """
        raw, fit, dear = self.fitted(teacher, inputs)
        with self.meter.redirect("rm_train"):
            scores, cheap = self._asked(raw, inputs)
            model = raw.normalised(scores)
        model.charge = None
        seen, unseen = _parted(inputs)
        with self.meter.redirect("eval"):
            true, found = (self._asked(one, unseen)[0] for one in (teacher, raw))
            gaps = [np.subtract(*scores_of(one, pairs, self.meter)) for one in (teacher, model)]
        return model, {
            "r2": r_squared(true, found),
            "agreement": agreement(*gaps),
            "strength": fit.strength,
            "flops_per_reply": cheap / len(inputs[0]),
            "teacher_flops_per_reply": dear / len(seen[0]),
        }

    def fitted(self, teacher: Trained, inputs: Replies) -> tuple[Single, Ridge, int]:
        """The student, whose scores are in its teacher's unit; its fit; and the FLOPs of asking the teacher."""
        seen, _ = _parted(inputs)
        with self.meter.redirect("rm_train"):
            targets, dear = self._asked(teacher, seen)
            backbone = self.reference if self.options.rm_student == "ridge" else None
            raw, fit, work = student(backbone, len(self.task.vocab), seen, targets, self.options.rm_ridge)
            self.meter.add("rm_train", work)
        return raw, fit, dear

    def _asked(self, model: Trained, replies: Replies) -> tuple[Float, int]:
        """Scores and the FLOPs that they took."""
        spent: list[int] = []

        def charge(work: flops.Work, sequences: int) -> None:
            spent.append(work.flops)
            self.meter.reward_charge(work, sequences)

        model.charge = charge
        scores = model.score(*replies)
        model.charge = None
        return scores, sum(spent)


def _parted(replies: Replies) -> tuple[Replies, Replies]:
    """Those to learn from and those to be judged by."""
    (prompts, responses, mask), n = replies, len(replies[0]) * 3 // 4
    return (prompts[:n], responses[:n], mask[:n]), (prompts[n:], responses[n:], mask[n:])


def r_squared(true: Float, found: Float) -> float:
    """1 - mean square of what is left over the variance; 1 where there is nothing to explain and nothing is left."""
    left, spread = float(np.mean((true - found) ** 2)), float(np.var(true))
    return 1.0 - left / spread if spread else float(left == 0)


def agreement(one: Float, other: Float) -> float:
    """Share of pairs that two models order alike; a tie in one of them alone counts half."""
    return 1.0 - float(np.mean(np.abs(np.sign(one) - np.sign(other)))) / 2.0
