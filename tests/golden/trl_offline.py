"""Write what TRL computes for preference losses, as a JSON that `test_preference_golden.py` holds the kernels against.

A program of its own, for an interpreter with TRL 1.16 or its like: `python tests/golden/trl_offline.py [FILE]`.
TRL's own methods run, on a stand-in for a model that gives log-probabilities or logits; nothing of this package does.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import torch
import trl
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

B, T, V = 4, 6, 7
CHOSEN, REJECTED = (6, 2, 4, 1), (3, 5, 1, 6)
"""Tokens of each reply; the last are padding."""

# Loss, and the fields of TRL's configuration that it goes by.
DPO_FAMILY: tuple[tuple[str, dict[str, float]], ...] = (
    ("sigmoid", {"beta": 0.3}),
    ("hinge", {"beta": 0.3}),
    ("ipo", {"beta": 0.2}),
    ("robust", {"beta": 0.3, "label_smoothing": 0.2}),
    ("exo_pair", {"beta": 0.3, "label_smoothing": 0.001}),
    ("nca_pair", {"beta": 0.3}),
    ("bco_pair", {"beta": 0.3}),
    ("sppo_hard", {"beta": 0.3}),
    ("aot", {"beta": 0.3, "label_smoothing": 0.1}),
    ("apo_zero", {"beta": 0.3}),
    ("apo_down", {"beta": 0.3}),
    ("discopop", {"beta": 0.05, "discopop_tau": 0.05}),
    ("sigmoid_norm", {"beta": 2.0}),
)
CPO_FAMILY: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("cpo", "sigmoid", {"beta": 0.1, "cpo_alpha": 1.0, "label_smoothing": 0.1, "simpo_gamma": 0.0}),
    ("simpo", "simpo", {"beta": 2.0, "cpo_alpha": 0.0, "label_smoothing": 0.0, "simpo_gamma": 1.1}),
)


class Accelerator:
    """One process on the CPU."""

    device = torch.device("cpu")

    @staticmethod
    def gather(value: Any) -> Any:
        return value

    gather_for_metrics = gather


def trainer(kind: type[Any], **fields: Any) -> Any:
    """What `kind`'s methods ask of self, with `kind`'s own methods for the rest."""
    made = SimpleNamespace(
        accelerator=Accelerator(),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        aux_loss_enabled=False,
        is_encoder_decoder=False,
        **fields,
    )
    for name in (
        "_compute_kl_logps",
        "concatenated_forward",
        "concatenated_inputs",
        "cpo_loss",
        "odds_ratio_loss",
    ):
        if hasattr(kind, name):
            method = vars(kind)[name]
            setattr(
                made,
                name,
                getattr(kind, name) if isinstance(method, staticmethod) else MethodType(method, made),
            )
    made.get_batch_logps = getattr(kind, "get_batch_logps", None)
    return made


class Model:
    """Returns these log-probabilities of all tokens but the first, or these logits."""

    training = True

    def __init__(self, log_probs: Any = None, logits: Any = None) -> None:
        self.log_probs, self.logits = log_probs, logits

    def __call__(self, *arguments: Any, **options: Any) -> SimpleNamespace:
        if self.log_probs is None:
            return SimpleNamespace(logits=self.logits)
        nothing = torch.zeros_like(self.log_probs)
        return SimpleNamespace(
            log_probs=self.log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


def mask_of(lengths: tuple[int, ...]) -> Any:
    return (torch.arange(T) < torch.tensor(lengths)[:, None]).long()


MASK = torch.cat([mask_of(CHOSEN), mask_of(REJECTED)])
"""Of the replies; each follows a prompt of one token."""


def log_probs(generator: torch.Generator, spread: float) -> Any:
    """Of the tokens of all replies; 0 on padding."""
    values = -0.2 - spread * torch.rand((2 * B, T), generator=generator, dtype=torch.float64)
    return values * MASK


def with_prompt(mask: Any, first: int) -> Any:
    return torch.cat([torch.full((len(mask), 1), first), mask], dim=1)


def sums(values: Any) -> list[float]:
    """Of each reply, the chosen ones first."""
    made: list[float] = values.detach().sum(dim=1).tolist()
    return made


def per_reply(gradient: Any) -> list[float]:
    """The gradient with respect to a reply's sum is that of each of its tokens."""
    assert torch.equal(gradient * MASK, gradient[:, :1] * MASK)
    made: list[float] = gradient[:, 0].tolist()
    return made


def dpo(loss_type: str, options: dict[str, float]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    pi, ref = log_probs(generator, 3.0).requires_grad_(), log_probs(generator, 3.0)
    made = trainer(
        DPOTrainer,
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=options["beta"],
        label_smoothing=options.get("label_smoothing", 0.0),
        args=SimpleNamespace(discopop_tau=options.get("discopop_tau", 0.05)),
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
        precompute_ref_logps=True,
    )
    ref_chosen, ref_rejected = ref.sum(dim=1).chunk(2)
    inputs = {
        "input_ids": torch.zeros((2 * B, T + 1), dtype=torch.long),
        "attention_mask": with_prompt(MASK, 1),
        "completion_mask": with_prompt(MASK, 0),
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
    }
    loss = DPOTrainer._compute_loss(made, Model(pi), inputs, False)
    loss.backward()
    return {
        "options": options,
        "pi": sums(pi),
        "ref": sums(ref),
        "lengths": [CHOSEN, REJECTED],
        "loss": loss.item(),
        "gradient": per_reply(pi.grad),
        "rewards": [made._metrics["train"][f"rewards/{side}"][0] for side in ("chosen", "rejected")],
    }


def kto() -> dict[str, Any]:
    """Examples in any order; the replies of the KL term follow prompts that are not theirs."""
    generator = torch.Generator().manual_seed(2)
    pi, ref = log_probs(generator, 3.0).requires_grad_(), log_probs(generator, 3.0)
    shifted, ref_shifted = log_probs(generator, 3.0), log_probs(generator, 2.0)
    options = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    label = [True, False, False, True, True, False, True, True]
    made = trainer(KTOTrainer, calculate_KL=True, loss_type="kto", precompute_ref_logps=True, **options)
    ids, attention, completion = (
        torch.zeros((2 * B, T + 1), dtype=torch.long),
        with_prompt(MASK, 1),
        with_prompt(MASK, 0),
    )
    inputs = {
        "input_ids": ids,
        "attention_mask": attention,
        "completion_mask": completion,
        "KL_input_ids": ids,
        "KL_attention_mask": attention,
        "KL_completion_mask": completion,
        "label": torch.tensor(label),
        "ref_logps": ref.sum(dim=1),
        "ref_KL_logps": ref_shifted.sum(dim=1),
    }
    made._compute_kl_logps = lambda model, batch: shifted.sum(dim=1)
    loss = KTOTrainer._compute_loss(made, Model(pi), inputs, False)
    loss.backward()
    return {
        "options": options,
        "pi": sums(pi),
        "ref": sums(ref),
        "mismatched": sums(shifted),
        "ref_mismatched": sums(ref_shifted),
        "desirable": label,
        "kl": made._metrics["train"]["kl"][0],
        "loss": loss.item(),
        "gradient": per_reply(pi.grad),
    }


def from_logits(kind: type[Any], **fields: Any) -> dict[str, Any]:
    """A batch of whole sequences: a prompt of one token, which the likelihood leaves out by itself, and the replies."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn((2 * B, T + 1, V), generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    tokens = torch.randint(V, (2 * B, T + 1), generator=generator)
    labels = torch.where(with_prompt(MASK, 0) == 1, tokens, -100)
    batch = {}
    for side, rows in (("chosen", slice(0, B)), ("rejected", slice(B, 2 * B))):
        batch |= {
            f"{side}_input_ids": tokens[rows],
            f"{side}_attention_mask": with_prompt(MASK, 1)[rows],
            f"{side}_labels": labels[rows],
        }
    made = trainer(kind, padding_value=0, pad_token_id=0, label_pad_token_id=-100, **fields)
    loss, _ = kind.get_batch_loss_metrics(made, Model(logits=logits), batch, "train")
    loss.backward()
    assert not logits.grad[:, -1].any()
    return {
        "tokens": [half.tolist() for half in tokens[:, 1:].chunk(2)],
        "logits": [half.tolist() for half in logits[:, :-1].detach().chunk(2)],
        "lengths": [CHOSEN, REJECTED],
        "loss": loss.item(),
        "gradient": [half.tolist() for half in logits.grad[:, :-1].chunk(2)],
    }


def main(file: Path) -> None:
    losses: dict[str, Any] = {name: dpo(name, options) for name, options in DPO_FAMILY}
    losses["kto"] = kto()
    for name, loss_type, options in CPO_FAMILY:
        made = from_logits(CPOTrainer, loss_type=loss_type, alpha=0.0, **options)
        losses[name] = {"options": options, **made}
    losses["orpo"] = {"options": {"beta": 0.1}, **from_logits(ORPOTrainer, beta=0.1)}
    content = {"trl": trl.__version__, "torch": torch.__version__, "losses": losses}
    file.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".json"))
