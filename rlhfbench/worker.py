"""A worker process: what runs inside it, and the parent's handle on it.

Two pipes join them: `progress` carries messages and the end of each job; nothing is ever written to `lifeline`,
whose end of file means that the parent is gone.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, TypeAlias

from .environment import THREAD_VARIABLES, set_single_thread_env
from .errors import InputError

Message: TypeAlias = dict[str, Any]
END_OF_JOB = b""

_SPAWNING = threading.Lock()
_HAS_MASK = hasattr(signal, "pthread_sigmask")
_send: ContextVar[Callable[[Message], None] | None] = ContextVar("rlhfbench_send", default=None)
_progress: Connection | None = None


@dataclass(frozen=True)
class Failure:
    """Why a job has no value: one line, the traceback where there is one, and whether a person has to mend it."""

    error: str
    traceback: str = ""
    bad_input: bool = False


def emit(message: Message) -> None:
    """Tell the parent something, in what JSON can hold; nothing happens outside a job."""
    send = _send.get()
    if send is not None:
        send(message)


@contextmanager
def listener(on_message: Callable[[Message], None]) -> Iterator[None]:
    """Within this, `emit` calls `on_message`: for jobs without a process of their own."""
    token = _send.set(on_message)
    try:
        yield
    finally:
        _send.reset(token)


def attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call `function(*arguments)`; give its value, or the `Failure` that it ended in."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        if isinstance(error, InputError):
            return Failure(str(error), bad_input=True)
        return failure(error)


def unpicklable(what: str, error: Exception) -> Failure:
    """Name the cause: Python's own words for it differ from version to version."""
    cause = failure(error)
    return Failure(f"{what} cannot be pickled ({cause.error})", cause.traceback)


def failure(error: BaseException) -> Failure:
    """Put an exception into text: exceptions of other packages do not always survive pickling."""
    line = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(": ")
    return Failure(line, "".join(traceback.format_exception(error)))


def initialize(lifeline: Connection, progress: Connection) -> None:
    """Prepare this process; called by the pool before the first job."""
    global _progress
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    with suppress(OSError):
        os.dup2(2, 1)  # standard output is the parent's result: what a job prints goes to standard error
    _progress = progress
    _send.set(_send_to_parent)


def nothing() -> None:
    """Do nothing: submitted to have the process started."""


def call(payload: bytes) -> bytes:
    """Run one pickled job and return its pickled value or `Failure`; the pool itself never sees an exception."""
    try:
        function, arguments = pickle.loads(payload)
    except Exception as error:
        value: Any = _not_importable(error)
    else:
        try:
            value = attempt(function, arguments)
        except BaseException as error:  # Ctrl-C never comes here: what looks like it is the job's own
            value = failure(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()  # a worker ends without the interpreter's own clean-up
    try:
        answer = pickle.dumps(value)
    except Exception as error:
        answer = pickle.dumps(unpicklable("what the job returned", error))
    assert _progress is not None
    with suppress(OSError):
        _progress.send_bytes(END_OF_JOB)
    return answer


def _not_importable(error: Exception) -> Failure:
    cause = failure(error)
    hint = "a worker process cannot import what the job is made of; define it in a module, not in the running script"
    return Failure(f"{hint} ({cause.error})", cause.traceback)


def _send_to_parent(message: Message) -> None:
    data = json.dumps(message, default=_item).encode()
    assert _progress is not None
    with suppress(OSError):  # the parent is gone, and so will be this process
        _progress.send_bytes(data)


def _item(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()  # a NumPy scalar
    raise TypeError(f"a message holds a {type(value).__name__}, which JSON cannot")


def _end_with_parent(lifeline: Connection) -> None:
    # The parent alone holds the other end and never writes: this returns when it closes it or dies, by any cause.
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)


# --- the parent's side -----------------------------------------------------------------------------------------


class _Context(SpawnContext):
    """Spawns like its parent class, and remembers the process: an executor does not show its own."""

    process: BaseProcess | None = None

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]
        self.process = super().Process(*args, **kwargs)
        return self.process


class Worker:
    """One process, its executor and its two pipes."""

    def __init__(self) -> None:
        self.task: int | None = None
        self.warm = False
        self.broken = False
        self._context = _Context()
        self._lifeline_end, self._lifeline = self._context.Pipe(duplex=False)
        self.progress, self._progress_end = self._context.Pipe(duplex=False)
        ends = (self._lifeline_end, self._progress_end)
        self._executor = ProcessPoolExecutor(1, self._context, initialize, ends)
        self._future: Future[bytes] | None = None

    def start(self) -> None:
        with _spawning():
            self._executor.submit(nothing)
        # Now the process alone holds these, and the pipes end with it.
        self._lifeline_end.close()
        self._progress_end.close()

    @property
    def free(self) -> bool:
        return self.task is None and not self.broken

    def submit(self, payload: bytes) -> None:
        try:
            self._future = self._executor.submit(call, payload)
        except BrokenProcessPool:
            self.broken = True
            raise

    def result(self) -> Any:
        assert self._future is not None
        try:
            return pickle.loads(self._future.result())
        except BrokenProcessPool:
            raise
        except Exception as error:
            return failure(error)

    def kill(self) -> None:
        self._lifeline.close()
        if self._context.process is not None and self._context.process.pid is not None:
            self._context.process.kill()

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
        self.progress.close()

    def autopsy(self) -> str:
        """Clean up after a process that has died and say of what."""
        process = self._context.process
        if process is not None:
            process.join(1.0)
        self.kill()
        self.close()
        return _cause(process.exitcode if process is not None else None)


def _cause(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"its worker process ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"its worker process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


@contextmanager
def _spawning() -> Iterator[None]:
    """What a process that starts within this inherits: one thread, no Ctrl-C, and no script to run again."""
    with _SPAWNING:
        main, before = sys.modules["__main__"], {name: os.environ.get(name) for name in THREAD_VARIABLES}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ()) if _HAS_MASK else set()
        try:
            if _HAS_MASK:  # until `initialize` has run, Ctrl-C would end the worker with a traceback
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            os.environ.update(set_single_thread_env({}))
            sys.modules["__main__"] = ModuleType("__main__")  # has no file that the worker could import
            yield
        finally:
            sys.modules["__main__"] = main
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            if _HAS_MASK:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
