"""Names, presets, overrides and files of algorithms: what is understood, and one line for what is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from rlhfbench.errors import InputError
from rlhfbench.options import build, nearest, split_overrides
from rlhfbench.registry import (
    algorithm_names,
    load_algorithm,
    load_task,
    parse_arm,
    parse_arms,
    task_names,
)

GOOD = '''
from dataclasses import dataclass
from rlhfbench.types import register

@dataclass(frozen=True)
class Config:
    """Hyper-parameters."""

    size: int = 1

    def __post_init__(self):
        if self.size < 0:
            raise ValueError("size is negative")

@register("mine", Config, presets={"big": {"size": 9}})
def mine(setup, config):
    for _ in setup.steps(config.size):
        yield {}
'''
TWO = GOOD + '\n@register("other", Config)\ndef other(setup, config):\n    yield {}\n'


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- names -----------------------------------------------------------------------------------------------------


def test_built_ins_are_their_files() -> None:
    assert {"ppo", "dpo", "reinforce", "best_of_n"} <= set(algorithm_names())
    assert {"words", "sentences", "sentences-small"} <= set(task_names())
    for name in algorithm_names():
        spec, file = load_algorithm(name)
        assert (spec.name, file.name) == (name, f"{name}.py")
        assert spec.config()
        assert spec.function.__doc__
        for preset in spec.presets:
            parse_arm(f"{name}@{preset}")


def test_an_arm_has_name_preset_and_overrides() -> None:
    arm = parse_arm("ppo@lesson:beta=0.5,updates=7")
    assert (arm.label, arm.config.beta, arm.config.updates) == ("ppo@lesson", 0.5, 7)
    assert arm.config.kl_controller == "doubling"
    assert arm.source == "ppo@lesson:beta=0.5,updates=7"
    assert parse_arm(arm.source) == arm


def test_repeated_labels_are_numbered() -> None:
    arms = parse_arms(["ppo", "ppo@lesson", "ppo:beta=0.2", "dpo", "ppo", "ppo@lesson"])
    assert [a.label for a in arms] == ["ppo", "ppo@lesson", "ppo#2", "dpo", "ppo#3", "ppo@lesson#2"]
    assert arms[2].config.beta == 0.2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pop", ["unknown algorithm 'pop'", "did you mean 'ppo'?"]),
        ("", ["unknown algorithm ''", "choose from"]),
        ("ppo@leson", ["no preset 'leson'", "did you mean 'lesson'?"]),
        ("ppo@", ["no preset ''"]),
        ("ppo:bta=1", ["ppo: no field 'bta'", "did you mean 'beta'?"]),
        ("ppo:beta", ["expected name:field=value", "'beta'"]),
        ("ppo:", ["expected name:field=value"]),
        ("ppo:beta=", ["expected name:field=value"]),
        ("ppo:=1", ["expected name:field=value"]),
        ("ppo:beta=1,,", ["expected name:field=value"]),
        ("ppo:beta=1,beta=2", ["'beta' is given twice"]),
        ("ppo:beta=1,kl_coef=2", ["'beta' is given twice", "kl_coef"]),
        ("ppo:beta=nan", ["beta must be a finite number, got 'nan'"]),
        ("ppo:beta=-inf", ["beta must be a finite number"]),
        ("ppo:beta=1e999", ["beta must be a finite number"]),
        ("ppo:beta=x", ["beta must be a number, got 'x'"]),
        ("ppo:beta=-1", ["beta must be at least 0"]),
        ("ppo:updates=1.5", ["updates must be a whole number, got '1.5'"]),
        ("ppo:updates=nan", ["updates must be a whole number"]),
        ("ppo:updates=0", ["updates must be at least 1"]),
        ("ppo:whiten_rewards=maybe", ["whiten_rewards must be true or false"]),
        ("ppo:kl_controller=zigler", ["kl_controller", "did you mean 'ziegler'?"]),
        ("ppo:flips=0.1", ["ppo: no field 'flips'; it is one of tasks", "--task sentences:flips=..."]),
        (
            "ppo:largest=9",
            ["ppo: no field 'largest'; it is one of task arithmetic: --task arithmetic:largest"],
        ),
        ("ppo:task=words", ["ppo: no field 'task'; choose from"]),
        ("gpt", ["unknown algorithm 'gpt'; choose from"]),
        ("ppo:num_mini_batches=300", ["num_mini_batches must be at most batch_size (256)"]),
    ],
)
def test_what_is_wrong_with_an_arm_and_what_is_nearest(text: str, parts: list[str]) -> None:
    said = refusal(parse_arm, text)
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("sentence", "did you mean 'sentences'?"),
        ("pairs", "--data FILE"),
        ("words:pears=3", "did you mean 'pairs'?"),
        ("sentences:flips=0.6", "flips must be between 0 and 0.5"),
        ("sentences:rm=trigrams", "did you mean 'bigrams'?"),
        ("sentences:temperature=0", "temperature must be above 0"),
        ("sentences:length_bias=nan", "finite"),
        ("arithmetic:labels=ai", "task arithmetic: no field 'labels'; it is one of tasks words, sentences,"),
        ("sentences:beta=1", "no field 'beta'; choose from"),
        ("sentences:label_smoothing=0.1", "no field 'label_smoothing'; choose from"),
    ],
)
def test_what_is_wrong_with_a_task(text: str, part: str) -> None:
    assert part in refusal(load_task, text)


# --- files -----------------------------------------------------------------------------------------------------


def test_a_policy_has_defaults_of_its_own() -> None:
    plain, other = parse_arm("ppo"), parse_arm("ppo", policy="transformer:width=64")
    changed = plain.spec.policy_defaults["transformer"]
    assert changed
    assert asdict(other.config) == asdict(plain.config) | changed
    assert parse_arm("ppo:learning_rate=1", policy="transformer").config.learning_rate == 1
    assert parse_arm("ppo@lesson", policy="transformer").config.kl_controller == "doubling"


def test_an_algorithm_in_a_file(tmp_path: Path) -> None:
    one = write(tmp_path / "one.py", GOOD)
    for text in (one, f"{one}:mine"):
        assert (parse_arm(text).label, parse_arm(text).config.size) == ("mine", 1)
    for text in (f"{one}:size=3", f"{one}:mine:size=3"):
        assert parse_arm(text).config.size == 3
    for text in (f"{one}@big", f"{one}:mine@big"):
        assert (parse_arm(text).label, parse_arm(text).config.size) == ("mine@big", 9)
    assert parse_arm(f"{one}:mine@big:size=2").config.size == 2
    assert parse_arm(one).file == Path(one).resolve()
    two = write(tmp_path / "two.py", TWO)
    assert parse_arm(f"{two}:other").label == "other"
    (tmp_path / "a.pyre=x").mkdir()
    odd = write(tmp_path / "a.pyre=x" / "one.py", GOOD)
    assert parse_arm(f"{odd}:mine:size=4").config.size == 4
    assert parse_arm(f"{odd}:size=4").config.size == parse_arm(f"{odd}@big:size=4").config.size
    assert "registers 2 algorithms" in refusal(parse_arm, two)
    assert "did you mean 'other'?" in refusal(parse_arm, f"{two}:othr")


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "one.py", GOOD)
    assert parse_arm(path).config.size == 1
    write(tmp_path / "one.py", GOOD.replace("size: int = 1", "size: int = 2"))
    assert parse_arm(path).config.size == 2


def test_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    arms = []
    for i in (1, 2):
        (tmp_path / str(i)).mkdir()
        text = GOOD.replace("size: int = 1", f"size: int = {i}")
        arms.append(write(tmp_path / str(i) / "same.py", text))
    assert [a.config.size for a in parse_arms([*arms, arms[0]])] == [1, 2, 1]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def x(:\n", ["line 1", "SyntaxError"]),
        ("import os\n\nx = 1 +\n", ["line 3", "SyntaxError"]),
        ("import os\nimport no_such_module_anywhere\n", ["line 2", "ModuleNotFoundError"]),
        ("\n\n1 / 0\n", ["line 3", "ZeroDivisionError"]),
        ("import sys\nsys.exit(0)\n", ["line 2", "SystemExit"]),
        ("x = 1\n", ["registers 0 algorithms"]),
        ("from rlhfbench.algorithms.ppo import ppo\n", ["registers 0 algorithms"]),
        (GOOD.replace("@dataclass(frozen=True)\n", ""), ["mine", "dataclass"]),
        (GOOD.replace("size: int = 1", "size: int"), ["mine", "size"]),
        ("x = '\udcff'", ["SyntaxError"]),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = refusal(parse_arm, str(path))
    for part in ("bad.py" if "mine" not in parts else "mine", *parts):
        assert part in said


@pytest.mark.parametrize("default", ["float('nan')", "-float('inf')", "object()", "(1.0, float('nan'))"])
def test_defaults_that_no_run_could_be_kept_under(tmp_path: Path, default: str) -> None:
    path = write(
        tmp_path / "one.py", GOOD.replace("size: int = 1", f"size: int = 1\n    odd: object = {default}")
    )
    assert "mine: odd must be a finite number, text or a list of these" in refusal(parse_arm, path)


def test_a_name_that_looks_like_a_numbered_label(tmp_path: Path) -> None:
    path = write(tmp_path / "one.py", GOOD.replace('"mine"', '"ppo#2"'))
    assert [a.label for a in parse_arms(["ppo", path, "ppo"])] == ["ppo", "ppo#2", "ppo#3"]
    assert [a.label for a in parse_arms(["ppo", "ppo", path])] == ["ppo", "ppo#2", "ppo#2#2"]


def test_missing_files_and_refused_fields(tmp_path: Path) -> None:
    assert "no such file; expected ./file.py:function" in refusal(parse_arm, str(tmp_path / "none.py:mine"))
    one = write(tmp_path / "one.py", GOOD)
    assert "size is negative" in refusal(parse_arm, f"{one}:size=-1")
    assert "expected name:field=value" in refusal(parse_arm, f"{one}:mine:")
    assert "no preset ''" in refusal(parse_arm, f"{one}:mine@")
    assert "no preset 'huge'" in refusal(parse_arm, f"{one}:mine@huge")
    assert "no field 'sise'; did you mean 'size'?" in refusal(parse_arm, f"{one}:mine:sise=1")


# --- options ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    count: int = 1
    share: float = 0.5
    on: bool = False
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    text: str = ""
    fixed: int = field(default=0, init=False)


def test_values_take_the_type_of_their_field() -> None:
    typed = {"count": "7", "share": "1e-3", "on": "yes", "kind": "b", "limit": "3", "text": "x y"}
    got = build(Options, typed, "options")
    assert got == Options(7, 1e-3, True, "b", 3, "x y")
    assert build(Options, {"limit": "none", "count": 4, "on": True, "share": 2}, "options") == Options(
        count=4, on=True, share=2.0
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": True},
        {"count": 1.5},
        {"count": None},
        {"on": "2"},
        {"kind": "c"},
        {"limit": "x"},
        {"fixed": "1"},
    ],
)
def test_values_that_no_field_takes(wrong: dict[str, Any]) -> None:
    assert refusal(build, Options, wrong, "options").startswith("options: ")


def test_nearest_and_split() -> None:
    assert nearest("ppp", ["ppo", "dpo"]) == "; did you mean 'ppo'?"
    assert nearest("zzz", ["b", "a"]) == "; choose from a, b"
    assert nearest("x", ["y"]) == "; choose from y"
    assert nearest("zzz", []) == "; choose from nothing"
    assert split_overrides("a") == ("a", {})
    assert split_overrides("a:x=1=2") == ("a", {"x": "1=2"})
