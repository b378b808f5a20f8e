"""What all runs of a seed share, kept beside them so that nothing has to be trained again to look at replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .checkpoints import (
    Storable,
    load_policy,
    load_reward_model,
    pack_policy,
    pack_reward_model,
    vocabulary_hash,
)
from .errors import InputError
from .policy_choice import TransformerSizes, choose_policy
from .prepare import Prepared, evaluation_inputs
from .reward_models import REWARD_MODELS, choose_reward_model
from .rewards.composed import ComposedRewardModel
from .rewards.gold import Gold, Judge, TaskGold
from .rewards.process import StepRewardModel
from .rewards.transformer import TransformerRewardModel
from .rewards.verifier import Verifier
from .seeding import stream
from .sft import make_policy
from .tasks.reward_choice import reward_kind
from .types import Float, Int, Policy, RewardKind, RewardModel, Sampler, Task
from .verifiers import UserVerifier

REFERENCE, REWARD_MODEL, JUDGE, SERVED = "reference", "reward_model", "judge", "policy"
"""Names of the files, without their endings."""
OF_THE_ARM = ("algorithm", "config", "label", "budget")
"""Inputs of a run that its world does not depend on."""


@dataclass(frozen=True)
class KeptWorld:
    """A seed's world as far as replies need it: drawn from `prompts` and `uniforms`, scored, put into words."""

    task: Task
    policy: str
    reference: Policy
    reward: RewardKind
    reward_model: RewardModel
    gold: Gold
    prompts: Int
    uniforms: Float

    @property
    def vocabulary(self) -> str:
        """Hash of the words that its policies know."""
        return words_of(self.task)

    def served(self, folder: Path) -> Policy:
        """The policy that the run in `folder` keeps."""
        return load_policy(folder, SERVED, self.reference, self.policy, self.vocabulary)


def world_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's inputs that all arms of its seed share."""
    shared = {name: value for name, value in inputs.items() if name not in OF_THE_ARM}
    shared["sources"] = {name: h for name, h in inputs["sources"].items() if name != "algorithm"}
    return shared


def words_of(task: Task) -> str:
    """Hash of a task's words."""
    return vocabulary_hash(task.vocab, task.prompt_vocab)


def pack_world(prepared: Prepared, policy: str) -> dict[str, bytes]:
    """The files of a prepared seed: its reference, reward model if it has one and, where no gold is known, judge."""
    words = words_of(prepared.task)
    files = pack_policy(REFERENCE, prepared.reference, policy, words)
    if not isinstance(prepared.reward_model, Verifier):
        files |= pack_reward_model(REWARD_MODEL, prepared.reward_model, words)
    if isinstance(prepared.gold, Judge):
        files |= pack_reward_model(JUDGE, cast(Storable, prepared.gold.model), words)
    return files


def pack_served(served: Sampler, prepared: Prepared, policy: str) -> dict[str, bytes]:
    """The files of what a run serves; none where that is no policy of the reference's kind, as with best-of-n.

    A sampler is code and whatever it holds: it cannot be kept, only the replies that it gave.
    """
    reference = prepared.reference
    if type(served) is not type(reference) or served.params.shape != reference.params.shape:
        return {}
    return pack_policy(SERVED, served, policy, words_of(prepared.task))


def load_world(
    folder: Path, task: Task, inputs: Mapping[str, Any], verifier: UserVerifier | None = None
) -> KeptWorld:
    """Read what `pack_world` gave, for a run with these `inputs`; with its verifier, if it had one."""
    seed, name = inputs["seed"], inputs["policy"]
    task = task.for_seed(stream(seed, "split"))
    words, blank = words_of(task), make_policy(name, task)
    gold: Gold = TaskGold(task)
    if task.gold == "judge":
        gold = Judge(load_reward_model(folder, JUDGE, REWARD_MODELS, words))
    prompts, uniforms = evaluation_inputs(task, seed, inputs["episodes"])
    kind = reward_kind(task, None if verifier is None else verifier.text)
    model: RewardModel
    if kind == "model":
        model = _load_model(folder, task, name, prompts.shape[1])
    else:
        model = Verifier(task.gold_score) if verifier is None else verifier.reward(task)
    reference = load_policy(folder, REFERENCE, blank, name, words)
    return KeptWorld(task, name, reference, kind, model, gold, prompts, uniforms)


def _load_model(folder: Path, task: Task, policy: str, prompt_length: int) -> RewardModel:
    model = load_reward_model(folder, REWARD_MODEL, REWARD_MODELS, words_of(task))
    choice = choose_reward_model(task, choose_policy(policy))
    members = model.members if isinstance(model, ComposedRewardModel) else (model,)
    needed, sizes = choice.kept
    if len(members) != needed:
        came = len(members)
        raise InputError(f"{folder / REWARD_MODEL}.json: {came} members came, {needed} are needed")
    for member in members:
        if isinstance(member, TransformerRewardModel | StepRewardModel):
            shape = (len(task.vocab), task.max_length + 1, prompt_length)
            _check_backbone(folder, member, sizes, shape)
    return model


def _check_backbone(
    folder: Path,
    model: TransformerRewardModel | StepRewardModel,
    needed: TransformerSizes | None,
    lengths: tuple[int, int, int],
) -> None:
    """Refuse a reward model that was written for another task, policy or knob."""
    backbone = model.backbone
    own = TransformerSizes(backbone.sizes.layers, backbone.sizes.width, backbone.sizes.heads)
    found = (backbone.vocab_size, backbone.max_length, backbone.prompt_length)
    if own != needed or found != lengths:
        came, need = (f"{sizes}, {shape}" for sizes, shape in ((own, found), (needed, lengths)))
        raise InputError(f"{folder / REWARD_MODEL}.json: made for {came}, {need} is needed")
