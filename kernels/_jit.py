"""The only file that spells a Numba option: `jit`, `REASSOC`, and the cache of machine code.

Numba stamps a cached function with its own source file. A helper from another file is not in that stamp, so
after an upgrade the callers of a changed helper would silently go on with the old machine code. Here folder
and stamp are the SHA-256 of *all* files of this folder, which is where everything jitted stands (`torch/` has
nothing of it), plus Numba's version: whatever changes, everything is compiled anew. NUMBA_CACHE_DIR is
respected; where nothing is writable, functions are compiled in every process, with one warning.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
from numba.core import caching as _caching

from ._inlaid import Entry, Inlaid

__all__ = ["REASSOC", "jit"]

caching: Any = _caching  # has no types of its own
PACKAGE = Path(__file__).resolve().parent
_PREFIX = "preference-kernels-"
_KEPT = 4  # folders of other source states that stay beside ours

# Lets LLVM reorder one named reduction and so vectorise it; NaN and infinity keep their meaning. Opt in with
# `@jit(fastmath=REASSOC)`. Constants, never read from the environment: options are not in the cache's key.
REASSOC = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})


@cache
def source_hash() -> str | None:
    """SHA-256 of the package's sources and Numba's version; None where the sources cannot be read (a zip)."""
    digest = hashlib.sha256(numba.__version__.encode())
    files = sorted(PACKAGE.glob("*.py"))
    for file in files:
        source = file.read_bytes()
        digest.update(f"\0{file.name}\0{len(source)}\0".encode())
        digest.update(source)
    return digest.hexdigest() if files else None


@cache
def cache_folder() -> Path | None:
    """The first writable of NUMBA_CACHE_DIR, `__pycache__`, the user's cache; None if there is none."""
    stamp = source_hash()
    if stamp is None:
        return None
    user = Path(caching.AppDirs(appname="numba", appauthor=False).user_cache_dir)
    given = [Path(caching.config.CACHE_DIR)] if caching.config.CACHE_DIR else []
    for parent in (*given, PACKAGE / "__pycache__", user):
        folder = parent / f"{_PREFIX}{stamp[:24]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            os.utime(folder)
        except OSError:
            continue
        _prune(folder)
        return folder
    return None


def _prune(folder: Path) -> None:
    """Remove all but the latest folders of other source states: an edit a minute must not fill a disk."""
    try:
        others = [path for path in folder.parent.glob(f"{_PREFIX}*") if path != folder]
        others.sort(key=lambda path: path.stat().st_mtime)
    except OSError:  # another process is doing the same
        return
    for path in others[:-_KEPT]:
        shutil.rmtree(path, ignore_errors=True)


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Where and under which stamp the functions of this package are cached."""

    def __init__(self, function: Any, file: str, folder: Path) -> None:
        self._py_file = file  # numba reads it for its warnings
        self._line = function.__code__.co_firstlineno
        self._folder = folder

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str | None:
        return source_hash()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator | None:
        folder = cache_folder()
        return None if folder is None else cls(function, file, folder)


class _Files(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _Files

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = source_hash()  # even if NUMBA_CACHE_LOCATOR_CLASSES chose the folder

    def save_overload(self, signature: Any, data: Any) -> None:
        """Save, unless the disk is full or the folder has gone: a cache must never fail a computation."""
        try:
            super().save_overload(signature, data)
        except OSError as error:
            _warn(f"machine code could not be cached ({error})")


@cache
def _warn(message: str) -> None:
    text = f"{message}; every process compiles anew. Set NUMBA_CACHE_DIR to a writable folder."
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def _with_cache(dispatcher: Any) -> Any:
    if cache_folder() is None:
        _warn("machine code cannot be cached: no writable folder")
        return dispatcher
    dispatcher._cache = _Cache(dispatcher.py_func)
    return dispatcher


def jit(function: Any = None, **options: Any) -> Any:
    """`numba.njit` with this package's options and cache; use as `@jit` or `@jit(fastmath=REASSOC)`.

    `error_model="numpy"`: division by zero gives inf or NaN, and loops with divisions vectorise. `nogil`:
    other threads run on. Of this package's functions Python may call those whose names end in `_jit`, and only these
    are cached on disk; the others are for jitted code alone, and get neither an entry from Python nor machine code of
    their own: with those, and an entry from C that nobody uses, compiling took a quarter longer. Nothing here makes or
    keeps an array, so that nobody counts references (`_nrt`): each of two counts for an array and function was an
    atomic operation.
    """
    if function is None:
        return partial(jit, **options)
    if "fastmath" in options:
        options["fastmath"] = set(options["fastmath"])
    ours = Path(function.__code__.co_filename).resolve().parent == PACKAGE
    entry = function.__name__.endswith("_jit")
    if ours:
        options["_nrt"] = False
        options["pipeline_class"] = Entry if entry else Inlaid
    if ours and not entry:
        options["no_cpython_wrapper"] = True
    options["no_cfunc_wrapper"] = True
    compiled = numba.njit(error_model="numpy", nogil=True, **options)(function)
    # The stamp knows nothing of other people's files, and what is no entry stands in the code of its callers.
    if not ours or not entry or compiled is function:  # the last: NUMBA_DISABLE_JIT
        return compiled
    return _with_cache(compiled)
