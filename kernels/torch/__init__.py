"""The kernels as differentiable PyTorch functions, for tensors on the CPU; needs PyTorch, which nothing else here does.

Logits are (..., V) tensors of float32, float64, float16 or bfloat16. They are read where they are, not copied, also
where rows lie apart as in ``logits[:, :-1]``; their gradient has their type, all else of half precision is float32.
Gradients flow into logits only: any other argument is a constant, and one that requires a gradient is refused.
Tokens equal to `ignore_index`, or whose mask is 0, do not count; their logits are not read.

The losses compute the gradient together with the loss, keep it until ``backward()``, and only scale it there, by a
pass that is saved where the factor is 1. Where no gradient is asked for, none is computed. `threads` is at most
``torch.get_num_threads()`` unless given; any number gives the same bits. What does not fit is a TypeError or
ValueError that names the parameter.
"""

from ._dpo import DPOLoss, dpo_loss
from ._losses import GRPOLoss, PPOLoss, SFTLoss, grpo_loss, ppo_loss, sft_loss
from ._per_token import entropy, kl_divergence, selective_log_softmax, token_logprobs

__all__ = [
    "DPOLoss",
    "GRPOLoss",
    "PPOLoss",
    "SFTLoss",
    "dpo_loss",
    "entropy",
    "grpo_loss",
    "kl_divergence",
    "ppo_loss",
    "selective_log_softmax",
    "sft_loss",
    "token_logprobs",
]
