"""The architect's gates before a comparison: what its arms and its world propose, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .gates import Proposal, guard
from .jobs import World
from .policy_choice import TransformerSizes, choose_policy
from .registry import Arm
from .reward_models import choose_reward_model


@dataclass(frozen=True)
class Gates:
    """Gates that were lifted though they would have refused, and what could not be judged."""

    lifted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(arms: Sequence[Arm], world: World, i_know: Collection[str] = ()) -> Gates:
    """Let a comparison pass, or refuse it.

    The KL to the reference is measured at every checkpoint whatever an arm does, so that no arm lacks a monitor.

    Raises
    ------
    InputError
        Where a gate refuses and is not lifted.
    """
    policy, notes = choose_policy(world.policy), []
    own = policy.options if isinstance(policy.options, TransformerSizes) else None
    models = list[float]()
    for one in world.worlds(arm for arm in arms if "reward_model" in arm.spec.needs):
        if one.reward != "model":
            continue
        model = choose_reward_model(one.open(), policy)
        _, asked = model.kept
        if asked is not None and own is not None:
            models.append(parameters(asked))
        else:
            notes.append(
                f"Gate rm-size not judged: the reward model ({model.text}) and the policy ({policy.name})"
                " are not both transformers."
            )
    proposal = Proposal(
        [arm.spec.name for arm in arms],
        kl_monitor=True,
        policy_parameters=None if own is None else parameters(own),
        rm_parameters=min(models, default=None),
        human_evaluation=False
        if world.open().gold == "judge"
        else None,  # a world whose gold is known needs nobody's
    )
    passage = guard(proposal, i_know)
    notes += [f"Gate {gate.name}, flagged: {gate.what}; {gate.why}." for gate in passage.flags]
    return Gates(tuple(gate.name for gate in passage.lifted), tuple(dict.fromkeys(notes)))


def parameters(sizes: TransformerSizes) -> float:
    """Of the blocks: what tells a larger transformer from a smaller one over the same vocabulary."""
    return 12.0 * sizes.layers * sizes.width**2
