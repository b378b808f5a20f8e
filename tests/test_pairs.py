"""The world made from a file of pairs: vocabulary, tokens, splits, and what it says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlhfbench.errors import InputError
from rlhfbench.tasks.pairs import FEWEST_PAIRS, SHARES, PairsTask, deal
from rlhfbench.types import Task

PARTS = ("sft", "rm", "judge", "evaluation")


def make_file(path: Path, pairs: int = 120, prompts: int = 60) -> str:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    with path.open("w", encoding="utf-8") as out:
        for i in range(pairs):
            pick = [words[(i * 3 + j * j) % len(words)] for j in range(5)]
            record = {
                "prompt": f"question {i % prompts} about {words[i % prompts % 8]}?",
                "chosen": " ".join(pick) + " good.",
                "rejected": " ".join(reversed(pick)) + f" bad rare{i}.",
            }
            out.write(json.dumps(record) + "\n")
    return str(path)


@pytest.fixture
def task(tmp_path: Path) -> PairsTask:
    return PairsTask(make_file(tmp_path / "f.jsonl"), vocabulary=30, length=7, prompt_words=4)


def text_prompts(task: PairsTask, part: str) -> set[int]:
    return set(task._encoded.prompt_of[task.rows(part)].tolist())


def test_it_is_a_task(task: PairsTask) -> None:
    assert isinstance(task, Task)
    assert task.vocab[0] == "<unk>"
    assert task.vocab[task.eos or 0] == "<eos>"
    assert len(set(task.vocab)) == len(task.vocab) == 32
    assert task.prompt_vocab == task.vocab
    assert task.max_length == 7


def test_no_prompt_stands_in_two_parts(task: PairsTask) -> None:
    for seed in range(20):
        split = task.for_seed(np.random.default_rng(seed))
        assert split.split_by == "prompt"
        rows = [split.rows(part) for part in PARTS]
        assert sorted(np.concatenate(rows).tolist()) == list(range(120))
        prompts = [text_prompts(split, part) for part in PARTS]
        assert sum(map(len, prompts)) == len(set().union(*prompts)) == 60
        for part, mine in zip(PARTS, rows, strict=True):
            assert len(mine) / 120 == pytest.approx(SHARES[part], abs=0.03)


def test_few_prompts_are_split_by_pair(tmp_path: Path) -> None:
    task = PairsTask(make_file(tmp_path / "f.jsonl", prompts=39)).for_seed(np.random.default_rng(0))
    assert task.split_by == task.facts()["split_by"] == "pair"
    rows = [task.rows(part) for part in PARTS]
    assert sorted(np.concatenate(rows).tolist()) == list(range(120))


def test_one_giant_prompt_leaves_no_part_empty() -> None:
    groups = np.concatenate([np.zeros(1000, int), np.arange(1, 40)])
    for seed in range(20):
        part_of = deal(groups, list(SHARES.values()), np.random.default_rng(seed))
        assert set(part_of.tolist()) == {0, 1, 2, 3}


def test_seeds_split_anew_and_the_same_seed_the_same(task: PairsTask) -> None:
    one, same, other = (task.for_seed(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.rows("rm"), same.rows("rm"))
    assert one.rows("rm").tolist() != other.rows("rm").tolist()
    assert one.vocab is other.vocab
    with pytest.raises(RuntimeError, match="for_seed"):
        task.rows("rm")


def test_tokens_masks_and_text(task: PairsTask) -> None:
    pairs = task._encoded.pairs
    eos = task.eos
    # "five words good ." and the end make 8: the end does not fit
    assert (pairs.chosen != eos).all()
    assert (pairs.chosen_mask == 1).all()
    assert task.response_text(pairs.chosen[0], pairs.chosen_mask[0]).endswith(" good.")
    # "rare17" is known to nobody: context, but not scored
    hole = pairs.rejected[:, 6] == 0
    assert hole.sum() > 90
    assert (pairs.rejected_mask[hole, 6] == 0).all()
    assert (pairs.rejected_mask == (pairs.rejected > 0)).all()
    assert pairs.rejected_mask.dtype == np.float32
    assert task.prompt_text(pairs.prompts[0]).endswith("about alpha?")
    roomy = PairsTask(task.path, vocabulary=30, length=12, prompt_words=9)
    pairs = roomy._encoded.pairs
    assert (pairs.chosen == roomy.eos).sum(axis=1).tolist() == [1] * 120
    assert pairs.chosen[0, 7] == roomy.eos
    assert pairs.chosen_mask[0].tolist() == [1.0] * 8 + [0.0] * 4
    assert (pairs.prompts[:, :4] == -1).all()
    assert "<unk>" in roomy.response_text(pairs.rejected[100], pairs.rejected_mask[100])


def test_streams_of_prompts_and_pairs(task: PairsTask) -> None:
    split = task.for_seed(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    demos = split.demonstrations(rng)
    np.testing.assert_array_equal(demos.responses, split._encoded.pairs.chosen[split.rows("sft")])
    assert len(split.preferences(None, rng, None)) == len(split.rows("rm"))  # type: ignore[arg-type]
    assert len(split.preferences(5, rng, None)) == 5  # type: ignore[arg-type]
    judge = split.judge_preferences()
    assert judge is not None
    assert len(judge) == len(split.rows("judge"))
    evaluation = split.evaluation_prompts(50, rng)
    counts = np.unique(evaluation, axis=0, return_counts=True)[1]
    assert evaluation.shape == (50, 4)
    assert len(counts) <= len(text_prompts(split, "evaluation"))
    trained = {tuple(p) for p in split._encoded.pairs.prompts[split.rows("sft", "rm")]}
    assert {tuple(p) for p in split.prompts(40, rng)} <= trained
    with pytest.raises(NotImplementedError):
        split.gold_score(evaluation, demos.responses, demos.mask)


def test_facts(tmp_path: Path) -> None:
    path = make_file(tmp_path / "f.jsonl")
    with open(path, "a", encoding="utf-8") as out:
        out.write(json.dumps({"prompt": "a", "chosen": "", "rejected": "b"}) + "\n")
    task = PairsTask(path, vocabulary=30, length=7).for_seed(np.random.default_rng(0))
    facts = task.facts()
    assert facts["pairs"] == 120
    assert facts["skipped"] == 1
    assert "line 121" in facts["skipped_lines"]
    assert facts["prompt_cut_share"] == 0.0
    assert PairsTask(path, prompt_words=4).facts()["prompt_cut_share"] == 1.0
    assert facts["cut_share"] == 0.5  # rejected replies have 8 words, chosen ones 7
    assert 0.05 < facts["unknown_share"] < 0.08
    assert sum(facts["pairs_per_part"].values()) == 120
    assert json.loads(json.dumps(facts)) == facts
    with pytest.raises(InputError, match="line 121"):
        PairsTask(path, strict=True)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    first = PairsTask(make_file(path))
    again = PairsTask(make_file(path, pairs=80))
    assert (first.facts()["pairs"], again.facts()["pairs"]) == (120, 80)


def test_words_that_would_drive_a_terminal_are_shown_harmless(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    lines = [
        json.dumps({"prompt": "p", "chosen": f"\x1b[31m red \u202e {i}", "rejected": "no"}) for i in range(30)
    ]
    path.write_text("\n".join(lines), "utf-8")
    assert all(char.isprintable() for word in PairsTask(str(path)).vocab for char in word)


def test_bad_files_and_fields_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        PairsTask(str(tmp_path / "none.jsonl"))
    few = make_file(tmp_path / "few.jsonl", pairs=FEWEST_PAIRS - 1)
    with pytest.raises(InputError, match="19 usable pairs; at least 20"):
        PairsTask(few)
    good = make_file(tmp_path / "good.jsonl")
    for field in ("vocabulary", "length", "prompt_words"):
        with pytest.raises(InputError, match=field):
            PairsTask(good, **{field: 0})


def test_empty_prompts_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    lines = [json.dumps({"prompt": "", "chosen": f"yes {i}", "rejected": "no"}) for i in range(30)]
    path.write_text("\n".join(lines), "utf-8")
    task = PairsTask(str(path)).for_seed(np.random.default_rng(0))
    assert (task.evaluation_prompts(3, np.random.default_rng(0)) == -1).all()
    assert task.prompt_text(task.prompts(1, np.random.default_rng(0))[0]) == ""


def test_real_pairs(data_dir: Path) -> None:
    task = PairsTask(str(data_dir / "hh_harmless.train.jsonl"))
    assert len(task.vocab) == 1026
    for seed in range(3):
        split = task.for_seed(np.random.default_rng(seed))
        assert split.split_by == "prompt"
        parts = [text_prompts(split, part) for part in PARTS]
        assert sum(map(len, parts)) == len(set().union(*parts))
    assert task.facts()["unknown_share"] < 0.15
