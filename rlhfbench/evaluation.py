"""Evaluation off the clock: RM score, gold score, exact per-state KL, entropy and length on fixed prompts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from kernels import categorical, flops

from .compute import ComputeMeter
from .prepare import Prepared
from .records import SAFETY
from .rewards.gold import Gold
from .types import Float, Int, Policy, RewardModel, Rollout, SafetyLabelled, Sampler, Task

Point = dict[str, float | None]


@dataclass(frozen=True)
class Evaluator:
    """Evaluates what would be served on the seed's prompts and uniforms, the same for every arm."""

    prepared: Prepared

    def point(self, served: Sampler, meter: ComputeMeter) -> Point:
        """One row of a curve, all of it charged to `eval`.

        A policy is cloned first, so that evaluating always or never leaves the same parameters and activations.
        KL and entropy are sums over the states visited of the exact divergence in each, averaged over replies; for a
        sampler that is no policy the KL is its bound and the entropy None.
        """
        with meter.redirect("eval"):
            policy: Policy | None = served.clone() if hasattr(served, "clone") else None
            rollout = (policy or served).sample(self.prepared.evaluation_prompts, self.uniforms)
            point = self.scores(rollout, meter)
            if policy is not None:
                point |= self.divergence(policy, rollout, meter)
            else:
                point |= {"kl": getattr(served, "kl_bound", None), "entropy": None}
        return point

    @property
    def uniforms(self) -> Float:
        return self.prepared.evaluation_uniforms

    def scores(self, rollout: Rollout, meter: ComputeMeter) -> Point:
        """Means over the evaluation prompts of RM score, gold score and reply length (words or pieces, without EOS)."""
        prepared = self.prepared
        inputs = (prepared.evaluation_prompts, rollout.responses, rollout.mask)
        reward_model = copy.copy(prepared.reward_model)
        reward_model.charge = meter.reward_charge
        gold = np.asarray(prepared.gold.score(*inputs), float)
        words = rollout.mask > 0
        if prepared.task.eos is not None:
            words &= rollout.responses != prepared.task.eos
        return {
            "rm_score": float(reward_model.score(*inputs).mean()),
            "gold_score": float(gold.mean()),
            "gold_se": float(gold.std() / np.sqrt(len(gold))),
            "length": float(words.sum(axis=1).mean()),
            **self.safety(rollout, meter),
        }

    def safety(self, rollout: Rollout, meter: ComputeMeter) -> Point:
        """What is told of declining, each name of `rlhfbench.records.SAFETY` behind ``safety/``; else nothing."""
        prepared = self.prepared
        if not isinstance(prepared.task, SafetyLabelled) or prepared.costs is None:
            return {}
        inputs = (prepared.evaluation_prompts, rollout.responses, rollout.mask)
        cost_model = copy.copy(prepared.costs.model)
        cost_model.charge = meter.reward_charge
        told = prepared.task.safety(*inputs) | {"cost": float(cost_model.score(*inputs).mean())}
        return {f"safety/{name}": value for name, value in told.items()}

    def divergence(self, policy: Policy, rollout: Rollout, meter: ComputeMeter) -> Point:
        """Mean over replies of the summed per-state KL(policy || reference) and entropy, nats."""
        inputs = (self.prepared.evaluation_prompts, rollout.responses, rollout.mask)
        logits = policy.logits(*inputs, keep=False)
        reference = copy.copy(self.prepared.reference)  # one workspace for the logits of all points
        reference.charge = meter.reference_charge  # type: ignore[attr-defined]
        ref_logits = reference.logits(*inputs, keep=False)
        kl = categorical.kl_divergence(logits, ref_logits) * rollout.mask
        entropy = categorical.entropy(logits) * rollout.mask
        for kernel in ("kl_divergence", "entropy"):
            meter.add("eval", flops.work(kernel, *logits.shape))
        return {
            "kl": max(float(kl.sum(axis=1).mean()), 0.0),
            "entropy": float(entropy.sum(axis=1).mean()),
        }

    def serving(self, served: Sampler, policy: Policy, meter: ComputeMeter) -> int:
        """Charge what `served` spends beyond one plain sample a prompt to `serve`; returns FLOPs per reply."""
        prompts = self.prepared.evaluation_prompts

        def cost(sampler: Sampler) -> ComputeMeter:
            with meter.apart("serve") as account:
                sampler.sample(prompts, self.uniforms)
            return account

        plain = spent = cost(policy)
        if served is not policy:
            spent = cost(served)
            meter.add_difference(spent, plain)
        return round(spent.flops["serve"] / len(prompts))

    def replies(self, served: Sampler, n: int = 20) -> list[dict[str, Any]]:
        """The first `n` evaluation prompts with the reply of the reference and of what is served, scored."""
        prepared, prompts, uniforms = self.prepared, self.prepared.evaluation_prompts[:n], self.uniforms[:n]
        rows: list[dict[str, Any]] = [{"prompt": prepared.task.prompt_text(prompt)} for prompt in prompts]
        for name, sampler in (("reference", prepared.reference), ("reply", served)):
            found = scored_replies(prepared, sampler, prompts, uniforms)
            for row, reply in zip(rows, found, strict=True):
                row[name] = reply.text
                row[f"{name}_rm_score"], row[f"{name}_gold_score"] = reply.rm_score, reply.gold_score
                if reply.harm is not None:
                    row[f"{name}_harm"] = reply.harm
        return rows


class World(Protocol):
    """What it takes to score replies and to put them into words."""

    @property
    def task(self) -> Task: ...
    @property
    def reward_model(self) -> RewardModel: ...
    @property
    def gold(self) -> Gold: ...


class Reply(NamedTuple):
    """One reply in words, with what the reward model and gold (or the judge) give it, and its true harm, if known.

    There is no `rm_score` where several rewards might give it.
    """

    text: str
    rm_score: float | None
    gold_score: float
    harm: float | None = None


def scored_replies(world: World, sampler: Sampler, prompts: Int, uniforms: Float) -> list[Reply]:
    """What `sampler` answers to each of `prompts` (n, P), drawn by `uniforms` (n, T)."""
    rollout = sampler.sample(prompts, uniforms)
    inputs = (prompts, rollout.responses, rollout.mask)
    rm, gold = (np.asarray(model.score(*inputs), float) for model in (world.reward_model, world.gold))
    texts = [world.task.response_text(*row) for row in zip(rollout.responses, rollout.mask, strict=True)]
    harm = list[float | None]([None] * len(prompts))
    if isinstance(world.task, SafetyLabelled):
        harm = world.task.harm(*inputs).tolist()
    return [Reply(*row) for row in zip(texts, rm.tolist(), gold.tolist(), harm, strict=True)]


def safety_of(start: Mapping[str, Any], end: Mapping[str, Any]) -> dict[str, Any] | None:
    """What two points of a curve tell of declining: the end, and the start as its reference."""
    if f"safety/{SAFETY[0]}" not in start:
        return None
    told = ({name: point[f"safety/{name}"] for name in SAFETY} for point in (end, start))
    return {**next(told), "reference": next(told)}


def finite(values: Any) -> bool:
    """Whether all numbers of a metrics dictionary, or of an array, are finite."""
    if isinstance(values, dict):
        return all(v is None or np.isfinite(v) for v in values.values())
    return bool(np.isfinite(values).all())
