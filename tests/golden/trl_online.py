"""What TRL's own code makes of given log-probabilities: losses and slopes of its online trainers, as JSON.

    python tests/golden/trl_online.py [FILE]     # with an interpreter that has TRL; FILE is brought up to date

GRPO's and RLOO's losses come from the trainers' `_compute_loss`, their advantages from statements of the method that
scores replies (TRL 1.16), PPO's from statements of its `train` (TRL 1.9, the last that had it). What the installed TRL
lacks is left out, or left as it is in FILE.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections import defaultdict
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import torch

B, T = 6, 5
LENGTHS = (5, 3, 4, 1, 5, 2)
GRPO = {
    "grpo": {"loss_type": "grpo"},
    "grpo with kl": {"loss_type": "grpo", "beta": 0.4},
    "bnpo": {"loss_type": "bnpo", "beta": 0.4},
    "dr_grpo": {"loss_type": "dr_grpo", "beta": 0.4},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon_low": 3e-4,
        "epsilon_high": 4e-4,
    },
    "gspo, wide clip": {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.4},
}


def inputs() -> dict[str, torch.Tensor]:
    """Log-probabilities and the like, the same on every machine; some ratios are beyond the clip."""
    n = torch.arange(B * T, dtype=torch.float64).reshape(B, T)
    mask = (torch.arange(T) < torch.tensor(LENGTHS)[:, None]).double()
    logprobs = -1.5 + torch.sin(1 + 1.7 * n)
    return {
        "mask": mask,
        "logprobs": logprobs,
        "old_logprobs": logprobs + 0.3 * torch.sin(2 + 2.3 * n),
        "ref_logprobs": logprobs + 0.5 * torch.cos(0.5 + 1.1 * n),
        "advantages": torch.tensor([1.2, -0.7, 0.4, -1.5, 0.9, -0.3], dtype=torch.float64),
        "scores": torch.tensor([0.4, -1.1, 2.0, 0.3, -0.2, 0.9], dtype=torch.float64),
        "values": torch.cos(0.3 + 0.9 * n),
        "old_values": torch.cos(0.3 + 0.9 * n) + 0.4 * torch.sin(3 + 1.3 * n),
    }


def trainer(logprobs: torch.Tensor, **options: object) -> SimpleNamespace:
    """What `_compute_loss` asks of its trainer, with the defaults of one process and no extras."""
    defaults = {
        "_get_per_token_logps_and_entropies": lambda *args, **kwargs: (
            logprobs,
            torch.zeros_like(logprobs),
            None,
        ),
        "accelerator": SimpleNamespace(
            gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1, sync_gradients=True
        ),
        "args": SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        "model": SimpleNamespace(training=True),
        "_metrics": {"train": defaultdict(list)},
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": T,
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "top_entropy_quantile": 1.0,
        **dict.fromkeys(("aux_loss_enabled", "use_vllm", "_entropy_bonus_enabled"), False),
        "off_policy_mask_threshold": None,
    }
    return SimpleNamespace(**{**defaults, **options})


def differentiated(loss: torch.Tensor, **leaves: torch.Tensor) -> dict[str, object]:
    """The loss and its derivatives."""
    slopes = torch.autograd.grad(loss, list(leaves.values()))
    return {"loss": loss.item()} | {f"d_{n}": d.tolist() for n, d in zip(leaves, slopes, strict=True)}


def critic_free() -> dict[str, object]:
    """GRPO's and RLOO's losses."""
    from trl import GRPOTrainer, RLOOTrainer

    given = inputs()
    batch = {
        "prompt_ids": torch.zeros(B, 1, dtype=torch.long),
        "prompt_mask": torch.ones(B, 1, dtype=torch.long),
        "completion_ids": torch.zeros(B, T, dtype=torch.long),
        "completion_mask": given["mask"],
        "old_per_token_logps": given["old_logprobs"],
        "ref_per_token_logps": given["ref_logprobs"],
        "old_logps": (given["old_logprobs"] * given["mask"]).sum(1),
        "advantages": given["advantages"],
        "num_items_in_batch": given["mask"].sum(),
    }
    found = {}
    for name, options in GRPO.items():
        logprobs = given["logprobs"].clone().requires_grad_()
        loss = GRPOTrainer._compute_loss(trainer(logprobs, **options), None, batch)
        found[name] = differentiated(loss, logprobs=logprobs)
    logprobs = given["logprobs"].clone().requires_grad_()
    found["rloo"] = differentiated(
        RLOOTrainer._compute_loss(trainer(logprobs), None, batch), logprobs=logprobs
    )
    return found


def statements(body: list[ast.stmt], first: str, last: str) -> list[ast.stmt] | None:
    """Those of a function from the one that assigns `first` to the one that assigns `last`, however nested."""

    def names(node: ast.stmt) -> set[str]:
        return {target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)}

    starts = [i for i, node in enumerate(body) if first in names(node)]
    if starts:
        ends = [i for i, node in enumerate(body) if last in names(node)]
        return body[starts[0] : ends[-1] + 1]
    for node in body:
        inner = statements(getattr(node, "body", []), first, last)
        if inner:
            return inner
    return None


def executed(method: object, first: str, last: str, **given: object) -> dict[str, object]:
    """The names of a method's statements from the first to the last, run where its module's names and `given` are."""
    space = {**vars(inspect.getmodule(method)), **given}
    body = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0].body
    tree = ast.fix_missing_locations(ast.Module(statements(body, first, last), []))
    exec(compile(tree, method.__qualname__, "exec"), space)
    return space


def group_advantages() -> dict[str, object]:
    """GRPO's and RLOO's advantages of groups of three; RLOO's with the KL in the reward."""
    from trl import GRPOTrainer, RLOOTrainer

    x = inputs()
    found = {}
    for scale in ("group", "none"):
        space = executed(
            GRPOTrainer._generate_and_score_completions,
            "mean_grouped_rewards",
            "is_std_zero",
            self=SimpleNamespace(scale_rewards=scale),
            rewards=x["scores"],
            num_generations=3,
        )
        found[f"grpo, advantages, {scale}"] = {"advantages": space["advantages"].tolist()}
    space = executed(
        RLOOTrainer._generate_and_score_completions,
        "unscorable_mask",
        "is_std_zero",
        self=SimpleNamespace(
            reward_weights=torch.ones(1, dtype=torch.float64),
            reward_clip_range=None,
            beta=0.3,
            normalize_advantages=False,
        ),
        device=torch.device("cpu"),
        gather=lambda value: value,
        rewards_per_func=x["scores"][:, None],
        old_per_token_logps=x["old_logprobs"],
        ref_per_token_logps=x["ref_logprobs"],
        completion_mask=x["mask"],
        num_generations=3,
    )
    found["rloo, advantages"] = {"advantages": space["advantages"].tolist()}
    return found


def ppo() -> dict[str, object]:
    """Rewards, advantages and returns of full replies; losses on masked ones."""
    module = import_module("trl.experimental.ppo.ppo_trainer")
    run = partial(executed, module.PPOTrainer.train)

    x = inputs()
    args = SimpleNamespace(
        kl_estimator="k1",
        kl_coef=0.3,
        whiten_rewards=False,
        gamma=0.98,
        lam=0.95,
        cliprange=0.2,
        cliprange_value=0.2,
        vf_coef=0.1,
    )
    none = torch.zeros(B, T, dtype=torch.bool)
    found = {}
    for kind in ("k1", "k3"):
        args.kl_estimator = kind
        space = run(
            "logr",
            "advantages",
            args=args,
            logprobs=x["old_logprobs"],
            ref_logprobs=x["ref_logprobs"],
            scores=x["scores"],
            values=x["old_values"],
            responses=none,
            sequence_lengths=torch.full((B,), T - 1),
            sequence_lengths_p1=torch.full((B,), T),
            padding_mask=none,
            padding_mask_p1=none,
        )
        found[f"ppo, {kind}"] = {name: space[name].tolist() for name in ("rewards", "advantages", "returns")}

    logprobs, values = x["logprobs"].clone().requires_grad_(), x["values"].clone().requires_grad_()
    space = run(
        "vpredclipped",
        "loss",
        args=args,
        vpred=values,
        mb_values=x["old_values"],
        mb_return=x["old_values"] + x["scores"][:, None],
        padding_mask=x["mask"] == 0,
        padding_mask_p1=x["mask"] == 0,
        micro_batch_inds=torch.arange(B),
        new_logprobs=logprobs,
        mb_logprobs=x["old_logprobs"],
        mb_advantage=x["advantages"][:, None],
    )
    found["ppo, loss"] = differentiated(space["loss"], logprobs=logprobs, values=values)
    found["ppo, loss"] |= {"policy": space["pg_loss"].item(), "value": space["vf_loss"].item()}
    return found


def main() -> dict[str, object]:
    """All that the installed TRL has, with its version beside each case."""
    import trl

    found = {}
    for make in (critic_free, group_advantages, ppo):
        try:
            cases = make()
        except (ImportError, RuntimeError):  # TRL puts the one into the other
            continue
        found |= {name: {"trl": trl.__version__, **case} for name, case in cases.items()}
    return {"inputs": {name: x.tolist() for name, x in inputs().items()}, "cases": found}


if __name__ == "__main__":
    made = main()
    if len(sys.argv) > 1:
        file = Path(sys.argv[1])
        kept = json.loads(file.read_text()) if file.exists() else {"cases": {}}
        file.write_text(json.dumps({**made, "cases": kept["cases"] | made["cases"]}) + "\n")
    else:
        json.dump(made, sys.stdout)
