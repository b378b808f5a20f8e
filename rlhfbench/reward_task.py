"""The reward model of a synthetic task, tested on as many fresh pairs as are asked for: ``rlhfbench rm --task``."""

from __future__ import annotations

from .compute import ComputeMeter
from .options import require
from .policy_choice import check_policy, choose_policy
from .registry import load_task
from .reward_report import RewardReport, reward_report_from_pairs
from .seeding import stream
from .sft import SFT, fine_tune, make_policy

HELD_OUT = 100


def reward_report_from_task(
    name: str, pairs: int | None = None, held_out: int | None = None, seed: int = 0
) -> RewardReport:
    """Train on `pairs` pairs of a task (None: its own number) and test on exactly `held_out` others.

    Parameters
    ----------
    name : str
        ``name[:field=value,...]``.
    pairs, held_out : int, optional
    seed : int
        The pairs are those of this seed in a comparison, but for those held out, which have their own stream.
    """
    require(pairs is None or 1 <= pairs <= 10**6, "--pairs", pairs, "between 1 and 1,000,000")
    require(held_out is None or 1 <= held_out <= 10**6, "--held-out", held_out, "between 1 and 1,000,000")
    require(seed >= 0, "--seed", seed, "0 or more")
    task = load_task(name).for_seed(stream(seed, "split"))
    policy = check_policy(task, None)
    reference = make_policy(policy, task, stream(seed, "weights"))
    demonstrations = task.demonstrations(stream(seed, "demonstrations"))
    settings = SFT[choose_policy(policy).name]
    fine_tune(reference, demonstrations, stream(seed, "sft"), ComputeMeter(), settings)
    train = task.preferences(pairs, stream(seed, "preferences"), reference)
    test = task.preferences(held_out or HELD_OUT, stream(seed, "held-out"), reference)
    return reward_report_from_pairs(train, test, task.vocab, seed)
