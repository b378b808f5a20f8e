"""A verifier of the user's: what it is handed, what it may give, and how it may fail."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhfbench import verifiers
from rlhfbench.cli import main
from rlhfbench.errors import InputError
from rlhfbench.jobs import open_task, small_worlds
from rlhfbench.plan import check_reward, make_world
from rlhfbench.prepare import prepare
from rlhfbench.registry import load_task, parse_arm
from rlhfbench.run import run
from rlhfbench.tasks.reward_choice import reward_kind
from rlhfbench.tasks.words import Words
from rlhfbench.verifiers import UserVerifier, VerifierFailed, open_verifier, try_out

SMALL = "arithmetic:terms=2,largest=3,demos=200,pairs=64"
ARM = "ppo:updates=2,batch_size=32"
OWN = "def verify(prompt, response, answer):\n    return answer in response.split()\n"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Calls `main` in an empty folder that holds `own.py`."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def with_function(function: Any) -> UserVerifier:
    return UserVerifier("./own.py:verify", function, Path("own.py"))


# --- what it is handed and gives ---------------------------------------------------------------------------------


def test_it_sees_texts_and_the_answer() -> None:
    seen: list[tuple[str, str, str | None]] = []

    def verify(prompt: str, response: str, answer: str | None) -> float:
        seen.append((prompt, response, answer))
        return len(seen)

    task = load_task("arithmetic")
    prompts, responses = (
        np.array([[1, 5, 2, 5, 3], [4, 5, 4, 5, 0]]),
        np.array([[3, 6, 13, 0], [13, 0, 0, 0]]),
    )
    reward = with_function(verify).reward(task)
    assert reward.score(prompts, responses, np.array([[1, 1, 1, 0], [1, 0, 0, 0]])).tolist() == [1.0, 2.0]
    assert seen == [("1 + 2 + 3", "3 6", "6"), ("4 + 4 + 0", "", "8")]


def test_where_no_answer_is_known_it_is_none() -> None:
    task = load_task("sentences")
    reward = with_function(lambda prompt, response, answer: answer is None).reward(task)
    demos = task.demonstrations(np.random.default_rng(0)).take(np.arange(3))
    assert reward.score(demos.prompts, demos.responses, demos.mask).tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("value", "score"),
    [(True, 1.0), (False, 0.0), (-2, -2.0), (0.25, 0.25), (np.float32(0.5), 0.5), (np.True_, 1.0)],
)
def test_numbers_and_truth_values_are_scores(value: Any, score: float) -> None:
    assert with_function(lambda *_: value).score("p", "r", None) == score


class Coy:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def stops(*_: object) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda *_: float("nan"), "float nan came"),
        (lambda *_: float("inf"), "float inf came"),
        (lambda *_: 10**400, "int 1000"),
        (lambda *_: "0.5", "str '0.5' came"),
        (lambda *_: None, "NoneType None came"),
        (lambda *_: np.ones(2), "ndarray array"),
        (lambda *_: Coy(), "Coy without a representation came"),
        (lambda *_: 1 / 0, "ZeroDivisionError: division by zero came"),
        (lambda prompt: 1.0, "TypeError: "),
        (stops, "SystemExit: 3 came"),
    ],
)
def test_anything_else_is_its_failure(function: Any, says: str) -> None:
    with pytest.raises(VerifierFailed) as failure:
        with_function(function).score("1 + 1", "3", "2")
    text = str(failure.value)
    assert text.startswith("--verifier ./own.py:verify: ")
    assert says in text
    assert "prompt '1 + 1', response '3'; a finite number, true or false is needed" in text


def spins(*_: object) -> float:
    while True:
        try:
            time.sleep(0.001)
        except Exception:
            continue


@pytest.mark.parametrize("function", [spins, lambda *_: time.sleep(60)])
def test_one_that_hangs_is_stopped(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifiers, "TIME_LIMIT", 0.1)
    started = time.perf_counter()
    with pytest.raises(VerifierFailed, match=r"no result after 0\.1 s came"):
        with_function(function).score("p", "r", None)
    assert time.perf_counter() - started < 5


def test_it_is_tried_out_on_a_reply_and_on_an_empty_one() -> None:
    task = load_task("arithmetic")
    with pytest.raises(InputError, match=r"IndexError.*response ''"):
        try_out(with_function(lambda prompt, response, answer: response.split()[-1] == answer), task)
    with pytest.raises(InputError, match="float nan"):
        try_out(with_function(lambda prompt, response, answer: float("nan") if response else 0.0), task)


# --- finding it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing came, module:function or ./file.py:function is needed"),
        ("own.py", "own.py came, module:function"),
        ("./own.py:", "own.py: came"),
        ("./nowhere.py:verify", "nowhere.py: no such file"),
        ("./own.py:verfy", "no function 'verfy'; did you mean 'verify'?"),
        ("./own.py:NUMBER", "no function 'NUMBER'"),
        ("./broken.py:verify", "broken.py, line 2: SyntaxError"),
        ("./raises.py:verify", "raises.py, line 2: ValueError: oh"),
        ("no_such_module:verify", "ModuleNotFoundError"),
        ("math:sqroot", "no function 'sqroot'"),
        ("sys:exit", "'sys' is in no file"),
    ],
)
def test_what_cannot_be_found_is_one_line_and_2(call: Call, text: str, says: str) -> None:
    Path("own.py").write_text(OWN + "NUMBER = 1\n")
    Path("broken.py").write_text("x = 1\ndef verify(:\n")
    Path("raises.py").write_text("x = 1\nraise ValueError('oh')\n")
    code, out, err = call("compare", ARM, "--task", SMALL, "--verifier", text)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"rlhfbench: error: [^\n]+\n", err), err
    assert says in err
    assert not Path("rlhfbench-runs").exists()


def test_a_module_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    verifier = open_verifier("my_rules:verify")
    assert verifier.score("1 + 1", "2", "2") == 1.0
    assert (verifier.name, verifier.file) == ("verify", (tmp_path / "my_rules.py").resolve())


# --- in a comparison ---------------------------------------------------------------------------------------------


def compare(call: Call, *more: object) -> tuple[int, str, str]:
    return call("compare", ARM, "--task", SMALL, "--jobs", 0, "--policy", "linear", "--seeds", 2, *more)


def test_it_is_the_reward_beside_the_tasks_own(call: Call) -> None:
    code, out, _ = compare(call, "--verifier", "./own.py:verify", "--json", "-")
    content = json.loads(out)
    assert code == 0
    assert (content["gold"], content["reward"]) == ("verifier", "verifier")
    for result in content["algorithms"]["ppo"]["runs"]:
        assert result["reference"]["rm_score"] > result["reference"]["gold_score"]  # no end is needed
        assert result["compute"]["rm_calls"] == 64
        assert result["compute"]["labels"] == 0
        assert result["compute"]["by_phase"]["rm_train"] == result["compute"]["by_phase"]["rm_score"] == 0
    code, out, err = compare(call, "--verifier", "./own.py:verify")
    assert "2 reused" in err
    for part in (
        "verifier score",
        "accuracy",
        "verifier calls",
        "Reward: verifier 'verify'.",
        "reward hacking",
    ):
        assert part in out
    assert "RM" not in out


def test_gold_as_the_reward_is_shown_once(call: Call) -> None:
    code, out, _ = compare(call)
    assert code == 0
    for part in ("accuracy", "verifier calls", "Reward: the task's verifier.", "It is the reward, too."):
        assert part in " ".join(out.split())
    for part in ("RM", "verifier score", "gold", "reward hacking", "correlate"):
        assert part not in out


def test_an_edit_of_its_file_runs_anew(call: Call) -> None:
    compare(call, "--verifier", "./own.py:verify")
    Path("elsewhere.py").write_text(OWN)
    assert "2 reused" in compare(call, "--verifier", "./elsewhere.py:verify")[2]
    Path("own.py").write_text(OWN + "# more\n")
    assert ": 0 reused" in compare(call, "--verifier", "./own.py:verify")[2]
    assert ": 0 reused" in compare(call)[2]


def test_one_that_fails_at_once_costs_nothing(call: Call) -> None:
    Path("own.py").write_text("def verify(prompt, response, answer):\n    return 'yes'\n")
    code, out, err = compare(call, "--verifier", "./own.py:verify")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"rlhfbench: error: --verifier [^\n]*str 'yes' came[^\n]+\n", err)
    assert not Path("rlhfbench-runs").exists()


LATER = """
calls = [0]
def verify(prompt, response, answer):
    calls[0] += 1
    if calls[0] > LIMIT:
        raise ValueError("enough")
    return 1.0
"""


def test_one_that_fails_later_is_an_error_of_its_run(call: Call) -> None:
    # The trial 2, the world's facts 2,048, the first evaluation 1,024; then 32 an update.
    Path("own.py").write_text(LATER.replace("LIMIT", "2048 + 1024 + 40"))
    code, out, _ = call(
        *("compare", ARM, "dpo:epochs=1", "--task", SMALL, "--jobs", 0, "--policy", "linear"),
        *("--seeds", 1, "--verifier", "./own.py:verify"),
    )
    assert code == 3
    assert (
        "ppo, seed 0: error (VerifierFailed: --verifier ./own.py:verify: ValueError: enough came"
        in " ".join(out.split())
    )


def test_one_that_fails_while_a_seed_is_prepared_costs_that_seed(call: Call) -> None:
    Path("own.py").write_text(LATER.replace("LIMIT", "100"))
    code, out, _ = compare(call, "--verifier", "./own.py:verify")
    assert code == 3
    for seed in (0, 1):
        assert f"ppo, seed {seed}: error (VerifierFailed: --verifier" in " ".join(out.split())


def test_what_it_prints_leaves_standard_output_alone(call: Call) -> None:
    Path("own.py").write_text(OWN.replace("    return", "    print('looking')\n    return"))
    code, out, err = compare(call, "--verifier", "./own.py:verify", "--json", "-")
    assert code == 0
    assert json.loads(out)["reward"] == "verifier"
    assert "looking" in err


def test_it_takes_the_place_of_no_model_that_was_asked_for(call: Call) -> None:
    code, _, err = call("compare", ARM, "--task", f"{SMALL},rm=unigrams", "--verifier", "./own.py:verify")
    assert code == 2
    assert "--verifier: ./own.py:verify came with rm=unigrams, one of the two is needed" in err


def test_pairs_keep_their_judge(call: Call, tmp_path: Path) -> None:
    lines = [
        json.dumps({"prompt": f"question {i}", "chosen": f"yes it is {i % 7}", "rejected": "no way at all"})
        for i in range(60)
    ]
    Path("pairs.jsonl").write_text("\n".join(lines))
    Path("own.py").write_text("def verify(prompt, response, answer):\n    return response.count('yes') / 3\n")
    code, out, _ = call(
        *("compare", ARM, "--data", "pairs.jsonl", "--seeds", 1, "--jobs", 0, "--verifier", "./own.py:verify")
    )
    assert code == 0
    assert "verifier score" in out
    assert "judge score, ref sd" in out
    assert "RM score" not in out


def test_a_task_without_a_verifier_has_none_for_a_reward() -> None:
    class Mine(Words):
        rm = "verifier"

    with pytest.raises(InputError, match="rm must be a model where gold is no verifier, got verifier"):
        check_reward(Mine(), None)


def test_samples_show_its_scores(call: Call) -> None:
    compare(call, "--verifier", "./own.py:verify")
    code, out, _ = call("samples", "rlhfbench-runs", "--prompts", 2)
    assert code == 0
    assert "verifier" in out
    assert "accuracy" in out
    folder = next(Path("rlhfbench-runs/runs").iterdir())
    code, out, _ = call("show", folder)
    assert (code, "verifier score" in out, "RM" in out) == (0, True, False)
    Path("own.py").write_text(OWN + "# more\n")
    code, _, err = call("samples", "rlhfbench-runs")
    assert code == 2
    assert "own.py: not as it was when the run was made" in err


def test_the_same_world_without_words_in_between() -> None:
    """The user's verifier and the task's own agree where they check the same, to the bit of every number."""

    def verify(prompt: str, response: str, answer: str | None) -> bool:
        return response.endswith(str(answer)) and response.split()[-1:] == [answer]

    task = load_task(SMALL)
    runs = [
        run(prepare(task, "linear", 3, 64, verifier), parse_arm(ARM))
        for verifier in (None, with_function(verify))
    ]
    assert [r.gold_score for r in runs] == [r.rm_score for r in runs] == [runs[0].gold_score] * 2
    assert runs[0].kl == runs[1].kl


def test_the_warm_up_follows_the_reward() -> None:
    world = make_world(SMALL, None, False, None, None)
    assert small_worlds([world]) == ["arithmetic:pairs=64,demos=64"]
    assert open_task(small_worlds([world])[0], None).name == "arithmetic"
    modelled = make_world(f"{SMALL},rm=bigrams", None, False, None, None)
    assert small_worlds([modelled])[0].endswith("rm=bigrams")


def test_a_verifier_takes_the_place_of_a_default_reward_model_on_every_task():
    """`words` has a bag of words by default, which nobody asked for."""
    for name in ("words", "sentences", "arithmetic"):
        assert reward_kind(load_task(name), "./mine.py:verify") == "verifier"
    with pytest.raises(InputError, match="came with rm=bigrams, one of the two is needed"):
        reward_kind(load_task("sentences:rm=bigrams"), "./mine.py:verify")


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_no_exception_does_not_hang_a_worker(call: Call, jobs: int) -> None:
    """Raised by the verifier itself, late enough to pass the try-out."""
    Path("own.py").write_text(
        "calls = []\ndef verify(prompt, response, answer):\n    calls.append(1)\n"
        "    if len(calls) > 5:\n        raise KeyboardInterrupt\n    return 1.0\n"
    )
    arguments = ("--task", SMALL, "--seeds", 1, "--jobs", jobs, "--policy", "linear")
    code, _, _ = call("compare", ARM, *arguments, "--verifier", "./own.py:verify")
    assert code == 3
