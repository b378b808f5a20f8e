"""Honest comparison of preference-optimisation algorithms on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .harness import compare
    from .sweeps import sweep

__version__ = "0.1.0"
__all__ = ["compare", "sweep"]


def __getattr__(name: str) -> Any:
    """Import the harness, and with it Numba, when it is first asked for."""
    if name in __all__:
        from . import harness, sweeps

        return {"compare": harness.compare, "sweep": sweeps.sweep}[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
