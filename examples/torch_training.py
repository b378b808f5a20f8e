"""A PyTorch training loop whose DPO and PPO losses are the kernels'; at each step PyTorch's own stands beside.

Needs PyTorch. Exits with 1 if a loss or a gradient differs from PyTorch's by more than float32 rounding.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.torch import dpo_loss, ppo_loss, selective_log_softmax

PAIRS, LENGTH, VOCABULARY = 8, 12, 1000
BETA, CLIPRANGE = 0.1, 0.2
IGNORED = -100


class Model(nn.Module):
    """Logits of the next token; every gradient of the loss passes through them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.recurrent = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0])


def next_tokens(tokens: Tensor) -> Tensor:
    """What each position predicts. Moving the tokens, not cutting ``logits[:, :-1]``, spares autograd a copy."""
    return F.pad(tokens[:, 1:], (0, 1), value=IGNORED)


def torch_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    chosen = labels.clamp(min=0)[..., None]
    return logits.log_softmax(-1).gather(-1, chosen).squeeze(-1) * (labels != IGNORED)


def torch_dpo(logits: Tensor, labels: Tensor, ref_logps: Tensor) -> Tensor:
    gap = torch_logprobs(logits, labels).sum(1) - ref_logps
    chosen, rejected = gap.chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def torch_ppo(logits: Tensor, labels: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
    ratio = (torch_logprobs(logits, labels) - old).exp()
    clipped = ratio.clamp(1 - CLIPRANGE, 1 + CLIPRANGE)
    counts = labels != IGNORED
    return -(torch.min(ratio * advantages, clipped * advantages) * counts).sum() / counts.sum()


def gradients(model: Model, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def train(name: str, ours, theirs, tokens: Tensor) -> bool:
    """Three steps with our loss; whether each agrees with PyTorch's."""
    torch.manual_seed(1)
    model, labels = Model(), next_tokens(tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    agree = True
    for step in range(3):
        loss_theirs = theirs(model(tokens), labels)
        wanted = gradients(model, loss_theirs)
        loss = ours(model(tokens), labels)
        found = gradients(model, loss)
        optimizer.step()
        largest = max(g.abs().max().item() for g in wanted)
        apart = max((g - h).abs().max().item() for g, h in zip(found, wanted, strict=True)) / largest
        agree &= abs(loss.item() - loss_theirs.item()) < 2e-6 and apart < 1e-5
        print(
            f"{name} step {step}: kernels {loss.item():.6f}, PyTorch {loss_theirs.item():.6f}, "
            f"largest difference of gradients {apart:.1e} of the largest gradient"
        )
    return agree


def main() -> int:
    torch.manual_seed(0)
    tokens = torch.randint(VOCABULARY, (2 * PAIRS, LENGTH))  # the chosen responses, then the rejected ones
    with torch.no_grad():
        logits, labels = Model()(tokens), next_tokens(tokens)
        old = selective_log_softmax(logits, labels)
        ref_logps = old.sum(1)
    advantages = torch.randn(tokens.shape)

    agree = train(
        "DPO",
        lambda logits, labels: dpo_loss(logits, labels, ref_logps, BETA).loss,
        lambda logits, labels: torch_dpo(logits, labels, ref_logps),
        tokens,
    )
    agree &= train(
        "PPO",
        lambda logits, labels: ppo_loss(logits, labels, old, advantages, None, CLIPRANGE).loss,
        lambda logits, labels: torch_ppo(logits, labels, old, advantages),
        tokens,
    )
    print("losses and gradients agree to float32 rounding" if agree else "they DIFFER")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
