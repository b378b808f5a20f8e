"""Presets mean what they say: every one builds, sets a method and no step size, and has its library's own numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlhfbench import preset_files
from rlhfbench.errors import InputError
from rlhfbench.registry import builtin_names, load_algorithm, parse_arm

PROGRAM = Path(__file__).with_name("golden") / "trl_defaults.py"
TRL = json.loads(PROGRAM.with_suffix(".json").read_text(encoding="utf-8"))
ALL = [(name, preset) for name in builtin_names("algorithms") for preset in preset_files.built_in(name)]
LEFT = {"learning_rate", "batch_size", "updates", "max_grad_norm"}
RECIPES = {"dpo@zephyr", "dpo@tulu3", "simpo@paper"}
"""Those of one trained model, which say how often it saw the pairs."""

# What is not TRL's of today, as read in the sources that the presets name.
TRL_0_11 = {
    "init_kl_coef": 0.2,
    "adap_kl_ctrl": True,
    "kl_penalty": "kl",
    "target": 6,
    "horizon": 10000,
    "early_stopping": False,
    "batch_size": 128,
    "mini_batch_size": 128,
    "ppo_epochs": 4,
    "cliprange": 0.2,
    "cliprange_value": 0.2,
    "vf_coef": 0.1,
    "gamma": 1,
    "lam": 0.95,
    "whiten_rewards": False,
}
OPENRLHF = {
    "init_kl_coef": 0.01,
    "kl_target": None,
    "kl_estimator": "k1",
    "use_kl_loss": False,
    "rollout_batch_size": 1024,
    "train_batch_size": 128,
    "max_epochs": 1,
    "eps_clip": 0.2,
    "value_clip": 0.5,
    "gamma": 1,
    "lambd": 1,
    "reward_clip_range": (-10, 10),
    "lr_scheduler": "cosine_with_min_lr",
    "lr_warmup_ratio": 0.03,
}
ZIEGLER = {
    "rewards.kl_coef": 0.15,
    "rewards.adaptive_kl": "on",
    "rewards.adaptive_kl.target": 6.0,
    "rewards.adaptive_kl.horizon": 10000,
    "ppo.nminibatches": 1,
    "ppo.noptepochs": 4,
    "ppo.cliprange": 0.2,
    "ppo.cliprange_value": 0.2,
    "ppo.vf_coef": 0.1,
    "ppo.gamma": 1,
    "ppo.lam": 0.95,
    "ppo.whiten_rewards": True,
}


def same(*names):
    """Fields that are called alike."""
    return {name: name for name in names}


def reward(theirs):
    return f"{theirs['kl_estimator']}:reward"


# Preset -> whose defaults, and for each field of ours the name of theirs or what becomes of them.
LOSSES = {"dapo": "bnpo"}  # TRL's "dapo" is a mean over all tokens and says nothing of the clip
SOURCES = {
    "ppo@trl-1.9": (
        TRL["PPOConfig"],
        same("num_mini_batches", "num_ppo_epochs", "cliprange", "cliprange_value", "vf_coef", "gamma", "lam")
        | same("whiten_rewards")
        | {"beta": "kl_coef", "kl": reward, "kl_controller": lambda theirs: "fixed"},
    ),
    "ppo@trl-0.11": (
        TRL_0_11,
        same("cliprange", "cliprange_value", "vf_coef", "gamma", "lam", "whiten_rewards")
        | {"beta": "init_kl_coef", "kl_target": "target", "kl_horizon": "horizon"}
        | {"num_ppo_epochs": "ppo_epochs"}
        | {"kl_controller": lambda theirs: "ziegler" if theirs["adap_kl_ctrl"] else "fixed"}
        | {"kl": lambda theirs: {"kl": "k1"}[theirs["kl_penalty"]] + ":reward"}
        | {"kl_early_stop": lambda theirs: float(theirs["early_stopping"])}
        | {"num_mini_batches": lambda theirs: theirs["batch_size"] // theirs["mini_batch_size"]},
    ),
    "ppo@openrlhf": (
        OPENRLHF,
        {"beta": "init_kl_coef", "num_ppo_epochs": "max_epochs", "cliprange": "eps_clip"}
        | {
            "cliprange_value": "value_clip",
            "gamma": "gamma",
            "lam": "lambd",
            "warmup_ratio": "lr_warmup_ratio",
        }
        | {"kl": reward, "kl_controller": lambda theirs: "ziegler" if theirs["kl_target"] else "fixed"}
        | {"num_mini_batches": lambda theirs: theirs["rollout_batch_size"] // theirs["train_batch_size"]}
        | {"score_clip": lambda theirs: theirs["reward_clip_range"][1]}
        | {"lr_scheduler_type": lambda theirs: theirs["lr_scheduler"].partition("_")[0]}
        | {"whiten_rewards": lambda theirs: False},
    ),
    "ppo@ziegler": (
        ZIEGLER,
        {name: f"ppo.{name}" for name in ("cliprange", "cliprange_value", "vf_coef", "gamma", "lam")}
        | {"whiten_rewards": "ppo.whiten_rewards", "num_mini_batches": "ppo.nminibatches"}
        | {"num_ppo_epochs": "ppo.noptepochs", "beta": "rewards.kl_coef"}
        | {"kl_target": "rewards.adaptive_kl.target", "kl_horizon": "rewards.adaptive_kl.horizon"}
        | {"kl": lambda theirs: "k1:reward", "kl_controller": lambda theirs: "ziegler"},
    ),
    "grpo@trl": (
        TRL["GRPOConfig"],
        same("num_generations", "num_iterations", "beta")
        | {"variant": lambda theirs: LOSSES[theirs["loss_type"]], "cliprange": "epsilon"}
        | {"cliprange_high": lambda theirs: theirs["epsilon_high"] or theirs["epsilon"]},
    ),
    "rloo@trl": (
        TRL["RLOOConfig"],
        same("num_generations", "num_iterations", "beta")
        | {"cliprange": "epsilon", "kl": lambda theirs: "k1:reward"},
    ),
    "dpo@trl": (
        TRL["DPOConfig"],
        same("beta", "label_smoothing", "discopop_tau")
        | {"loss_type": lambda theirs: theirs["loss_type"][0]},
    ),
    "ipo@trl": (TRL["DPOConfig"], {"beta": "beta", "reduction": lambda theirs: "mean"}),
    "kto@trl": (TRL["KTOConfig"], same("beta", "desirable_weight", "undesirable_weight")),
    "cpo@trl": (TRL["CPOConfig"], same("beta", "cpo_alpha", "label_smoothing")),
    "orpo@trl": (TRL["ORPOConfig"], same("beta")),
    "online_dpo@trl": (TRL["OnlineDPOConfig"], {"beta": lambda theirs: theirs["beta"][0]}),
}


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_every_preset_builds_and_sets_what_it_says(name, preset):
    given = preset_files.built_in(name)[preset]
    made = asdict(parse_arm(f"{name}@{preset}").config)
    assert {key: made[key] for key in given.fields} == dict(given.fields)
    for policy in ("linear", "transformer"):
        spec, _ = load_algorithm(name)
        plain = asdict(parse_arm(name, policy=policy).config)
        made = asdict(parse_arm(f"{name}@{preset}", policy=policy).config)
        assert made == plain | dict(given.fields)
        assert set(spec.policy_defaults.get(policy, {})) <= set(plain)


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_a_preset_says_how_to_learn_and_not_how_fast(name, preset):
    fields = set(preset_files.built_in(name)[preset].fields)
    assert not fields & LEFT
    assert ("epochs" in fields) == (f"{name}@{preset}" in RECIPES)


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_its_source_fits_on_a_line(name, preset):
    assert len(f"    {name}@{preset}: {preset_files.built_in(name)[preset].source}") <= 80


def test_built_in_algorithms_have_their_presets_in_files_alone():
    for name in builtin_names("algorithms"):
        spec, _ = load_algorithm(name)
        assert dict(spec.presets) == {key: p.fields for key, p in preset_files.built_in(name).items()}
        function = spec.function.spec
        assert not function.presets
    stray = {path.stem for path in preset_files.FOLDER.glob("*")} - set(builtin_names("algorithms"))
    assert not stray


@pytest.mark.parametrize("arm", SOURCES)
def test_its_numbers_are_those_of_its_source(arm):
    theirs, names = SOURCES[arm]
    name, _, preset = arm.partition("@")
    fields = preset_files.built_in(name)[preset].fields
    expected = {ours: their(theirs) if callable(their) else theirs[their] for ours, their in names.items()}
    assert dict(fields) == expected


def test_every_preset_of_a_library_is_compared():
    libraries = {f"{name}@{preset}" for name, preset in ALL if "trl" in preset}
    assert libraries <= set(SOURCES)


def test_what_is_kept_is_what_trl_says():
    here = sys.executable if find_spec("trl") else None
    pythons = [p for p in (here, os.environ.get("RLHFBENCH_TRL_PPO")) if p and Path(p).exists()]
    if not pythons:
        pytest.skip("no TRL here")
    for python in pythons:
        done = subprocess.run([python, str(PROGRAM)], capture_output=True, text=True, check=True)
        made = json.loads(done.stdout)
        for name, fields in made.items():
            assert fields | {"trl": None} == TRL[name] | {"trl": None}
        if not made:
            pytest.skip(f"{python} has neither TRL 1.16 nor 1.9")


# --- files of one's own ------------------------------------------------------------------------------------------

MINE = '[mine]\nsource = "me"\n[mine.fields]\nbeta = 0.5\n'


def test_a_preset_in_a_file(tmp_path):
    one = tmp_path / "one.toml"
    one.write_text(MINE, encoding="utf-8")
    arm = parse_arm(f"ppo@{one}:updates=7")
    assert (arm.label, arm.config.beta, arm.config.updates) == ("ppo@one", 0.5, 7)
    assert parse_arm(arm.source) == arm
    assert parse_arm(f"ppo@{one}@mine").label == "ppo@mine"
    one.write_text(MINE + MINE.replace("mine", "other").replace("0.5", "0.6"), encoding="utf-8")
    assert parse_arm(f"ppo@{one}@other").config.beta == 0.6


@pytest.mark.parametrize(
    ("text", "suffix", "parts"),
    [
        (None, "", ["no such file"]),
        ("beta = ", "", ["Invalid value"]),
        ("\udcff", "", ["utf-8"]),
        ("beta = 1\n", "", ["preset 'beta'", "1 came, a table"]),
        ("[a]\n", "", ["source: nothing came, text is needed"]),
        ('[a]\nsource = "me"\n', "", ["fields: nothing came, a table of fields is needed"]),
        ('[a]\nsource = "me"\nfields = 3\n', "", ["fields: 3 came, a table of fields is needed"]),
        ('[a]\nsource = "me"\nfeilds = {}\n', "", ["no key 'feilds'; did you mean 'fields'?"]),
        ('[a]\nsource = "me"\nchecked = 1\n', "", ["checked: 1 came, true or false is needed"]),
        (MINE.replace("beta", "bta"), "", ["no field 'bta'; did you mean 'beta'?"]),
        (MINE.replace("0.5", '"x"'), "", ["beta must be a number, got 'x'"]),
        (MINE.replace("0.5", "-1"), "", ["beta must be at least 0"]),
        (MINE, "@mien", ["no preset 'mien'; did you mean 'mine'?"]),
        (MINE + MINE.replace("mine", "other"), "", ["holds 2 presets", "@name"]),
        ("", "", ["holds 0 presets"]),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, text, suffix, parts):
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        parse_arm(f"ppo@{path}{suffix}")
    said = str(caught.value)
    assert "\n" not in said
    for part in parts:
        assert part in said
