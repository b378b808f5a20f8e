"""Whose labels a world's preference pairs have, how many of them, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, TypeAlias, cast

import numpy as np

from ..constitution import Constitution
from ..constitution_file import read_constitution
from ..data import read_pairs
from ..errors import InputError
from ..labeller import AILabeller, Decoding, TokenLabeller
from ..options import require
from ..types import Constitutional, Float, Int, Labeller, PreferencePairs, Sampler, Task
from .annotators import as_pairs, two_replies
from .reward_choice import reward_options

LabelSource: TypeAlias = Literal["human", "ai"]
PRICES: dict[str, float] = {"human": 1.0, "ai": 0.1}
"""Of one call, in prices of one person's label. Lee et al. 2023 reckon that AI labels are about ten times cheaper."""

HOW_ASKED = ("label_temperature", "label_position_bias", "label_debias", "label_decoding")
"""Options that say how the AI labeller is asked; to people they mean nothing."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Fields that tasks of preference pairs share, beside their own `labels`.

    Parameters
    ----------
    label_constitution : str, optional
        A .toml or .json file, or the name of a constitution that is shipped; by default the one of the task. What AI
        labels go by, and what replies are revised by.
    label_temperature : float
        Of the AI labeller's choice, in units of the constitution's score, > 0.
    label_position_bias : float
        Log-odds that the AI labeller adds for the reply that it is shown first.
    label_debias : bool
        The AI labeller is asked in both orders, at twice the price, and the probabilities averaged.
    label_decoding : {"sampled", "greedy"}
        AI labels are drawn with their probability, or are the likelier one.
    label_budget : float, optional
        What labels of pairs may cost; there are as many pairs as that buys, whatever the task says otherwise. Labels of
        harm are not of it.
    label_price : float, optional
        Of one person's label, or of one call of the AI labeller; by default 1 and .1.
    """

    label_constitution: str | None = None
    label_temperature: float = 0.5
    label_position_bias: float = 0.5
    label_debias: bool = False
    label_decoding: Decoding = "sampled"
    label_budget: float | None = None
    label_price: float | None = None

    of_people: ClassVar[tuple[str, ...]] = ()
    """Fields of the task that say how annotators label its pairs."""

    def check_labels(self) -> None:
        """Refuse what is out of range, and a constitution that cannot be read."""
        require(self.label_temperature > 0, "label_temperature", self.label_temperature, "above 0")
        price, budget = self.label_price, self.label_budget
        require(price is None or price > 0, "label_price", price, "above 0")
        if budget is not None:
            least, most = 2 * self.label_cost, 1e7 * self.label_cost
            needed = f"between {least:g}, what two labels cost, and {most:g}"
            require(least <= budget * (1 + 1e-9) and budget <= most, "label_budget", budget, needed)
        options = reward_options(cast(Task, self))
        if self.by_ai:
            needed = "0 with labels=ai, which say nothing of strength"
            require(not options.rm_margin, "rm_margin", options.rm_margin, needed)
            require(options.rm_ranking == 2, "rm_ranking", options.rm_ranking, "2 with labels=ai, of pairs")
        assert self.constitution is not None  # a bad file is refused here, before anything has been spent

    @property
    def by_ai(self) -> bool:
        """Whether the AI labeller labels the pairs."""
        return getattr(self, "labels", "human") == "ai"

    @property
    def label_cost(self) -> float:
        """Of one label, in prices of one person's."""
        price = PRICES["ai" if self.by_ai else "human"] if self.label_price is None else self.label_price
        return price * (self.ai.calls if self.by_ai else 1)

    def affordable(self, otherwise: int) -> int:
        """Pairs that the budget buys; `otherwise` where there is none."""
        if self.label_budget is None:
            return otherwise
        return int(self.label_budget / self.label_cost * (1 + 1e-9))

    @cached_property
    def constitution(self) -> Constitution:
        """The rules that AI labels and revisions go by."""
        return read_constitution(self.label_constitution or self.own_constitution)

    @property
    def own_constitution(self) -> str:
        """Name of the one that is shipped for this task."""
        return str(getattr(self, "name")).removesuffix("-small")  # noqa: B009

    @property
    def ai(self) -> AILabeller:
        """The labeller of pairs."""
        return AILabeller(
            self.constitution,
            self.label_temperature,
            self.label_position_bias,
            self.label_debias,
            self.label_decoding,
        )

    def labeller(self, charge: Callable[[int, float], None] | None = None) -> TokenLabeller:
        """What algorithms ask about replies in this task's tokens."""
        task = cast(Task, self)
        return TokenLabeller(
            self.constitution,
            task.vocab,
            task.prompt_vocab,
            task.max_length,
            task.eos,
            task.unknown,
            price=self.label_price if self.by_ai and self.label_price is not None else PRICES["ai"],
            charge=charge,
        )

    def pairs_by_ai(self, prompts: Int, reference: Sampler, rng: np.random.Generator) -> PreferencePairs:
        """Two replies of `reference` to each prompt, labelled by the AI labeller."""
        labeller = self.labeller()
        one, two = two_replies(prompts, reference, rng, cast(Task, self).max_length)
        margin = labeller.score(prompts, one.responses, one.mask)
        margin -= labeller.score(prompts, two.responses, two.mask)
        return as_pairs(prompts, one, two, self.ai.prefers(margin, rng))

    def told_apart(self, pairs: PreferencePairs) -> bool:
        """Whether a rule makes a difference between the replies of any pair."""
        labeller = self.labeller()
        for start in range(0, len(pairs), 64):  # nearly always the first few will do
            some = pairs.take(np.arange(start, min(start + 64, len(pairs))))
            chosen = labeller.score(some.prompts, some.chosen, some.chosen_mask)
            if (chosen != labeller.score(some.prompts, some.rejected, some.rejected_mask)).any():
                return True
        return False

    def label_inputs(self) -> dict[str, Any]:
        """Those of the fields here that determine a run: of the constitution what it says, not where it lies."""
        own = {f.name: getattr(self, f.name) for f in fields(LabelOptions)}
        rules = self.constitution
        return own | {"label_constitution": f"{rules.name}#{rules.digest[:16]}"}

    def inputs(self) -> dict[str, Any]:
        """All options that determine a run."""
        return asdict(self) | self.label_inputs()


def labeller_of(task: Task, algorithm: str, charge: Callable[[int, float], None] | None = None) -> Labeller:
    """The labeller that an algorithm asks on `task`.

    Raises
    ------
    InputError
        Where there is none.
    """
    if not isinstance(task, Constitutional):
        raise InputError(
            f"algorithm '{algorithm}': task {task.name} has no constitution, "
            "sentences, words or preference pairs from a file are needed"
        )
    return task.labeller(charge)


def cost_of_a_label(task: Task) -> float:
    """In prices of one person's label, which is what tasks without a choice have."""
    return task.label_cost if isinstance(task, LabelOptions) else PRICES["human"]


def price_of_a_person(task: Task) -> float:
    """Of one person's label, whoever labels the pairs."""
    return task.label_cost if isinstance(task, LabelOptions) and not task.by_ai else PRICES["human"]


def label_facts(task: Task, pairs: int, kept: PreferencePairs) -> dict[str, Any]:
    """Who labelled this many pairs, of which some were kept, with what, and what it cost."""
    by = "file" if hasattr(task, "path") else "human"
    facts: dict[str, Any] = {"by": by, "pairs": pairs, "cost": round(pairs * cost_of_a_label(task), 9)}
    if isinstance(task, LabelOptions) and task.label_budget is not None:
        facts["budget"] = task.label_budget
    if not isinstance(task, LabelOptions) or not task.by_ai:
        return facts
    ai = task.ai
    if len(kept):  # of none there is nothing to say
        facts["told_apart"] = task.told_apart(kept)
    return facts | {
        "by": "ai",
        "calls": pairs * ai.calls,
        "constitution": ai.constitution.name,
        "temperature": ai.temperature,
        "position_bias": ai.position_bias,
        "debias": ai.debias,
        "decoding": ai.decoding,
    }


@lru_cache(maxsize=4)
def margins_of_file(path: str, digest: str, strict: bool, constitution: Constitution) -> Float:
    """(N,) by how much the constitution prefers the chosen reply of each usable pair of a file, read as a whole.

    `digest`, of the file's bytes, is there for the cache to see when the file has changed.
    """
    score = constitution.score_texts
    pairs = read_pairs(path, strict=strict).pairs
    return np.array([score(p.prompt, p.chosen) - score(p.prompt, p.rejected) for p in pairs])
