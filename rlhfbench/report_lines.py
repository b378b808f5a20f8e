"""What is said of a comparison beside its tables: data, labels and rewards, failures, hacking, KL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .comparison import Comparison
from .hacking import kl_warnings, reward_hacking
from .layout import (
    Names,
    counted,
    fixed,
    listed,
    percent,
    spelled,
)


def names_of(comparison: Comparison) -> Names:
    """What gold and reward are called here."""
    return Names.of(comparison.gold, comparison.reward)


def arm_lines(comparison: Comparison) -> Iterator[str]:
    """What the labels stand for, where they leave out options."""
    typed = ((label, comparison.typed.get(label, label)) for label in comparison.labels)
    found = [f"{label} is {text}" for label, arm in typed if (text := spelled(label, arm))]
    if found:
        yield f"Arms: {'; '.join(found)}."


def fact_lines(comparison: Comparison) -> Iterator[str]:
    """What a reader has to know of the data, the first seed standing for the splits."""
    facts = comparison.facts
    if "pairs" in facts:
        skipped = f"; {facts['skipped_lines']}" if facts.get("skipped_lines") else ""
        yield f"Data: {facts['pairs']:,} usable pairs, {facts['prompts']:,} distinct prompts{skipped}."
        word = unit_of(comparison)
        share = facts.get("prompt_cut_share")  # not in what earlier versions stored
        prompts = "" if share is None else f"prompts cut from the left {percent(share)}, "
        if word != "word":
            yield f"Tokenizer: {facts['tokenizer']}."
        yield (
            f"Unknown {word}s {percent(facts['unknown_share'])} of reply {word}s, "
            f"replies cut {percent(facts['cut_share'])}, {prompts}"
            f"identical once cut {facts['identical_after_cut']:,} pairs."
        )
    if "problems" in facts:
        yield from _problem_lines(facts)
    if "pairs_per_part" in facts:
        parts = ", ".join(f"{_part(name)} {n:,}" for name, n in facts["pairs_per_part"].items())
        yield f"Split by {facts['split_by']}, anew for each seed; pairs: {parts}."
    if comparison.one_reward:
        yield from _reward_lines(comparison, facts)
    else:
        given = "rewards" if comparison.reward == "mixed" else "RM scores"
        costs = ", and nor are their costs" if comparison.told_of_safety else ""
        apart = "" if comparison.one_scorer else f" or reward, so that their {given} are not compared{costs}"
        yield f"The arms differ in labels{apart}."
        for label in filter(
            comparison.arm_facts.get, comparison.labels
        ):  # nothing is known of one without a run
            own = ", ".join(f"{name}={value}" for name, value in comparison.chosen(label).items())
            told = " ".join(_reward_lines(comparison, comparison.arm_facts[label]))
            yield f"{label}{f' ({own})' if own else ''}: {told}"
    yield from comparison.gates["notes"]
    for name in comparison.gates["lifted"]:
        yield f"Gate {name} was lifted (--i-know {name}): without that the comparison would have been refused."


def _reward_lines(comparison: Comparison, facts: Mapping[str, Any]) -> Iterator[str]:
    """What the reward is, how good a model was while it was tuned, and how far it agrees with gold."""
    learnt = "rm_accuracy" in facts
    if "reward_model" in facts:  # not in what earlier versions stored
        accuracy = facts.get("rm_accuracy")
        told = f"; right on {percent(accuracy or 0)} of pairs put aside while it was tuned (first seed)"
        right = "" if accuracy is None else told
        yield f"{'RM' if learnt else 'Reward'}: {facts['reward_model']}{right}."
    if "rm_student" in facts:
        yield _student_line(facts["rm_student"])
    if "rm_filter" in facts:
        yield _filter_line(facts["rm_filter"])
    if "cost_model" in facts:
        accuracy = facts["cost_accuracy"]
        told = f"; right on {percent(accuracy or 0)} of judgments put aside while it was tuned (first seed)"
        yield f"Cost model: {facts['cost_model']}{'' if accuracy is None else told}."
    if facts.get("rm_gold_correlation") is not None:
        giver = "RM" if learnt else "Verifier"
        gold = names_of(comparison).gold
        yield (
            f"{giver} and {gold} correlate at {facts['rm_gold_correlation']:.2f} on replies of the reference "
            "(first seed)."
        )
    worlds = [comparison.facts, *comparison.arm_facts.values()]
    known = [world["labels"] for world in worlds if "labels" in world]
    special = any(labels["by"] == "ai" or labels["cost"] != labels["pairs"] for labels in known)
    if special and "labels" in facts:  # else the table says all
        yield _label_line(facts["labels"])


def _label_line(labels: Mapping[str, Any]) -> str:
    """Whose labels, how many, and what they cost."""
    whose = "as the file has them" if labels["by"] == "file" else "by people"
    told = f"Labels: {labels['pairs']:,} {whose}"
    if labels["by"] == "ai":
        debiased = ", both orders averaged" if labels["debias"] else ""
        told = (
            f"Labels: {labels['pairs']:,} by the AI labeller ({counted(labels['calls'], 'call')}, constitution "
            f"{labels['constitution']}, temperature {labels['temperature']:g}, position bias "
            f"{labels['position_bias']:g}{debiased}, {labels['decoding']})"
        )
    return f"{told}, cost {labels['cost']:,g} in prices of one person's."


def _student_line(found: Mapping[str, float]) -> str:
    return (
        f"Student: R2 {found['r2']:.2f} on replies of the reference put aside, orders {percent(found['agreement'])} "
        f"of pairs as its teacher; {found['flops_per_reply']:,.0f} FLOPs a reply for "
        f"{found['teacher_flops_per_reply']:,.0f} (first seed)."
    )


def _filter_line(found: Mapping[str, int]) -> str:
    kept = f"Filter: {found['kept']:,} of {found['pairs']:,} pairs kept, which cross-fitted models agree with"
    if "wrong" not in found:
        return f"{kept} (first seed)."
    left = found["wrong"] - found["wrong_kept"]
    return f"{kept}; of {found['wrong']:,} that gold contradicts, {left:,} were left out (first seed)."


def _problem_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    skipped = f"; {facts['skipped_lines']}" if facts["skipped_lines"] else ""
    alike = (
        f"; {facts['alike']:,} left out that the policy cannot tell from another" if facts["alike"] else ""
    )
    yield f"Data: {facts['problems']:,} usable problems{skipped}{alike}."
    yield (
        f"Unknown words {percent(facts['unknown_share'])} of prompt words, "
        f"prompts cut from the left {percent(facts['prompt_cut_share'])}."
    )
    parts = ", ".join(f"{_part(name)} {n:,}" for name, n in facts["problems_per_part"].items())
    yield f"Split anew for each seed; problems: {parts}."


def unit_of(comparison: Comparison) -> str:
    """What replies are made of: words, or a tokenizer's pieces."""
    return str(comparison.facts.get("unit", "word"))


def _part(name: str) -> str:
    return {"sft": "SFT", "rm": "RM and direct alignment", "rl": "RL"}.get(name, name)


def failure_lines(comparison: Comparison) -> Iterator[str]:
    """The runs that failed or could not begin, with their reasons; those of one arm with one reason share a line."""
    for label in comparison.labels:
        reasons: dict[str, list[int]] = {}
        for run in comparison.runs[label]:
            if run.status in ("done", "interrupted") and not run.message:
                continue
            reason = f"{run.status}{f' ({run.message})' if run.message else ''}"
            reasons.setdefault(reason, []).append(run.seed)
        for reason, seeds in reasons.items():
            yield f"{label}, seed{'s' * (len(seeds) > 1)} {listed([str(seed) for seed in seeds])}: {reason}"


def hacking_lines(comparison: Comparison) -> Iterator[str]:
    """For each arm that hacked its reward model the reason in the first run that did."""
    names = names_of(comparison)
    for label in [] if names.one else comparison.labels:
        for run in comparison.runs[label]:
            hacked, reason = reward_hacking(run.curve)
            if hacked:
                yield f"Reward hacking, {label}, e.g. seed {run.seed}: {names.in_text(reason)}."
                break


def kl_lines(comparison: Comparison) -> Iterator[str]:
    """How many runs of each arm passed the KL lines, and the first warning in full."""
    for label in comparison.labels:
        runs = [(run.seed, kl_warnings(run.curve)) for run in comparison.runs[label]]
        for index in range(2):
            passed = [(seed, lines[index]) for seed, lines in runs if len(lines) > index]
            if passed:
                seed, line = passed[0]
                yield f"KL monitor, {label}: {line} in seed {seed}; {len(passed)} of {len(runs)} runs."


def distance_lines(comparison: Comparison) -> Iterator[str]:
    """That gains were bought at different KLs, where the intervals of the nearest and the farthest arm are apart."""
    summaries = {label: comparison.summary(label, "kl") for label in comparison.labels}
    found = {
        label: (s.estimate, s.low, s.high)
        for label, s in summaries.items()
        if s is not None and s.estimate is not None and s.low is not None and s.high is not None
    }
    if len(found) < 2:
        return
    near, far = (choose(found, key=lambda label: found[label][0]) for choose in (min, max))
    if found[near][2] < found[far][1]:
        yield (
            f"The arms end at different KLs, from {fixed(found[near][0])} ({near}) to {fixed(found[far][0])} nats "
            f"({far}): gains at different distances from the reference, and no beta is common to methods."
        )
