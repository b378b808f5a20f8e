"""Preference losses against TRL: values in `golden/trl_offline.json`, and TRL itself where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels import categorical, preference, reference

PROGRAM = Path(__file__).with_name("golden") / "trl_offline.py"
GOLDEN = json.loads(PROGRAM.with_suffix(".json").read_text(encoding="utf-8"))["losses"]
FROM_LOGITS = ("cpo", "simpo", "orpo")
PAIRS = sorted(set(GOLDEN) - {*FROM_LOGITS, "kto"})
NAMES = {"sigmoid": "dpo"}
"""Where the kernel is called otherwise than TRL's loss."""

MODULES = pytest.mark.parametrize("module", [preference, reference], ids=["kernel", "twin"])


def halves(values: list[float]) -> list[Any]:
    return list(np.reshape(values, (2, -1)))


def kernel_arguments(name: str, case: dict[str, Any]) -> dict[str, Any]:
    """TRL's configuration as the kernel's parameters."""
    options = dict(case["options"])
    if "discopop_tau" in options:
        options["tau"] = options.pop("discopop_tau")
    if name == "ipo":
        options["tau"] = options.pop("beta")
    if name in {"ipo", "sigmoid_norm"}:  # TRL averages over tokens
        options |= dict(zip(("chosen_lengths", "rejected_lengths"), case["lengths"], strict=True))
    return options


@MODULES
@pytest.mark.parametrize("name", PAIRS)
def test_losses_of_pairs_are_trls(name, module):
    case = GOLDEN[name]
    loss = getattr(module, NAMES.get(name, name))
    result = loss(*halves(case["pi"]), *halves(case["ref"]), **kernel_arguments(name, case))
    # TRL keeps some constants in float32.
    tolerance = 1e-6 if name == "exo_pair" else 1e-12
    assert result.loss == pytest.approx(case["loss"], rel=tolerance)
    chosen, rejected = halves(case["gradient"])
    np.testing.assert_allclose(result.d_chosen, chosen, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(result.d_rejected, rejected, rtol=tolerance, atol=tolerance)


def test_implicit_rewards_are_trls():
    from rlhfbench.metrics import implicit_rewards

    case = GOLDEN["sigmoid"]
    beta = case["options"]["beta"]
    for pi, ref, mean in zip(halves(case["pi"]), halves(case["ref"]), case["rewards"], strict=True):
        assert implicit_rewards(beta, pi, ref).mean() == pytest.approx(mean)


@MODULES
def test_kto_is_trls(module):
    case = GOLDEN["kto"]
    ratios = np.subtract(case["mismatched"], case["ref_mismatched"])
    kl = max(float(ratios.mean()), 0.0)
    assert kl == pytest.approx(case["kl"], rel=1e-12)
    result = module.kto(case["pi"], case["ref"], case["desirable"], kl, **case["options"])
    assert result.loss == pytest.approx(case["loss"], rel=1e-12)
    np.testing.assert_allclose(result.d_logps, case["gradient"], rtol=1e-12)


@MODULES
@pytest.mark.parametrize("name", FROM_LOGITS)
def test_losses_without_a_reference_are_trls(name, module):
    """From logits to the loss and back: TRL's gradient reaches the logits of every token that counts, and no other."""
    case = GOLDEN[name]
    lengths = np.array(case["lengths"], np.float64)
    logits, tokens = np.array(case["logits"]), np.array(case["tokens"])
    mask = np.arange(tokens.shape[-1]) < lengths[..., None]
    sums = (categorical.token_logprobs(logits, tokens) * mask).sum(axis=-1)
    options = {k: v for k, v in case["options"].items() if k in {"beta", "label_smoothing"}}
    if name == "cpo":
        loss = module.cpo(*sums, alpha=case["options"]["cpo_alpha"], chosen_lengths=lengths[0], **options)
    elif name == "simpo":
        assert case["options"]["cpo_alpha"] == 0  # TRL's default, 1, adds the likelihood of the chosen
        del options["label_smoothing"]
        loss = module.simpo(*sums, *lengths, gamma=case["options"]["simpo_gamma"], **options)
    else:
        loss = module.orpo(*sums, *lengths, **options)
    # TRL's odds ratio is in float32.
    tolerance = 1e-5 if name == "orpo" else 1e-12
    assert loss.loss == pytest.approx(case["loss"], rel=tolerance)
    d = np.stack([loss.d_chosen, loss.d_rejected])[..., None] * mask
    gradient = categorical.token_logprobs_backward(logits, tokens, d)
    np.testing.assert_allclose(gradient, case["gradient"], rtol=tolerance, atol=tolerance)


def test_the_values_can_tell_losses_apart():
    """No two losses of the file agree, so that none passes for another."""
    found = [(GOLDEN[name]["loss"], GOLDEN[name]["gradient"]) for name in PAIRS]
    assert len({json.dumps(value) for value in found}) == len(PAIRS)


def test_trl_computes_these_values_now(tmp_path):
    """With the TRL that is installed; where there is none, the file speaks for 1.16."""
    pytest.importorskip("trl")
    file = tmp_path / "now.json"
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert same(json.loads(file.read_text(encoding="utf-8"))["losses"], GOLDEN)


def same(one: Any, two: Any) -> bool:
    """Equal up to the last digits of numbers."""
    if isinstance(one, dict):
        return set(one) == set(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == pytest.approx(two, rel=1e-6, abs=1e-9)
