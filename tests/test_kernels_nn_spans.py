"""Attention of spans of every length: how many rows and registers are taken at once depends on it."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import nn, reference_nn

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}
DTYPE = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
LENGTHS = pytest.mark.parametrize(
    ("prefix", "counts"),
    [(0, (1, 2, 3, 4, 5, 8, 9, 16, 21)), (2, (0, 1, 4, 7, 8, 12, 15)), (5, (3, 11, 29)), (30, (1, 5, 8))],
    ids=str,
)
# Heads that are paired or not, and heads that fill a part of a register, half of one, one, and more.
HEADS = pytest.mark.parametrize(("heads", "size"), [(3, 3), (2, 8), (1, 16), (2, 19)])


def packed(prefix, counts, heads, size, dtype):
    """(qkv, d_out, spans): a prompt, and replies of those lengths that share it."""
    counts = np.array(counts)
    firsts = prefix + np.cumsum(counts) - counts
    replies = np.column_stack([firsts, counts, 0 * counts, 0 * counts + prefix])
    spans = np.concatenate([[[0, prefix, 0, 0]], replies]) if prefix else replies
    rng = np.random.default_rng(prefix)
    rows, C = prefix + counts.sum(), heads * size
    return rng.normal(size=(rows, 3 * C)).astype(dtype), rng.normal(size=(rows, C)).astype(dtype), spans


@DTYPE
@HEADS
@LENGTHS
def test_spans_of_every_length_equal_the_twin(prefix, counts, heads, size, dtype):
    qkv, d, spans = packed(prefix, counts, heads, size, dtype)
    got, want = nn.attention(qkv, spans, heads), reference_nn.attention(qkv, spans, heads)
    d_qkv = nn.attention_backward(d, qkv, got.weights, spans, heads)
    d_want = reference_nn.attention_backward(d, qkv, want.weights, spans, heads)
    for one, other in ((got.out, want.out), (got.weights, want.weights), (d_qkv, d_want)):
        np.testing.assert_allclose(one, other, rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])


@DTYPE
@HEADS
@LENGTHS
def test_a_span_depends_on_no_other(prefix, counts, heads, size, dtype):
    qkv, d, spans = packed(prefix, counts, heads, size, dtype)
    every = nn.attention(qkv, spans, heads)
    d_every = nn.attention_backward(d, qkv, every.weights, spans, heads)
    place = 0
    for span in spans:
        rows = slice(span[0], span[0] + span[1])
        alone = nn.attention(qkv, span[None], heads)
        np.testing.assert_array_equal(alone.out[rows], every.out[rows])
        np.testing.assert_array_equal(alone.weights, every.weights[place : place + len(alone.weights)])
        place += len(alone.weights)
        d_alone = nn.attention_backward(d, qkv, alone.weights, span[None], heads)
        columns = (
            slice(None) if span[3] or not prefix else slice(heads * size)
        )  # replies add to the prompt's keys
        np.testing.assert_array_equal(d_alone[rows, columns], d_every[rows, columns])


@DTYPE
@HEADS
@LENGTHS
def test_what_is_not_seen_may_be_anything(prefix, counts, heads, size, dtype):
    """NaN in a span's last token reaches no row before it, nor the gradient of later keys."""
    qkv, d, spans = packed(prefix, counts, heads, size, dtype)
    want = nn.attention(qkv, spans, heads)
    ends = [first + count - 1 for first, count, *_ in spans[-len(counts) :] if count > 1]
    broken = qkv.copy()
    broken[ends] = np.nan
    got = nn.attention(broken, spans, heads).out
    kept = np.delete(np.arange(len(qkv)), ends)
    np.testing.assert_array_equal(got[kept], want.out[kept])
    assert np.isnan(got[ends]).all()
    begins = [first for first, count, *_ in spans[-len(counts) :] if count > 1]
    broken = d.copy()
    broken[begins] = np.nan
    d_qkv = nn.attention_backward(d, qkv, want.weights, spans, heads)
    d_got = nn.attention_backward(broken, qkv, want.weights, spans, heads)
    kept = np.delete(np.arange(prefix, len(qkv)), np.array(begins, int) - prefix)
    np.testing.assert_array_equal(d_got[kept], d_qkv[kept])


def test_a_span_of_no_rows_reads_and_writes_nothing():
    qkv = np.ones((2, 6))
    spans = [[0, 0, 0, 2], [0, 2, 0, 0], [2, 0, 0, 2]]
    found = nn.attention(qkv, spans, 2)
    np.testing.assert_array_equal(found.out, np.ones((2, 2)))
    d_qkv = nn.attention_backward(np.ones((2, 2)), qkv, found.weights, spans, 2)
    want = nn.attention_backward(np.ones((2, 2)), qkv, found.weights, spans[1:2], 2)
    np.testing.assert_array_equal(d_qkv, want)
