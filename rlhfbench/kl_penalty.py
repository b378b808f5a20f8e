"""The KL penalty of policy-gradient methods: which estimate of it, and whether it stands in the reward or in the loss.

With r = log(pi/ref) of a sampled token, k1 = r, k2 = r**2 / 2, k3 = exp(-r) - 1 + r (Schulman 2020, "Approximating KL
divergence"), and `full` is the divergence of the state, summed over the vocabulary. All but k2 have KL(pi || ref) as
their mean; what is descended depends on the place. In the reward, the estimate is a number that the score function
weighs; in the loss, it is differentiated itself. `PENALISED` says what comes of it in expectation, on policy;
tests/test_kl_penalty.py enumerates it.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from kernels import categorical, policy_gradient

from .types import Float, Int, Setup

KL: TypeAlias = Literal[
    "k1:reward", "k2:reward", "k3:reward", "full:reward", "k1:loss", "k2:loss", "k3:loss", "full:loss"
]
KINDS: tuple[KL, ...] = get_args(KL)

PENALISED: dict[KL, str] = {
    "k2:reward": "E[log(policy/reference)^2] / 2 less KL(policy || reference)",
    "k3:reward": "KL(policy || reference) less KL(reference || policy)",
    "full:reward": "the KL of later states alone, as that of a token's own state is a constant beside it",
    "k1:loss": "nothing: the expected gradient is 0",
    "k3:loss": "KL(reference || policy)",
}
"""What is descended where it is not KL(pi || ref). That of replies is what k1:reward descends; k2:loss and full:loss
descend that of each state as if the policy had no say in which states it visits."""


def cautions(config: Any) -> list[str]:
    """What a person should know of the penalty that a configuration with fields `kl` and `beta` asks for."""
    if config.beta == 0 or config.kl not in PENALISED:
        return []
    right = "k1:reward, k2:loss or full:loss penalise KL(policy || reference)"
    return [f"kl={config.kl} penalises {PENALISED[config.kl]}; {right}"]


def in_loss(kl: KL) -> bool:
    """Whether it is differentiated; else it is taken from the reward."""
    return kl.endswith(":loss")


def estimates(
    setup: Setup, kl: KL, replies: tuple[Int, Int, Float], logprobs: Float, ref_logprobs: Float
) -> Float:
    """(B, T) the estimate of each sampled token, for a reward; 0 on padding. It lies in the run's room.

    Parameters
    ----------
    setup : Setup
    kl : KL
    replies : (prompts, responses, mask)
    logprobs, ref_logprobs : (B, T)
        Of the sampled tokens.
    """
    estimator, mask = kl.partition(":")[0], replies[2]
    if estimator == "full":
        logits = setup.policy.logits(*replies)
        out = setup.room("KL estimates", mask.shape, logits.dtype)
        found = categorical.kl_divergence(logits, setup.reference.logits(*replies), out)
        setup.charge("kl_divergence", *logits.shape)
    else:
        out = setup.room.like("KL estimates", logprobs)
        found = policy_gradient.kl_estimate(logprobs, ref_logprobs, estimator, out)
        setup.charge(estimator, *logprobs.shape)
    setup.charge("elementwise", mask.size)
    found *= mask
    return found


def slopes(setup: Setup, kl: KL, logprobs: Float, ref_logprobs: Float) -> Float:
    """(B, T) the derivative of k1, k2 or k3 by the token's log-probability, for a loss."""
    estimator = kl.partition(":")[0]
    if estimator == "k1":
        return np.ones_like(logprobs)
    ratio = policy_gradient.k1(logprobs, ref_logprobs)
    setup.charge("k1", *logprobs.shape)
    if estimator == "k2":
        return np.asarray(ratio)
    setup.charge("k3", *logprobs.shape)
    setup.charge("elementwise", logprobs.size)
    return np.asarray(ratio - policy_gradient.k3(logprobs, ref_logprobs))  # 1 - ref/pi
