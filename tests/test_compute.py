"""The ledger against a recount that shares no code with it: every phase, to the last operation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.flops import Work
from rlhfbench.compute import PHASES, ComputeMeter

PROGRAM = Path(__file__).with_name("recount.py")
DPO_LOSSES = [
    *("hinge", "robust", "exo_pair,label_smoothing=0.1", "nca_pair", "bco_pair", "sppo_hard"),
    *("aot", "apo_zero", "apo_down", "discopop", "sigmoid_norm"),
]
ARMS = [
    "dpo:epochs=2,batch_size=2",
    "dpo:epochs=1,batch_size=3,label_smoothing=0.1,max_grad_norm=0",
    "ppo:updates=2,batch_size=4,num_ppo_epochs=2",
    "ppo:updates=2,batch_size=4,whiten_rewards=true,max_grad_norm=0,kl_controller=ziegler",
    "ppo:updates=2,batch_size=4,kl=k3:reward,score_clip=0.5",
    "ppo:updates=2,batch_size=4,kl=full:loss",
    "ppo_lagrangian:updates=2,batch_size=4",
    "reinforce:updates=2,batch_size=4",
    "reinforce@plusplus:updates=2,batch_size=4,kl=k2:loss",
    "reinforce:updates=2,batch_size=4,kl=full:reward",
    "rloo:updates=2,batch_size=4,num_generations=2",
    "rloo:updates=2,batch_size=4,num_generations=2,num_iterations=2,kl=k3:loss",
    "grpo:updates=2,batch_size=4,num_generations=2,num_iterations=2",
    "grpo:updates=2,batch_size=4,num_generations=4,variant=dr_grpo",
    "grpo:updates=2,batch_size=4,num_generations=4,variant=bnpo,kl=k1:reward",
    "grpo:updates=2,batch_size=4,num_generations=2,variant=dapo,kl=full:loss",
    "grpo:updates=2,batch_size=4,num_generations=2,variant=gspo,beta=0",
    "ppo:rm=process,updates=2,batch_size=4",
    "reinforce:rm=process,updates=2,batch_size=4",
    "grpo:rm=process,updates=2,batch_size=4,num_generations=2,num_iterations=2",
    "grpo:rm=process,updates=2,batch_size=4,num_generations=4,variant=dr_grpo,kl=k1:reward",
    "grpo:rm=process,updates=2,batch_size=4,num_generations=4,variant=dapo,beta=0",
    "grpo:rm=process,updates=2,batch_size=4,num_generations=2,variant=gspo",
    "raft:updates=2,batch_size=4,num_generations=2,num_epochs=2",
    "raft:updates=2,batch_size=4,num_generations=2,beta=0.1",
    "revise:replies=3,rounds=2,epochs=2,batch_size=2",
    "online_dpo:updates=2,batch_size=4",
    "best_of_n:n=3",
    "distill:epochs=1,batch_size=2",
    "dpo:epochs=1,batch_size=2,length_penalty=0.1",
    *(f"dpo:epochs=1,batch_size=2,loss_type={loss}" for loss in DPO_LOSSES),
    *(f"{name}:epochs=1,batch_size=2" for name in ("ipo", "ipo@trl", "kto", "simpo", "orpo", "cpo")),
]


def recount(arm: str, *wrong: int) -> dict:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), arm, *map(str, wrong)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("arm", ARMS)
def test_the_ledger_equals_the_operations_executed(arm):
    seen = recount(arm)
    assert seen["ledger"] == seen["executed"]
    assert seen["transcendentals"][0] == seen["transcendentals"][1]
    assert seen["nobody"] == 0
    assert seen["total"] == sum(seen["executed"].values())


def test_so_does_supervised_fine_tuning():
    seen = recount("sft")
    assert seen["ledger"] == seen["executed"]
    assert seen["ledger"]["sft"] > 0


@pytest.mark.parametrize("times", [0, 2])
@pytest.mark.parametrize("charge", [0, 4, 12, 20])
def test_one_charge_left_out_or_doubled_is_seen(charge, times):
    seen = recount(ARMS[2], charge, times)
    assert len(seen["charges"]) > charge
    assert seen["ledger"] != seen["executed"]


def test_every_charge_counts_something():
    assert all(flops > 0 for _, flops, _ in recount(ARMS[2])["charges"])


def test_phases_sft_and_eval_are_shown_and_not_charged():
    meter = ComputeMeter()
    for phase in PHASES:
        meter.add(phase, Work(1, 1))
    assert meter.charged_flops == len(PHASES) - 2
    record = meter.as_dict()
    assert record["flops"] == record["transcendentals"] == len(PHASES) - 2
    assert set(record["by_phase"]) == set(PHASES)


def test_nothing_is_counted_while_evaluating():
    meter = ComputeMeter()
    with meter.redirect("eval"):
        meter.policy_charge("sample", Work(5, 0), 3)
        meter.reward_charge(Work(5, 0), 3)
    assert meter.charged_flops == 0
    assert meter.flops["eval"] == 10
    assert not meter.counts
