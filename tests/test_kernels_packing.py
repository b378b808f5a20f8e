"""Batches as rows without padding: the kernel against a twin in sets and loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfbench.policies._buffers import Buffers
from rlhfbench.policies._packed import Packed, pack

START, OFFSET, HEADS = 9, 3, 2


def twin(prompts, responses, mask, context):
    """What `pack` is to give, token by token: ([(token, place) of each row], spans, picks, cells), and prompts."""
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
    found, spans, place, picks, cells, weights = [], [], {}, [], [], 0
    for key in known:
        rows = next(rows for other, rows in before.values() if other == key)
        place[key] = len(found), len(rows)
        spans.append([len(found), len(rows), 0, 0, weights])
        weights += HEADS * len(rows) ** 2
        found += rows
    own = len(found)
    for b in live:
        rows, (first, count) = inputs[b][begins[b] :], place[before[b][0]]
        picks += [len(found) - own + i for i in range(len(rows)) if mask[b, begins[b] + i] > 0]
        spans.append([len(found), len(rows), first, count, weights])
        weights += HEADS * len(rows) * (count + len(rows))
        found += rows
    cells = np.flatnonzero(mask > 0).tolist()
    return found, spans, picks, cells, len(known), own, weights


def check(prompts, responses, mask, context):
    packed = pack(prompts, responses, mask, HEADS, context, START, OFFSET, Buffers(np.dtype(np.int64)))
    rows, spans, picks, cells, known, own, weights = twin(prompts, responses, mask, context)
    assert list(zip(packed.tokens.tolist(), packed.places.tolist(), strict=True)) == rows
    assert packed.spans.tolist() == spans
    assert (packed.picks.tolist(), packed.cells.tolist()) == (picks, cells)
    assert (packed.prompts, packed.prompt_rows, packed.weights) == (known, own, weights)
    keys = [count + prefix for _, count, _, prefix, _ in spans]
    assert packed.longest == max([1, *keys])
    assert packed.widest == max([1, *(span[1] * n for span, n in zip(spans, keys, strict=True))])
    pairs = [sum(prefix + i + 1 for i in range(count)) for _, count, _, prefix, _ in spans]
    beside = [6 * (count // 4) for _, count, *_ in spans]
    assert packed.seen_first == (sum(pairs[:known]), sum(pairs[:known]) + sum(beside[:known]))
    assert packed.seen == (sum(pairs), sum(pairs) + sum(beside))
    assert packed.whole == (len(cells) == mask.size)
    return packed


@given(
    B=st.integers(0, 7),
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


def test_prompts_alone():
    prompts = np.array([[1, 2], [-1, 3], [1, 2]])
    packed = check(prompts, np.zeros((3, 1), np.int64), np.ones((3, 1)), 2)
    alone = packed.alone
    assert isinstance(alone, Packed)
    assert alone.rows == alone.prompt_rows == 3
    assert len(alone.spans) == alone.prompts == 2
    assert alone.seen == (1 + 3, 1 + 3)
    assert not len(alone.picks)
