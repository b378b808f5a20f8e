"""Parameters on disk: they come back to the bit, and what is damaged or made for something else is refused."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhfbench.checkpoints import (
    load_policy,
    load_reward_model,
    pack,
    pack_policy,
    pack_reward_model,
    unpack,
    vocabulary_hash,
)
from rlhfbench.errors import InputError
from rlhfbench.policies.linear import LinearPolicy
from rlhfbench.policies.tabular import TabularPolicy
from rlhfbench.rewards.bradley_terry import BagFeatures, LinearRewardModel

KINDS = {"bag": LinearRewardModel}
WORDS = vocabulary_hash(("a", "b", "<eos>"), ("p",))


def policy(kind: type[LinearPolicy] = LinearPolicy, vocab: int = 3, seed: int = 0) -> LinearPolicy:
    made = kind(1, vocab, 4, eos=vocab - 1)
    made.params[:] = np.random.default_rng(seed).normal(size=made.params.shape)
    return made


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("kind", [LinearPolicy, TabularPolicy])
def test_a_policy_comes_back_to_the_bit(tmp_path: Path, kind: type[LinearPolicy]) -> None:
    before, blank = policy(kind), policy(kind, seed=1)
    put(tmp_path, pack_policy("policy", before, "linear", WORDS))
    after = load_policy(tmp_path, "policy", blank, "linear", WORDS)
    np.testing.assert_array_equal(after.params, before.params)
    assert not np.shares_memory(after.params, blank.params)
    prompts, uniforms = np.zeros((5, 1), np.int64), np.random.default_rng(2).random((5, 4))
    one, two = before.sample(prompts, uniforms), after.sample(prompts, uniforms)
    np.testing.assert_array_equal(one.responses, two.responses)
    np.testing.assert_array_equal(one.logprobs, two.logprobs)


def test_a_policy_is_kept_in_float32(tmp_path: Path) -> None:
    double = LinearPolicy(1, 3, 4, dtype=np.float64)
    files = pack_policy("policy", double, "linear", WORDS)
    assert json.loads(files["policy.json"])["arrays"] == {"params": {"dtype": "float32", "shape": [36]}}
    assert len(files["policy.npz"]) < 36 * 4 + 600


@pytest.mark.parametrize("features", ["unigrams", "bigrams"])
def test_a_reward_model_scores_the_same_bits(tmp_path: Path, features: Any) -> None:
    rng = np.random.default_rng(0)
    bag = BagFeatures.of(features, 3)
    model = LinearRewardModel(rng.normal(size=bag.size), bag).normalised(rng.normal(size=50))
    put(tmp_path, pack_reward_model("rm", model, WORDS))
    again = load_reward_model(tmp_path, "rm", KINDS, WORDS)
    tokens = rng.integers(3, size=(9, 4))
    for dtype in (np.float32, np.float64):
        inputs = (tokens, tokens, np.ones(tokens.shape, dtype))
        np.testing.assert_array_equal(again.score(*inputs), model.score(*inputs))


def test_only_numbers_are_packed() -> None:
    with pytest.raises(TypeError, match="words: an array of object, one of numbers is needed"):
        pack("x", "policy", {}, {"words": np.array([None])})


def test_the_vocabulary_counts_in_its_order() -> None:
    hashes = {
        vocabulary_hash(*v) for v in [(("a", "b"),), (("b", "a"),), (("ab",),), (("a",), ("b",)), ((),)]
    }
    assert len(hashes) == 5


# --- damage ----------------------------------------------------------------------------------------------------


def header(**changes: Any) -> Callable[[Path], None]:
    """Replace fields of the .json; ... leaves one out."""

    def damage(folder: Path) -> None:
        path = folder / "policy.json"
        record = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in record.items() if value is not ...}))

    return damage


def swapped(content: bytes, **changes: Any) -> Callable[[Path], None]:
    """Another .npz, of which the .json says that it is the right one."""

    def damage(folder: Path) -> None:
        (folder / "policy.npz").write_bytes(content)
        header(sha256=hashlib.sha256(content).hexdigest(), **changes)(folder)

    return damage


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def of(shape: list[int], name: str = "params") -> dict[str, Any]:
    return {name: {"dtype": "float32", "shape": shape}}


OBJECTS = npz(params=np.array([{"a": 1}], dtype=object))
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "npz gone": (lambda f: (f / "policy.npz").unlink(), r"policy\.npz: the file is missing"),
    "json gone": (lambda f: (f / "policy.json").unlink(), r"policy\.json: the file is missing"),
    "a folder": (
        lambda f: ((f / "policy.json").unlink(), (f / "policy.json").mkdir())[1],
        r"policy\.json: cannot be read",
    ),
    "json cut": (lambda f: (f / "policy.json").write_text('{"kind"') and None, "not valid JSON"),
    "json binary": (lambda f: (f / "policy.json").write_bytes(b"\xff\xfe") and None, "not valid JSON"),
    "json deep": (lambda f: (f / "policy.json").write_text("[" * 10**5) and None, "not valid JSON"),
    "json list": (lambda f: (f / "policy.json").write_text("[]") and None, "a JSON object is needed"),
    "no hash": (header(sha256=...), "field 'sha256' is missing"),
    "no fields": (header(fields=...), "field 'fields' is missing"),
    "fields empty": (header(fields={}), "field 'policy' is missing"),
    "kind": (header(kind="reward model"), "'reward model' came, 'policy' is needed"),
    "schema": (header(schema=2), "schema 2 came, 1 is needed"),
    "not a zip": (swapped(b"PK\x03\x04 no"), "not arrays of numbers"),
    "objects": (
        swapped(OBJECTS, arrays={"params": {"dtype": "object", "shape": [1]}}),
        "not arrays of numbers",
    ),
    "plain npy": (swapped(npz()[:0]), "not arrays of numbers"),
    "no params": (
        swapped(npz(other=np.zeros(3, "f")), arrays=of([3], "other")),
        "holds other, 'params' is needed",
    ),
    "shape": (swapped(npz(params=np.zeros(7, "f")), arrays=of([7])), r"shape \(7,\), \(36,\) is needed"),
    "not as said": (swapped(npz(params=np.zeros(7, "f"))), "holds other arrays than policy.json names"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    damage, problem = DAMAGES[name]
    put(tmp_path, pack_policy("policy", policy(), "linear", WORDS))
    damage(tmp_path)
    with pytest.raises(InputError, match=problem) as caught:
        load_policy(tmp_path, "policy", policy(), "linear", WORDS)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_no_changed_byte_goes_unnoticed(tmp_path: Path) -> None:
    files = pack_policy("policy", policy(), "linear", WORDS)
    put(tmp_path, files)
    content = files["policy.npz"]
    for at in range(0, len(content), 7):
        (tmp_path / "policy.npz").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(InputError, match=r"damaged, its SHA-256 is not that of policy\.json"):
            load_policy(tmp_path, "policy", policy(), "linear", WORDS)


@pytest.mark.parametrize(
    ("blank", "name", "words", "problem"),
    [
        (policy(), "tabular", WORDS, "made for policy linear, tabular is needed"),
        (policy(vocab=5), "linear", WORDS, "made for vocab_size 3, 5 is needed"),
        (policy(), "linear", "0" * 64, f"made for vocabulary {WORDS[:12]}…, 000000000000… is needed"),
        (policy(TabularPolicy), "linear", WORDS, r"'params' has shape \(36,\), \(4,\) is needed"),
    ],
)
def test_another_shape_or_vocabulary_is_refused(
    tmp_path: Path, blank: LinearPolicy, name: str, words: str, problem: str
) -> None:
    put(tmp_path, pack_policy("policy", policy(), "linear", WORDS))
    with pytest.raises(InputError, match=problem):
        load_policy(tmp_path, "policy", blank, name, words)


def test_a_reward_model_that_lacks_something_is_refused(tmp_path: Path) -> None:
    model = LinearRewardModel(np.zeros(3), BagFeatures.of("unigrams", 3))
    fields, arrays = model.state()
    fields |= {"model": "bag", "vocabulary": WORDS}
    for lost, problem in (
        ("sd", "'sd' is missing, a 'bag' model needs it"),
        ("weights", "'weights' is missing"),
    ):
        left = {name: value for name, value in fields.items() if name != lost}
        kept = {name: array for name, array in arrays.items() if name != lost}
        put(tmp_path, pack("rm", "reward model", left, kept))
        with pytest.raises(InputError, match=problem):
            load_reward_model(tmp_path, "rm", KINDS, WORDS)
    put(tmp_path, pack("rm", "reward model", fields, {"weights": np.zeros(9)}))
    with pytest.raises(InputError, match=r"rm\.json: weights must have shape \(3,\), got \(9,\)"):
        load_reward_model(tmp_path, "rm", KINDS, WORDS)
    put(tmp_path, pack("rm", "reward model", fields | {"model": "transformer"}, arrays))
    with pytest.raises(InputError, match="a model 'transformer' came, bag is needed"):
        load_reward_model(tmp_path, "rm", KINDS, WORDS)


def test_what_is_not_asked_for_is_not_looked_at(tmp_path: Path) -> None:
    put(tmp_path, pack("x", "policy", {"a": 1}, {"n": np.arange(3)}))
    fields, arrays = unpack(tmp_path, "x", "policy", {})
    assert fields == {"a": 1}
    assert arrays["n"].tolist() == [0, 1, 2]
