"""The run store on disk.

    <root>/runs/<label>-s<seed>-<key[:12]>/   one run: see `rlhfbench.run_folder`
    <root>/worlds/s<seed>-<key[:12]>/         what all runs of a seed share: reference, reward model and judge

Either is written into a hidden folder of `runs` and renamed once it is whole, so that a kill at any instant leaves
none or a whole one. Several processes may share a store: there are no locks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError
from .records import FieldError, Result, plain
from .run_folder import (
    MANIFEST,
    RESULT,
    damaged,
    load_run,
    read_manifest,
    refuse,
    sync_folder,
    write,
    write_json,
    write_run,
)

__all__ = ["FieldError", "Result", "RunStore", "file_hash", "load_run", "source_hash", "world_folder"]

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
        self.runs, self.worlds = self.root / "runs", self.root / "worlds"
        with _writing(self.root):
            self.runs.mkdir(parents=True, exist_ok=True)
            self.worlds.mkdir(exist_ok=True)
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

    def commit(
        self, key: str, manifest: Mapping[str, Any], result: Result, files: Mapping[str, bytes] | None = None
    ) -> Path:
        """Store a run and return its folder; a run that is there already is kept as it is.

        Parameters
        ----------
        key : str
            `RunStore.key(manifest["inputs"])`.
        manifest : mapping
            ``inputs``: all that determines the run, among it its ``label``. ``environment``: the `fingerprint`.
        result : Result
        files : mapping, optional
            Name -> content of what is kept beside it.
        """
        if key != self.key(manifest["inputs"]):
            raise ValueError("the key is not that of manifest['inputs']")
        present = self.folder(key)
        if present is not None:
            return present
        target = self.runs / f"{_folder_label(manifest['inputs'])}-s{result.seed}-{key[:12]}"
        whole = {"schema": 1, "key": key, **plain(manifest)}
        return self._put(target, lambda folder: write_run(folder, whole, result, files or {}))

    def folder(self, key: str) -> Path | None:
        """Return the folder of a stored run, None if there is none; only its manifest has been looked at."""
        with _writing(self.root):
            found = sorted(p for p in self.runs.glob(f"*-{key[:12]}") if _is_run_folder(p))
        for folder in found:
            if read_manifest(folder)["key"] != key:
                refuse(
                    folder / MANIFEST, "key", "field 'key' is not that of the run the folder is named after"
                )
        return found[0] if found else None

    def commit_world(self, inputs: Mapping[str, Any], make: Callable[[], Mapping[str, bytes]]) -> Path:
        """Keep the files that `make` gives, unless those of `inputs` (among them ``seed``) are there already."""
        target = world_folder(self.root, inputs)
        if target.is_dir():
            return target

        def fill(folder: Path) -> None:
            for name, content in make().items():
                write(folder / name, content)
            write_json(folder / MANIFEST, {"schema": 1, "key": self.key(inputs), "inputs": plain(inputs)})
            sync_folder(folder)

        return self._put(target, fill)

    def _put(self, target: Path, fill: Callable[[Path], None]) -> Path:
        with _writing(self.root):
            temporary = self._temporary_folder()
            try:
                fill(temporary)
                _rename_unless_present(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            sync_folder(target.parent)
        return target

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
                    raise damaged(folder / name, 1, "the file is missing")


def world_folder(root: Path, inputs: Mapping[str, Any]) -> Path:
    """Where a store keeps what all runs with these inputs share; it may not be there."""
    return root / "worlds" / f"s{inputs['seed']}-{RunStore.key(inputs)[:12]}"


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


# --- folders -------------------------------------------------------------------------------------------------


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
