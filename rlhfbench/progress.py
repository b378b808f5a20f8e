"""What is said while a comparison runs: the plan, compilation, progress with time left, diagnostics, the KL monitor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from .hacking import KL_LINES
from .layout import counted, fixed, spelled, unit
from .text import sanitize

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Say = Callable[[str], None]
Event = dict[str, Any]

DIAGNOSTICS = {
    "objective/kl": "KL",
    "policy/clipfrac_avg": "clipped",
    "loss/value_avg": "value loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
}
EVERY = 5.0  # seconds between lines where there is no terminal


class Monitor:
    """Takes the harness's events in and says what a person has to know.

    Parameters
    ----------
    say : callable
        Shows one line.
    now : callable
        The clock, in seconds.
    """

    def __init__(self, say: Say, now: Callable[[], float] = time.monotonic) -> None:
        self.say, self.now = say, now
        self.to_run, self.shares, self.latest = (
            0,
            dict[tuple[str, int], float](),
            dict[str, dict[str, float]](),
        )
        self.started: float | None = None
        self._compiled: float | None = None  # seconds that workers have compiled so far
        self._ready = False
        self.arms: list[str] = []
        self._seen = dict[tuple[str, int], float]()  # when each run was heard of last
        self._pace = dict[str, tuple[float, float]]()  # seconds and runs that they moved an arm on
        self._warned: set[tuple[str, float]] = set()

    def __call__(self, event: Event) -> None:
        """Take one event; kinds that are not known are passed over."""
        handler = getattr(self, f"on_{event['kind']}", None)
        if handler is not None:
            handler(event)

    def on_plan(self, event: Event) -> None:
        self.to_run, self.arms = event["to_run"], list(event["arms"])
        for line in plan_lines(event):
            self.say(line)

    def on_jit(self, event: Event) -> None:
        """Workers compile in shares, then each reads what the others left: the first that has is worth a line."""
        if self._ready:
            return
        if event["state"] == "start":
            if self._compiled is None:
                self._compiled = 0.0
                self.say("compiling kernels where needed (once per version: about 20 s on two cores)")
            return
        self._compiled = (self._compiled or 0.0) + event["seconds"]
        if event["state"] == "done":
            self._ready = True
            work = f"{self._compiled:.1f} s of work"
            took = f"compiled in {work}" if self._compiled >= 0.05 else "had been compiled before"
            self.say(f"kernels ready after {event['wall']:.1f} s: {took}; this is not charged to anyone")

    def on_point(self, event: Event) -> None:
        if self.started is None:
            self.started = self.now()
        self._move(event["label"], event["seed"], min(max(event["share"], 0.0), 1.0))
        if event["metrics"]:
            self.latest[event["label"]] = event["metrics"]
        self._watch_kl(event)

    def on_run(self, event: Event) -> None:
        self._move(event["label"], event["seed"], 1.0)
        if event["status"] != "done":
            self.say(f"{event['label']}, seed {event['seed']}: {event['status']}")

    def _move(self, label: str, seed: int, share: float) -> None:
        """Note how far a run is, and how long it took from where it was seen last."""
        now, which = self.now(), (label, seed)
        if which in self._seen:
            spent, moved = self._pace.get(label, (0.0, 0.0))
            self._pace[label] = (spent + now - self._seen[which], moved + share - self.shares[which])
        self.shares[which], self._seen[which] = share, now

    def _watch_kl(self, event: Event) -> None:
        kl = event["metrics"].get("objective/kl")
        for line in KL_LINES:
            if kl is not None and kl > line and (event["label"], line) not in self._warned:
                self._warned.add((event["label"], line))
                self.say(
                    f"warning: {event['label']}, seed {event['seed']}: mean KL to the reference passed {line:g} "
                    f"({kl:.1f} nats, {100 * event['share']:.0f} % done)"
                )

    @property
    def done(self) -> float:
        """Runs that are done, parts included."""
        return sum(self.shares.values())

    def time_left(self) -> str:
        """``about 12 s left``, from the pace since the first update; empty until there is one.

        A run weighs what runs of its arm took so far, as arms differ; one of an arm not seen yet what the others do.
        """
        if self.started is None or self.done <= 0.02 * self.to_run:
            return ""
        seen = {
            label: spent / moved for label, (spent, moved) in self._pace.items() if moved > 0 and spent > 0
        }
        usual = sum(seen.values()) / len(seen) if seen else 1.0
        total = sum(self.to_run / len(self.arms) * seen.get(label, usual) for label in self.arms)
        done = sum(share * seen.get(label, usual) for (label, _), share in self.shares.items())
        seconds = (self.now() - self.started) * max(total - done, 0.0) / done
        return f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"

    def lines(self) -> list[str]:
        """The latest diagnostics, one line an arm."""
        return [f"{label}: {diagnostics(metrics)}" for label, metrics in self.latest.items()]


class PlainMonitor(Monitor):
    """For pipes and files: a line now and then, nothing that moves."""

    def __init__(self, say: Say, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(say, now)
        self._last = self.now()

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if event["kind"] in ("point", "run") and self.now() - self._last >= EVERY:
            self._last = self.now()
            parts = [f"{self.done:.1f} of {self.to_run} runs", self.time_left(), *self.lines()]
            self.say("; ".join(filter(None, parts)))


def plan_lines(event: Event) -> Iterator[str]:
    """What is about to happen, from the plan event."""
    budget = event.get("budget")
    divisor, prefix = unit([budget])
    limit = "" if budget is None else f", at most {fixed(budget / divisor, 2)} {prefix}FLOP a run"
    yield f"task {event['task']}, {event['policy']} policy, {counted(event['seeds'], 'seed')}{limit}"
    typed = event.get("typed", {})
    told = ((label, spelled(label, typed.get(label, label))) for label in event["arms"])
    yield f"arms: {', '.join(f'{label} ({text})' if text else label for label, text in told)}"
    workers = event["workers"]
    where = "in this process" if workers == 0 else f"in {counted(workers, 'worker process')}"
    run = f"{event['to_run']} to run {where}" if event["to_run"] else "nothing to run"
    yield f"runs: {event['reused']} reused from {event['folder']}, {run}"
    for label, lines in event["cautions"].items():
        yield from (f"warning: {label}: {line}" for line in lines)


def folded(line: str, width: int | None) -> str:
    """A line with nothing in it that a terminal would obey, broken between words where it is too long; paths stay.

    Without a width, which only a terminal has, it stays one line, for a program or a search to read.
    """
    text = sanitize(line)
    if width is None:
        return text
    room = max(width, 20)
    lines = wrap(text, room, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def diagnostics(metrics: dict[str, float]) -> str:
    """The lesson's diagnostics where the algorithm has them, else its first three metrics."""
    known = [(short, metrics[name]) for name, short in DIAGNOSTICS.items() if name in metrics]
    found: Iterable[tuple[str, float]] = known or list(metrics.items())[:3]
    return ", ".join(f"{name} {fixed(value)}" for name, value in found)


@contextmanager
def live(console: Console, say: Say) -> Iterator[Monitor]:
    """A monitor that fits `console`: a bar and diagnostics on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield PlainMonitor(say)
        return
    monitor = Monitor(say)
    with _bars(console, monitor):
        yield monitor


def _bars(console: Console, monitor: Monitor) -> AbstractContextManager[object]:
    from rich.progress import BarColumn, Progress, Task, TextColumn
    from rich.table import Table
    from rich.text import Text

    class Bars(Progress):
        """A bar over all runs, and a line of diagnostics for each arm below it."""

        def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
            for task in tasks:
                task.total, task.completed = max(monitor.to_run, 1), monitor.done
                task.fields["text"] = f"{monitor.done:.1f} of {monitor.to_run} runs  {monitor.time_left()}"
                task.visible = monitor.to_run > 0
            return super().make_tasks_table([task for task in tasks if task.visible])

        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            for line in monitor.lines():
                yield Text(f"  {sanitize(line)}", no_wrap=True, overflow="ellipsis", style="dim")

    bars = Bars(
        BarColumn(bar_width=30),
        TextColumn("{task.fields[text]}", markup=False),
        console=console,
        transient=True,
        refresh_per_second=8,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bars.add_task("runs", total=1, text="")
    return bars
