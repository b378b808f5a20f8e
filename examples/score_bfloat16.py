"""Log-probabilities and exact KL of two models' logits in bfloat16, read as they are, on two threads.

NumPy has no bfloat16; its bits come as uint16, here rounded from float32. Arrays of `ml_dtypes.bfloat16` and the
memory of a PyTorch tensor (``tensor.view(torch.int16).numpy().view(np.uint16)``) do as well.
"""

from __future__ import annotations

import numpy as np

from kernels import categorical, reference

ROWS, VOCABULARY = 256, 50_257


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, ties to even; no NaN."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def main() -> None:
    rng = np.random.default_rng(0)
    logits = bfloat16_bits(2 * rng.standard_normal((ROWS, VOCABULARY), np.float32))
    ref_logits = bfloat16_bits(2 * rng.standard_normal((ROWS, VOCABULARY), np.float32))
    tokens = rng.integers(0, VOCABULARY, ROWS)

    logprobs = categorical.token_logprobs(logits, tokens, threads=2)
    kl = categorical.kl_divergence(logits, ref_logits, threads=2)

    print(
        f"two arrays of logits, {ROWS} x {VOCABULARY:,} bfloat16: {logits.nbytes / 1e6:.0f} MB each, not copied"
    )
    print(f"mean log-probability {logprobs.mean():.3f} nats, mean KL {kl.mean():.3f} nats, as {kl.dtype}")
    assert np.array_equal(kl, categorical.kl_divergence(logits, ref_logits, threads=1))
    some = slice(0, 4)
    wanted = reference.kl_divergence(widened(logits[some]), widened(ref_logits[some]))
    print(f"largest difference from the float64 reference: {np.abs(kl[some] - wanted).max():.1e} nats")
    assert np.allclose(kl[some], wanted, rtol=1e-5)
    print("one thread gives the same bits")


if __name__ == "__main__":
    main()
