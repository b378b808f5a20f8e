"""Run an algorithm on numbers that count their own operations and print what each phase executed.

A program of its own (``NUMBA_DISABLE_JIT=1 python recount.py ARM [CHARGE TIMES]``): the kernels' bodies run as plain
Python on object arrays. What belongs to which phase is decided here, by who does the work, without the ledger.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import counted as numbers
from counted import Counted, counted

from rlhfbench import metrics, optimizer, prepare, run, run_setup, sft
from rlhfbench.compute import ComputeMeter
from rlhfbench.cost_models import Costs
from rlhfbench.policies.linear import LinearPolicy
from rlhfbench.registry import parse_arm
from rlhfbench.rewards.bags import BagFeatures
from rlhfbench.rewards.bradley_terry import LinearRewardModel
from rlhfbench.types import Demonstrations, PreferencePairs, Revision, Rollout, StepRewards

Counted.__float__ = lambda self: float(self.value)  # for diagnostics, which are nobody's work

# The toy: two tokens, of which the second ends a reply of at most two.
V, T, EOS, PROMPTS = 2, 2, 1, np.array([[0, 1], [-1, 0], [-1, 1]])


WHOLE = ("eval", "serve", "plain", "sft")
"""Phases inside which everything is theirs."""


class Account:
    """Operations by phase; what is not caught by a narrower phase is the algorithm's own, `update`."""

    def __init__(self):
        self.phases, self.stack = {}, []

    def settle(self):
        flops, transcendentals = numbers.counts()
        numbers.reset()
        phase = self.stack[-1] if self.stack else "nobody"
        before = self.phases.get(phase, (0, 0))
        self.phases[phase] = (before[0] + flops, before[1] + transcendentals)

    @contextmanager
    def phase(self, name):
        self.settle()
        self.stack.append(self.stack[-1] if self.stack and self.stack[-1] in WHOLE else name)
        try:
            yield
        finally:
            self.settle()
            self.stack.pop()


account = Account()


def recount(array):
    """Make every entry a counting number, without counting."""
    out = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        out[index] = Counted(array[index])
    return out


class CountedPolicy(LinearPolicy):
    """The log-linear policy on counting numbers; `role` is policy or reference."""

    role = "policy"

    def _in(self, phase, call, *args, **options):
        with account.phase("ref" if self.role == "reference" else phase):
            result = call(*args, **options)
        return recount(result) if isinstance(result, np.ndarray) else result

    def logits(self, *args, **options):
        return self._in("update", super().logits, *args, **options)

    def logprobs(self, *args, **options):
        return self._in("update", super().logprobs, *args, **options)

    def values(self, *args, **options):
        return self._in("critic", super().values, *args, **options)

    def sample(self, *args, **options):
        rollout = self._in("rollout", super().sample, *args, **options)
        return Rollout(rollout.responses, recount(rollout.mask), recount(rollout.logprobs))

    def backward(self, d_logits=None, d_values=None):
        if d_logits is not None:
            self._in("update", super().backward, d_logits)
        if d_values is not None:
            self._in("critic", super().backward, None, d_values)


class CountedRewardModel(LinearRewardModel):
    def score(self, *args):
        with account.phase("rm_score"):
            return super().score(*args)


class CountedSteps:
    """Judges steps, at no cost: what algorithms make of it is counted."""

    charge = None

    def rewards(self, prompts, responses, mask):
        counts = np.array([[m.value > 0 for m in row] for row in mask])
        ends = counts & (np.cumsum(counts[:, ::-1], axis=1)[:, ::-1] == 1) | (counts & (responses == 0))
        return StepRewards(recount(np.where(ends, 0.3 + responses - 0.5 * (prompts[:, :1] < 0), 0.0)), ends)

    def score(self, prompts, responses, mask):
        return self.rewards(prompts, responses, mask).tokens.sum(axis=1)


def make_policy(role):
    policy = CountedPolicy(2, V, T, eos=EOS, dtype=object)
    policy.role = role
    policy.params[:] = counted(np.random.default_rng(0).normal(size=policy.params.size))
    return policy


def make_reward_model():
    model = CountedRewardModel(np.array([0.7, -0.2]), BagFeatures.of("unigrams", V))
    model._tables[np.dtype(object)] = counted(model.weights)
    model._bias = Counted(0.1)
    return model


class CountedAdamW(optimizer.AdamW):
    """Its moments and cleared gradients have to count too."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.m, self.v = counted(self.m), counted(self.v)
        self.grads[:] = counted(np.zeros(self.grads.size))

    def step(self, scale=1.0):
        super().step(scale)
        self.grads[:] = counted(np.zeros(self.grads.size))


class Toy:
    """What the harness asks of a task."""

    name, gold, enumerable, eos, unknown, max_length = "toy", "exact", True, EOS, None, T
    vocab, prompt_vocab = ("a", "<eos>"), ("p", "q")

    def prompts(self, n, rng):
        return PROMPTS[rng.integers(len(PROMPTS), size=n)]

    def prompt_text(self, prompt):
        return str(prompt)

    def response_text(self, response, mask):
        return str(response)

    def labeller(self, charge):
        return Content()


class Content:
    """A labeller that finds one reply in two at fault, and leaves it as it is."""

    def revise(self, prompts, responses, mask):
        return Revision(responses, mask, np.arange(len(prompts)) % 2)


class NoGold:
    def score(self, prompts, responses, mask):
        return np.zeros(len(responses))


def pairs():
    chosen, rejected = np.array([[0, 1], [0, 0], [1, 0]]), np.array([[1, 0], [0, 1], [0, 0]])

    def mask(responses):
        return counted(np.where(np.cumsum(responses == EOS, axis=1) - (responses == EOS) > 0, 0.0, 1.0))

    return PreferencePairs(PROMPTS, chosen, mask(chosen), rejected, mask(rejected))


def make_prepared(by_step=False):
    shared = ComputeMeter()
    reference = make_policy("reference")
    n = 3
    uniforms = np.random.default_rng(5).random((n, T))
    model = CountedSteps() if by_step else make_reward_model()
    costs = Costs(make_reward_model(), 0, ComputeMeter(), 0.0, "", None)
    world = Toy(), 0, reference, "model", model, pairs(), NoGold(), PROMPTS, uniforms
    return prepare.Prepared(*world, shared, 0.0, costs)


@dataclass(frozen=True)
class Evaluation(run.Evaluator):
    """The harness's evaluation, its work caught as `eval`, its serving as `serve`."""

    def point(self, served, meter):
        with account.phase("eval"):
            return super().point(served, meter)

    def replies(self, served, n=20):
        with account.phase("eval"):
            return super().replies(served, n)

    def serving(self, served, policy, meter):
        prompts = self.prepared.evaluation_prompts
        with meter.apart("eval"):  # the ledger must not see this measurement
            with account.phase("plain"):
                policy.sample(prompts, self.uniforms)
            with account.phase("serve"):
                served.sample(prompts, self.uniforms)
        with account.phase("eval"):  # the harness's own measuring of the same
            return super().serving(served, policy, meter)


def recounted_run(arm_text, wrong, times):
    """Ledger and recount of one run, by phase; charge number `wrong` is entered `times` times."""
    arm = parse_arm(arm_text)
    prepared = make_prepared(by_step=arm.world.get("rm") == "process")
    function = arm.spec.function

    def measured(setup, config):
        setup.policy.role = "policy"
        steps = function(setup, config)
        while True:
            with account.phase("update"):
                metrics_ = next(steps, None)
            if metrics_ is None:
                return
            yield metrics_

    arm = replace(arm, spec=replace(arm.spec, function=measured))
    charges = []
    add = ComputeMeter.add

    def watched(self, phase, work):
        for _ in range(times if len(charges) == wrong else 1):
            add(self, phase, work)
        if work.flops and self._redirect is None:
            charges.append((phase, *work))

    ComputeMeter.add = watched
    result = run.run(prepared, arm, checkpoints=1, evaluator=Evaluation)
    assert result.status == "done", result.message
    phases = account.phases
    plain, spent = phases.pop("plain", (0, 0)), phases.pop("serve", (0, 0))
    phases["serve"] = (spent[0] - plain[0], spent[1] - plain[1])
    return result.compute, phases, charges


def recounted_sft():
    """Supervised fine-tuning: ledger and recount."""
    meter, policy = ComputeMeter(), make_policy("policy")
    policy.charge = lambda kind, work, tokens: meter.add("sft", work)
    chosen = pairs()
    demos = Demonstrations(chosen.prompts, chosen.chosen, chosen.chosen_mask)
    with account.phase("sft"):
        sft.fine_tune(policy, demos, np.random.default_rng(0), meter)
    return meter.flops["sft"], account.phases["sft"][0]


def main(arm_text, wrong=-1, times=1):
    optimizer.AdamW = sft.AdamW = run_setup.AdamW = CountedAdamW
    diagnostics = ("mean", "sequence_mean", "sequence_difference", "accuracy", "implicit_rewards")
    for name in diagnostics:  # they are free
        for module in list(sys.modules.values()):
            if getattr(module, name, None) is getattr(metrics, name) and module is not metrics:
                setattr(module, name, lambda *values, **more: 0.0)
    run.finite = lambda values: True
    if arm_text == "sft":
        ledger, executed = recounted_sft()
        print(json.dumps({"ledger": {"sft": ledger}, "executed": {"sft": executed}}))
        return
    compute, phases, charges = recounted_run(arm_text, wrong, times)
    executed = {name: flops for name, (flops, _) in phases.items() if name not in ("eval", "nobody")}
    transcendentals = sum(t for name, (_, t) in phases.items() if name not in ("eval", "nobody"))
    ledger = {name: flops for name, flops in compute["by_phase"].items() if name in executed}
    print(
        json.dumps(
            {
                "ledger": ledger,
                "executed": executed,
                "transcendentals": [compute["transcendentals"], transcendentals],
                "charges": charges,
                "nobody": phases.get("nobody", (0, 0))[0],
                "total": compute["flops"],
            }
        )
    )


if __name__ == "__main__":
    # The registry imports algorithms lazily; they have to be there before their diagnostics are silenced.
    parse_arm(sys.argv[1]) if sys.argv[1] != "sft" else None
    main(sys.argv[1], *map(int, sys.argv[2:]))
