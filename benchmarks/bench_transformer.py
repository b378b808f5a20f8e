"""One DPO step of the transformer beside hand-written PyTorch, in one round robin, one thread and one core.

python -m benchmarks.bench_transformer [--width 64] [--vocab 256] [--seconds 10]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measure import interleave, one_core, peak_extra
from kernels import flops
from rlhfbench.algorithms import dpo
from rlhfbench.optimizer import AdamW
from rlhfbench.policies.transformer import TransformerPolicy
from rlhfbench.types import PreferencePairs

PAIRS, P, T = 64, 8, 16
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Setup:
    """What `dpo.pair_step` asks for."""

    def __init__(self, policy: TransformerPolicy) -> None:
        self.policy, self.done = policy, flops.Work(0, 0)
        policy.charge = lambda kind, work, tokens: self._add(work)

    def _add(self, work: flops.Work) -> None:
        self.done += work

    def progress(self) -> float:
        return 0.0

    def charge(self, kernel: str, *shape: int) -> None:
        self.done += flops.work(kernel, *shape)


def make_policy(width: int, vocab: int) -> TransformerPolicy:
    rng = np.random.default_rng(0)
    return TransformerPolicy(
        vocab, vocab, T, prompt_length=P, layers=2, width=width, heads=4, shared=True, rng=rng
    )


def make_pairs(vocab: int) -> PreferencePairs:
    """Prompts all different, responses of full length: nothing that PyTorch would compute on padding."""
    rng = np.random.default_rng(1)
    draw = rng.integers
    mask = np.ones((PAIRS, T), np.float32)
    return PreferencePairs(
        draw(vocab, size=(PAIRS, P)), draw(vocab, size=(PAIRS, T)), mask, draw(vocab, size=(PAIRS, T)), mask
    )


def ours(policy: TransformerPolicy, pairs: PreferencePairs) -> tuple[Callable[[], Any], Setup]:
    setup = Setup(policy)
    optimizer = AdamW(policy.params, policy.grads, 1e-3, max_grad_norm=1.0)
    config = dpo.DPOConfig()
    reference = np.zeros(PAIRS, np.float32)
    return lambda: dpo.pair_step(setup, config, optimizer, pairs, reference, reference), setup


def theirs(policy: TransformerPolicy, pairs: PreferencePairs) -> Callable[[], Any]:
    import torch

    from benchmarks.peers import torch_transformer as peer

    torch.set_num_threads(1)
    model = peer.Transformer(policy)
    optimizer = peer.adamw(model, 1e-3)
    arrays = (
        np.concatenate([pairs.prompts, pairs.prompts]),
        np.concatenate([pairs.chosen, pairs.rejected]),
        np.ones((2 * PAIRS, T), np.float32),
        np.zeros(2 * PAIRS, np.float32),
    )
    tensors = [torch.from_numpy(a) for a in arrays]
    return lambda: peer.dpo_step(model, optimizer, *tensors, 0.1, 1.0)


def matmul_peak() -> Callable[[], Any]:
    """A product of two squares of 1,024, the most that the machine gives."""
    x = np.random.default_rng(0).random((1024, 1024), dtype=np.float32)
    out = np.empty_like(x)
    return lambda: np.matmul(x, x, out=out)


def main() -> None:
    if not ONE_THREAD.items() <= os.environ.items():  # which are read when NumPy and PyTorch are imported
        again = [sys.executable, "-m", "benchmarks.bench_transformer", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | ONE_THREAD)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    one_core()
    policy, pairs = make_policy(options.width, options.vocab), make_pairs(options.vocab)
    other = theirs(policy, pairs)
    step, setup = ours(policy, pairs)
    step()
    setup.done = flops.Work(0, 0)
    step()
    work = setup.done.flops
    taken = interleave({"rlhfbench": step, "torch": other, "matmul": matmul_peak()}, options.seconds)
    mine, peer, peak = (taken[name] for name in ("rlhfbench", "torch", "matmul"))
    rate, most = work / mine.median, 2 * 1024**3 / peak.median
    for name, a, b in (("median", mine.median, peer.median), ("best", mine.best, peer.best)):
        print(f"{name} of {mine.rounds}: {1e3 * a:.2f} ms, PyTorch {1e3 * b:.2f} ms, ratio {b / a:.2f}")
    print(f"{work / 1e9:.3f} GFLOP, {rate / 1e9:.1f} GFLOP/s of {most / 1e9:.1f}: {100 * rate / most:.0f} %")
    for name, call in (("rlhfbench", step), ("torch", other)):
        extra = peak_extra(call)
        print(
            f"{name}: a step raises memory by {extra / 2**20 if extra is not None else float('nan'):.1f} MiB"
        )
    print(f"workspace: {policy._get.nbytes / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
