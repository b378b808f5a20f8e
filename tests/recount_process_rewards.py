"""Training and scoring of a reward model of steps, on numbers that count their own operations.

A program of its own (``NUMBA_DISABLE_JIT=1 python recount_process_rewards.py``): it prints a list of calls in JSON.
"""

from __future__ import annotations

import json

import counted
import numpy as np
from recount import CountedAdamW, recount
from recount_reward_transformer import counting
from test_transformer import MASK, PROMPTS, RESPONSES, make

from kernels.preference import bradley_terry
from rlhfbench.rewards import process, process_training
from rlhfbench.types import LabelledSteps

SOME = np.array([True, False, True, False, False])


def main():
    process_training.AdamW = CountedAdamW
    process_training.start_from = counting(process_training.start_from)
    process_training.bradley_terry = lambda margins, zeros: bradley_terry(margins, recount(zeros))
    process.CHUNK = 4
    sft = make(layers=1, width=4)
    sft.params = recount(sft.params)
    sft._bind()
    ends = process.step_ends(SOME, RESPONSES, MASK)
    solutions = LabelledSteps(PROMPTS, RESPONSES, MASK, ends, RESPONSES == 2)
    found = []

    def note(call, charged):
        total = [sum(work[i] for work in charged) for i in range(2)]
        found.append({"call": call, "charged": total, "executed": counted.counts()})

    # The factor of a clipped gradient is arithmetic among scalars, which nobody counts: here it never clips.
    config = process_training.StepTrainingConfig(epochs=2, batch_size=4, max_grad_norm=1e9)
    counted.reset()
    model, training = process_training.train_step_reward_model(
        solutions, sft, SOME, np.random.default_rng(0), config=config
    )
    note("training", [training.work])
    for aggregate in process.AGGREGATES:
        # Every token ends a step: a number that nothing was computed of does not count itself.
        one = model.aggregating(aggregate)
        one.step_tokens = SOME | True
        one.mean, one.sd = counted.Counted(0.3), counted.Counted(0.5)
        charged = []
        one.charge = lambda work, sequences, charged=charged: charged.append(work)
        counted.reset()
        one.score(PROMPTS, RESPONSES, recount(np.ones(MASK.shape)))
        note(f"scoring, {aggregate}", charged)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
