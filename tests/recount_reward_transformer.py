"""Training and scoring of the reward model on a backbone, on numbers that count their own operations.

A program of its own (``NUMBA_DISABLE_JIT=1 python recount_reward_transformer.py``): it prints a list of calls in JSON.
"""

from __future__ import annotations

import json

import counted
import numpy as np
from recount import CountedAdamW, recount
from test_transformer import MASK, PROMPTS, RESPONSES, make

from kernels.preference import bradley_terry
from rlhfbench.rewards import cost, transformer, transformer_training, words
from rlhfbench.rewards.cost import train_transformer_cost_model
from rlhfbench.types import HarmPairs, PreferencePairs

PAIRS = PreferencePairs(PROMPTS, RESPONSES, MASK, RESPONSES[::-1], MASK[::-1])
# The factor of a clipped gradient is arithmetic among scalars, which nobody counts: one never clips, the other may not.
HARM = HarmPairs(**vars(PAIRS), chosen_unsafe=RESPONSES[:, 0] == 0, rejected_unsafe=RESPONSES[:, 1] == 0)
CONFIGS = {
    "with validation": {"epochs": 2, "batch_size": 2, "validation": 0.4, "max_grad_norm": 1e9},
    "without": {
        "epochs": 1,
        "batch_size": 4,
        "validation": 0,
        "weight_decay": 0,
        "max_grad_norm": 0,
        "words": 0,
    },
}


def counting(copied):
    """What copies a backbone, such that the numbers of its new head count as well."""

    def copy(*args):
        backbone = copied(*args)
        backbone.params[:] = recount(backbone.params)
        return backbone

    return copy


def main():
    transformer_training.AdamW = CountedAdamW
    transformer_training.start_from = counting(transformer_training.start_from)
    # Costs are compared with zeros, which count as well.
    cost.bradley_terry = lambda costs, zeros: bradley_terry(costs, recount(zeros))
    spread = words.spread
    words.spread = lambda *args: recount(spread(*args))
    transformer.CHUNK = transformer_training.CHUNK = 4
    sft = make(layers=1, width=4)
    sft.params = recount(sft.params)
    sft._bind()
    found = []

    def note(call, charged):
        total = [sum(work[i] for work in charged) for i in range(2)]
        found.append({"call": call, "charged": total, "executed": counted.counts()})

    for name, options in CONFIGS.items():
        config = transformer_training.RewardModelConfig(**options)
        counted.reset()
        model, training = transformer_training.train_transformer_reward_model(
            PAIRS, sft, np.random.default_rng(0), config
        )
        note(f"training {name}", [training.work])
        counted.reset()
        _, training = train_transformer_cost_model(HARM, sft, np.random.default_rng(0), config)
        note(f"training of costs {name}", [training.work])
        charged = []
        model.charge = lambda work, sequences, charged=charged: charged.append(work)
        counted.reset()
        model.score(PROMPTS, RESPONSES, MASK.astype(object))
        note("scoring", charged)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
