"""The folder of one run: its files, written whole, and read so that no damage passes for a result.

manifest.json   key, inputs and environment
curve.jsonl     one point a line
replies.jsonl   one reply a line, for `show`
policy.*        the parameters of what was served, where that is a policy (`rlhfbench.checkpoints`)
result.json     all else; written last
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from .errors import InputError
from .records import Check, FieldError, Result, count, plain, point, record_of, reply

MANIFEST, CURVE, REPLIES, RESULT = "manifest.json", "curve.jsonl", "replies.jsonl", "result.json"


def load_run(path: Path) -> tuple[dict[str, Any], Result]:
    """Read one run folder: its manifest and its result."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder; give one of the folders in DIR/runs")
    if not any((folder / name).exists() for name in (MANIFEST, RESULT)):
        raise InputError(
            f"{folder}: not a run folder, it holds no {RESULT}; give one of the folders in DIR/runs"
        )
    manifest, result = read_manifest(folder), _read_result(folder)
    if result.seed != manifest["inputs"].get("seed", result.seed):
        refuse(folder / RESULT, "seed", "field 'seed' is not that of the manifest")
    return manifest, result


# --- writing ---------------------------------------------------------------------------------------------------


def write_run(folder: Path, manifest: Mapping[str, Any], result: Result, files: Mapping[str, bytes]) -> None:
    """Write a run and the `files` that go with it into an empty folder."""
    record = result.to_json()
    lines = {CURVE: record.pop("curve"), REPLIES: plain(result.replies)}
    # A file cut at the end of a line looks whole: the number of lines tells.
    record["lines"] = {name: len(values) for name, values in lines.items()}
    record["files"] = {name: len(content) for name, content in files.items()}
    write_json(folder / MANIFEST, manifest)
    for name, values in lines.items():
        write(folder / name, "".join(json.dumps(value, allow_nan=False) + "\n" for value in values).encode())
    for name, content in files.items():
        write(folder / name, content)
    write_json(folder / RESULT, record)
    sync_folder(folder)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, and wait until it is on the disk."""
    write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading ---------------------------------------------------------------------------------------------------


def damaged(path: Path, line: int, problem: str) -> InputError:
    """What is wrong with a file of a run, and what to do."""
    return InputError(f"{path}, line {line}: {problem}; {advice(path.parent)}")


def advice(folder: Path) -> str:
    """What to do about a damaged run."""
    return f"delete the folder '{folder.name}' and its run will be repeated"


def refuse(path: Path, name: str, problem: str) -> NoReturn:
    """Raise for the field `name`, at the line of the innermost part of it that is there."""
    lines = path.read_text("utf-8").splitlines()
    for part in reversed(name.split(".")):
        for number, line in enumerate(lines, 1):
            if f'"{part}":' in line:
                raise damaged(path, number, problem)
    raise damaged(path, 1, problem)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run."""
    path = folder / MANIFEST
    manifest = _parse(_read_text(path), path)
    for name, kind in (("key", str), ("inputs", dict)):
        if not isinstance(manifest.get(name), kind):
            refuse(path, name, f"field '{name}' is missing or of the wrong type")
    return manifest


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise damaged(path, 1, "the file is missing") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, content.count(b"\n", 0, error.start) + 1, "not UTF-8") from None


def _parse(text: str, path: Path, first_line: int = 1) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise damaged(path, first_line + error.lineno - 1, f"not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, first_line, f"not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise damaged(path, first_line, "not a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _read_result(folder: Path) -> Result:
    path = folder / RESULT
    record = _parse(_read_text(path), path)
    try:
        expected = record_of({CURVE: count, REPLIES: count})(record.get("lines"), "lines")
        record["curve"] = _read_lines(folder / CURVE, expected[CURVE], point)
        replies = _read_lines(folder / REPLIES, expected[REPLIES], reply)
        result = Result.from_json(record, replies)
        _check_sizes(folder, record_of({}, others=count)(record.get("files", {}), "files"))
    except FieldError as error:
        refuse(path, error.name, str(error))
    return result


def _check_sizes(folder: Path, sizes: Mapping[str, int]) -> None:
    """Only the size is looked at: whether the content is whole is seen by whoever needs it."""
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            raise damaged(path, 1, "the file is missing")
        found = path.stat().st_size
        if found != size:
            raise InputError(f"{path}: holds {found:,} bytes, {size:,} were written; {advice(folder)}")


def _read_lines(path: Path, expected: int, check: Check) -> list[dict[str, Any]]:
    lines = _read_text(path).split("\n")
    values = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        value = _parse(line, path, number)
        try:
            values.append(check(value, ""))
        except FieldError as error:
            raise damaged(path, number, str(error)) from None
    if len(values) != expected:
        raise damaged(path, len(values), f"the file ends here, {expected} lines were written")
    return values
