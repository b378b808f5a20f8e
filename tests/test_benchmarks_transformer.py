"""The transformer's benchmarks: sides take turns, time and work are accounted for, goals judged by measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: an installed kernels package goes first

from benchmarks import (
    clocked,
    table,
    transformer_floors,
    transformer_job,
    transformer_profile,
    transformer_seed,
    transformer_table,
    transformer_text,
    turns,
)
from benchmarks import transformer_cases as cases
from benchmarks import transformer_goals as goals
from benchmarks import transformer_job_text as job_text
from kernels import _backward, _forward, decoding
from rlhfbench.policies._buffers import _SHARED, Buffers

SMALL = cases.Size(width=16, vocab=11, rows=6, prompt=4, length=5)
SIDE = f"""
import sys
sys.path.append({str(Path(__file__).resolve().parents[1])!r})
from benchmarks.turns import serve
serve(lambda: sum(range(int(sys.argv[1]))), "adds", lambda: 5)
"""


def test_sides_take_turns_and_the_slower_one_is_slower() -> None:
    command = [sys.executable, "-c", SIDE]
    sides = [turns.Side(name, [*command, n]) for name, n in (("short", "10"), ("long", "300000"))]
    assert all(side.ready() for side in sides)
    times = turns.take_turns(sides, 0.0, rounds=3)
    peak = sides[0].ask("peak")
    for side in sides:
        side.close()
    assert sides[0].about == "adds"
    assert peak is None or peak[1] == 5
    assert times["short"].rounds == times["long"].rounds == 3
    assert times["short"].median < times["long"].median


def test_a_side_that_cannot_start_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    side = turns.Side("broken", [sys.executable, "-c", "import not_there"])
    assert not side.ready()
    side.close()
    assert "broken: " in capsys.readouterr().err


@pytest.mark.parametrize("case", cases.CASES)
def test_a_profile_accounts_for_all_time_and_work(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer_profile, "ROUNDS", 2)
    found = json.loads(json.dumps(transformer_profile.profile(case, SMALL)))
    assert sum(found["kinds"].values()) == pytest.approx(found["seconds"])
    assert found["kinds"][transformer_profile.MATMUL] > 0
    assert found["kinds"]["attention"] > 0
    assert min(found["kinds"].values()) > -0.02 * found["seconds"]  # two clocks
    in_products = sum(2 * m * k * n * calls for m, k, n, calls, _ in found["products"])
    assert 0 < in_products < sum(found["flops"].values())


def test_the_time_of_a_loop_goes_to_what_it_calls() -> None:
    kernels = {
        "decode_jit": [8.0, 1.0],
        "forward_jit": [2.0, 1.0],
        "gelu_jit": [1.0, 1.0],
        (2, 3, 4): [1.0, 1.0],
    }
    inside = {"gelu_jit": [2.0, 4.0], "panels_jit": [1.0, 1.0], "product_jit": [6.0, 9.0]}
    kinds = transformer_profile.by_kind(kernels, inside, 15.0)
    loops = {transformer_profile.IN_LOOPS: 1.0}
    assert kinds == {"matrix products": 8.0, "GELU": 3.0, "Python and NumPy": 3.0} | loops


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="functions are called by their names")
def test_clocks_within_compiled_loops_see_all_their_kernels() -> None:
    size, dtype = cases.SIZES["width 64"], np.dtype(np.float32)
    setup = cases.make_setup(size)
    call = cases.CASES["PPO update"](setup, size)
    call()
    policy, uniforms = setup.policy, np.random.default_rng(0).random((size.rows, size.length))
    drawn = policy.sample(setup.fixed_prompts, uniforms).responses.copy()
    start = perf_counter()
    with clocked.clocked() as inside:
        clocked_drawn = policy.sample(setup.fixed_prompts, uniforms).responses
        policy.logits(setup.fixed_prompts, drawn, np.ones(drawn.shape, np.float32))
        policy.backward(np.ones((*drawn.shape, size.vocab), np.float32))
    whole = perf_counter() - start
    called = (*decoding.calls(dtype), *_forward.calls(dtype), *_backward.calls(dtype))
    assert {function.__name__ for function, _ in called} == {*inside}
    assert all(calls > 0 and seconds > 0 for seconds, calls in inside.values())
    assert 0.6 * whole < sum(seconds for seconds, _ in inside.values()) < whole
    assert inside["attention_backward_jit"][1] == policy.sizes.layers
    assert np.array_equal(clocked_drawn, drawn)
    assert np.array_equal(policy.sample(setup.fixed_prompts, uniforms).responses, drawn)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="minutes of plain Python")
@pytest.mark.parametrize(("case", "most", "room"), [("DPO step", 7, 30), ("PPO update", 12, 19)])
def test_a_step_allocates_no_array_of_its_batch(case: str, most: int, room: int) -> None:
    """KiB at a time, of Python's own objects: a number for each token of the batch would be 8 more (DPO) or 4.

    MiB of workspace: PyTorch's peaks were measured at 37.6 and 23.
    """
    size, shared = cases.SIZES["width 64"], Buffers(np.dtype(np.float32))
    with patch.dict(_SHARED.by_dtype, {shared.dtype: shared}):  # what other tests needed is not this one's
        setup = cases.make_setup(size)
        call = cases.CASES[case](setup, size)
        call(), call()
        assert transformer_profile.allocated(call) < most << 10
        assert setup.held() < room << 20


def test_products_are_repeated_as_they_were() -> None:
    a, b = np.ones((3, 4), np.float32), np.ones((5, 4), np.float32)
    out = np.empty((3, 9), np.float32)[:, :5]
    noted = transformer_profile.products(lambda: np.matmul(a, b.T, out=out))
    assert noted == [((3, 4, 5), (False, True), 9)]
    transformer_profile.replay(noted)()


def test_the_job_has_the_updates_of_the_default_comparison() -> None:
    parts = transformer_job.job_parts(2000, 2000)
    assert parts["SFT"][:2] == (500, 16)  # 16 demonstrations at a time, until 480 steps have been made
    assert parts["DPO"][:2] == (64, 64)
    assert parts["PPO"].rows % parts["PPO"].minibatches == 0
    assert all(part.updates > 0 < part.learning_rate for part in parts.values())


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="minutes of plain Python")
def test_the_job_is_told_in_numbers_of_words() -> None:
    told = transformer_job.the_job("sentences-small:pairs=8,demos=9", 5)
    size = told["size"]
    assert [len(told[name]) for name in ("prompts", "demonstrations", "pairs")] == [5, 9, 8]
    for prompt, *replies in told["demonstrations"] + told["pairs"]:
        assert len(prompt) == size["prompt"]
        assert all(len(reply) <= told["length"] < size["length"] for reply in replies)
        assert all(max(prompt) < word < size["eos"] < size["pad"] for reply in replies for word in reply)
    assert told["parts"]["DPO"]["beta"] > 0
    json.dumps(told)


SEED = """
import json, sys
print(json.dumps({"about": "trl 1"}), flush=True)
for line in sys.stdin:
    print("noise")
    print(json.dumps({"found": {"seconds": {"SFT": 1.0 + int(sys.argv[1]), "PPO": 2.0}}}), flush=True)
"""


def test_both_sides_of_the_job_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(SEED, encoding="utf-8")
    told: list[int] = []

    def command(seeds: int, out: str) -> dict[str, float]:
        told.append(seeds)
        return {"seconds": float(len(told)), "processor": 1.5 * len(told)}

    monkeypatch.setattr(transformer_job, "SCRIPT", script)
    monkeypatch.setattr(transformer_job, "the_job", dict)
    monkeypatch.setattr(transformer_job, "run_command", command)
    found = transformer_job.measure_job(sys.executable, 2)
    assert told == [1, 10, 10, 10, 10]  # compiles, three with TRL's seeds between, and one that only reports
    assert found["seeds_in"] == [3.0, 4.0, 3.0, 4.0]
    assert found["parts"] == {"SFT": 1.5, "PPO": 2.0}
    assert found["rlhfbench"] == {
        "seconds": 3.0,
        "processor": 4.5,
        "again": {"seconds": 5.0, "processor": 7.5},
        "runs": [2.0, 3.0, 4.0],
    }
    assert (found["about"], found["start"] > 0) == ("trl 1", True)
    assert "seeds_in" not in transformer_job.measure_job(None, 1)


# Goals


def side(best: float, peak: tuple[int, int] = (1 << 20, 0), about: str = "1.0") -> dict[str, Any]:
    return {"best": best, "median": best, "rounds": 5, "peak": peak, "about": about}


def found(**more: dict[str, Any]) -> goals.Found:
    sides = {
        "rlhfbench": side(1.0),
        "torch": side(2.5),
        "matmul": side(1.0, about="100"),
        "products": side(1.0),
    }
    record = {"case": "DPO step", "size": cases.Size()._asdict(), "sides": sides | more}
    profile = {
        "seconds": 1.0,
        "flops": {"logits": 20, "backward": 40},
        "phases": {"logits": 0.5, "backward": 0.25},
        "kinds": {"matrix products": 0.75, "attention": 0.25, "Python and NumPy": 0.0},
        "products": [[2, 3, 4, 1, 0.5]],
        "allocated": 10,
    }
    return goals.Found("a machine", {"DPO step, width 64": record}, {"DPO step": profile}, {})


def line(results: list[goals.Goal], what: str, goal: str) -> goals.Goal:
    return next(g for g in results if g.what == what and goal in g.goal)


def test_goals_are_met_missed_or_not_measured() -> None:
    results = goals.judge(found(TRL=side(7.0)))
    assert line(results, "DPO step, width 64", "PyTorch").met is True
    assert line(results, "DPO step, width 64", "TRL").met is False
    assert line(results, "sampling, width 64", "generate").met is None
    assert line(results, "ten seeds of `compare ppo dpo`, two cores", "TRL").met is None
    assert line(results, "model-FLOP utilisation of a DPO step, width 64", "50 %").reached.startswith("60%")
    assert line(results, "DPO step, memory", "PyTorch").met is False  # as much is not below
    assert line(results, "DPO step, memory", "nothing").met is True


def test_what_is_not_installed_is_named() -> None:
    text = transformer_text.markdown(found())
    assert "not measured, for want of TRL 1.9's PPO" in text
    assert "| DPO step, width 64 | 1 s, 1 MiB | 2.5 ×, 1 MiB |" in text


def job(**more: Any) -> dict[str, Any]:
    """Ten seeds of 8 s on two cores, of which half trains, beside TRL's 30 s of training and 6 of evaluation a seed."""
    parts = {"SFT": 7.5, "reward model": 7.5, "DPO": 7.5, "PPO": 7.5, "evaluation": 6.0}
    seconds = {"SFT": 0.5, "reward model": 0.25, "DPO": 0.25, "PPO, rollouts": 1.0, "PPO, updates": 2.0}
    seconds["evaluation: scores"] = 4.0
    flops = dict.fromkeys(seconds, 100)
    kinds = {"matrix products": 4.0, "attention": 3.0, "Python and NumPy": 1.0}
    seed = {"start": 2.0, "seconds": seconds, "flops": flops, "kinds": kinds}
    again = {"seconds": 1.0, "processor": 1.0}
    command = {"seconds": 45.0, "processor": 85.0, "again": again, "runs": [44.0, 45.0, 46.0]}
    found = {
        "seeds": 10,
        "cores": 2,
        "start": 5.0,
        "seeds_in": [35.0, 37.0],
        "about": "trl 1",
        "parts": parts,
    }
    return found | {"seed": seed, "rlhfbench": command} | more


def test_the_ten_seeds_are_judged_from_start_to_end() -> None:
    assert goals.trl_seconds(job()) == pytest.approx(185.0)
    what = "ten seeds of `compare ppo dpo`, two cores"
    missed = line(goals.judge(found()._replace(job=job())), what, "TRL")
    assert (missed.met, missed.reached) == (False, "4.1 × (45 s; TRL 185 s)")
    quick = job(rlhfbench={"seconds": 12.0, "processor": 18.0})
    reached = line(goals.judge(found()._replace(job=quick)), what, "TRL")
    assert (reached.met, reached.reached) == (True, "15 × (12 s; TRL 185 s); we had 1.5 of 2 cores")
    alone = job()
    del alone["seeds_in"]
    result = line(goals.judge(found()._replace(job=alone)), what, "TRL")
    assert (result.met, result.reached) == (None, "not measured, for want of TRL 1.9's PPO")


def test_our_seeds_are_taken_apart() -> None:
    lines = {line.name: line for line in job_text.lines(job())}
    assert lines["PPO"].seconds == pytest.approx(3.0)
    assert lines["all training"][1:] == (pytest.approx(4.0), 500, 30.0)
    assert lines["all evaluation"][1:] == (pytest.approx(4.0), 100, 6.0)
    assert lines["a seed"][1:] == (pytest.approx(8.0), 600, None)
    text = transformer_text.markdown(found()._replace(job=job()))
    assert "| all training | 4 s | 50% | 0.0 | 0 | 30 s | 7.5 × |" in text
    assert "| all evaluation | 4 s | 50% | 0.0 | 0 | 6 s | 1.5 × |" in text
    assert "| evaluation: scores | 4 s | 50% | 0.0 | 0 |  |  |" in text
    assert "| starting the command, reporting | 1.0 |" in text
    assert "| cores that waited | 5.0 |" in text
    assert "| 50% | 38% | 12% |" in text
    assert "The command, 10 seeds: 44 s, 45 s, 46 s." in text
    assert "TRL, 2 seeds at a time, a core each: 35 s, 37 s a seed, 5 s until it begins." in text


def test_seconds_of_a_seed_are_the_commands() -> None:
    slower = job()
    slower["rlhfbench"] |= {"seconds": 90.0, "processor": 165.0}
    assert job_text.lines(slower)[-1].seconds == pytest.approx(16.0)
    del slower["rlhfbench"]
    assert job_text.lines(slower)[-1].seconds == pytest.approx(8.0)


def test_a_job_of_one_side_prints() -> None:
    alone = job()
    for name in ("start", "seeds_in", "about", "parts"):
        del alone[name]
    text = transformer_text.markdown(found()._replace(job=alone))
    assert "| 10 seeds | 80.0 |" in text
    assert "TRL, 2 seeds" not in text
    assert "by phase" not in transformer_text.markdown(found()._replace(profiles={}))


# Floors


def floor(asked: float, ours: float) -> transformer_floors.Floor:
    """100 FLOPs of 50 a second, of which BLAS takes 4 s."""
    return transformer_floors.Floor("a goal", asked, 100, 50, 4.0, ours, {})


def test_what_is_out_of_reach_is_said_by_the_numbers() -> None:
    assert floor(10.0, 9.0).verdict == "reached"
    assert floor(3.0, 2.5).verdict == "reached"
    assert floor(2.0, 9.0).verdict == "beyond the peak"
    assert floor(4.0, 9.0).verdict == "beyond BLAS's own products"
    assert floor(5.0, 9.0).verdict == "leaves 1 s beside BLAS's own products, we take 5 s"


def test_a_floor_stands_beside_each_goal_of_speed_that_was_counted() -> None:
    both = found(TRL=side(7.0))
    first, second = transformer_floors.floors(both)
    assert (first.asked, first.least, first.verdict) == (1.25, 0.6, "reached")
    assert (second.asked, second.verdict) == (0.875, "beyond BLAS's own products")
    assert second.beside == pytest.approx((0.25, 0.0))
    assert list(transformer_floors.floors(both._replace(profiles={}))) == []


def test_the_floor_of_ten_seeds_has_the_products_of_the_narrow_case() -> None:
    products = {"matmul": side(1.0, about="100"), "products": side(1.0, about="50")}
    record = {"case": "PPO update", "size": cases.Size()._asdict(), "sides": products}
    records = {"PPO update, width 32": record}
    profiles = {"PPO update, width 32": {"flops": {"logits": 50, "losses": 30}}}
    (only,) = transformer_floors.floors(goals.Found("a machine", records, profiles, job()))
    assert (only.asked, only.flops, only.least, only.products) == (pytest.approx(185 / 15), 6000, 30.0, 37.5)
    assert only.verdict == "beyond the peak"
    assert list(transformer_floors.floors(goals.Found("a machine", records, {}, job()))) == []


# A seed


def test_a_phase_has_what_is_not_of_the_phases_within() -> None:
    ledger = transformer_seed.Ledger()
    with ledger.inside("outer"):
        ledger.count(1)
        with ledger.inside("inner"):
            ledger.count(2)
            sum(range(200_000))
        ledger.count(4)
    assert ledger.flops == {"outer": 5, "inner": 2}
    assert ledger.seconds["inner"] > ledger.seconds["outer"] > 0


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="minutes of plain Python")
def test_a_seed_is_taken_apart() -> None:
    settings = {
        "task": "sentences-small:pairs=64,demos=64",
        "policy": "linear",
        "arms": ["ppo:updates=2", "dpo"],
    }
    found = transformer_seed.seed_profile(1, settings)
    phases = {phase for *_, phase in transformer_seed.PHASES if isinstance(phase, str)}
    assert set(found["seconds"]) == phases | {
        "PPO, updates",
        "DPO",
        "pairs and labels",
        transformer_seed.OTHER,
    }
    assert all(found["flops"][name] > 0 for names in job_text.TRAINING.values() for name in names)
    assert 0 < found["kinds"]["Python and NumPy"] < sum(found["kinds"].values())


def test_the_page_has_a_place_for_the_tables() -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    assert text.index(transformer_table.BEGIN) < text.index(transformer_table.END)
