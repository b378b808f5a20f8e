"""The kernels' jitted forms inside somebody else's `@njit` function: from logits to advantages in one compiled call.

They take arrays without gaps, all of one precision, tokens as int64, and write the arrays that come last. This
function is not cached on disk (`cache=True`): Numba would not notice when the kernels change.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels import categorical, policy_gradient
from kernels.categorical import token_logprobs_jit
from kernels.policy_gradient import gae_jit


@njit
def advantages_of(logits, ref_logits, tokens, scores, values, mask, beta, gamma, lam):
    """PPO's advantages (B, T): the score at the last token, less beta times the log-ratio at each, through GAE."""
    B, T, V = logits.shape
    logprobs, ref_logprobs = np.empty(B * T, logits.dtype), np.empty(B * T, logits.dtype)
    token_logprobs_jit(logits.reshape(B * T, V), tokens.reshape(B * T), logprobs)
    token_logprobs_jit(ref_logits.reshape(B * T, V), tokens.reshape(B * T), ref_logprobs)
    rewards = (-beta * (logprobs - ref_logprobs)).astype(logits.dtype).reshape(B, T)
    for b in range(B):
        rewards[b, int(mask[b].sum()) - 1] += scores[b]
    advantages, returns = np.empty_like(rewards), np.empty_like(rewards)
    gae_jit(rewards, values, mask, gamma, lam, advantages, returns)
    return advantages


def main() -> None:
    rng = np.random.default_rng(0)
    B, T, V = 16, 32, 4096
    logits, ref_logits = rng.standard_normal((2, B, T, V), np.float32)
    tokens = rng.integers(0, V, (B, T))
    scores = rng.standard_normal(B, np.float32)
    values = rng.standard_normal((B, T), np.float32)
    lengths = rng.integers(T // 2, T + 1, B)
    mask = (np.arange(T) < lengths[:, None]).astype(np.float32)

    found = advantages_of(logits, ref_logits, tokens, scores, values, mask, 0.1, 1.0, 0.95)

    # The same from Python, by the public functions.
    logprobs = categorical.token_logprobs(logits, tokens)
    rewards = -0.1 * (logprobs - categorical.token_logprobs(ref_logits, tokens))
    rewards[np.arange(B), lengths - 1] += scores
    wanted = policy_gradient.gae(rewards, values, mask, gamma=1.0, lam=0.95).advantages
    apart = float(np.abs(found - wanted).max())
    print(f"advantages of {int(mask.sum())} tokens from one compiled call: {found.shape} {found.dtype}")
    print(f"largest difference from the public functions: {apart:.1e}")
    assert apart < 1e-4, apart


if __name__ == "__main__":
    main()
