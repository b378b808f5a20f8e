"""What there is and whether it keeps to the rules, as blocks: `rlhfbench list` and `rlhfbench check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .layout import Block, Note, Sheet

if TYPE_CHECKING:
    from .conformance import Check, Checked
    from .preset_files import Preset


def list_blocks(
    algorithms: Sequence[Mapping[str, Any]],
    tasks: Sequence[tuple[str, str, str]],
    policies: Sequence[tuple[str, str]],
) -> list[Block]:
    """Algorithms (name, doc, needs, presets, policy_defaults), tasks (name, doc, policies) and policies (name, doc)."""
    blocks: list[Block] = [Note("Algorithms: name[@preset][:field=value,...]", "bold")]
    for entry in algorithms:
        blocks += [Note(_line_of(entry), indent=2), *_policy_defaults(entry)]
        blocks += [
            Note(f"{entry['name']}@{name}: {preset.source}", "dim", indent=4)
            for name, preset in entry["presets"].items()
        ]
    blocks.append(Note("rlhfbench list ALGO: what the presets of one set", indent=2))
    blocks.append(Note("Tasks: name[:field=value,...]", "bold"))
    blocks += [Note(f"{name}: {doc} Policies: {fits}.", indent=2) for name, doc, fits in tasks]
    blocks.append(Note("rlhfbench list TASK: the fields of one, pairs and problems too", indent=2))
    own = "--data FILE: your own preference pairs, JSON lines, plain or gzipped"
    blocks.append(Note(f"{own}; options by --task pairs:field=value,...", indent=2))
    problems = "--data FILE --task problems: problems with answers, JSON lines, rewarded by a verifier"
    blocks.append(Note(f"{problems}; options by --task problems:field=value,...", indent=2))
    blocks.append(Note("Policies", "bold"))
    return blocks + [Note(f"{name}: {doc}", indent=2) for name, doc in policies]


def algorithm_blocks(entry: Mapping[str, Any]) -> list[Block]:
    """One algorithm with its presets: what each sets, from where, and what it leaves out."""
    blocks: list[Block] = [Note(_line_of(entry), "bold"), *_policy_defaults(entry)]
    presets: Mapping[str, Preset] = entry["presets"]
    for name, preset in presets.items():
        read = "" if preset.checked else " (from memory of the paper)"
        blocks.append(Note(f"{entry['name']}@{name}: {preset.source}{read}", indent=2))
        blocks.append(Note(_fields(preset.fields), indent=4))
        blocks += [Note(preset.note, "dim", indent=4)] if preset.note else []
    return blocks


def task_blocks(name: str, doc: str, fields: Sequence[tuple[str, Any, str]]) -> list[Block]:
    """One task with its fields: name, default and meaning."""
    given = "--data FILE --task " if name in ("pairs", "problems") else "--task "
    blocks: list[Block] = [Note(f"{name}: {doc}", "bold"), Note(f"{given}{name}:field=value,...", indent=2)]
    for field, default, meaning in fields:
        blocks.append(Note(f"{field}={'none' if default is None else default}", indent=2))
        blocks += [Note(meaning, "dim", indent=4)] if meaning else []
    return blocks


def _line_of(entry: Mapping[str, Any]) -> str:
    needs = f" Needs {' and '.join(entry['needs']).replace('_', ' ')}." if entry["needs"] else ""
    return f"{entry['name']}: {entry['doc']}{needs}"


def _policy_defaults(entry: Mapping[str, Any]) -> list[Block]:
    return [
        Note(f"beside a {policy.replace('/gold', ', rewarded by gold')}: {_fields(values)}", "dim", indent=4)
        for policy, values in entry["policy_defaults"].items()
    ]


def _fields(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def check_blocks(checked: Checked) -> Iterator[Block]:
    """One line a check and the sum."""
    yield Note(f"Conformance of {checked.name}", "bold")
    for check in checked.checks:
        yield Note(
            f"  {'passed' if check.passed else 'FAILED'}  {check.name}: {check.detail}",
            "" if check.passed else "red",
        )
    held, n = _held(checked.checks), len(checked.checks)
    yield Note(f"{held} of {n} checks passed", "green" if held == n else "red")


def check_line(checked: Checked) -> Note:
    """What to say as soon as an algorithm is through."""
    state = "FAILED" if checked.failures else "passed"
    return Note(f"{state}  {checked.name}, {checked.seconds:.1f} s", "red" if checked.failures else "dim")


def all_checks_blocks(checked: Sequence[Checked]) -> Iterator[Block]:
    """A row an algorithm, what failed, and the sum."""
    rows = []
    for one in checked:
        presets = [check for checks in one.presets.values() for check in checks]
        good = sum(all(check.passed for check in checks) for checks in one.presets.values())
        runs = f"{good}/{len(one.presets)}" if presets else "-"
        rows.append((one.name, f"{_held(one.checks)}/{len(one.checks)}", runs, f"{one.seconds:.1f}"))
    yield Sheet(
        ("algorithm", "checks", "presets", "seconds"),
        rows,
        f"Conformance beside the policy {checked[0].policy}",
    )
    failures = [failure for one in checked for failure in one.failures]
    for arm, check in failures:
        yield Note(f"FAILED  {arm}: {check.name}: {check.detail}", "red")
    failed = sum(bool(one.failures) for one in checked)
    seconds = sum(one.seconds for one in checked)
    summary = f"{len(checked) - failed} of {len(checked)} algorithms passed in {seconds:.0f} s"
    yield Note(summary, "red" if failed else "green")


def _held(checks: Sequence[Check]) -> int:
    return sum(check.passed for check in checks)
