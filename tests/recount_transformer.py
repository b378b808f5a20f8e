"""Every method of the transformer on numbers that count their own operations, beside what it charges.

A program of its own (``NUMBA_DISABLE_JIT=1 python recount_transformer.py``): it prints a list of calls in JSON.
"""

from __future__ import annotations

import json

import counted
import numpy as np
from recount import recount
from test_transformer import MASK, PROMPTS, RESPONSES, TOGETHER, make


def calls(policy, prompts, mask):
    d_logits, d_values = np.ones((*mask.shape, 5)), np.ones(mask.shape)
    yield "logits", lambda: policy.logits(prompts, RESPONSES, mask)
    yield "values after logits", lambda: policy.values(prompts, RESPONSES, mask)
    yield "both gradients", lambda: policy.backward(recount(d_logits), recount(d_values))
    yield "gradient of the logits", lambda: policy.backward(recount(d_logits))
    yield "gradient of the values", lambda: policy.backward(None, recount(d_values))
    yield "values", lambda: policy.values(prompts[1:], RESPONSES[1:], mask[1:])
    ends = np.eye(mask.shape[1])[[2, 3, 0, 0, 1, 3]]
    yield "one value of each", lambda: policy.values(prompts, RESPONSES, ends, keep=False)
    yield "logprobs", lambda: policy.logprobs(prompts, RESPONSES, mask)
    uniforms = np.random.default_rng(3).random(mask.shape)
    yield "sample", lambda: policy.sample(prompts, uniforms)


def main():
    found = []
    for options in ({}, {"layers": 1, "never": 2}):
        for prompts, mask in ((PROMPTS, MASK), (PROMPTS, np.ones_like(MASK)), TOGETHER):
            policy = make(**options)
            params = policy.params
            policy.params = recount(params)
            policy.grads = recount(np.zeros(len(params)))
            policy._bind()
            charged = []
            policy.charge = lambda kind, work, tokens, charged=charged: charged.append(work)
            for name, call in calls(policy, prompts, mask):
                charged.clear()
                counted.reset()
                call()
                total = [sum(work[i] for work in charged) for i in range(2)]
                found.append({"call": f"{name} {options}", "charged": total, "executed": counted.counts()})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
