"""The command line: arguments -> typed call -> report. The only place that prints or exits.

Handlers import what they need, so that ``--help`` costs nobody NumPy, Numba or rich.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from .arguments import Handler, parse
from .errors import InputError

if TYPE_CHECKING:
    from argparse import Namespace

    from rich.console import Console

    from .comparison import Comparison
    from .layout import Block
    from .progress import Monitor

OK, BUG, BAD_INPUT, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        handler, args = parse(arguments, HANDLERS)
        args.typed = arguments
        code = handler(args)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # --help and --version
        return end.code if isinstance(end.code, int) else OK
    except BrokenPipeError:  # whoever reads us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except InputError as error:
        complain(f"error: {error}")
        return BAD_INPUT
    except Exception as error:
        return _bug(error, "--debug" in arguments)


def entry() -> NoReturn:
    """The console script."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell without job control starts background jobs deaf to SIGINT; who sends it to this process means it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII alone is no reason to fail
    sys.exit(main())


def complain(text: str) -> None:
    """One line on standard error, with nothing in it that a terminal would obey."""
    from .text import sanitize

    print(f"rlhfbench: {' '.join(sanitize(text).split())}", file=sys.stderr)


def _bug(error: Exception, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    advice = "this is a bug" if debug else "this is a bug; run with --debug for the traceback"
    complain(f"{type(error).__name__}: {error}; {advice}")
    return BUG


# --- output --------------------------------------------------------------------------------------------------------


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Quiet(stderr=stderr, markup=False, highlight=False, emoji=False, color_system=colours)


def _show_blocks(blocks: Sequence[Block], stderr: bool = False) -> None:
    from .layout import renderables

    console = _console(stderr)
    for renderable, whole in renderables(blocks, console.width):
        console.print(renderable, soft_wrap=whole)


@contextmanager
def _progress() -> Iterator[Monitor]:
    from rich.text import Text

    from .progress import folded, live

    console = _console(stderr=True)

    def say(line: str) -> None:
        console.print(Text(folded(line, console.width if console.is_terminal else None)), soft_wrap=True)

    with live(console, say) as monitor:
        yield monitor


def _write(path: str, make: Callable[[Path], object]) -> None:
    """Let `make` write a file beside `path`, then put it in its place: whole or not at all."""
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.tmp-{os.getpid()}{target.suffix}")
    try:
        if target.exists() and not target.is_file():  # a pipe, /dev/null
            make(target)
            return
        make(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _check_outputs(args: Namespace) -> None:
    """Refuse what cannot be written before any work is done."""
    for option in ("json", "md", "plot"):
        path = getattr(args, option, None)
        if path is None or (option == "json" and path == "-"):
            continue
        target = Path(path)
        if target.is_dir() or not path or (option == "md" and path == "-"):
            raise InputError(f"--{option} {path}: the name of a file is needed")
        if not target.parent.is_dir():
            raise InputError(f"--{option} {path}: there is no folder {target.parent}")
        if not os.access(target if target.exists() else target.parent, os.W_OK):
            raise InputError(f"--{option} {path}: cannot be written (permission denied)")
    if getattr(args, "plot", None) is not None:
        from .plots import check

        check(args.plot)


def _json(args: Namespace, content: dict[str, Any]) -> None:
    import json

    if args.json is None:
        return
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
    else:
        _write(args.json, lambda path: path.write_text(text, "utf-8"))


def _deliver(args: Namespace, comparison: Comparison, blocks: list[Block], stopped: bool) -> int:
    """Show the report of a comparison or sweep and say where the runs lie; returns the exit code."""
    from shlex import join

    from .layout import Note, markdown
    from .report import place_lines

    blocks = [*blocks, *place_lines(comparison)]
    if args.md is not None:
        _write(args.md, lambda path: path.write_text(markdown(blocks), "utf-8"))
    if args.plot is not None:
        blocks.append(Note(f"picture: {args.plot}", whole=True))
    if stopped:
        blocks.append(
            Note("interrupted; what is finished is kept, the same command goes on from there:", "yellow")
        )
        blocks.append(Note(f"  {join(['rlhfbench', *args.typed])}", whole=True))
    _show_blocks(blocks, stderr=args.json == "-")
    if stopped:
        return INTERRUPTED
    return SOME_FAILED if any(map(comparison.failed, comparison.labels)) else OK


# --- commands ------------------------------------------------------------------------------------------------------


def _given(args: Namespace, *names: str) -> dict[str, Any]:
    """Options that were given; the others keep the defaults of the function that is called."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


RUN_OPTIONS = ("task", "data", "policy", "seeds", "budget", "jobs", "out", "strict", "verifier", "i_know")


def _compare(args: Namespace) -> int:
    _check_outputs(args)
    from .harness import Interrupted, compare
    from .report import comparison_blocks

    with _progress() as watch:
        try:
            comparison, stopped = (
                compare(args.arms, quick=args.quick, watch=watch, **_given(args, *RUN_OPTIONS)),
                False,
            )
        except Interrupted as stop:
            comparison, stopped = stop.comparison, True
    if args.plot is not None:
        from .plots import compare_plot

        _write(args.plot, lambda path: compare_plot(comparison, path))
    _json(args, comparison.as_dict())
    return _deliver(args, comparison, comparison_blocks(comparison, quick=args.quick), stopped)


def _sweep(args: Namespace) -> int:
    _check_outputs(args)
    from .harness import Interrupted
    from .sweep_report import sweep_blocks
    from .sweeps import Sweep, sweep

    with _progress() as watch:
        try:
            options = _given(args, *RUN_OPTIONS, "updates")
            result, stopped = sweep(args.algorithm, args.beta, watch=watch, **options), False
        except Interrupted as stop:
            result, stopped = Sweep(args.algorithm, args.beta, stop.comparison), True
    if args.plot is not None:
        from .plots import sweep_plot

        _write(args.plot, lambda path: sweep_plot(result, path))
    _json(args, result.as_dict())
    return _deliver(args, result.comparison, sweep_blocks(result), stopped)


def _rm(args: Namespace) -> int:
    _check_outputs(args)
    if args.steps is not None:
        return _rm_steps(args)
    if args.constitution is not None:
        return _rm_constitution(args)
    if args.data is not None and args.task is not None:
        raise InputError(f"--task {args.task} came with --data {args.data}, one of the two is needed")
    if args.data is None and args.test is not None:
        raise InputError("--test FILE goes with --data FILE; a task draws its own held-out pairs")
    if args.data is not None and args.pairs is not None:
        raise InputError("--pairs goes with --task; of a file all usable pairs are used")
    if args.data is None and args.strict:
        raise InputError("--strict came without --data FILE, whose lines it is about")
    from .show import reward_blocks

    source = args.data or args.task or "words"
    if args.data is not None:
        from .reward_report import reward_report_from_file

        report = reward_report_from_file(args.data, args.test, args.held_out, args.strict, args.seed)
    else:
        from .reward_task import reward_report_from_task
        from .step_task import judges_solutions

        if judges_solutions(source):
            return _rm_solutions(args, source)
        report = reward_report_from_task(source, args.pairs, args.held_out, args.seed)
    _json(args, report.as_dict())
    _show_blocks(reward_blocks(report, source), stderr=args.json == "-")
    return OK


def _rm_constitution(args: Namespace) -> int:
    from .constitution_report import constitution_report
    from .show_constitution import constitution_blocks

    _one_of(args, "constitution", "task", "test", "pairs", "held_out")
    if args.data is None:
        raise InputError("--constitution C goes with --data FILE, whose labels it is held against")
    report = constitution_report(args.data, args.constitution, args.strict)
    _json(args, report.as_dict())
    _show_blocks(constitution_blocks(report, args.data), stderr=args.json == "-")
    return OK


def _one_of(args: Namespace, option: str, *others: str) -> None:
    """Refuse options that do not go with `option`."""
    for name in others:
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} came with --{option}, one of the two is needed")


def _rm_steps(args: Namespace) -> int:
    from .show import step_blocks
    from .step_report import step_report

    _one_of(args, "steps", "task", "data", "pairs", "constitution")
    report = step_report(args.steps, args.test, args.held_out, args.strict, args.seed)
    _json(args, report.as_dict())
    _show_blocks(step_blocks(report, args.steps), stderr=args.json == "-")
    return OK


def _rm_solutions(args: Namespace, task: str) -> int:
    from .show import step_blocks
    from .step_task import step_report_from_task

    report = step_report_from_task(task, args.pairs, args.held_out, args.seed)
    _json(args, report.as_dict())
    _show_blocks(step_blocks(report, task), stderr=args.json == "-")
    return OK


def _list(args: Namespace) -> int:
    if args.constitution is not None:
        from .constitution_file import shipped_text

        if args.name is not None:
            raise InputError(f"list: {args.name} came with --constitution, one of the two is needed")
        sys.stdout.write(shipped_text(args.constitution))
        return OK
    from .catalogue import algorithms, policies, task_entry, tasks
    from .catalogue_report import algorithm_blocks, list_blocks, task_blocks

    task = None if args.name is None else task_entry(args.name)
    if task is not None:
        _show_blocks(task_blocks(*task))
    elif args.name is not None:
        _show_blocks(algorithm_blocks(*algorithms(args.name)))
    else:
        _show_blocks(list_blocks(algorithms(), tasks(), policies()))
    return OK


def _show(args: Namespace) -> int:
    from .results import load_run
    from .show import run_blocks

    _show_blocks(run_blocks(*load_run(Path(args.run))))
    return OK


def _samples(args: Namespace) -> int:
    _check_outputs(args)
    from .samples import samples
    from .show import samples_blocks

    found = samples(args.run, args.prompts, args.seed, args.data)
    _json(args, found.as_dict())
    _show_blocks(samples_blocks(found), stderr=args.json == "-")
    return OK


def _doctor(args: Namespace) -> int:
    _check_outputs(args)
    from .doctor import doctor
    from .show import doctor_blocks

    found = doctor(args.log)
    _json(args, {"schema": 1, "runs": [diagnosis.as_dict() for diagnosis in found]})
    _show_blocks(list(doctor_blocks(found)), stderr=args.json == "-")
    return OK


def _architect(args: Namespace) -> int:
    _check_outputs(args)
    from .architect import architect, request
    from .architect_report import design_blocks, skill

    if args.skill:
        if args.json is not None:
            raise InputError("--json and --skill exclude each other: the skill file is Markdown")
        sys.stdout.write(skill())
        return OK
    wanted = _given(args, "size", "target", "source", "budget", "rm_size", "method", "reward", "pairs")
    design = architect(
        request(**wanted, kl_monitor=not args.no_kl_monitor, human_evaluation=args.human_evaluation),
        args.i_know,
    )
    _json(args, design.as_dict())
    _show_blocks(list(design_blocks(design)), stderr=args.json == "-")
    return OK


def _check(args: Namespace) -> int:
    _check_outputs(args)
    from .catalogue_report import all_checks_blocks, check_blocks, check_line
    from .conformance import check, check_all

    if args.all == (args.algorithm is not None):
        came = f"{args.algorithm} came with --all" if args.all else "nothing came"
        raise InputError(f"check: {came}, an algorithm or --all is needed")
    checked = []
    if args.all:
        for one in check_all(args.policy):
            checked.append(one)
            _show_blocks([check_line(one)], stderr=True)
        blocks = list(all_checks_blocks(checked))
    else:
        checked.append(check(args.algorithm, args.policy))
        blocks = list(check_blocks(checked[0]))
    failed = any(one.failures for one in checked)
    algorithms = [one.as_dict() for one in checked]
    _json(args, {"schema": 1, "passed": not failed, "algorithms": algorithms})
    _show_blocks(blocks, stderr=args.json == "-")
    return SOME_FAILED if failed else OK


HANDLERS: dict[str, Handler] = {
    "compare": _compare,
    "sweep": _sweep,
    "rm": _rm,
    "list": _list,
    "show": _show,
    "samples": _samples,
    "doctor": _doctor,
    "architect": _architect,
    "check": _check,
}
