"""The only place that writes to stdout and stderr, except for the panel's own drawing.

Results go to stdout, and a result that cannot be written is an error; messages go to stderr,
and losing one is not. Names and texts from files are shown as `printable` makes them.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from edge_runtime.errors import StorageError
from edge_runtime.printable import printable_lines

_STANDARD = (0, 1, 2)  # descriptors of stdin, stdout and stderr


def open_streams() -> None:
    """Open what the caller has closed, and let no character be unprintable.

    A closed descriptor would be given to the next file that is opened, and messages would be
    written into it.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest free number is given: this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(text: str, stream: TextIO | None = None) -> None:
    """Write a result, at once.

    Args:
        text: of one or more lines, without the last line break.
        stream: `None`: stdout.

    Raises:
        StorageError: it cannot be written.
        BrokenPipeError: its reader has ended.
    """
    with output_errors():
        print(printable_lines(text), file=stream or sys.stdout, flush=True)


def show_json(document: Any) -> None:
    """Write a JSON document as one line of stdout; raises as `show` does."""
    import json  # most commands print none, and --help starts fast

    with output_errors():
        print(json.dumps(document), flush=True)


def say(text: str, end: str = "\n") -> None:
    """Write a message to stderr; with another end, the line goes on."""
    with suppress(OSError):  # nowhere to report it
        print(printable_lines(text), end=end, file=sys.stderr, flush=True)


def say_program(text: str) -> None:
    """Write a message that begins with the program's name, to stderr."""
    say(f"edge-train: {text}")


def discard_output() -> None:
    """Write no more to stdout; what Python has buffered would fail again at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_log() -> None:
    """Write warnings of the library to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("edge-train: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


@contextmanager
def output_errors() -> Iterator[None]:
    """Raise what `show` raises."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write the output: {error.strerror}. Free some space, or send it "
            "elsewhere."
        ) from error
