"""The run store on disk.

    <root>/runs/<label>-s<seed>-<key[:12]>/   manifest.json   key, inputs and environment
                                              curve.jsonl     one point a line
                                              replies.jsonl   one reply a line, for `show`
                                              result.json     all else; written last

A run is written into a hidden sibling and renamed once it is whole, so that a kill at any instant leaves
either no run or a whole one. Several processes may share a store: there are no locks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from .errors import InputError
from .records import Check, FieldError, Result, count, plain, point, record_of, reply

__all__ = ["FieldError", "Result", "RunStore", "file_hash", "load_run", "source_hash"]

MANIFEST, CURVE, REPLIES, RESULT = "manifest.json", "curve.jsonl", "replies.jsonl", "result.json"
_TEMPORARY = re.compile(r"\.tmp-(\d+)-")


class RunStore:
    """Finished runs under `root`, found by the hash of all that determines them.

    Parameters
    ----------
    root : Path
        Made if it is not there. An `InputError` names it where nothing can be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.runs = self.root / "runs"
        with _writing(self.root):
            self.runs.mkdir(parents=True, exist_ok=True)
            probe = self._temporary_folder()  # better refused now than after minutes of work
            probe.rmdir()
            self._remove_abandoned()
            self._refuse_incomplete()

    @staticmethod
    def key(inputs: Mapping[str, Any]) -> str:
        """SHA-256 of `inputs` as canonical JSON: the order of keys does not matter, every value does."""
        text = json.dumps(plain(inputs, finite=True), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def find(self, key: str) -> Result | None:
        """Return the stored run, None if there is none; an `InputError` says which file of it is damaged."""
        folder = self.folder(key)
        return None if folder is None else load_run(folder)[1]

    def commit(self, key: str, manifest: Mapping[str, Any], result: Result) -> Path:
        """Store a run and return its folder; a run that is there already is kept as it is.

        Parameters
        ----------
        key : str
            `RunStore.key(manifest["inputs"])`.
        manifest : mapping
            ``inputs``: all that determines the run, among it its ``label``. ``environment``: the `fingerprint`.
        result : Result
        """
        if key != self.key(manifest["inputs"]):
            raise ValueError("the key is not that of manifest['inputs']")
        present = self.folder(key)
        if present is not None:
            return present
        target = self.runs / f"{_folder_label(manifest['inputs'])}-s{result.seed}-{key[:12]}"
        with _writing(self.root):
            temporary = self._temporary_folder()
            try:
                _write_run(temporary, {"schema": 1, "key": key, **plain(manifest)}, result)
                _rename_unless_present(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            _sync_folder(self.runs)
        return target

    def folder(self, key: str) -> Path | None:
        """Return the folder of a stored run, None if there is none; only its manifest has been looked at."""
        with _writing(self.root):
            found = sorted(p for p in self.runs.glob(f"*-{key[:12]}") if _is_run_folder(p))
        for folder in found:
            if _read_manifest(folder)["key"] != key:
                _refuse(
                    folder / MANIFEST, "key", "field 'key' is not that of the run the folder is named after"
                )
        return found[0] if found else None

    def _temporary_folder(self) -> Path:
        folder = self.runs / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        return folder

    def _remove_abandoned(self) -> None:
        for folder in self.runs.iterdir():
            match = _TEMPORARY.match(folder.name)
            if match and not _alive(int(match[1])):
                shutil.rmtree(folder, ignore_errors=True)

    def _refuse_incomplete(self) -> None:
        for folder in filter(_is_run_folder, sorted(self.runs.iterdir())):
            for name in (RESULT, MANIFEST):
                if not (folder / name).is_file():
                    raise _damaged(folder / name, 1, "the file is missing")


def load_run(path: Path) -> tuple[dict[str, Any], Result]:
    """Read one run folder: its manifest and its result."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder; give one of the folders in DIR/runs")
    if not any((folder / name).exists() for name in (MANIFEST, RESULT)):
        raise InputError(
            f"{folder}: not a run folder, it holds no {RESULT}; give one of the folders in DIR/runs"
        )
    manifest, result = _read_manifest(folder), _read_result(folder)
    if result.seed != manifest["inputs"].get("seed", result.seed):
        _refuse(folder / RESULT, "seed", "field 'seed' is not that of the manifest")
    return manifest, result


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def source_hash(paths: Iterable[Path]) -> str:
    """SHA-256 of source files, folders standing for all ``.py`` below them; where they lie does not matter."""
    sources = []
    for path in map(Path, paths):
        for file in path.rglob("*.py") if path.is_dir() else (path,):
            name = file.relative_to(path.parent).as_posix()
            sources.append((name, file_hash(file)))
    return RunStore.key({"sources": sorted(sources)})


# --- writing ---------------------------------------------------------------------------------------------------


def _write_run(folder: Path, manifest: Mapping[str, Any], result: Result) -> None:
    record = result.to_json()
    lines = {CURVE: record.pop("curve"), REPLIES: plain(result.replies)}
    # A file cut at the end of a line looks whole: the number of lines tells.
    record["lines"] = {name: len(values) for name, values in lines.items()}
    _write(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False) + "\n")
    for name, values in lines.items():
        _write(folder / name, "".join(json.dumps(value, allow_nan=False) + "\n" for value in values))
    _write(folder / RESULT, json.dumps(record, indent=1, allow_nan=False) + "\n")
    _sync_folder(folder)


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_unless_present(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError:
        if not target.is_dir():
            raise
        # else another process has just committed the same run; the first one stays


def _folder_label(inputs: Mapping[str, Any]) -> str:
    label = re.sub(r"[^A-Za-z0-9._#@=+-]+", "_", str(inputs.get("label", "run")))
    return label.strip("._-")[:60] or "run"


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"{root}: cannot keep runs there ({reason}); name a writable folder: --out DIR"
        ) from None


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 is no mere question elsewhere
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_run_folder(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_dir()


# --- reading ---------------------------------------------------------------------------------------------------


def _damaged(path: Path, line: int, problem: str) -> InputError:
    advice = f"delete the folder '{path.parent.name}' and its run will be repeated"
    return InputError(f"{path}, line {line}: {problem}; {advice}")


def _refuse(path: Path, name: str, problem: str) -> NoReturn:
    """Raise for the field `name`, at the line of the innermost part of it that is there."""
    lines = path.read_text("utf-8").splitlines()
    for part in reversed(name.split(".")):
        for number, line in enumerate(lines, 1):
            if f'"{part}":' in line:
                raise _damaged(path, number, problem)
    raise _damaged(path, 1, problem)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise _damaged(path, 1, "the file is missing") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, content.count(b"\n", 0, error.start) + 1, "not UTF-8") from None


def _parse(text: str, path: Path, first_line: int = 1) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise _damaged(path, first_line + error.lineno - 1, f"not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, first_line, f"not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise _damaged(path, first_line, "not a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    manifest = _parse(_read_text(path), path)
    for name, kind in (("key", str), ("inputs", dict)):
        if not isinstance(manifest.get(name), kind):
            _refuse(path, name, f"field '{name}' is missing or of the wrong type")
    return manifest


def _read_result(folder: Path) -> Result:
    path = folder / RESULT
    record = _parse(_read_text(path), path)
    try:
        expected = record_of({CURVE: count, REPLIES: count})(record.get("lines"), "lines")
        record["curve"] = _read_lines(folder / CURVE, expected[CURVE], point)
        replies = _read_lines(folder / REPLIES, expected[REPLIES], reply)
        return Result.from_json(record, replies)
    except FieldError as error:
        _refuse(path, error.name, str(error))


def _read_lines(path: Path, expected: int, check: Check) -> list[dict[str, Any]]:
    lines = _read_text(path).split("\n")
    values = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        value = _parse(line, path, number)
        try:
            values.append(check(value, ""))
        except FieldError as error:
            raise _damaged(path, number, str(error)) from None
    if len(values) != expected:
        raise _damaged(path, len(values), f"the file ends here, {expected} lines were written")
    return values
