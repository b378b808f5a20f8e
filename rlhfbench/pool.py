"""Jobs in worker processes that outlive neither their parent nor each other's crashes.

Each worker is a `ProcessPoolExecutor` of one spawned process, so that a process killed by the system takes down
the one job that it ran and no other.
"""

from __future__ import annotations

import json
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Final

from . import worker
from .errors import InputError
from .worker import Failure, Message, Worker, emit

__all__ = ["Message", "Outcome", "emit", "run_jobs"]

Job = tuple[Any, ...]
_SHARE: Final = -2  # tasks that are no job: a share of what comes before the warm-up,
_WARM_UP: Final = -1  # and the warm-up


@dataclass(frozen=True)
class Outcome:
    """How the job `jobs[index]` ended.

    Attributes
    ----------
    value : object
        What the function returned.
    error : str or None
        One line that says why there is no value; None where the job went well.
    traceback : str
        The exception's traceback, if it was one.
    bad_input : bool
        The job raised an `InputError`, of which `error` is the message.
    """

    index: int
    value: Any = None
    error: str | None = None
    traceback: str = ""
    bad_input: bool = False


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[Job],
    *,
    workers: int,
    on_message: Callable[[Message], None] | None = None,
    on_done: Callable[[Outcome], None] | None = None,
    warm_up: Job | None = None,
    shares: Sequence[Job] = (),
) -> list[Outcome]:
    """Call `function(*job)` for every job and return the outcomes in the order of `jobs`.

    A job that raises, or whose process dies, is an outcome with an `error`; the others go on. When this function
    is left, by an interrupt or an exception of a callback too, no worker is alive.

    Parameters
    ----------
    function : callable
        Importable by name, unless `workers` is 0. It may call `emit`.
    jobs : sequence of tuples
        The arguments; they and the returned values have to be picklable.
    workers : int
        Processes, each with one numerical thread. 0: no process, one job after the other in this one.
    on_message : callable, optional
        Called here with every message, all those of a job before its `on_done`.
    on_done : callable, optional
        Called here with every outcome, in the order of completion.
    warm_up : tuple, optional
        Arguments of a first call in each worker, whose value is dropped and whose failure is left to the jobs to
        show.
    shares : sequence of tuples
        Arguments of calls before the warm-up, each made by one worker, in order: no warm-up begins before the last of
        them has come back, so that it finds in Numba's cache what they have compiled. Values and failures as of
        `warm_up`; without processes there are none.
    """
    if workers < 0:
        raise InputError(f"the number of workers must be 0 or more, got {workers}")
    done: dict[int, Outcome] = {}

    def finish(outcome: Outcome) -> None:
        done[outcome.index] = outcome
        if on_done is not None:
            on_done(outcome)

    on_message = on_message or (lambda message: None)
    if not jobs:
        return []
    if workers == 0:
        _run_here(function, jobs, on_message, finish, warm_up)
    else:
        _refuse_main(function)
        with _ended_at_once(_Crew(function, jobs, on_message, finish, warm_up, shares)) as crew:
            crew.run(min(workers, len(jobs)))
    return [done[index] for index in range(len(jobs))]


def _run_here(
    function: Callable[..., Any],
    jobs: Sequence[Job],
    on_message: Callable[[Message], None],
    finish: Callable[[Outcome], None],
    warm_up: Job | None,
) -> None:
    with worker.listener(on_message):
        if warm_up is not None:
            worker.attempt(function, warm_up)
        for index, job in enumerate(jobs):
            finish(_outcome(index, worker.attempt(function, job)))


def _outcome(index: int, value: Any) -> Outcome:
    if isinstance(value, Failure):
        return Outcome(index, error=value.error, traceback=value.traceback, bad_input=value.bad_input)
    return Outcome(index, value)


def _refuse_main(function: Callable[..., Any]) -> None:
    # Workers never import the running script: without `if __name__ == "__main__"` it would start itself again.
    if getattr(function, "__module__", None) == "__main__":
        name = getattr(function, "__qualname__", function)
        raise InputError(f"'{name}' is defined in the running script; move it to a module, or use no workers")


class _Crew:
    """The workers of one `run_jobs` call and what each of them is doing."""

    def __init__(
        self,
        function: Callable[..., Any],
        jobs: Sequence[Job],
        on_message: Callable[[Message], None],
        finish: Callable[[Outcome], None],
        warm_up: Job | None,
        shares: Sequence[Job],
    ) -> None:
        self.function, self.jobs, self.warm_up = function, jobs, warm_up
        self.shares = deque(shares)
        self.on_message, self.on_finish = on_message, finish
        self.pending = deque(range(len(jobs)))
        self.left = len(jobs)
        self.workers: list[Worker] = []

    def run(self, size: int) -> None:
        for _ in range(size):
            self._hire()
        while self.left:
            for connection in wait([w.progress for w in self.workers]):
                self._listen(next(w for w in self.workers if w.progress is connection))

    def end(self) -> None:
        for member in self.workers:
            member.kill()
        for member in self.workers:
            member.close()

    def _hire(self) -> None:
        try:
            member = Worker()
            self.workers.append(member)
            member.start()
        except OSError as error:
            raise InputError(
                f"cannot start a worker process ({error.strerror}); use fewer: --jobs N"
            ) from None
        self._next(member)

    def _listen(self, member: Worker) -> None:
        try:
            data = member.progress.recv_bytes()
        except (EOFError, OSError):
            self._replace(member)
            return
        if data != worker.END_OF_JOB:
            self.on_message(json.loads(data))
            return
        try:
            value = member.result()
        except BrokenProcessPool:
            self._replace(member)
            return
        self._finished(member, value)

    def _report(self, task: int, value: Any) -> None:
        self.left -= 1
        self.on_finish(_outcome(task, value))

    def _finished(self, member: Worker, value: Any) -> None:
        task, member.task = member.task, None
        if task == _WARM_UP:
            member.warm = True
        elif task is not None and task >= 0:
            # The worker goes on before the caller looks at what it brought.
            self._next(member)
            self._report(task, value)
            return
        self._next_for_idle()

    def _replace(self, member: Worker) -> None:
        """Count the job of a dead worker as failed and put a new worker in its place."""
        task, reason = member.task, member.autopsy()
        self.workers.remove(member)
        if task is not None and task < 0:
            self.warm_up = None  # or the next one might die of it again; the jobs will show what is wrong
            self.shares.clear()
        if self.pending:
            self._hire()
        if task is not None and task >= 0:
            self._report(task, Failure(reason))
        self._next_for_idle()

    def _next_for_idle(self) -> None:
        for member in self.workers:
            if member.free:
                self._next(member)

    def _next(self, member: Worker) -> None:
        while self.shares and member.free:
            self._assign(member, _SHARE)
        if any(w.task == _SHARE for w in self.workers):
            return  # its turn comes when the last one is through
        if self.warm_up is not None and not member.warm and member.free:
            self._assign(member, _WARM_UP)
        while self.pending and member.free:
            self._assign(member, self.pending.popleft())

    def _assign(self, member: Worker, task: int) -> None:
        try:
            payload = pickle.dumps(self._call(task))
        except Exception as error:
            if task >= 0:
                self._report(task, worker.unpicklable("what the job is given", error))
            elif task == _WARM_UP:
                self.warm_up = None
            return
        try:
            member.submit(payload)
        except BrokenProcessPool:  # it died idle; `_listen` will come to the end of its pipe and replace it
            if task >= 0:
                self.pending.appendleft(task)
            return
        member.task = task

    def _call(self, task: int) -> tuple[Callable[..., Any], Job]:
        if task == _SHARE:
            return self.function, self.shares.popleft()
        if task == _WARM_UP:
            assert self.warm_up is not None
            return self.function, self.warm_up
        return self.function, self.jobs[task]


@contextmanager
def _ended_at_once(crew: _Crew) -> Iterator[_Crew]:
    try:
        yield crew
    finally:
        with _without_interrupts():  # a second Ctrl-C must not leave workers behind
            crew.end()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
