"""What `kernels.nn` says of arguments that do not fit: the parameter, what came, what is needed."""

from __future__ import annotations

import nn_public_cases as table
import numpy as np
import pytest

from kernels import nn

MAKE = {name: make for name, make, *_ in table.CASES}
FORM = "first, count, before, prefix"
THREE = np.ones((3, 6))  # rows of query, key and value, two numbers each


def refused(function, error, message, **kwargs):
    with pytest.raises(error) as caught:
        function(**kwargs)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [4, 0]}, "tokens: came with values from 0 to 4, at least 0 and below 4 is needed"),
        ({"tokens": [-1, 0]}, "tokens: came with values from -1 to 0, at least 0 and below 4 is needed"),
        ({"places": [2, 3]}, "places: came with values from 2 to 3, at least 0 and below 3 is needed"),
        ({"places": [0]}, "places: came with shape (1,), (2,) is needed as for tokens"),
        ({"table": [1.0]}, "table: came with shape (1,), (V, C) is needed, each at least 1"),
        ({"table": np.ones((0, 2))}, "table: came with shape (0, 2), (V, C) is needed, each at least 1"),
        (
            {"position_table": np.ones((3, 3))},
            "position_table: came with shape (3, 3), (P, 2) is needed as for table",
        ),
    ],
)
def test_embedding(change, message):
    right = {"tokens": [3, 0], "places": [0, 2], "table": np.ones((4, 2)), "position_table": np.ones((3, 2))}
    refused(nn.embedding, ValueError, message, **{**right, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_out": np.ones((3, 2))}, "d_out: came with shape (3, 2), (2, 2) is needed: a row a token"),
        ({"vocab_size": 3}, "tokens: came with values from 0 to 3, at least 0 and below 3 is needed"),
        ({"positions": 0}, "positions: came as 0, at least 1 is needed"),
    ],
)
def test_embedding_backward(change, message):
    right = {"tokens": [3, 0], "places": [0, 2], "d_out": np.ones((2, 2)), "vocab_size": 4, "positions": 3}
    refused(nn.embedding_backward, ValueError, message, **{**right, **change})


def test_tokens_are_integers():
    message = "tokens: came with dtype float64, integers are needed"
    refused(nn.embedding, TypeError, message, tokens=[0.0], places=[0], table=[[1.0]], position_table=[[1.0]])


def test_rows_and_channels():
    right = MAKE["layer_norm"](np.random.default_rng(0), 2, 3, 4, np.float32)
    for name in ("gain", "shift"):
        message = f"{name}: came with shape (3,), (4,) is needed: one number a channel"
        refused(nn.layer_norm, ValueError, message, **{**right, name: np.ones(3)})
    message = "x: came with shape (2, 0), a last axis of at least 1 is needed"
    refused(nn.layer_norm, ValueError, message, **{**right, "x": np.ones((2, 0))})
    message = "x: came with dtype complex128, real numbers are needed"
    refused(nn.layer_norm, TypeError, message, **{**right, "x": [[1j] * 4]})
    message = "means: came with shape (2,), (2, 3) is needed: one number a row"
    right = MAKE["layer_norm_backward"](np.random.default_rng(0), 2, 3, 4, np.float32)
    refused(nn.layer_norm_backward, ValueError, message, **{**right, "means": np.ones(2)})
    message = "x: came with shape (2, 3, 5), (2, 3, 4) is needed as for d_out"
    refused(nn.layer_norm_backward, ValueError, message, **{**right, "x": np.ones((2, 3, 5))})
    right = MAKE["residual_norm"](np.random.default_rng(0), 2, 3, 4, np.float32)
    message = "branch: came with shape (3, 4), (2, 3, 4) is needed as for x"
    refused(nn.residual_norm, ValueError, message, **{**right, "branch": np.ones((3, 4))})
    message = "d_out: came with shape (1, 2), (1, 3) is needed as for slopes"
    refused(nn.gelu_backward, ValueError, message, slopes=[[1.0, 2.0, 3.0]], d_out=[[1.0, 2.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"qkv": np.ones((3, 5))},
            "qkv: came with shape (3, 5), a last axis of query, key and value is needed: 3 C",
        ),
        ({"heads": 3}, "heads: came as 3, a divisor of the width 2 is needed"),
        ({"heads": 0}, "heads: came as 0, at least 1 is needed"),
        ({"spans": [0, 3, 0, 0]}, f"spans: came with shape (4,), (S, 4) is needed: {FORM}"),
        ({"spans": np.zeros((1, 5), int)}, f"spans: came with shape (1, 5), (S, 4) is needed: {FORM}"),
    ],
)
def test_attention(change, message):
    right = {"qkv": THREE, "spans": [[0, 3, 0, 0]], "heads": 2}
    refused(nn.attention, ValueError, message, **{**right, **change})


@pytest.mark.parametrize(
    ("spans", "which", "needed"),
    [
        ([[0, -1, 0, 0]], 0, "no number below 0"),
        ([[0, 1, 0, 0], [1, 1, 0, -1]], 1, "no number below 0"),
        ([[0, 4, 0, 0]], 0, "nothing beyond the 3 rows"),
        ([[3, 1, 0, 0]], 0, "nothing beyond the 3 rows"),
        ([[2**63 - 1, 1, 0, 0]], 0, "nothing beyond the 3 rows"),
        ([[0, 1, 2, 2**63 - 1]], 0, "nothing beyond the 3 rows"),
        ([[0, 1, 2, 2]], 0, "nothing beyond the 3 rows"),
        ([[0, 2, 1, 1]], 0, "nothing before it that is its own"),
        ([[1, 1, 0, 3]], 0, "nothing before it that is its own"),
        ([[0, 2, 0, 0], [1, 1, 0, 0]], 1, "no row of another span"),
        ([[1, 2, 0, 0], [0, 1, 0, 0], [2, 1, 0, 1]], 2, "no row of another span"),
        ([[0, 1, 0, 0], [0, 1, 0, 0]], 1, "no row of another span"),
    ],
)
def test_spans(spans, which, needed):
    message = f"spans: came with {spans[which]} ({FORM}) as span {which}, {needed} is needed there"
    refused(nn.attention, ValueError, message, qkv=THREE, spans=spans, heads=1)


def test_empty_spans_may_stand_anywhere():
    out = nn.attention(THREE, [[0, 3, 0, 0], [1, 0, 0, 2], [3, 0, 3, 0]], heads=1).out
    np.testing.assert_array_equal(out, 1.0)


def test_weights_are_those_of_the_spans():
    message = "weights: came with shape (8,), (9,) is needed: as `attention` left them"
    kwargs = {
        "d_out": np.ones((3, 2)),
        "qkv": THREE,
        "weights": np.ones(8),
        "spans": [[0, 3, 0, 0]],
        "heads": 1,
    }
    refused(nn.attention_backward, ValueError, message, **kwargs)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([1, 1], "mask: came with shape (2,), (B, T) is needed"),
        ([[0, 1], [1, 1]] + [[1, 0]], None),
        ([[1, 1, 1], [1, 0, 1]], "mask: came with gaps in row 1, tokens side by side are needed"),
        ([[0, 1, 0, 1, 1]], "mask: came with gaps in row 0, tokens side by side are needed"),
        ([[1.0, float("nan")]], "mask: came with NaN or infinity, finite numbers are needed"),
    ],
)
def test_masks(mask, message):
    if message is None:
        nn.spans_of(mask)
    else:
        refused(nn.spans_of, ValueError, message, mask=mask)


def step(**change):
    right = {
        "qkv": np.ones((2, 6)),
        "slots": [0, 1],
        "ends": [0, 3],
        "heads": 2,
        "key_cache": np.zeros((2, 1, 2, 4)),
        "value_cache": np.zeros((2, 4, 2)),
    }
    return {**right, **change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": [0, 2]}, "slots: came with values from 0 to 2, at least 0 and below 2 is needed"),
        ({"slots": [0]}, "slots: came with shape (1,), (2,) is needed: one a token"),
        ({"ends": [-1, 0]}, "ends: came with values from -1 to 0, at least 0 and below 4 is needed"),
        ({"ends": [0, 4]}, "ends: came with values from 0 to 4, at least 0 and below 4 is needed"),
        (
            {"qkv": np.ones((2, 9))},
            "qkv: came with shape (2, 9), a last axis of 6 is needed as for key_cache",
        ),
        ({"key_cache": np.zeros((2, 4))}, "key_cache: came with shape (2, 4), (B, K, C, 4) is needed"),
        (
            {"key_cache": np.zeros((2, 1, 2, 3))},
            "key_cache: came with shape (2, 1, 2, 3) and dtype float64, (2, 1, 2, 4) and float64 is needed",
        ),
        (
            {"value_cache": np.zeros((2, 5, 2))},
            "value_cache: came with shape (2, 5, 2) and dtype float64, (2, 4, 2) and float64 is needed",
        ),
        (
            {"value_cache": np.zeros((2, 2, 4))},
            "value_cache: came with shape (2, 2, 4) and dtype float64, (2, 2, 2) and float64 is needed",
        ),
        (
            {"value_cache": np.zeros((2, 4, 2), np.float32)},
            "value_cache: came with shape (2, 4, 2) and dtype float32, (2, 4, 2) and float64 is needed",
        ),
    ],
)
def test_attention_step(change, message):
    refused(nn.attention_step, ValueError, message, **step(**change))


def test_caches_are_never_converted():
    message = "key_cache: came as list, a NumPy array is needed: it is changed in place"
    refused(nn.attention_step, TypeError, message, **step(key_cache=[[[0.0] * 4] * 2] * 2))
    message = "value_cache: came as list, a NumPy array is needed: it is changed in place"
    refused(nn.attention_step, TypeError, message, **step(value_cache=[[[1.0]], [[1.0], [2.0]]]))
    message = "key_cache: came with dtype int64, float32 or float64 is needed"
    refused(nn.attention_step, TypeError, message, **step(key_cache=np.zeros((2, 1, 2, 4), int)))
    frozen = np.zeros((2, 4, 2))
    frozen.flags.writeable = False
    message = "value_cache: came read-only or not in C order, a writable array in C order is needed"
    refused(nn.attention_step, ValueError, message, **step(value_cache=frozen))
    memory = np.zeros(16)
    same = {"key_cache": memory.reshape(2, 1, 2, 4), "value_cache": memory.reshape(2, 4, 2)}
    message = "value_cache: overlaps an input or key_cache, memory of its own is needed"
    refused(nn.attention_step, ValueError, message, **step(**same))
    message = "key_cache: overlaps an input, memory of its own is needed"
    given = {"qkv": memory[:12].reshape(2, 6), "key_cache": memory.reshape(2, 1, 2, 4)}
    refused(nn.attention_step, ValueError, message, **step(**given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix": [5, 0]}, "prefix: came with values from 0 to 5, at least 0 and below 5 is needed"),
        ({"prefix": [-1, 0]}, "prefix: came with values from -1 to 0, at least 0 and below 5 is needed"),
        ({"before": [0, 4]}, "before: came with values from 0 to 4, prompts within 5 rows are needed"),
        ({"before": [-1, 4]}, "before: came with values from -1 to 4, prompts within 5 rows are needed"),
        ({"before": [0]}, "before: came with shape (1,), (2,) is needed: one a sequence of key_cache"),
    ],
)
def test_fill_cache(change, message):
    caches = {"key_cache": np.zeros((2, 1, 2, 4)), "value_cache": np.zeros((2, 4, 2))}
    right = {"qkv": np.ones((5, 6)), "before": [0, 2], "prefix": [4, 3], **caches}
    refused(nn.fill_cache, ValueError, message, **{**right, **change})
