"""A verifier of the user's: a function of three texts that is called for every reply, and trusted in nothing.

It runs in the process that trains. Whatever it raises, gives or does not come back from is the failure of one run.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .errors import InputError
from .registry import load_verifier
from .rewards.verifier import Verifier
from .seeding import stream
from .types import Float, Int, Task, Verifiable

Verify: TypeAlias = Callable[[str, str, str | None], float | bool]
"""Prompt, response and, where the task knows it, the right answer -> score."""
TIME_LIMIT = 10.0
"""Seconds that one call may take."""


class VerifierFailed(Exception):
    """The verifier raised, gave no number or did not come back."""


class _TimeUp(BaseException):
    """Not an Exception, so that the verifier's own ``except Exception`` does not swallow it."""


@dataclass(frozen=True)
class UserVerifier:
    """What ``--verifier`` names: its function and the file whose hash is part of a run's key."""

    text: str
    function: Verify
    file: Path

    @property
    def name(self) -> str:
        """That of the function; where its file lies does not matter."""
        return self.text.rpartition(":")[2]

    def reward(self, task: Task) -> Verifier:
        """The reward that it gives on `task`."""
        return Verifier(partial(self.scores, task))

    def scores(self, task: Task, prompts: Int, responses: Int, mask: Float) -> Float:
        """(B,) its scores of replies in words; what it prints goes to standard error."""
        scores = np.empty(len(prompts))
        with redirect_stdout(sys.stderr):
            for i, (prompt, response, m) in enumerate(zip(prompts, responses, mask, strict=True)):
                answer = task.answer(prompt) if isinstance(task, Verifiable) else None
                scores[i] = self.score(task.prompt_text(prompt), task.response_text(response, m), answer)
        return scores

    def score(self, prompt: str, response: str, answer: str | None) -> float:
        """What it gives one reply.

        Raises
        ------
        VerifierFailed
            With what came, what is needed, and the reply.
        """
        try:
            with _time_limit(TIME_LIMIT):
                value = self.function(prompt, response, answer)
        except _TimeUp:
            reason = f"no result after {TIME_LIMIT:g} s"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                raise  # somebody's Ctrl-C, which does not come where it is ignored
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
        else:
            number = _number(value)
            if number is not None:
                return number
            reason = f"{type(value).__name__} {_short(value)}"
        where = f"prompt {_short(prompt)}, response {_short(response)}"
        raise VerifierFailed(
            f"--verifier {self.text}: {reason} came for {where}; a finite number, true or false is needed"
        )


def open_verifier(text: str) -> UserVerifier:
    """The verifier that ``module:function`` or ``./file.py:function`` names."""
    function, file = load_verifier(text)
    return UserVerifier(text, function, file)


def try_out(verifier: UserVerifier, task: Task) -> None:
    """Call it on a demonstration and on an empty reply, so that what cannot work fails before anything is spent.

    Raises
    ------
    InputError
        With what is wrong.
    """
    task = task.for_seed(stream(0, "split"))
    demo = task.demonstrations(stream(0, "demonstrations")).take(np.arange(1))
    replies = [(demo.responses, demo.mask)]
    if task.eos is not None:
        only_end = (np.arange(task.max_length) == 0).astype(demo.mask.dtype)[None]
        replies.append((np.where(only_end > 0, task.eos, 0), only_end))
    try:
        for responses, mask in replies:
            verifier.scores(task, demo.prompts, responses, mask)
    except VerifierFailed as failure:
        raise InputError(str(failure)) from None


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `_TimeUp` inside after so long, and again until it is heard; only the main thread can be stopped so."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _number(value: Any) -> float | None:
    """A finite number or a truth value as a float; None for anything else."""
    if not isinstance(value, Real | np.bool_):
        return None
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _short(value: Any, most: int = 60) -> str:
    try:
        text = repr(value)
    except Exception:  # it is the user's object, and may refuse
        return "without a representation"
    return text if len(text) <= most else f"{text[: most - 1]}…"
