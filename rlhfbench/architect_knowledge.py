"""What the architect knows: methods by target and source, KL strategies, what to watch, what must be in place.

The skill file `outputs/skill-rlhf-architect.md` is made of the same.
"""

from __future__ import annotations

from dataclasses import dataclass

TARGETS = {
    "alignment": "replies that people prefer",
    "reasoning": "answers that are right",
    "refusal": "declining what is unsafe, and nothing else",
    "agent": "tasks done in many steps",
}
SOURCES = {
    "human": "preference pairs judged by people",
    "ai": "preference pairs judged by a model with a written constitution (RLAIF)",
    "verifier": "a program that checks the outcome",
    "steps": "labels of single steps, for a process reward model",
}


@dataclass(frozen=True)
class Stage:
    """Methods that suit a target and a source, the one with the most to gain first, and why."""

    methods: tuple[str, ...]
    why: str


_PAIRS = (
    "Online RL against a reward model reaches replies that nobody has judged; direct alignment stays near the"
    " pairs and costs a fraction. Which wins is contested, so both are priced below: try them on your own pairs first"
    " (rlhfbench compare ppo dpo --data FILE)."
)
_CHECKED = (
    "The outcome can be checked, so that nothing is gained by guessing what people like: groups of replies to"
    " one prompt are their own baseline, and no value model is needed."
)
_GUESSED = (
    "Pairs reward what looks right, not what is right: a verifier, even for a part of the prompts, is worth"
    " more."
)
STAGES: dict[tuple[str, str], Stage] = {
    ("alignment", "human"): Stage(("ppo", "dpo"), _PAIRS),
    ("alignment", "ai"): Stage(("ppo", "online_dpo", "dpo"), _PAIRS),
    ("alignment", "verifier"): Stage(
        ("grpo", "raft"),
        "A program checks form, not helpfulness: use it beside preferences, not instead of them.",
    ),
    ("alignment", "steps"): Stage(
        ("dpo",), "Steps say little of a reply that is liked as a whole; take its pairs."
    ),
    ("reasoning", "human"): Stage(("dpo",), _GUESSED),
    ("reasoning", "ai"): Stage(("online_dpo", "dpo"), _GUESSED),
    ("reasoning", "verifier"): Stage(("grpo", "rloo", "raft"), _CHECKED),
    ("reasoning", "steps"): Stage(
        ("ppo", "grpo"),
        "A process reward model rewards each step, so that credit need not be guessed from the end; check it"
        " against the"
        " outcome, which it must not replace.",
    ),
    ("refusal", "human"): Stage(
        ("ppo_lagrangian", "dpo"),
        "Two models, of helpfulness and of harm, and a multiplier that holds the second at its bound: one score"
        " for both"
        " trades refusals of the harmless for answers to the harmful (rlhfbench compare ppo ppo_lagrangian --task"
        " safety).",
    ),
    ("refusal", "ai"): Stage(
        ("ppo_lagrangian", "dpo"),
        "A constitution says what is to be declined in words that can be reviewed; its labels train a model of"
        " harm"
        " apart from that of helpfulness.",
    ),
    ("refusal", "verifier"): Stage(
        ("grpo", "raft"),
        "A classifier of refusals can be checked against labelled prompts, harmless ones among them.",
    ),
    ("refusal", "steps"): Stage(("dpo",), "A refusal has no steps; take pairs."),
    ("agent", "human"): Stage(
        ("dpo", "kto"),
        "Whole trajectories are compared; online RL would need people in the loop of every episode.",
    ),
    ("agent", "ai"): Stage(
        ("online_dpo", "kto"), "A judge compares trajectories; its position bias is averaged out."
    ),
    ("agent", "verifier"): Stage(("grpo", "rloo", "raft"), _CHECKED),
    ("agent", "steps"): Stage(
        ("ppo",), "Long episodes need credit before their end: a value model, and a reward for each step."
    ),
}

KL = {
    "selection": "Nothing is trained: the KL of best-of-n is at most log n - (n - 1) / n, 1.8 nats at 16. A larger n is"
    " the only way further from the reference, and the reward model is exploited by it all the same.",
    "rm": "k1 against the frozen SFT model in the reward of each token, beta in units of the reward model's"
    " standard"
    " deviation, chosen by a sweep (or Ziegler's controller with a target of 6 nats); measured at every"
    " checkpoint, early"
    " stop above 10 nats.",
    "verifier": "A small beta (0 to .04): a verifier does not drift, but its loopholes are found all the"
    " same. The KL is"
    " measured even where it is not penalised.",
    "direct": "beta of the loss (.1) holds the policy to the reference only on the pairs: measure the KL on"
    " the policy's own"
    " replies at every checkpoint, it can be large while the loss is small.",
}
DIAGNOSTICS = {
    "selection": (
        ("length of replies", "within half and double of the reference's", "length_drift"),
        (
            "score of the reward beside gold or judge",
            "both rise; the first alone is reward hacking",
            "score_up_gold_flat",
        ),
    ),
    "online": (
        ("objective/kl", "never negative, below 10 nats", "negative_kl"),
        ("policy/clipfrac_avg", "above 0, below .3", "clipfrac_high"),
        ("entropy", "falls slowly, never below 0", "negative_entropy"),
        ("length of replies", "within half and double of the reference's", "length_drift"),
        (
            "score of the reward beside gold or judge",
            "both rise; the first alone is reward hacking",
            "score_up_gold_flat",
        ),
    ),
    "direct": (
        ("rewards/margins, rewards/accuracies", "rise on held-out pairs too", "chosen_collapse"),
        ("logps/chosen", "does not collapse while margins rise", "chosen_collapse"),
        ("KL on own replies", "below 10 nats", "negative_kl"),
        ("length of replies", "within half and double of the reference's", "length_drift"),
    ),
    "ppo": (
        ("loss/value_avg, explained variance", "falls; above 0", "explained_variance"),
        ("objective/kl_coef", "moves, and not at a bound", "saturated_controller"),
    ),
    "groups": (("share of groups without an advantage", "below one half", "dead_groups"),),
}
"""What to watch, what is in order, and the rule of `rlhfbench doctor` that looks for it."""
SAFETY = {
    "all": (
        "A blind held-out human evaluation before anything is served.",
        "A second judge that training never sees; stop where the score rises and the judge does not.",
        "Red-team prompts and harmless look-alikes: refusal rate on both, before and after.",
        "The frozen reference and every checkpoint are kept: the way back is one command.",
    ),
    "refusal": ("A bound on harm as a constraint with a multiplier, never as one more term of the score.",),
    "agent": ("Actions that cannot be undone need a person's word, in training and after.",),
}
