"""Which benchmarks cannot be compared: new, removed, renamed, on neither side, or refusing their arguments."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Changes:
    """Names of benchmarks; `renamed` maps a removed one to the new one that looks like it, `failed` to what it said."""

    removed: list[str]
    new: list[str]
    renamed: dict[str, str]
    nowhere: list[str]
    failed: dict[str, str]

    def untimed(self) -> Iterator[tuple[str, Sequence[str]]]:
        """What to call each kind, and its names."""
        yield "removed", self.removed
        yield "new", self.new
        yield "that do not run", list(self.failed)


def changes(base: Mapping[str, str], head: Mapping[str, str], listed: Sequence[str]) -> Changes:
    """Compare what became of the benchmarks on both sides.

    Parameters
    ----------
    base, head : mapping from name to "ok", "missing" or an error
        The benchmarks of the head's table.
    listed : sequence of str
        Those of the base's own table: a row taken out of the head's must not go unseen.

    Examples
    --------
    >>> found = changes({"a": "ok", "b": "missing"}, {"a": "ok", "b": "ok"}, ["a", "gone"])
    >>> found.removed, found.new
    (['gone'], ['b'])
    """
    names = list(dict.fromkeys([*head, *listed]))

    def states(name: str) -> tuple[str, str]:
        return base.get(name, "ok"), head.get(name, "missing")

    there = {name: tuple(state != "missing" for state in states(name)) for name in names}
    removed = [name for name in names if there[name] == (True, False)]
    new = [name for name in names if there[name] == (False, True)]
    close = {old: difflib.get_close_matches(old, new, 1, 0.7) for old in removed}
    failed = {
        name: "; ".join(
            f"{side}: {state}"
            for side, state in zip(("base", "head"), states(name), strict=True)
            if state != "ok"
        )
        for name in names
        if there[name] == (True, True) and states(name) != ("ok", "ok")
    }
    return Changes(
        removed=removed,
        new=new,
        renamed={old: match[0] for old, match in close.items() if match},
        nowhere=[name for name in names if there[name] == (False, False)],
        failed=failed,
    )
