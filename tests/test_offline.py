"""The methods that learn from preference pairs alone: DPO's family, IPO, KTO, SimPO, ORPO, CPO."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from rlhfbench import pair_training, preset_files
from rlhfbench.algorithms import dpo, kto
from rlhfbench.cli import main
from rlhfbench.errors import InputError
from rlhfbench.prepare import Prepared, prepare
from rlhfbench.registry import load_algorithm, load_task, parse_arm
from rlhfbench.run import run
from rlhfbench.types import PreferencePairs

LOSSES = get_args(dpo.LossType)
METHODS = ("dpo", "ipo", "kto", "simpo", "orpo", "cpo")
SHORT = "epochs=1,batch_size=32"


@pytest.fixture(scope="module")
def world() -> Prepared:
    return prepare(load_task("words"), "tabular", 0, 256)


@pytest.fixture(scope="module")
def uneven() -> Prepared:
    """A world whose replies have different lengths."""
    return prepare(load_task("sentences-small:pairs=300,demos=300"), "linear", 0, 256)


def arm_of(loss: str) -> str:
    smoothing = ",label_smoothing=0.05" if loss == "exo_pair" else ""
    return f"dpo:loss_type={loss}{smoothing}"


def test_what_dpo_does_not_use_is_not_loaded():
    """The family's other losses are thirty jitted functions, which take a while to set up."""
    program = (
        "import sys, rlhfbench.algorithms.dpo; print(*(m for m in sys.modules if m.endswith('_losses')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["kernels._score_losses"]


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in ("apo_down", "discopop")])
def test_every_loss_of_the_family_learns(world, loss):
    result = run(world, parse_arm(arm_of(loss)))
    assert result.status == "done"
    assert result.rm_score > result.reference["rm_score"] + 0.2
    assert result.curve[-1]["rewards/accuracies"] > 0.6


def test_apo_down_tells_apart_and_lowers_the_rejected(world):
    """It is for chosen replies that are worse than the policy's own: its score need not rise."""
    point = run(world, parse_arm(arm_of("apo_down"))).curve[-1]
    assert point["rewards/rejected"] < 0 < point["rewards/margins"]


def test_discopop_may_start_the_wrong_way(world):
    """Its loss rises with the margin at 0, where every policy starts; below lies a minimum, where this run ends."""
    end = run(world, parse_arm("dpo@discopop"))
    assert end.status == "done"
    assert end.curve[-1]["rewards/margins"] < 0


@pytest.mark.parametrize("preset", preset_files.built_in("dpo"))
def test_presets_run(world, preset):
    assert run(world, parse_arm(f"dpo@{preset}:{SHORT}")).status == "done"


@pytest.mark.parametrize("name", METHODS)
def test_curves_have_the_metrics_that_people_know(world, name):
    point = run(world, parse_arm(f"{name}:{SHORT}")).curve[-1]
    shown = {f"rewards/{what}" for what in ("chosen", "rejected", "margins", "accuracies")}
    assert {"loss", "logps/chosen", "logps/rejected", *shown} <= set(point)
    assert ("kl/reference_point" in point) == (name == "kto")


@pytest.mark.parametrize("name", METHODS)
def test_the_reference_is_paid_for_by_those_who_read_it(world, name):
    one, two = (run(world, parse_arm(f"{name}:batch_size=32,epochs={n}")).compute for n in (1, 2))
    ref = one["by_phase"]["ref"]
    assert (ref > 0) == (name in ("dpo", "ipo", "kto"))
    assert two["by_phase"]["ref"] == ref  # once, however many epochs
    assert one["by_phase"]["rm_score"] == one["by_phase"]["rm_train"] == 0
    if name == "kto":  # the replies to other prompts too
        assert ref == 2 * run(world, parse_arm(f"dpo:{SHORT}")).compute["by_phase"]["ref"]


@pytest.mark.parametrize(
    ("arm", "needle"),
    [
        ("kto:batch_size=1", "at least 2"),
        ("kto:desirable_weight=-1", "desirable_weight must be at least 0"),
        ("ipo:beta=0", "above 0"),
        ("ipo:reduction=average", "sum"),
        ("simpo:gamma_beta_ratio=-1", "at least 0"),
        ("orpo:learning_rate=0", "above 0"),
        ("cpo:cpo_alpha=-1", "at least 0"),
        ("cpo:label_smoothing=0.5", "below 0.5"),
        ("dpo:loss_type=sigmod", "did you mean 'sigmoid'"),
        ("dpo:loss_type=ipo", "'ipo' is not valid"),
        ("dpo:loss_type=exo_pair", "label_smoothing must be above 0 with exo_pair"),
        ("dpo:loss_type=hinge,label_smoothing=0.1", "label_smoothing must be 0 with hinge"),
        ("dpo:loss_type=aot,length_penalty=0.1", "length_penalty must be 0 with aot"),
        ("dpo:discopop_tau=0", "above 0"),
        *((f"{name}:epochs=0", "at least 1") for name in METHODS),
    ],
)
def test_wrong_settings_are_refused_in_one_line(arm, needle):
    with pytest.raises(InputError) as caught:
        parse_arm(arm)
    assert needle in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kto_with_a_batch_of_one_exits_with_2_and_says_why(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "kto:batch_size=1", "--task", "words", "--seeds", "1"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "batch_size" in err
    assert "replies to other prompts" in err
    assert len(err.strip().splitlines()) == 1


def test_kto_needs_two_pairs(world):
    lonely = replace(world, preferences=world.preferences.take(np.arange(1)))
    with pytest.raises(InputError, match="at least 2 are needed"):
        run(lonely, parse_arm("kto"))


class Stream:
    """As much of a setup as drawing pairs asks for."""

    def __init__(self, pairs: PreferencePairs) -> None:
        self.preferences, self.rng, self.charged = pairs, np.random.default_rng(0), []

    def charge(self, kernel, *shape):
        self.charged.append((kernel, *shape))

    def steps(self, planned):
        return iter(range(planned))


def numbered(n: int) -> PreferencePairs:
    """Prompts and replies that bear the number of their pair."""
    numbers, mask = np.arange(n)[:, None], np.ones((n, 3), np.float32)
    return PreferencePairs(numbers, np.repeat(numbers, 3, 1), mask, np.repeat(numbers + n, 3, 1), mask)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_no_pair_keeps_its_own_replies_for_ktos_reference_point(n):
    setup = Stream(numbered(n))
    others = kto.mismatched(setup, setup.preferences)
    assert not np.any(others.prompts[:, 0] == others.chosen[:, 0])
    np.testing.assert_array_equal(others.chosen + n, others.rejected)
    assert sorted(others.chosen[:, 0]) == list(range(n))


def test_an_epoch_sees_every_pair_once():
    setup = Stream(numbered(10))
    config = parse_arm("dpo:epochs=3,batch_size=4").config
    seen = list(pair_training.batches(setup, config))
    assert [len(index) for index in seen] == [4, 4, 2] * 3
    epochs = [np.concatenate(seen[i : i + 3]) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_lengths_leave_out_padding():
    pairs = numbered(4)
    mask = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], np.float32)
    setup = Stream(replace(pairs, chosen_mask=mask))
    chosen, rejected = pair_training.response_lengths(setup, setup.preferences)
    np.testing.assert_array_equal(chosen, [2, 1, 3, 2])
    np.testing.assert_array_equal(rejected, [3, 3, 3, 3])


def test_where_all_replies_are_as_long_a_length_penalty_changes_nothing(world):
    plain, penalised = (run(world, parse_arm(f"dpo:{SHORT},length_penalty={a}")) for a in (0, 0.7))
    assert penalised.curve[-1]["rewards/margins"] == pytest.approx(
        plain.curve[-1]["rewards/margins"], rel=1e-3
    )
    assert penalised.rm_score == pytest.approx(plain.rm_score, rel=1e-3)


def test_a_length_penalty_is_r_dpo(uneven):
    """The loss is -log sigma(s + alpha (|y_w| - |y_l|)), and longer replies lose by it."""
    pairs, alpha, beta = uneven.preferences, 0.3, 0.1
    gap = alpha * (pairs.chosen_mask.sum(axis=1) - pairs.rejected_mask.sum(axis=1))
    assert np.ptp(gap) > 0
    arm = f"dpo:epochs=1,batch_size=300,learning_rate=1e-9,beta={beta},length_penalty={alpha}"
    first = run(uneven, parse_arm(arm)).curve[-1]
    # The policy is the reference still, so that all there is of the margin is the penalty.
    assert first["loss"] == pytest.approx(np.logaddexp(0, -gap).mean(), rel=1e-4)
    assert first["rewards/margins"] == pytest.approx(gap.mean(), abs=1e-4)
    short, plain = (run(uneven, parse_arm(f"dpo:length_penalty={a}")).length for a in (1.0, 0))
    assert short < plain


def test_shown_log_probabilities_are_sums_over_tokens(uneven):
    pairs = uneven.preferences
    first = run(uneven, parse_arm("dpo:epochs=1,batch_size=300,learning_rate=1e-9")).curve[-1]
    logprobs = uneven.reference.logprobs(pairs.prompts, pairs.chosen, pairs.chosen_mask)
    assert first["logps/chosen"] == pytest.approx(logprobs.sum(axis=1).mean(), rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_the_transformer_has_step_sizes_of_its_own(name):
    spec, _ = load_algorithm(name)
    assert set(spec.policy_defaults["transformer"]) >= {"epochs", "learning_rate"}
    assert parse_arm(name, policy="transformer").config.learning_rate < parse_arm(name).config.learning_rate
