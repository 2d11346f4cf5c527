"""A block of lines on a terminal that is redrawn in place; other output scrolls above it.

The cursor rests on the line below the block and stays visible: a killed process leaves a
terminal that works. What the process writes to stderr meanwhile, from any thread or library,
is caught and shown above the block.
"""

import os
import re
import select
import threading
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from edge_runtime.cli.output import output_errors
from edge_runtime.printable import printable

_UP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[{}A", "\x1b[K", "\x1b[J"
_COLOUR = re.compile(r"\x1b\[[\d;]*m")  # of libraries, in their messages
_ERRORS = 2  # the file descriptor
_BLOCK_BYTES = 1 << 16


class Screen:
    """The terminal of a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._console = stream, Console(file=stream, highlight=False)
        self._widths: list[int] = []  # of the lines that are on the screen

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines that a block may have; the terminal may change them any time."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            columns, rows = 80, 24
        return max(1, columns - 1), max(1, rows - 1)

    def draw(self, lines: Sequence[Text], above: str = "") -> None:
        """Replace the previous lines by these, with text above them."""
        with self._console.capture() as captured:
            self._console.print(Text("\n").join(lines), soft_wrap=True)
        said = [printable(_COLOUR.sub("", line)) for line in above.splitlines()]
        shown = [*said, *captured.get().splitlines()]
        text = "".join(f"{line}{_CLEAR_LINE}\n" for line in shown)
        with output_errors():
            self._stream.write(f"\r{self._back()}{text}{_CLEAR_BELOW}")
            self._stream.flush()
        self._widths = [line.cell_len for line in lines]

    def _back(self) -> str:
        """To the block's first line. A narrower terminal has broken its lines in several."""
        columns = self.size[0] + 1
        rows = sum(max(1, -(-width // columns)) for width in self._widths)
        return _UP.format(rows) if rows else ""


class CaughtErrors:
    """Captures stderr, if it is a terminal. `close` restores it."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self._writer: int | None = writer
        self._closing = threading.Lock()
        self._before = os.dup(_ERRORS) if os.isatty(_ERRORS) else None
        if self._before is not None:
            os.dup2(writer, _ERRORS)

    def read(self, wait_s: float) -> str:
        """The output so far, at the latest after `wait_s`; at once after `close`."""
        if not select.select([self._reader], [], [], wait_s)[0]:
            return ""
        return os.read(self._reader, _BLOCK_BYTES).decode(errors="replace")

    def drain(self) -> str:
        """The remaining output, after `close`."""
        text = ""
        while more := self.read(0):
            text += more
        os.close(self._reader)
        return text

    def close(self) -> None:
        """Restore stderr; may be called twice, also from two threads at once."""
        with self._closing:
            if self._writer is None:
                return
            if self._before is not None:
                os.dup2(self._before, _ERRORS)
                os.close(self._before)
            os.close(self._writer)
            self._writer = None
