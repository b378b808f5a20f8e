"""Memory that is used again, for the batches of a run."""

from __future__ import annotations

import numpy as np
import pytest

from rlhfbench.room import Room

ROWS = np.arange(12.0).reshape(4, 3)


def test_an_array_is_the_one_that_had_its_name():
    room = Room()
    first = room("a", (2, 3), np.float32)
    first[...] = 5
    assert room("b", (2, 3), np.float32) is not first
    assert room("a", (2, 3), np.float32) is first
    assert (first == 5).all()
    for shape, dtype in (((3, 2), np.float32), ((2, 3), np.float64), ((2,), np.int64)):
        other = room("a", shape, dtype)
        assert other.shape == shape
        assert other.dtype == dtype
        assert not np.shares_memory(other, first)
    assert room.like("a", ROWS).shape == (4, 3)


def test_rows_are_taken():
    room, index = Room(), np.array([2, 0])
    some, more = room.take(index, some=ROWS, more=-ROWS)
    np.testing.assert_array_equal(some, ROWS[index])
    np.testing.assert_array_equal(more, -ROWS[index])
    assert not np.shares_memory(some, ROWS)
    both = room.take_both("both", ROWS, -ROWS, index)
    np.testing.assert_array_equal(both, np.concatenate([ROWS[index], -ROWS[index]]))
    assert room.take(index, some=ROWS + 1)[0] is some is room.like("batch some", some)
    np.testing.assert_array_equal(some, ROWS[index] + 1)


@pytest.mark.parametrize(
    "index", [[0, 4], [-1, 0], [True, False, True, False], np.array([0, 1], np.int32), [0.0]]
)
def test_rows_that_are_not_there_are_refused(index):
    """Nothing may come in their place, where other arrays are taken from by the same index."""
    room = Room()
    with pytest.raises(IndexError, match=r"^index: came "):
        room.take(np.asarray(index), more=np.zeros(9), some=ROWS)
    with pytest.raises(IndexError, match=r"^index: came "):
        room.take_both("both", ROWS, ROWS, np.asarray(index))
    assert room.take(np.array([], np.int64), some=ROWS)[0].shape == (0, 3)
