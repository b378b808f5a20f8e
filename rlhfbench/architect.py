"""`rlhfbench architect`: from a model, a target, a source of judgement and a budget to a design in five parts.

Stage, source, KL strategy, diagnostics, safety gate.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .architect_knowledge import DIAGNOSTICS, KL, SAFETY, SOURCES, STAGES, TARGETS
from .errors import InputError
from .extrapolation import METHODS, Workload, flops_of, flops_per_reply, parse_size
from .gates import ONLINE, Gate, Passage, Proposal, guard
from .options import nearest

GROUPS = frozenset({"grpo", "rloo"})


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Parameters
    ----------
    workload : Workload
    target, source : str
        Of `TARGETS` and `SOURCES`.
    budget : float
        FLOPs for training.
    method : str, optional
        Insists on a method; by default the first that suits and fits the budget.
    reward : {"rm", "verifier", "length"}, optional
        By default what the source implies.
    kl_monitor, human_evaluation : bool
    """

    workload: Workload
    target: str
    source: str
    budget: float
    method: str | None = None
    reward: str | None = None
    kl_monitor: bool = True
    human_evaluation: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("target", self.target, TARGETS), ("source", self.source, SOURCES)):
            if value not in known:
                raise InputError(f"unknown {name} '{value}'{nearest(value, known)}")
        if self.method is not None and self.method not in METHODS:
            raise InputError(f"unknown method '{self.method}'{nearest(self.method, METHODS)}")
        if not 0 < self.budget < float("inf"):
            raise InputError(f"budget must be above 0 (FLOP), got {self.budget:g}")

    @property
    def learnt(self) -> bool:
        """Whether the reward is a model that has to be trained."""
        return self.source != "verifier"


@dataclass(frozen=True)
class Priced:
    """What a method would cost: an extrapolation."""

    method: str
    flops: float
    of_budget: float
    flops_per_reply: float


@dataclass(frozen=True)
class Design:
    """The five parts, what each option costs, and what the gates said."""

    request: Request
    method: str
    stage: str
    source: str
    kl: str
    diagnostics: Sequence[tuple[str, str, str]]
    safety: Sequence[str]
    options: Sequence[Priced]
    fits: bool
    flags: Sequence[Gate]
    lifted: Sequence[Gate]

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `architect`, schema 1."""
        watched = [dict(zip(("metric", "in_order", "rule"), row, strict=True)) for row in self.diagnostics]
        return {
            "schema": 1,
            "request": asdict(self.request),
            "method": self.method,
            "stage": self.stage,
            "source": self.source,
            "kl_strategy": self.kl,
            "diagnostics": watched,
            "safety_gate": list(self.safety),
            "options": [asdict(option) for option in self.options],
            "extrapolated": True,
            "fits_budget": self.fits,
            "flags": [gate.name for gate in self.flags],
            "lifted": [gate.name for gate in self.lifted],
        }


def request(
    *,
    size: str | None = None,
    target: str | None = None,
    source: str | None = None,
    budget: float | None = None,
    rm_size: str | None = None,
    pairs: int = 50_000,
    **choices: Any,
) -> Request:
    """A `Request` from what people type; sizes as ``7B``.

    Raises
    ------
    InputError
        Where something is missing or unknown.
    """
    given = {"--size": size, "--target": target, "--source": source, "--budget": budget}
    missing = [name for name, value in given.items() if value is None]
    if size is None or target is None or source is None or budget is None:
        raise InputError(
            f"{', '.join(missing)} needed, as in --size 7B --target alignment --source human --budget 1e21"
        )
    parameters = parse_size(size)
    workload = Workload(parameters, parameters if rm_size is None else parse_size(rm_size), pairs)
    return Request(workload, target, source, budget, **choices)


def architect(request: Request, i_know: Collection[str] = ()) -> Design:
    """Design a pipeline, or refuse.

    Raises
    ------
    InputError
        Where a gate refuses the plan.
    """
    stage = STAGES[request.target, request.source]
    suited = stage.methods if request.method is None else (request.method,)
    options = [_priced(method, request) for method in dict.fromkeys((*suited, *stage.methods))]
    affordable = [option for option in options if option.of_budget <= 1 and option.method in suited]
    cheapest = min((o for o in options if o.method in suited), key=lambda option: option.flops)
    chosen = affordable[0] if affordable else cheapest
    passage = _guarded(request, chosen.method, i_know)
    online = chosen.method in ONLINE
    kind = "online" if online else "selection" if chosen.method == "best_of_n" else "direct"
    watched = DIAGNOSTICS[kind]
    watched += DIAGNOSTICS["ppo"] if chosen.method in ("ppo", "ppo_lagrangian") else ()
    watched += DIAGNOSTICS["groups"] if chosen.method in GROUPS else ()
    kl = KL[kind if not online else "rm" if request.learnt else "verifier"]
    return Design(
        request,
        chosen.method,
        f"SFT, then {chosen.method}. {stage.why}",
        SOURCES[request.source],
        kl,
        watched,
        (*SAFETY["all"], *SAFETY.get(request.target, ())),
        options,
        bool(affordable),
        passage.flags,
        passage.lifted,
    )


def _priced(method: str, request: Request) -> Priced:
    flops = flops_of(method, request.workload, request.learnt)
    per_reply = flops_per_reply(method, request.workload, request.learnt)
    return Priced(method, flops, flops / request.budget, per_reply)


def _guarded(request: Request, method: str, i_know: Collection[str]) -> Passage:
    workload = request.workload
    # Direct alignment has no reward model that could be too small.
    judged = request.learnt and method not in ("dpo", "kto")
    return guard(
        Proposal(
            methods=(method,),
            kl_monitor=request.kl_monitor,
            policy_parameters=workload.parameters if judged else None,
            rm_parameters=workload.rm_parameters if judged else None,
            reward=request.reward or ("rm" if request.learnt else "verifier"),
            human_evaluation=request.human_evaluation,
        ),
        i_know,
    )
