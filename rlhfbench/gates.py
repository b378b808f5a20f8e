"""What no design may lack: gates that refuse a plan, or flag it. The architect and `compare` go through the same."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import InputError
from .options import nearest

Kind = Literal["refused", "flagged"]

ONLINE = frozenset({"ppo", "ppo_lagrangian", "reinforce", "grpo", "rloo", "raft", "online_dpo"})
"""Methods that go on sampling from what they train, and so can leave the reference behind unseen."""


@dataclass(frozen=True)
class Proposal:
    """What the gates judge; None is what is not known, and passes.

    Parameters
    ----------
    methods : collection of str
    kl_monitor : bool, optional
        Whether the KL to the frozen reference is measured while training.
    policy_parameters, rm_parameters : float, optional
        Where the two are of one family.
    reward : {"rm", "verifier", "length"}, optional
    human_evaluation : bool, optional
        Whether people judge replies to held-out prompts without knowing whose they are.
    """

    methods: Collection[str] = ()
    kl_monitor: bool | None = None
    policy_parameters: float | None = None
    rm_parameters: float | None = None
    reward: str | None = None
    human_evaluation: bool | None = None


@dataclass(frozen=True)
class Gate:
    """One gate: what it refuses or flags, why, and what to do instead."""

    name: str
    kind: Kind
    what: str
    why: str
    instead: str


GATES = (
    Gate(
        "kl-monitor",
        "refused",
        "PPO, or another method that samples from what it trains, without a KL monitor",
        "the reward model is only right near the replies that it was trained on, and the KL to the reference is the"
        " only thing that says how far away the policy is",
        "measure the KL to the frozen reference at every update, and stop or raise beta above 10 nats",
    ),
    Gate(
        "rm-size",
        "refused",
        "a reward model smaller than the policy",
        "a policy that sees more than its judge finds what the judge cannot see, sooner and at a lower KL",
        "a reward model of at least the policy's size, or a verifier",
    ),
    Gate(
        "length-reward",
        "refused",
        "a reward that is length alone",
        "the optimum is known beforehand: the longest reply that fits, whatever it says",
        "a reward model or a verifier, with the length taken out of it rather than put in",
    ),
    Gate(
        "human-evaluation",
        "flagged",
        "a plan without a blind held-out human evaluation",
        "every other figure comes from models that were made of the same labels, and shares their blind spots",
        "have people judge replies of reference and policy to held-out prompts without telling them which is which",
    ),
)


def _violates(gate: Gate, proposal: Proposal) -> bool:
    if gate.name == "kl-monitor":
        return proposal.kl_monitor is False and bool(ONLINE & set(proposal.methods))
    if gate.name == "rm-size":
        rm, policy = proposal.rm_parameters, proposal.policy_parameters
        return rm is not None and policy is not None and rm < policy
    if gate.name == "length-reward":
        return proposal.reward == "length"
    return proposal.human_evaluation is False


@dataclass(frozen=True)
class Passage:
    """What became of a proposal that was not refused: flags, and the gates that were lifted and would have refused."""

    flags: Sequence[Gate]
    lifted: Sequence[Gate]


def guard(proposal: Proposal, i_know: Collection[str] = ()) -> Passage:
    """Let a proposal pass, or refuse it; a gate in `i_know` is lifted, and recorded where it would have refused.

    Raises
    ------
    InputError
        Naming every gate that refuses, why, and what would be right; or a gate that there is not.
    """
    names = [gate.name for gate in GATES if gate.kind == "refused"]
    for name in i_know:
        if name not in names:
            raise InputError(f"--i-know {name}: no such gate{nearest(name, names)}")
    violated = [gate for gate in GATES if _violates(gate, proposal)]
    refused = [gate for gate in violated if gate.kind == "refused"]
    stays = [gate for gate in refused if gate.name not in i_know]
    if stays:
        reasons = "; ".join(f"{gate.what}: {gate.why}; needed: {gate.instead}" for gate in stays)
        lift = " ".join(f"--i-know {gate.name}" for gate in stays)
        raise InputError(f"refused: {reasons} ({lift} lifts the gate)")
    flags = [gate for gate in violated if gate.kind == "flagged"]
    return Passage(flags, [gate for gate in refused if gate.name in i_know])
