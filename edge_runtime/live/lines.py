"""What was added to a file of one JSON table per line since it was last read.

Half a line at the end is left for the next time. A reader never keeps a file open, so that a
run folder can be moved or removed under it.
"""

import os
from pathlib import Path
from typing import Any

from edge_runtime.errors import RecordsError
from edge_runtime.records.lines import table_of

BLOCK_BYTES = 1 << 20  # read at once


class CutError(RecordsError):
    """Lines that were read are not in the file any more."""


class LineReader:
    """Reads one file, a block at a time."""

    def __init__(self, path: Path, *, tail_bytes: int | None = None) -> None:
        """Nothing is read yet.

        Args:
            path: the file.
            tail_bytes: begin so far before its end, with a whole line; `None`: at its start.
        """
        self._path, self._tail_bytes = path, tail_bytes
        self._offset = 0
        self._last = b""  # line read, to know whether it is still there

    def read(self) -> list[dict[str, Any]]:
        """The next lines, at most a block of them; none: all were read.

        Raises:
            CutError: the file is another one than before, or shorter.
            RecordsError: it cannot be read, or a line of it is no JSON table.
        """
        try:
            with self._path.open("rb", buffering=0) as file:
                block = self._next_block(file.fileno())
        except OSError as error:
            raise RecordsError(f"cannot read {self._path}: {error.strerror}.") from error
        *lines, _ = block.split(b"\n")
        tables = [table_of(line, f"{self._path}: a line") for line in lines]
        if lines:
            self._offset += block.rfind(b"\n") + 1
            self._last = lines[-1] + b"\n"
        return tables

    def _next_block(self, handle: int) -> bytes:
        """Whole lines, and the beginning of another one."""
        if self._tail_bytes is not None:
            self._go_to_tail(handle, self._tail_bytes)
        self._tail_bytes = None
        start = self._offset - len(self._last)
        if os.pread(handle, len(self._last), start) != self._last:
            raise CutError(
                f"{self._path} was cut or replaced while it was read. Look at the run again."
            )
        size = BLOCK_BYTES
        block = os.pread(handle, size, self._offset)
        while len(block) == size and b"\n" not in block:
            size *= 2
            block = os.pread(handle, size, self._offset)
        return block

    def _go_to_tail(self, handle: int, tail_bytes: int) -> None:
        start = os.fstat(handle).st_size - tail_bytes
        if start > 0:  # else the whole file is shorter than that
            self._offset = start + os.pread(handle, tail_bytes, start).find(b"\n") + 1
