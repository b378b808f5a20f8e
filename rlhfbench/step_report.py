"""How good a process reward model is on solutions held out: ``rlhfbench rm --steps FILE``. Nothing is printed here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .errors import InputError
from .options import require
from .reward_report import wilson
from .statistics import auc
from .step_models import OutcomeRewardModel, ProcessRewardModel, aggregated
from .steps import Chain, StepFile, read_steps
from .types import Flags, Float, Int

RESAMPLES = 500
TUNING = 0.2
"""Share of the solutions trained on whose first errors choose the threshold, before all are trained on."""


@dataclass(frozen=True)
class StepReport:
    """A process reward model against held-out solutions.

    Attributes
    ----------
    chains, steps, held_out_chains, held_out_steps : int
        Solutions and labelled steps, trained on and tested on.
    step_auc, step_auc_low, step_auc_high : float or None
        Area under the ROC curve of good against wrong steps; 95 % percentile bootstrap over solutions. None where all
        held-out steps are alike.
    first_error_accuracy, first_error_low, first_error_high : float
        Share of solutions whose first wrong step, or whose lack of one, is found; 95 % Wilson interval.
    first_error_baseline : float
        The same of the answer that is the most frequent among the solutions trained on.
    threshold : float
        A step is called wrong below this probability of being good; chosen for first errors on solutions trained on.
    chain_auc : mapping
        Area under the ROC curve of whole solutions, right or not, by the least, the product and the last of the steps'
        probabilities, and by an outcome reward model that was trained on whole solutions.
    split, skipped : str
    best_of : mapping, optional
        Of a task: by what chooses it, for several n, the share of prompts whose best of n replies is right.
    """

    chains: int
    steps: int
    held_out_chains: int
    held_out_steps: int
    step_auc: float | None
    step_auc_low: float | None
    step_auc_high: float | None
    first_error_accuracy: float
    first_error_low: float
    first_error_high: float
    first_error_baseline: float
    threshold: float
    chain_auc: Mapping[str, float | None]
    split: str
    skipped: str
    best_of: Mapping[str, Mapping[str, float]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` holds."""
        return {"schema": 1, **asdict(self)}


def step_report(
    path: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    held_out: int | None = None,
    strict: bool = False,
    seed: int = 0,
) -> StepReport:
    """Train on a file of labelled steps and test on solutions held out of it, or on another file.

    Parameters
    ----------
    path : path
        See `rlhfbench.steps.read_steps`.
    test : path, optional
        Test on all of this file and train on all of `path`.
    held_out : int, optional
        Solutions to hold out; by default 20 %. Those of one prompt stay together, so that it may be a few more.
    strict : bool
        Refuse files with solutions that cannot be used.
    seed : int

    Raises
    ------
    InputError
        If a file is bad, or leaves nothing to train or to test on.
    """
    require(seed >= 0, "--seed", seed, "0 or more")
    if test is not None and held_out is not None:
        raise InputError("--held-out and --test exclude each other: the test file is what is held out")
    rng = np.random.default_rng(seed)
    files = [read_steps(path, strict)]
    if test is not None:
        files.append(read_steps(test, strict))
        train, tests = files[0].chains, files[1].chains
        split = f"all of {files[1].path}{_shared(train, tests)}"
    else:
        train, tests, split = _hold_out(files[0], held_out, rng)
    if not {0, 1} <= {label for chain in train for label in chain.labels}:
        raise InputError(f"{files[0].path}: good and wrong steps are needed to train on")
    threshold = _threshold(train, rng)
    model, outcome = ProcessRewardModel.train(train, rng), OutcomeRewardModel(train, rng)
    rows = model.features.rows(tests)
    return held_out_report(
        Judged(model.logits(rows), rows.labels, rows.chain, threshold),
        right=np.array([chain.first_error is None for chain in tests]),
        outcome=outcome.score(tests),
        usual=Counter(chain.first_error for chain in train).most_common(1)[0][0],
        chains=len(train),
        steps=model.training.pairs,
        split=split,
        skipped="; ".join(_skipped(file) for file in files if file.skipped),
    )


@dataclass(frozen=True)
class Judged:
    """Steps held out, one row each: log-odds of being good, label (1, 0; -1: none), number of the solution.

    A step is called wrong below `threshold`, log-odds as well.
    """

    logits: Float
    labels: Int
    chain: Int
    threshold: float


def held_out_report(
    judged: Judged, *, right: Flags, outcome: Float, usual: int | None, **about: Any
) -> StepReport:
    """Measure a process reward model on held-out steps.

    Parameters
    ----------
    judged : Judged
    right : (solutions,) bool
        Whether a solution is right as a whole.
    outcome : (solutions,)
        Scores by a model trained on whole solutions.
    usual : int or None
        The most frequent first error among the solutions trained on.
    **about
        Fields of the report that nothing is computed for.
    """
    known = judged.labels >= 0
    area, low, high = _area(judged.logits[known], judged.labels[known] == 1, judged.chain[known])
    true = first_wrong(judged.labels == 0, judged.chain)
    found = first_wrong(judged.logits < judged.threshold, judged.chain)
    hits = float(np.mean([a == b for a, b in zip(found, true, strict=True)]))
    error_low, error_high = wilson(hits, len(true))
    scores = {**aggregated(judged.logits, judged.chain), "outcome": outcome}
    return StepReport(
        held_out_chains=len(true),
        held_out_steps=int(known.sum()),
        step_auc=area,
        step_auc_low=low,
        step_auc_high=high,
        first_error_accuracy=hits,
        first_error_low=error_low,
        first_error_high=error_high,
        first_error_baseline=float(np.mean([error == usual for error in true])),
        threshold=float(1 / (1 + np.exp(-judged.threshold))),
        chain_auc={name: auc(score, right) for name, score in scores.items()},
        **about,
    )


def _hold_out(
    file: StepFile, wanted: int | None, rng: np.random.Generator
) -> tuple[list[Chain], list[Chain], str]:
    n = len(file.chains)
    wanted = max(1, round(0.2 * n)) if wanted is None else wanted
    if not 1 <= wanted < n:
        raise InputError(
            f"--held-out must be at least 1 and below the {n} usable solutions of {file.path}, got {wanted}"
        )
    number: dict[str, int] = {}
    prompt = np.array([number.setdefault(chain.prompt, len(number)) for chain in file.chains])
    order = rng.permutation(len(number))
    count = int(np.searchsorted(np.cumsum(np.bincount(prompt)[order]), wanted)) + 1
    aside = np.isin(prompt, order[:count])
    if aside.all():
        raise InputError(
            f"{file.path}: no prompt is left to train on; solutions of more prompts, or --test FILE, are needed"
        )
    train = [chain for chain, held in zip(file.chains, aside, strict=True) if not held]
    tests = [chain for chain, held in zip(file.chains, aside, strict=True) if held]
    return train, tests, f"{len(tests)} of {n} solutions at random, no prompt on both sides"


def _shared(train: Sequence[Chain], tests: Sequence[Chain]) -> str:
    """A warning where solutions that are tested on were trained on."""
    seen = {chain[:2] for chain in train}
    shared = sum(chain[:2] in seen for chain in tests)
    return f" (beware: {shared:,} of its {len(tests):,} solutions were trained on)" if shared else ""


def _threshold(chains: Sequence[Chain], rng: np.random.Generator) -> float:
    """The log-odds below which a step is called wrong: best for first errors on a fifth, by a model of the rest."""
    order = rng.permutation(len(chains))
    count = round(TUNING * len(chains))
    tuning, rest = [chains[i] for i in order[:count]], [chains[i] for i in order[count:]]
    if not tuning or not {0, 1} <= {label for chain in rest for label in chain.labels}:
        return 0.0
    model = ProcessRewardModel.train(rest, rng)
    rows = model.features.rows(tuning)
    logits = model.logits(rows)
    true = [chain.first_error for chain in tuning]

    def right(threshold: float) -> int:
        found = first_wrong(logits < threshold, rows.chain)
        return sum(a == b for a, b in zip(found, true, strict=True))

    return float(max(np.quantile(logits, np.linspace(0.0, 0.5, 51)), key=right))


def first_wrong(wrong: Flags, chain: Int) -> list[int | None]:
    """Of each solution the first of its steps that is `wrong` (steps,)."""
    found: list[int | None] = []
    for steps in np.split(wrong, np.flatnonzero(np.diff(chain)) + 1):
        places = np.flatnonzero(steps)
        found.append(int(places[0]) if len(places) else None)
    return found


def _area(scores: Float, good: Any, chain: Any) -> tuple[float | None, float | None, float | None]:
    """AUC, and its interval by drawing solutions anew: the steps of one hang together."""
    area = auc(scores, good)
    if area is None:
        return None, None, None
    rng = np.random.default_rng(0)
    steps = np.split(np.arange(len(chain)), np.flatnonzero(np.diff(chain)) + 1)
    drawn = []
    for _ in range(RESAMPLES):
        index = np.concatenate([steps[i] for i in rng.integers(len(steps), size=len(steps))])
        value = auc(scores[index], good[index])
        if value is not None:
            drawn.append(value)
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (area, area)
    return area, float(low), float(high)


def _skipped(file: StepFile) -> str:
    line, reason = file.skipped[0]
    return f"{file.path}: {len(file.skipped)} left out, the first line {line} ({reason})"
