"""The commands' arguments. Imports nothing heavy, so that ``--help`` comes back at once."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from . import __version__
from .errors import InputError

Handler = Callable[[argparse.Namespace], int]
CODES = "exit codes: 0 ok, 1 bug, 2 bad input or usage, 3 some runs or checks failed, 130 interrupted"


class Parser(argparse.ArgumentParser):
    """Raises an `InputError` with the nearest valid name instead of printing its usage."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self._nearer(message)}; see {self.prog} --help")

    def _nearer(self, message: str) -> str:
        from .options import nearest

        command = re.match(r"argument command: invalid choice: '(.*?)' \(", message)
        if command is not None:
            return f"unknown command '{command[1]}'{nearest(command[1], COMMANDS)}"
        stray = re.match(r"unrecognized arguments: (-[^\s=]+)", message)
        if stray is not None:
            known = [
                name for action in self._actions for name in action.option_strings if name.startswith("--")
            ]
            return f"unknown option '{stray[1]}'{nearest(stray[1], known)}"
        return message


def parse(arguments: Sequence[str], handlers: Mapping[str, Handler]) -> tuple[Handler, argparse.Namespace]:
    """The handler to call and its arguments.

    Raises
    ------
    InputError
        In place of argparse's usage message.
    SystemExit
        After ``--help`` and ``--version``.
    """
    top, commands = build()
    args, stray = top.parse_known_args(arguments)
    if stray:
        commands[args.command].error(f"unrecognized arguments: {' '.join(stray)}")
    return handlers[args.command], args


def build() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of its commands."""
    top = Parser(
        prog="rlhfbench",
        description="Honest comparison of preference-optimisation algorithms on a CPU.",
        epilog=f"algorithms: {', '.join(_algorithm_files())}; {CODES}",
    )
    top.add_argument("--version", action="version", version=f"rlhfbench {__version__}")
    add = top.add_subparsers(dest="command", metavar="command", required=True, parser_class=Parser)
    commands = {}
    for name, (describe, line) in COMMANDS.items():
        commands[name] = add.add_parser(
            name, help=line, description=f"{line[0].upper()}{line[1:]}.", epilog=CODES
        )
        describe(commands[name])
        commands[name].add_argument("--debug", action="store_true", help="show the traceback of a bug")
    return top, commands


def _algorithm_files() -> list[str]:
    folder = os.path.join(os.path.dirname(__file__), "algorithms")
    return sorted(n.removesuffix(".py") for n in os.listdir(folder) if n.endswith(".py") and n[0] != "_")


def _world(command: Parser, default: str) -> None:
    command.add_argument(
        "--task",
        metavar="T",
        help=f"T or T:field=value,...; see rlhfbench list (default {default}); beside --data pairs:... or problems:...",
    )
    command.add_argument(
        "--data",
        metavar="FILE",
        help="your preference pairs, or problems with answers: JSON lines, plain or gzipped",
    )
    command.add_argument("--strict", action="store_true", help="refuse a file with lines that cannot be used")


def _policy(command: Parser) -> None:
    command.add_argument(
        "--policy",
        metavar="P",
        help="transformer[:layers=2,width=32,heads=4], linear or tabular (default: what suits the task)",
    )


def _runs(command: Parser, seeds: str) -> None:
    _policy(command)
    command.add_argument(
        "--verifier",
        metavar="V",
        help="module:function or ./file.py:function that rewards replies in place of an RM",
    )
    command.add_argument("--seeds", type=int, metavar="N", help=f"number of paired seeds (default {seeds})")
    command.add_argument("--budget", type=float, metavar="GFLOP", help="stop a run at this much charged work")
    command.add_argument(
        "--jobs", type=int, metavar="N", help="worker processes (default one a core; 0: none)"
    )
    command.add_argument(
        "--out", metavar="DIR", help="where runs are kept and reused (default rlhfbench-runs)"
    )
    command.add_argument("--plot", metavar="FILE", help="draw the result: .png, .svg or .pdf")
    command.add_argument("--md", metavar="FILE", help="write the report as Markdown too")
    _i_know(command)
    _json(command)


def _i_know(command: Parser) -> None:
    command.add_argument(
        "--i-know",
        action="append",
        default=[],
        metavar="GATE",
        help="lift a gate that refuses: kl-monitor, rm-size, length-reward; recorded in the result",
    )


def _json(command: Parser) -> None:
    command.add_argument("--json", metavar="FILE", help="write the result as JSON; -: to standard output")


def _compare(command: Parser) -> None:
    command.add_argument(
        "arms", nargs="+", metavar="ARM", help="name[@preset][:field=value,...] or ./file.py:function"
    )
    _world(command, "sentences")
    _runs(command, "10; 3 with --quick")
    command.add_argument("--quick", action="store_true", help="3 seeds: a smoke test, not evidence")


def _sweep(command: Parser) -> None:
    command.add_argument("algorithm", metavar="ALGO", help="name[@preset][:field=value,...]")
    command.add_argument(
        "--beta", type=float, nargs="+", required=True, metavar="B", help="one run each per seed"
    )
    command.add_argument(
        "--updates", type=int, metavar="N", help="updates of a run (default the algorithm's)"
    )
    _world(command, "sentences")
    _runs(command, "3")


def _rm(command: Parser) -> None:
    _world(command, "words")
    command.add_argument(
        "--steps", metavar="FILE", help="a process reward model, from solutions whose steps are labelled"
    )
    command.add_argument(
        "--constitution",
        metavar="C",
        help="with --data: train nothing, but say how far the rules of this file, or of a shipped constitution,"
        " agree with the labels",
    )
    command.add_argument(
        "--test", metavar="FILE", help="with --data or --steps: test on this file, train on all of the other"
    )
    command.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="with --task: pairs or solutions to train on (default the task's)",
    )
    command.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="pairs or solutions to test on (default 100 or 500; 20 %% of a file)",
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of data, split and fit (default 0)"
    )
    _json(command)


def _list(command: Parser) -> None:
    command.add_argument(
        "name",
        nargs="?",
        metavar="ALGO|TASK",
        help="the presets of an algorithm: fields, source, what is left out; the fields of a task",
    )
    command.add_argument(
        "--constitution",
        metavar="C",
        help="print a shipped constitution (sentences, safety, words, text) to copy and edit",
    )


def _show(command: Parser) -> None:
    command.add_argument("run", metavar="RUN_DIR", help="a folder in DIR/runs")


def _samples(command: Parser) -> None:
    command.add_argument(
        "run", metavar="RUN", help="a folder in DIR/runs, or a DIR with the runs of one comparison"
    )
    command.add_argument("--prompts", type=int, default=5, metavar="N", help="evaluation prompts (default 5)")
    command.add_argument("--seed", type=int, metavar="S", help="another seed of the same comparison")
    command.add_argument("--data", metavar="FILE", help="where the file of pairs lies now, if it has moved")
    _json(command)


def _doctor(command: Parser) -> None:
    command.add_argument(
        "log",
        metavar="RUN",
        help="a folder in DIR/runs, a DIR with runs, or a file of metrics: JSON lines, trainer_state.json, CSV",
    )
    _json(command)


def _architect(command: Parser) -> None:
    command.add_argument("--size", metavar="N", help="parameters of the base model, such as 7B")
    command.add_argument("--target", metavar="T", help="alignment, reasoning, refusal or agent")
    command.add_argument("--source", metavar="S", help="human, ai, verifier or steps: who or what judges")
    command.add_argument("--budget", type=float, metavar="FLOP", help="for training, such as 1e21")
    command.add_argument(
        "--pairs", type=int, default=50_000, metavar="N", help="pairs or problems (default 50,000)"
    )
    command.add_argument("--method", metavar="M", help="insist on a method (default: what suits and fits)")
    command.add_argument(
        "--rm-size", metavar="N", help="parameters of the reward model (default the policy's)"
    )
    command.add_argument(
        "--reward", choices=("rm", "verifier", "length"), help="what scores (default: as the source says)"
    )
    command.add_argument("--no-kl-monitor", action="store_true", help="the KL will not be measured")
    command.add_argument(
        "--human-evaluation", action="store_true", help="a blind held-out human evaluation is planned"
    )
    command.add_argument("--skill", action="store_true", help="print all it knows as a skill file instead")
    _i_know(command)
    _json(command)


def _check(command: Parser) -> None:
    command.add_argument(
        "algorithm", nargs="?", metavar="ALGO", help="name[@preset][:field=value,...] or ./file.py:function"
    )
    command.add_argument("--all", action="store_true", help="every algorithm, and a short run of each preset")
    _policy(command)
    _json(command)


COMMANDS: dict[str, tuple[Callable[[Parser], None], str]] = {
    "compare": (_compare, "compare algorithms on paired seeds: scores, KL, compute, verdict"),
    "sweep": (_sweep, "run one algorithm at several betas: who over-optimises the reward model"),
    "rm": (_rm, "train a reward model on preference pairs and test it on others"),
    "list": (_list, "list algorithms, tasks and policies; of one what its presets set, or its fields"),
    "show": (_show, "show one stored run: diagnostics over updates, and replies"),
    "samples": (_samples, "read what reference and arms of a stored comparison answer to the same prompts"),
    "doctor": (_doctor, "look for what usually goes wrong in a run's metrics, ours, TRL's or OpenRLHF's"),
    "architect": (_architect, "design a pipeline: stage, source, KL strategy, diagnostics, safety gate"),
    "check": (_check, "run the conformance tests on an algorithm, or on all"),
}
