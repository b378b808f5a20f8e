"""Batches as rows without padding: the kernel against a twin in sets and loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import packing
from rlhfbench.policies._buffers import Buffers
from rlhfbench.policies._packed import pack

START, OFFSET, HEADS = 9, 3, 2


def twin(prompts, responses, mask, context):
    """What `pack` is to give, token by token: [(token, place) of each row], spans, [(row, cell)], and prompts."""
    lengths = [max((t + 1 for t in range(len(row)) if row[t] > 0), default=0) for row in mask]
    live = [b for b, length in enumerate(lengths) if length]
    single = (mask > 0).sum() == len(live)
    begins = [length - 1 if single else 0 for length in lengths]
    before, inputs = {}, {}
    for b in live:
        kept = prompts[b, max(prompts.shape[1] - context, 0) :]
        real = [int(token) + OFFSET for token in kept if token >= 0]
        inputs[b] = [(START if t == 0 else int(responses[b, t - 1]), context + t) for t in range(lengths[b])]
        rows = [(token, context - len(real) + i) for i, token in enumerate(real)] + inputs[b][: begins[b]]
        padded = [token + OFFSET if token >= 0 else -1 for token in kept.tolist()]
        rest = [token for token, _ in inputs[b][: begins[b]]]
        padded += rest + [-1] * (responses.shape[1] - len(rest)) if single else []
        before[b] = np.array(padded, "<i8").tobytes(), rows
    known = sorted({key for key, _ in before.values()})
    found, spans, place, predicted, shared = [], [], {}, [], set()

    def add(rows, first, count):
        if rows:
            spans.append([len(found), len(rows), first, count])
            found.extend(rows)

    for key in known:
        rows = next(rows for other, rows in before.values() if other == key)
        if not single and sum(other == key for other, _ in before.values()) >= 3:
            shared.add(key)
            rows = [*rows, (START, context)]
        place[key] = len(found), len(rows)
        spans.append([len(found), len(rows), 0, 0])
        found.extend(rows)
    own = len(found)
    for key in known:
        firsts = [b for b in live if before[b][0] == key and mask[b, 0] > 0]
        if key in shared and firsts:
            predicted += [(len(found) - own, b * mask.shape[1]) for b in firsts]
            add([(START, context)], place[key][0], place[key][1] - 1)
    for b in live:
        key, _ = before[b]
        begin = 1 if key in shared else begins[b]
        cells = [(t, b * mask.shape[1] + t) for t in range(begin, lengths[b]) if mask[b, t] > 0]
        predicted += [(len(found) - own + t - begin, cell) for t, cell in cells]
        add(inputs[b][begin:], *place[key])
    return found, spans, predicted, len(known), own


def check(prompts, responses, mask, context):
    packed = pack(prompts, responses, mask, HEADS, context, START, OFFSET, Buffers(np.dtype(np.int64)))
    rows, spans, predicted, known, own = twin(prompts, responses, mask, context)
    assert list(zip(packed.tokens.tolist(), packed.places.tolist(), strict=True)) == rows
    assert packed.spans[:, :4].tolist() == spans
    assert packed.picks.tolist() == sorted({row for row, _ in predicted})
    found = list(zip(packed.picks[packed.sources].tolist(), packed.cells.tolist(), strict=True))
    assert sorted(found) == sorted(predicted)
    assert (np.diff(packed.sources) >= 0).all()
    assert (packed.prompts, packed.prompt_rows) == (known, own)
    keys = [count + prefix for _, count, _, prefix in spans]
    weights = [span[1] * n for span, n in zip(spans, keys, strict=True)]
    ends = HEADS * np.cumsum([0, *weights])
    assert [*packed.spans[:, 4].tolist(), packed.weights] == ends.tolist()
    assert (packed.longest, packed.widest) == (max([1, *keys]), max([1, *weights]))
    pairs = [sum(prefix + i + 1 for i in range(count)) for _, count, _, prefix in spans]
    beside = [6 * (count // 4) for _, count, *_ in spans]
    assert packed.seen_first == (sum(pairs[:known]), sum(pairs[:known]) + sum(beside[:known]))
    assert packed.seen == (sum(pairs), sum(pairs) + sum(beside))
    assert packed.whole == (len(predicted) == mask.size == len(packed.picks))
    if packed.whole:
        assert found == [(i, i) for i in range(mask.size)]
    return packed


@given(
    B=st.integers(0, 9),
    P=st.integers(0, 4),
    T=st.integers(1, 4),
    context=st.integers(0, 5),
    full=st.sampled_from([0.3, 0.8, 1.0]),
    ends=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_as_the_twin_says(B, P, T, context, full, ends, seed):
    rng = np.random.default_rng(seed)
    prompts, responses = rng.integers(-1, 2, (B, P)), rng.integers(0, 3, (B, T))
    mask = (rng.random((B, T)) < full).astype(np.float32)
    if ends:  # one state of each response, or none
        mask = np.eye(T, dtype=np.float32)[rng.integers(0, T, B)] * (rng.random((B, 1)) < full).astype("f4")
    check(prompts, responses, mask, context)


@pytest.mark.parametrize("tokens", [[255, 256, 257, 1], [65_536, 3, 1 << 40, 0]])
def test_prompts_stand_in_the_order_of_their_bytes(tokens):
    prompts = np.array(tokens)[:, None] - OFFSET * (np.array(tokens)[:, None] >= OFFSET)
    packed = check(prompts, np.zeros((4, 2), np.int64), np.ones((4, 2)), 1)
    found = packed.tokens[:4].astype("<i8")
    assert [token.tobytes() for token in found] == sorted(token.tobytes() for token in found)


@pytest.mark.parametrize(("replies", "shared"), [(2, 0), (3, 1), (4, 1)])
def test_replies_of_one_prompt_share_the_start_token(replies, shared):
    prompts, responses = np.full((replies, 2), 5), np.arange(1, 3 * replies + 1).reshape(-1, 3)
    packed = check(prompts, responses, np.ones((replies, 3)), 2)
    assert packed.prompt_rows == 2 + shared
    assert packed.rows - packed.prompt_rows == (1 + 2 * replies if shared else 3 * replies)
    assert len(packed.spans) == 1 + shared + replies
    assert len(packed.cells) - len(packed.picks) == (replies - 1) * shared


def test_a_shared_start_that_predicts_nothing_has_no_row_behind_the_prompts():
    prompts, responses = np.full((4, 2), 5), np.arange(12).reshape(4, 3)
    mask = np.array([[0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 1, 1]])
    packed = check(prompts, responses, mask, 2)
    assert (packed.prompt_rows, packed.rows) == (3, 3 + 2 + 2 + 1 + 2)
    mask[:, 0], mask[:3, 1:] = 1, 0
    packed = check(prompts, responses, mask, 2)  # of replies of one token nothing else is left
    assert (packed.rows, len(packed.spans), len(packed.picks)) == (3 + 1 + 2, 3, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_go_to_their_cells_and_come_back_as_sums(dtype):
    rng = np.random.default_rng(0)
    sources, cells = np.array([0, 0, 1, 2, 2, 2, 3]), np.array([6, 1, 0, 2, 8, 5, 3])
    rows, d_out = rng.normal(size=(4, 5)).astype(dtype), rng.normal(size=(9, 5)).astype(dtype)
    out, done = np.full((9, 5), 7, dtype), 0
    for first in (0, 1, 3):
        some = rows[first : {0: 1, 1: 3, 3: 4}[first]]
        done = packing.move_jit(some, first, sources, cells, done, out)
        assert done == {0: 2, 1: 6, 3: 7}[first]
    np.testing.assert_array_equal(out[cells], rows[sources])
    assert (out[[4, 7]] == 7).all()
    sums = np.empty((4, 5), dtype)
    assert packing.move_jit(d_out, 0, cells, sources, 0, sums) == 7
    want = np.zeros((4, 5))
    np.add.at(want, sources, d_out[cells])
    np.testing.assert_allclose(sums, want, rtol=10 * np.finfo(dtype).eps)
