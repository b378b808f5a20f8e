"""What usually goes wrong in training, as rules over what was logged: see `doctor`, which asks them.

Thresholds are rules of thumb; each stands in its rule. The links lead to where people met the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .hacking import reward_hacking
from .training_log import TrainingLog
from .types import Float

NOISE = 3.0  # a change counts from so many standard errors on

Look: TypeAlias = Callable[[TrainingLog], str | None]


@dataclass(frozen=True)
class Rule:
    """One thing that goes wrong.

    Parameters
    ----------
    name : str
    needs : tuple of str
        Metrics, by the words of `training_log.NAMES`, without which it cannot be judged.
    means, advice, link : str
        What it usually is, what to try, and where people met it.
    look : callable
        Takes the log, gives what it saw, or None.
    """

    name: str
    needs: tuple[str, ...]
    means: str
    advice: str
    link: str
    look: Look


RULES: list[Rule] = []


def rule(name: str, *needs: str, means: str, advice: str, link: str) -> Callable[[Look], Look]:
    """Add a rule."""

    def add(look: Look) -> Look:
        RULES.append(Rule(name, needs, means, advice, link, look))
        return look

    return add


# --- arithmetic of the rules ---------------------------------------------------------------------------------------


def finite(log: TrainingLog, name: str) -> Float:
    """The finite values of a metric; empty if it was not logged."""
    values = log.known(name)[1]
    return values[np.isfinite(values)]


def _ends(values: Float) -> tuple[float, float, float]:
    """Means of the first and last quarter, and the standard error of their difference.

    Noise is read from the differences of neighbours, so that a trend is not taken for it.
    """
    n = max(len(values) // 4, 1)
    noise = float(np.std(np.diff(values)) / np.sqrt(2.0)) if len(values) > 2 else 0.0
    return float(values[:n].mean()), float(values[-n:].mean()), noise * float(np.sqrt(2.0 / n))


def _later(values: Float) -> Float:
    return values[len(values) // 2 :]


def _change(name: str, log: TrainingLog, first: float, last: float) -> str:
    return f"{log.called[name]} went from {first:.3g} (first quarter) to {last:.3g} (last quarter)"


# --- rules -----------------------------------------------------------------------------------------------------------


@rule(
    "diverged",
    means="The numbers left the range of their type, most often by too large a step.",
    advice="A lower learning rate, gradient clipping (max_grad_norm 1), warm-up; look at the update before the first"
    " NaN.",
    link="https://github.com/OpenLMLab/MOSS-RLHF/issues/17",
)
def _diverged(log: TrainingLog) -> str | None:
    if log.status == "diverged":
        return "the run ended as diverged"
    for name, step in log.broken.items():
        return f"{log.called[name]} is no finite number at step {step:g}"
    return None


@rule(
    "negative_kl",
    "kl",
    means="A KL is never negative: replies are drawn from another distribution than the one whose log-probabilities"
    " are taken (top-k, top-p, temperature, minimum length, a cut after EOS), or the reference is stale or "
    "wrong.",
    advice="Sample with temperature 1 and without top-k or top-p, mask the padding after EOS, compare log-"
    "probabilities of the first update with those of sampling: they must agree.",
    link="https://github.com/huggingface/trl/issues/925",
)
def _negative_kl(log: TrainingLog) -> str | None:
    values = finite(log, "kl")
    error = float(np.std(np.diff(values)) / np.sqrt(2.0 * len(values)))
    if values.mean() < -max(NOISE * error, 1e-6):
        return f"{log.called['kl']} is {values.mean():.3g} on average, {values.min():.3g} at its lowest"
    late = _later(values)
    if late.mean() < -max(NOISE * error * np.sqrt(2.0), 1e-6):
        return f"{log.called['kl']} is {late.mean():.3g} on average in the second half"
    return None


@rule(
    "shared_reference",
    "kl",
    means="The reference moves with the policy: they share parameters, or it was copied after training had begun, "
    "so that the penalty never acts. Or nothing is learnt at all.",
    advice="Copy the model before the first update and freeze the copy; with adapters, switch them off for the "
    "reference.",
    link="https://github.com/huggingface/trl/issues/2057",
)
def _shared_reference(log: TrainingLog) -> str | None:
    values = finite(log, "kl")[1:]
    if np.abs(values).max() < 1e-6:
        return f"{log.called['kl']} stays at 0 over all {len(values) + 1} values"
    return None


@rule(
    "ratio_drift",
    "ratio",
    means="The probability ratio has mean 1 under the policy that sampled. Far from it, the log-probabilities of "
    "sampling and of training disagree (dropout, padding, another precision or engine), or a rollout is used "
    "for too many steps.",
    advice="Check that the ratio is exactly 1 before the first step of a rollout; fewer epochs, a lower learning "
    "rate.",
    link="https://github.com/huggingface/trl/issues/232",
)
def _ratio_drift(log: TrainingLog) -> str | None:
    middle = float(np.median(finite(log, "ratio")))
    return (
        f"{log.called['ratio']} has median {middle:.3g}, 1 is expected" if abs(middle - 1.0) > 0.1 else None
    )


@rule(
    "clipfrac_zero",
    "clipfrac",
    means="Clipping never acts. That is in order with one step a rollout; with several, steps are so small that "
    "rollouts are wasted.",
    advice="A higher learning rate or more epochs a rollout; with one step a rollout nothing.",
    link="https://github.com/hpcaitech/ColossalAI/issues/3574",
)
def _clipfrac_zero(log: TrainingLog) -> str | None:
    values = finite(log, "clipfrac")
    if values.any() or log.steps_a_rollout == 1:
        return None
    return f"{log.called['clipfrac']} is 0 throughout"


@rule(
    "clipfrac_high",
    "clipfrac",
    means="More than 30 % of the tokens are clipped: the policy leaves the region where the rollout says anything "
    "about it.",
    advice="A lower learning rate, fewer epochs or larger minibatches, an early stop on policy/approxkl_avg "
    "(kl_early_stop).",
    link="https://github.com/huggingface/trl/issues/232",
)
def _clipfrac_high(log: TrainingLog) -> str | None:
    steps, values = log.known("clipfrac")
    high = np.flatnonzero(values > 0.3)
    if np.median(_later(values)) > 0.3 or len(high) * 4 > len(values):
        first = f"first at step {steps[high[0]]:g}"
        return f"{log.called['clipfrac']} is above .3 in {len(high)} of {len(values)} values, {first}"
    return None


@rule(
    "explained_variance",
    "explained_variance",
    means="The value head predicts returns worse than their mean would: advantages are noisier than without it.",
    advice="More or larger value steps (vf_coef, a learning rate of its own), start it from the reward model, whiten"
    " advantages; or a method without values (rloo, grpo).",
    link="https://github.com/hpcaitech/ColossalAI/issues/3574",
)
def _explained_variance(log: TrainingLog) -> str | None:
    late = float(np.median(_later(finite(log, "explained_variance"))))
    return (
        f"{log.called['explained_variance']} has median {late:.3g} in the second half" if late < 0 else None
    )


@rule(
    "negative_entropy",
    "entropy",
    means="The entropy of words is never negative: padding is counted with a made-up log-probability, and so in "
    "other means too.",
    advice="Mask padding before any mean; distrust approxkl, ratio and clipfrac of the same log.",
    link="https://github.com/huggingface/trl/issues/2022",
)
def _negative_entropy(log: TrainingLog) -> str | None:
    lowest = float(finite(log, "entropy").min())
    return f"{log.called['entropy']} falls to {lowest:.3g}" if lowest < -1e-6 else None


@rule(
    "length_drift",
    "length",
    means="The scorer likes length, or length escapes the penalty: much of a gain in score may be length alone.",
    advice="Compare scores at equal length (rlhfbench rm shows the accuracy of 'the longer one wins'), penalise "
    "length in the reward, a higher beta; for DPO a length-normalised or length-penalised loss.",
    link="https://github.com/OpenRLHF/OpenRLHF/issues/236",
)
def _length_drift(log: TrainingLog) -> str | None:
    first, last, error = _ends(finite(log, "length"))
    if first > 0 and abs(last - first) > NOISE * error and not 2 / 3 < last / first < 1.5:
        return _change("length", log, first, last)
    return None


@rule(
    "score_up_gold_flat",
    "score",
    "gold",
    means="What is learnt is what the reward model likes beyond what is meant: reward hacking where gold has turned"
    " down, as compare, sweep and show count it; on its way there where gold stays.",
    advice="A higher beta or an earlier checkpoint (rlhfbench sweep), a reward model from more pairs or an ensemble;"
    " read replies (rlhfbench samples).",
    link="https://github.com/huggingface/trl/issues/322",
)
def _score_up_gold_flat(log: TrainingLog) -> str | None:
    score, gold = log.series["score"], log.series["gold"]
    both = np.isfinite(score) & np.isfinite(gold)
    if both.sum() < 4:  # logged, but never beside each other
        return None
    errors = log.series.get("gold_error", np.zeros(len(both)))
    curve = [
        {"update": f"{step:g}", "rm_score": s, "gold_score": g, "gold_se": error}
        for step, s, g, error in zip(
            log.steps[both], score[both], gold[both], np.nan_to_num(errors[both]), strict=True
        )
    ]
    hacked, reason = reward_hacking(curve)
    if hacked:
        return f"reward hacking: {reason}"
    first, last, error = _ends(score[both])
    gold_first, gold_last, gold_error = _ends(gold[both])
    if last - first > NOISE * error and abs(gold_last - gold_first) <= NOISE * gold_error:
        rise, rest = _change("score", log, first, last), _change("gold", log, gold_first, gold_last)
        return f"no reward hacking so far, but {rise}, {rest}"
    return None


@rule(
    "chosen_collapse",
    "chosen_logps",
    "margins",
    means="Likelihood displacement: the margin grows while the chosen replies themselves become less probable; the "
    "mass goes to replies that nobody has judged.",
    advice="Fewer epochs or a higher beta, an SFT term on the chosen replies, loss_type=apo_zero or nca_pair; drop "
    "pairs whose replies are nearly alike.",
    link="https://github.com/huggingface/trl/issues/800",
)
def _chosen_collapse(log: TrainingLog) -> str | None:
    first, last, error = _ends(finite(log, "chosen_logps"))
    low, high, margin_error = _ends(finite(log, "margins"))
    if first - last > max(NOISE * error, 0.1 * abs(first)) and high - low > NOISE * margin_error:
        rise = f"{log.called['margins']} rose from {low:.3g} to {high:.3g}"
        return f"{_change('chosen_logps', log, first, last)} while {rise}"
    return None


@rule(
    "dead_groups",
    "dead_groups",
    means="In more than half of the groups all replies have the same reward, and so no advantage: their compute is "
    "spent for nothing.",
    advice="Prompts that are neither too easy nor too hard, larger groups, a higher temperature, or drawing anew "
    "(dynamic sampling).",
    link="https://github.com/huggingface/trl/issues/2703",
)
def _dead_groups(log: TrainingLog) -> str | None:
    late = float(np.median(_later(finite(log, "dead_groups"))))
    return f"{log.called['dead_groups']} has median {late:.3g} in the second half" if late > 0.5 else None


@rule(
    "saturated_controller",
    "kl_coef",
    means="The adaptive KL coefficient lies at a bound and controls nothing any more: the target cannot be reached,"
    " or the bound is too narrow.",
    advice="Another kl_target, wider bounds, a shorter horizon; or a fixed beta chosen by a sweep.",
    link="https://github.com/CarperAI/trlx/pull/361",
)
def _saturated_controller(log: TrainingLog) -> str | None:
    values = finite(log, "kl_coef")
    last = values[-max(len(values) // 3, 3) :]
    if np.ptp(values) == 0.0 or np.ptp(last) > 1e-9 * abs(last[0]):
        return None
    if log.bounds is not None and not np.isclose(last[0], log.bounds).any():
        return None
    if not np.isclose(last[0], (values.min(), values.max())).any():
        return None
    end = "highest" if last[0] >= values.max() else "lowest"
    return f"{log.called['kl_coef']} stays at {last[0]:.3g}, its {end}, over its last {len(last)} values"
