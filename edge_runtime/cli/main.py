"""`edge-train`: the table of commands, and the only place that maps errors to exit codes.

A command is a module with `add_arguments(parser)` and `run(args) -> exit code`, imported only
when it is used, so that `edge-train --help` starts fast.
"""

import argparse
import importlib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from edge_runtime.cli.completion import SHELLS, PrintCompletion
from edge_runtime.cli.output import (
    discard_output,
    open_streams,
    say,
    say_program,
    show,
    show_log,
)
from edge_runtime.cli.shortage import is_shortage, shortage_text
from edge_runtime.cli.signals import interrupt_on_signals
from edge_runtime.errors import ConfigError, DeviceError, EdgeRuntimeError
from edge_runtime.leaving import leave
from edge_runtime.version import __version__

COMMANDS = {  # command -> (module, help)
    "doctor": ("edge_runtime.cli.doctor", "show what works on this machine"),
    "demo": (
        "edge_runtime.cli.demo",
        "export, train and evaluate on embedded pictures in a minute",
    ),
    "export": ("edge_runtime.cli.export", "write a training package from a recipe"),
    "rank": ("edge_runtime.cli.rank", "train what ranks patches for token policy ranked"),
    "inspect": ("edge_runtime.cli.inspect", "show what a training package trains"),
    "profile": ("edge_runtime.cli.profile", "measure what every rung costs on this board"),
    "modes": (
        "edge_runtime.cli.modes",
        "show in which power mode of this board a run takes the least energy or time",
    ),
    "calibrate": (
        "edge_runtime.cli.calibrate",
        "measure how far the gradients of every rung are from the largest rung's",
    ),
    "plan": ("edge_runtime.cli.plan", "show which rungs a budget allows"),
    "run": ("edge_runtime.cli.run", "train a package on pictures"),
    "watch": ("edge_runtime.cli.watch", "watch a run of another process, or a finished one"),
    "report": ("edge_runtime.cli.report", "write a report page of one or more runs"),
    "eval": ("edge_runtime.cli.evaluate", "measure the accuracy of a run's encoder"),
    "embed": (
        "edge_runtime.cli.embed",
        "compute features of pictures, and find the least typical ones",
    ),
    "export-encoder": (
        "edge_runtime.cli.export_encoder",
        "write the encoder of a run as one file",
    ),
}
EXIT_CODES = {  # also in docs/commands.md
    0: "done, also when a limit of the budget ended the run",
    1: "a bug in edge-train; please report it",
    2: "a flag, a recipe or a settings file is wrong, or an output exists",
    3: "the training package is missing, damaged or foreign",
    4: "a sensor, the clock, the memory or the cost profile of the board",
    5: "an engine is missing or failed",
    6: "pictures, or a run folder",
    7: "no plan fits the budget",
    8: "training diverged",
    9: "a file or the output cannot be written",
    130: "stopped by SIGINT, SIGTERM or SIGHUP; a run has saved its state",
    141: "the reader of the output has ended",
}
COMPLETION = "--print-completion"
DEBUG = "EDGE_TRAIN_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; as a program, end at once with it."""
    if arguments is None:
        open_streams()
        leave(_exit_code(sys.argv[1:]))
    return _exit_code(list(arguments))


def _exit_code(words: list[str]) -> int:
    show_log()
    try:
        with interrupt_on_signals() as is_interrupted:
            return _run(words, is_interrupted)
    except KeyboardInterrupt:
        return 130


def _run(words: list[str], is_interrupted: Callable[[], bool]) -> int:
    try:
        args = parser_for(words).parse_args(words)
        _require_working_folder()
        code: int = args.command(args)
        return code
    except BrokenPipeError:
        discard_output()
        return 141
    except Exception as error:
        if is_interrupted():  # a library has made another error of it
            raise KeyboardInterrupt from error
        if isinstance(error, EdgeRuntimeError):
            say_program(str(error))
            return error.exit_code
        if is_shortage(error):
            say_program(shortage_text(error))
            return DeviceError.exit_code
        say(_bug_report(error, words))
        return 1


def _require_working_folder() -> None:
    """Refuse to work where paths that are not absolute, ours and libraries', mean nothing."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            f"the working folder cannot be used: {error.strerror}. It was removed, or access "
            "to it was; change to another folder."
        ) from error


def parser_for(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands; only the command named first has its arguments.

    All of them have theirs for `--print-completion`.
    """
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    parser = _Parser(
        prog="edge-train",
        description="Self-supervised training of Vision Transformers on this device.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edge-train {__version__}")
    parser.add_argument(
        COMPLETION,
        metavar="SHELL",
        choices=SHELLS,
        action=PrintCompletion,
        help=f"print what completes commands and flags in a shell: {', '.join(SHELLS)}",
    )
    first = words[0].partition("=")[0] if words else ""
    is_completion = len(first) > 2 and COMPLETION.startswith(first)  # flags may be shortened
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary + ".")
        if first == name or is_completion:
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(command=module.run)
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one line, without the usage page."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # No flag begins with a number: `--time -1s` is a wrong value, not a flag.
        self._negative_number_matcher = re.compile(r"-[.\d]")

    def parse_known_args(
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Refuse what a command does not know, in the words of that command."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"{self.prog}: {message}\nSee `{self.prog} --help`.\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and the version are results, which go to stdout."""
        write = show if file is sys.stdout else say
        write(message.removesuffix("\n"))


def _bug_report(error: Exception, words: Sequence[str]) -> str:
    if os.environ.get(DEBUG):
        return "".join(traceback.format_exception(error))
    return (
        f"edge-train: this is a bug in edge-train: {type(error).__name__}: {error}. "
        f"{DEBUG}=1 edge-train {shlex.join(words)} shows a traceback; please report it."
    )


if __name__ == "__main__":
    sys.exit(main())
