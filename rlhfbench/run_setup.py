"""What an algorithm is handed: policy, reference, models and data of a prepared seed, wired to the run's meter."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from kernels import flops

from .compute import ComputeMeter
from .cost_models import no_labels_of_harm
from .errors import InputError
from .optimizer import AdamW
from .prepare import Prepared
from .registry import Arm
from .room import Room
from .seeding import stream
from .tasks.labels import labeller_of
from .types import (
    Int,
    Labeller,
    Policy,
    PreferencePairs,
    RewardModel,
    Sampler,
)


class RunSetup:
    """What the algorithm is handed (`rlhfbench.types.Setup`), wired to the run's meter."""

    def __init__(self, prepared: Prepared, arm: Arm, meter: ComputeMeter, budget: int | None) -> None:
        self._prepared, self._arm, self._meter, self._budget = prepared, arm, meter, budget
        self.policy = prepared.reference.clone()
        self.policy.charge = meter.policy_charge  # type: ignore[attr-defined]
        self.reference: Policy = prepared.reference.clone()
        self.reference.params.flags.writeable = (
            False  # frozen: writing to it is an error, not a quiet mistake
        )
        self.reference.charge = meter.reference_charge  # type: ignore[attr-defined]
        self.rng = stream(prepared.seed, "arm", arm.label)
        self.room = Room()
        self._prompt_rng = stream(prepared.seed, "arm", arm.label, "prompts")
        self.served: Sampler = self.policy
        # Copies: what one arm writes into them must reach neither evaluation nor the other arms of the seed.
        self._reward_model = copy.deepcopy(prepared.reward_model)
        self._reward_model.charge = meter.reward_charge
        self._cost_model = None if prepared.costs is None else copy.deepcopy(prepared.costs.model)
        if self._cost_model is not None:
            self._cost_model.charge = meter.reward_charge
        self._preferences = copy.deepcopy(prepared.preferences)
        self.planned, self.done, self._in_step = 0, 0, False
        self._paid = meter.charged_flops  # for a reward model, before the first update

    @property
    def reward_model(self) -> RewardModel:
        self._need("reward_model")
        return self._reward_model

    @property
    def cost_model(self) -> RewardModel:
        self._need("cost_model")
        if self._cost_model is None:
            raise InputError(no_labels_of_harm(self._prepared.task.name, self._arm.spec.name))
        return self._cost_model

    @property
    def preferences(self) -> PreferencePairs:
        self._need("preferences")
        return self._preferences

    @cached_property
    def labeller(self) -> Labeller:
        self._need("labeller")
        return labeller_of(self._prepared.task, self._arm.spec.name, self._meter.label)

    def _need(self, need: Any) -> None:
        if need not in self._arm.spec.needs:
            raise InputError(
                f"algorithm '{self._arm.spec.name}' uses {need} but does not declare it: "
                f'add needs={{"{need}"}} to its register(), so that it is charged'
            )

    def prompts(self, n: int) -> Int:
        return self._prepared.task.prompts(n, self._prompt_rng)

    def optimizer(self, learning_rate: float, **options: float) -> AdamW:
        def charge(work: flops.Work) -> None:
            self._meter.update_charge(work)

        return AdamW(
            self.policy.params,
            self.policy.grads,
            learning_rate,
            charge=charge,
            count=lambda: self._meter.count("optimizer_steps", 1),
            **options,
        )

    def steps(self, planned: int) -> Iterator[int]:
        self.planned = planned
        for index in range(planned) if self._budget is None else itertools.count():
            self._in_step = True
            yield index

    def step_done(self) -> None:
        """The harness's: the algorithm has yielded."""
        self.done += self._in_step
        self._in_step = False

    def progress(self) -> float:
        if self._budget is not None:
            left = self._budget - self._paid
            return min((self._meter.charged_flops - self._paid) / left, 1.0) if left > 0 else 1.0
        return self.done / self.planned if self.planned else 0.0

    def charge(self, kernel: str, *shape: int) -> None:
        self._meter.update_charge(flops.work(kernel, *shape))
