"""Schedules: where they begin, peak and end."""

from __future__ import annotations

import numpy as np
import pytest

from rlhfbench.schedules import linear, warmup_cosine

BOTH = pytest.mark.parametrize("schedule", [warmup_cosine, linear])


@BOTH
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_up_from_nothing_to_one_and_down_to_the_floor(schedule, warmup, floor):
    share = np.linspace(0, 1, 201)
    scales = np.array([schedule(p, warmup, floor) for p in share])
    assert scales[0] == (0 if warmup else 1)
    assert schedule(warmup, warmup, floor) == pytest.approx(1)
    assert scales[-1] == pytest.approx(floor, abs=1e-15)
    assert schedule(1.5, warmup, floor) == pytest.approx(floor, abs=1e-15)
    rising = share < warmup
    np.testing.assert_allclose(scales[rising], share[rising] / (warmup or 1))
    assert (np.diff(scales[~rising]) <= 1e-15).all()


def test_a_cosine_stays_above_the_line_in_the_first_half_and_below_in_the_second():
    assert warmup_cosine(0.25) > linear(0.25) == 0.75
    assert warmup_cosine(0.75) < linear(0.75) == 0.25
    assert warmup_cosine(0.5) == pytest.approx(linear(0.5)) == 0.5
