"""The transformer: gradients by central differences, padding, cache, memory, work."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numba
import numpy as np
import pytest
from differences import gradient

from rlhfbench.optimizer import AdamW
from rlhfbench.policies import _decoding
from rlhfbench.policies._buffers import LARGE, Buffers, aligned, equal
from rlhfbench.policies.transformer import TransformerPolicy

# Two share a prompt, one prompt is empty, one response has a hole and one does not count at all.
PROMPTS = np.array([[-1, 2, 3], [0, 1, 6], [-1, -1, -1], [0, 1, 6], [-1, -1, 5], [-1, 4, 4]])
RESPONSES = np.array([[1, 0, 4, 0], [2, 3, 1, 4], [3, 3, 3, 3], [4, 0, 0, 0], [1, 2, 2, 1], [1, 1, 1, 1]])
MASK = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
# All of one prompt: one counts by its first token alone, and one without it.
TOGETHER = np.repeat(PROMPTS[1:2], 6, axis=0), np.where(np.arange(6)[:, None] == 5, [[0, 1, 1, 1]], MASK)


COMPILED = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="minutes of plain Python")


def make(dtype=np.float64, **options):
    rng = np.random.default_rng(0)
    sizes = {"prompt_length": 3, "layers": 2, "width": 8, "heads": 2, "eos": 4} | options
    policy = TransformerPolicy(7, 5, 4, rng=rng, dtype=dtype, **sizes)
    policy.params += 0.3 * rng.normal(size=policy.params.size).astype(dtype)
    return policy


@COMPILED
@pytest.mark.parametrize("options", [{}, {"layers": 1}, {"never": 0}, {"heads": 1, "layers": 3}], ids=str)
@pytest.mark.parametrize(
    ("prompts", "mask"),
    [(PROMPTS, MASK), (PROMPTS, np.ones_like(MASK)), TOGETHER, (TOGETHER[0], np.ones_like(MASK))],
    ids=["some", "all", "some of one prompt", "all of one prompt"],
)
def test_gradients_by_central_differences(options, prompts, mask):
    policy, mask = make(**options), mask.astype(float)
    rng = np.random.default_rng(1)
    d_logits, d_values = rng.normal(size=(*MASK.shape, 5)), rng.normal(size=MASK.shape)
    never = options.get("never")

    def objective(params):
        policy.params[:] = params
        logits, values = policy.logits(prompts, RESPONSES, mask), policy.values(prompts, RESPONSES, mask)
        logits = np.where(np.arange(5) == never, 0, logits)
        return float((logits * d_logits).sum() + (values * d_values).sum())

    start = policy.params.copy()
    objective(start)
    policy.backward(d_logits, d_values)
    np.testing.assert_allclose(policy.grads, gradient(objective, start), atol=1e-6)
    objective(start)
    both = policy.grads.copy()
    policy.grads[:] = 0
    policy.backward(d_logits)
    policy.backward(None, d_values)
    np.testing.assert_allclose(policy.grads, both, atol=1e-12)


def test_logprobs_are_those_of_the_logits_and_keep_nothing():
    policy, mask = make(), MASK.astype(float)
    logits = policy.logits(PROMPTS, RESPONSES, mask).copy()
    d = np.ones_like(logits)
    policy.backward(d)
    before, policy.grads[:] = policy.grads.copy(), 0
    logprobs = policy.logprobs(PROMPTS[::-1], RESPONSES[::-1], mask[::-1])[::-1]
    policy.backward(d)
    np.testing.assert_array_equal(policy.grads, before)
    want = np.take_along_axis(logits, RESPONSES[..., None], -1)[..., 0] - np.log(np.exp(logits).sum(-1))
    np.testing.assert_allclose(logprobs, want * mask, atol=1e-12)
    assert not logits[mask == 0].any()


@pytest.mark.parametrize("mask", [MASK, np.ones_like(MASK)], ids=["some", "all"])
def test_what_is_not_kept_is_the_same_and_leaves_what_was(mask):
    policy, mask = make(), mask.astype(float)
    others = PROMPTS[::-1], RESPONSES[::-1], mask[::-1]
    policy.params[-9:] = np.arange(9)
    logits, values = policy.logits(*others).copy(), policy.values(*others)
    d = np.ones((*mask.shape, 5))
    policy.logits(PROMPTS, RESPONSES, mask)
    policy.backward(d)
    before, policy.grads[:] = policy.grads.copy(), 0
    np.testing.assert_array_equal(policy.values(*others, keep=False), values)
    np.testing.assert_array_equal(policy.logits(*others, keep=False), logits)
    policy.backward(d)
    np.testing.assert_array_equal(policy.grads, before)


@pytest.mark.parametrize("layers", [1, 2])
def test_one_state_of_each_response_passes_the_last_block_alone(layers):
    policy = make(layers=layers)
    policy.params[-9:] = np.arange(9)
    ends = np.zeros(MASK.shape)
    ends[np.arange(5), [2, 3, 3, 0, 3]] = 1
    twice = [np.concatenate([array, array]) for array in (PROMPTS, RESPONSES, ends)]
    want = policy.values(PROMPTS, RESPONSES, MASK.astype(float)) * ends
    np.testing.assert_allclose(policy.values(PROMPTS, RESPONSES, ends), want, atol=1e-12)
    np.testing.assert_allclose(policy.values(*twice), np.concatenate([want, want]), atol=1e-12)
    packed = policy._kept.packed
    assert (
        packed.rows - packed.prompt_rows == 2 * 5
    )  # of replies that came twice all but the last token passes once
    assert packed.prompt_rows == (2 + 2) + (3 + 3) + 3 + 3 + (1 + 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"layers": 1, "never": 2}], ids=str)
def test_replies_of_one_prompt_get_what_each_gets_alone(options, dtype):
    policy, rng = make(dtype, **options), np.random.default_rng(1)
    policy.params[-9:] = np.arange(9)
    prompts, mask = np.concatenate([TOGETHER[0], PROMPTS]), np.concatenate([TOGETHER[1], MASK]).astype(dtype)
    replies, near = np.concatenate([RESPONSES, RESPONSES[::-1]]), {"rtol": 1e-5, "atol": 1e-5}
    if dtype is np.float64:
        near = {"rtol": 1e-12, "atol": 1e-12}
    d_logits, d_values = (
        rng.normal(size=(*mask.shape, 5)).astype(dtype),
        rng.normal(size=mask.shape).astype(dtype),
    )

    def whole(some):
        given = prompts[some], replies[some], mask[some]
        found = policy.logits(*given).copy(), policy.values(*given), policy.logprobs(*given)
        states = policy.states(*given)
        policy.backward(d_logits[some], d_values[some])
        return *found, states

    alone = [
        np.concatenate(parts) for parts in zip(*(whole(slice(b, b + 1)) for b in range(12)), strict=True)
    ]
    grads, policy.grads[:] = policy.grads.copy(), 0
    for found, want in zip(whole(slice(None)), alone, strict=True):
        np.testing.assert_allclose(found, want, **near)
    assert len(policy._kept.packed.picks) < len(policy._kept.packed.cells)  # or nothing was shared
    np.testing.assert_allclose(policy.grads, grads, **near | {"atol": 10 * near["atol"]})


def test_values_after_logits_cost_a_head_alone_and_a_changed_parameter_is_seen():
    policy, mask, seen = make(), MASK.astype(float), []
    policy.params[-9:] = np.arange(9)
    policy.charge = lambda kind, work, tokens: seen.append((kind, work.flops))
    policy.logits(PROMPTS, RESPONSES, mask)
    values = policy.values(PROMPTS, RESPONSES, mask)
    *_, (kind, flops) = seen
    assert (kind, flops) == ("values", mask.sum() * 2 * 8)
    np.testing.assert_array_equal(policy.clone().values(PROMPTS, RESPONSES, mask), values)
    policy.params[:] *= 0.5
    assert np.abs(policy.values(PROMPTS, RESPONSES, mask) - values).max() > 0.1


def test_padding_and_the_order_of_the_batch_change_nothing():
    policy, mask = make(), MASK.astype(float)
    want = policy.logprobs(PROMPTS, RESPONSES, mask)
    after = np.where(np.cumsum(MASK[:, ::-1], axis=1)[:, ::-1] > 0, RESPONSES, 3)
    np.testing.assert_array_equal(policy.logprobs(PROMPTS, after, mask), want)
    wide = np.pad(PROMPTS, ((0, 0), (2, 0)), constant_values=-1)
    np.testing.assert_array_equal(make(prompt_length=3).logprobs(wide, RESPONSES, mask), want)
    order = np.random.default_rng(0).permutation(len(MASK))
    moved = policy.logprobs(PROMPTS[order], RESPONSES[order], mask[order])
    np.testing.assert_allclose(moved, want[order], atol=1e-13)
    for b in range(len(MASK)):
        one = policy.logprobs(PROMPTS[b : b + 1], RESPONSES[b : b + 1], mask[b : b + 1])
        np.testing.assert_allclose(one[0], want[b], atol=1e-13)


def test_of_a_prompt_that_is_too_long_the_last_tokens_count():
    policy, mask = make(), MASK.astype(float)
    longer = np.concatenate([np.full((6, 2), 5), np.where(PROMPTS < 0, 1, PROMPTS)], axis=1)
    np.testing.assert_array_equal(
        policy.logprobs(longer, RESPONSES, mask), policy.logprobs(longer[:, 2:], RESPONSES, mask)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sampling_with_the_cache_gives_the_logprobs_of_the_whole(dtype):
    policy = make(dtype)
    prompts = np.repeat(PROMPTS, 50, axis=0)
    rollout = policy.sample(prompts, np.random.default_rng(0).random((300, 4)))
    again = policy.logprobs(prompts, rollout.responses, rollout.mask)
    np.testing.assert_allclose(rollout.logprobs, again, atol=1e-5 if dtype is np.float32 else 1e-13)
    ended = (rollout.responses == 4) & (rollout.mask > 0)
    lengths = rollout.mask.sum(axis=1)
    assert set(lengths) == {1, 2, 3, 4}
    assert ((lengths == 4) | (ended.sum(axis=1) == 1)).all()
    assert not rollout.responses[rollout.mask == 0].any()


@COMPILED
@pytest.mark.parametrize("few", [1, 2, 5])
def test_samples_are_the_same_however_many_are_drawn_at_a_time(monkeypatch, few):
    policy, uniforms = make(), np.random.default_rng(3).random(RESPONSES.shape)
    want = policy.sample(PROMPTS, uniforms)
    assert 0 < want.mask.sum() < want.mask.size  # some end before others
    monkeypatch.setattr(_decoding, "slots", lambda *_: few)
    found = policy.sample(PROMPTS, uniforms)
    for name in ("responses", "mask", "logprobs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name))


def test_a_frozen_policy_samples_the_same():
    policy, uniforms = make(), np.random.default_rng(3).random(RESPONSES.shape)
    want = policy.sample(PROMPTS, uniforms)
    policy.params.flags.writeable = False  # as a reference's are
    for given in (uniforms, np.asfortranarray(uniforms), np.repeat(uniforms, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(policy.sample(PROMPTS, given).responses, want.responses)


def test_samples_follow_the_probabilities():
    policy, n = make(np.float32), 20_000
    prompts = np.repeat(PROMPTS[1:2], n, axis=0)
    rollout = policy.sample(prompts, np.random.default_rng(0).random((n, 4)))
    counts = np.bincount(rollout.responses[:, 0], minlength=5) / n
    logits = policy.logits(PROMPTS[1:2], RESPONSES[1:2], np.ones((1, 4), np.float32))[0, 0]
    np.testing.assert_allclose(counts, np.exp(logits) / np.exp(logits).sum(), atol=5 * np.sqrt(0.25 / n))


def test_a_forbidden_token_is_never_sampled():
    policy = make(np.float32, never=0)
    rollout = policy.sample(PROMPTS, np.zeros((6, 4)))
    assert (rollout.responses[rollout.mask > 0] != 0).all()


def test_empty_batches_and_all_masked_ones():
    policy = make()
    policy.logits(PROMPTS, RESPONSES, np.zeros(MASK.shape))
    policy.backward(np.ones((*MASK.shape, 5)), np.ones(MASK.shape))
    assert not policy.grads.any()
    assert policy.logits(PROMPTS[:0], RESPONSES[:0], MASK[:0].astype(float)).shape == (0, 4, 5)
    assert policy.sample(PROMPTS[:0], np.zeros((0, 4))).responses.shape == (0, 4)


def test_a_clone_shares_no_memory_and_gives_the_same():
    policy, mask = make(), MASK.astype(float)
    twin = policy.clone()
    assert not np.shares_memory(policy.params, twin.params)
    want = policy.logits(PROMPTS, RESPONSES, mask)
    got = twin.logits(PROMPTS, RESPONSES, mask)
    assert not np.shares_memory(want, got)
    np.testing.assert_array_equal(want, got)
    twin.backward(np.ones_like(got))
    assert twin.grads.any()
    assert not policy.grads.any()


def test_calls_put_their_arrays_in_the_same_place():
    get = Buffers(np.dtype(np.float32))

    def call(names, size):
        arrays = [get.begin()(names[0], size), *(get(name, size) for name in names[1:])]
        for i, array in enumerate(arrays):
            array[:] = i
        assert [set(array.tolist()) for array in arrays] == [{float(i)} for i in range(len(names))]
        assert all(array.ctypes.data % 64 == 0 for array in arrays)
        again = get(names[0], size // 2, 1)  # the same name, and there is room
        assert again.ctypes.data == arrays[0].ctypes.data
        return [array.ctypes.data for array in arrays]

    call("ab", 1_001)
    assert get.nbytes == 4 * 2 * 1_001
    first = call("ab", 1_001)
    assert first[1] - first[0] == get.nbytes // 2 == 4 * 1_008  # from a line's beginning on
    assert call("cd", 1_001) == first
    call("xyz", 1_000)  # the last one finds no room
    call("xyz", 1_000)
    assert get.nbytes == 4 * 3 * 1_008
    call("e", 3_100)
    call("e", 3_100)
    assert get.nbytes == 4 * (3 * 1_008 * 9 // 8)  # by an eighth at least
    call("f", LARGE // 5)
    (large,) = call("f", LARGE // 5)
    assert get.nbytes == 4 * -(LARGE // 5 // -16 * 16)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        assert large % LARGE == 0  # from a large page's beginning on


def test_memory_that_there_is_not_is_named():
    with pytest.raises(MemoryError, match=r"128\. TiB"):
        aligned(1 << 45, np.dtype(np.float32))


def in_large_pages():
    lines = [line.split() for line in Path("/proc/self/smaps").read_text("ascii").splitlines()]
    return 1024 * sum(int(line[1]) for line in lines if line[0] == "AnonHugePages:")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say what takes memory")
def test_what_is_less_than_half_of_a_large_page_takes_small_ones():
    before, arrays = (
        in_large_pages(),
        [aligned(int(2.4 * LARGE) // 4, np.dtype(np.float32)) for _ in range(8)],
    )
    for array in arrays:
        array[...] = 1
    assert in_large_pages() - before <= len(arrays) * 2 * LARGE


def test_an_array_that_grows_in_a_call_leaves_the_others_alone():
    get = Buffers(np.dtype(np.float32))
    for _ in range(2):
        small, other = get.begin()("a", 10), get("b", 10)
        small[:], other[:] = 1, 2
        get("a", 1_000)[:] = 3
        assert set(small.tolist()) == {1.0}
        assert set(other.tolist()) == {2.0}


def test_arrays_of_one_call_never_overlap():
    """Whatever was asked for in the calls before, in whatever order, and grown or not."""
    get, rng = Buffers(np.dtype(np.float64)), np.random.default_rng(0)
    for _ in range(200):
        get.begin()
        latest = {}
        for i in range(rng.integers(1, 9)):
            name, shape = "abcde"[rng.integers(5)], (int(rng.choice([3, 8, 40, 41])), int(rng.integers(1, 4)))
            latest[name] = get(name, *shape), i
            assert latest[name][0].shape == shape
            latest[name][0][...] = i
        for array, i in latest.values():
            assert (array == i).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
def test_equality_of_arrays_of_any_size(dtype):
    room = Buffers(np.dtype(np.float32))
    for shape in [(0, 3), (1,), (7,), (3, 5), (2_049, 4)]:
        one = np.ones(shape, dtype)
        assert equal(one, one.copy(), room.begin())
        assert equal(one, one.astype(np.float64), room.begin())
        assert not equal(one, one[None], room.begin())
        for i in {0, one.size - 1} if one.size else ():
            other = one.copy()
            other.flat[i] = 2
            assert not equal(one, other, room.begin())


def test_a_second_step_needs_no_more_room():
    policy, mask = make(np.float32), MASK.astype(np.float32)

    def step():
        policy.logits(PROMPTS, RESPONSES, mask)
        policy.values(PROMPTS, RESPONSES, mask)
        policy.backward(np.ones((*MASK.shape, 5), np.float32), np.ones(MASK.shape, np.float32))
        policy.sample(PROMPTS, np.zeros((6, 4)))
        rooms = policy._logits, policy._keep, policy._scratch
        return [(room._memory.ctypes.data, room.nbytes) for room in rooms]

    step()
    assert step() == step()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 3}, r"^heads: came as 3, a divisor of width \(8\)"), ({"layers": 0}, r"^layers: came as 0")],
)
def test_sizes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_work_equals_the_operations_executed():
    program = Path(__file__).with_name("recount_transformer.py")
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for entry in json.loads(done.stdout):
        assert entry["charged"] == entry["executed"], entry["call"]
        assert entry["executed"][0] > 0


def test_what_is_kept_for_the_gradient_is_no_scratch():
    """Scratch is a thread's: by the time of `backward`, which another may call, it is for somebody else."""
    policy = make()
    policy.logits(PROMPTS, RESPONSES, MASK)
    shared = policy._scratch
    for array in policy._kept.room:
        if isinstance(array, np.ndarray):
            assert not np.shares_memory(array, shared._memory)
            assert not np.shares_memory(array, shared.panel)
    assert policy._kept.room.panel.size == policy._kept.room.scratch.size == 0


def extra(call, result=0):
    """Bytes that a call, made before, takes of Python and NumPy at a time, beside `result` that it returns."""
    call(), call()
    tracemalloc.start()
    call()  # what tracing itself holds
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before - result


@COMPILED
@pytest.mark.parametrize("ragged", [False, True])
def test_calls_allocate_their_results_alone(ragged):
    """Beside them less than 6 KiB, where a bool for each token would be 8; drawing, less than 12."""
    rng, (B, T) = np.random.default_rng(0), (64, 128)
    policy = TransformerPolicy(50, 60, T, prompt_length=8, width=32, heads=4, shared=True, eos=1, rng=rng)
    optimizer = AdamW(policy.params, policy.grads, 1e-3, max_grad_norm=1.0)
    mask = np.ones((B, T), np.float32)
    if ragged:
        mask[:] = np.arange(T) < rng.integers(1, T, (B, 1))
    inputs = rng.integers(50, size=(B, 8)), rng.integers(60, size=(B, T)), mask
    d_logits, d_values = np.ones((B, T, 60), np.float32), np.ones((B, T), np.float32)
    uniforms = rng.random((B, T))

    def learn():
        policy.logits(*inputs)
        policy.values(*inputs)
        policy.backward(d_logits, d_values)
        optimizer.step()

    found = {
        "values": extra(lambda: policy.values(*inputs, keep=False), mask.nbytes),
        "logits": extra(lambda: policy.logits(*inputs, keep=False)),
        "logprobs": extra(lambda: policy.logprobs(*inputs), mask.nbytes),
        "learn": extra(learn, mask.nbytes),
    }
    assert max(found.values()) < 6 << 10, found
    rollout = inputs[1].nbytes + 2 * mask.nbytes
    assert extra(lambda: policy.sample(inputs[0], uniforms), rollout) < 12 << 10
