"""Fixtures that all tests share, and how Hypothesis draws its examples."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Numba's allocation counters stand still unless this is set before its import; the leak tests read them.
os.environ.setdefault("NUMBA_NRT_STATS", "1")

# The first example compiles, so no deadline. On CI the same examples every time: a red run can be repeated.
settings.register_profile(
    "default",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("few", settings.get_profile("default"), max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A shell starts background jobs with SIGINT ignored, and children inherit that: interrupts could not be tested.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The source tree that these tests belong to; the code under test may be installed elsewhere."""
    return CHECKOUT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real preference data: RLHFBENCH_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("RLHFBENCH_DATA") or CHECKOUT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set RLHFBENCH_DATA)")
    return folder
