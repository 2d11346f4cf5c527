"""JSON lines: append-only files of one JSON table per line; their writer and their reader.

Each line is written with one call, so a reader sees whole lines. A power cut or a full disk
can leave half a line or NULs at the end: readers skip them, the next writer removes them.
Lines with NULs, in the place of a block that never reached the disk, are left out, counted and
named. Any other line that is not a JSON table was not left by a power cut, and is an error.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.errors import RecordsError, StorageError
from edge_runtime.reading import open_regular, parse_json, require_regular
from edge_runtime.storage import storage_errors
from edge_runtime.units import bytes_text

_BLOCK_BYTES = 1 << 18  # read at once
_TAIL_BYTES = 4096  # searched at once for the last line end
_MAX_TAIL_BYTES = 1 << 28  # zeros or half a line after the last one
_MAX_LINE_BYTES = 1 << 22  # a plan of a thousand rungs is shorter
_IS_HELD_S = 0.05  # longer than `is_held` takes

logger = logging.getLogger(__name__)


class LineFile:
    """Writes one file, creating it if missing. `close` may be called twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors("open", path):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
            self._handle: int | None = os.open(path, flags, 0o644)
            try:
                require_regular(self._handle, path)
            except OSError:
                self.close()
                raise

    def append(self, table: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            StorageError: the disk is full, read-only or missing, or the file was removed;
                earlier lines are unchanged.
        """
        line = (json.dumps(table, allow_nan=False) + "\n").encode()
        self._require_there()
        with storage_errors("append to", self.path):
            if (length := self.size_bytes()) < os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, length)
            while line:
                line = line[os.write(self._fd, line) :]

    def _require_there(self) -> None:
        """Refuse to write lines that nobody would find."""
        try:
            is_there = os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except OSError:
            is_there = False
        if not is_there:
            folder = self.path.parent
            raise StorageError(
                f"{folder} was removed, moved or replaced while it was written, so nothing "
                "more can be saved there. Move it back and continue, or choose another folder."
            )

    def size_bytes(self) -> int:
        """Bytes up to and including the last whole line; raises as `complete_length` does."""
        return complete_length(self._fd, self.path)

    def count_after(self, size_bytes: int) -> int:
        """Whole lines after the first `size_bytes` bytes.

        Raises:
            StorageError: the file cannot be read.
        """
        with storage_errors("read", self.path), open_regular(self.path) as file:
            end, count = complete_length(file.fileno(), self.path), 0
            for start in range(size_bytes, end, _BLOCK_BYTES):
                size = min(_BLOCK_BYTES, end - start)
                count += os.pread(file.fileno(), size, start).count(b"\n")
            return count

    def truncate(self, size_bytes: int) -> None:
        """Remove all lines after the first `size_bytes` bytes."""
        with storage_errors("shorten", self.path):
            os.ftruncate(self._fd, size_bytes)
            os.fsync(self._fd)

    def sync(self) -> None:
        """Flush the lines to the disk; raises as `append` does."""
        self._require_there()
        with storage_errors("write", self.path):
            os.fsync(self._fd)

    def hold(self) -> None:
        """Lock the file for this process until `close`; a killed process releases it.

        Raises:
            RecordsError: another process holds it.
            StorageError: the file system has no locks.
        """
        with storage_errors("lock", self.path):
            try:
                self._lock_soon()
            except BlockingIOError as error:
                raise RecordsError(
                    f"another edge-train is writing to {self.path.parent}. Wait for it, stop "
                    "it, or choose another folder."
                ) from error

    def _lock_soon(self) -> None:
        """Try twice: another process may be in `is_held` at this moment."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_IS_HELD_S)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other writers of this file."""
        with storage_errors("lock", self.path):
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file and release it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    @property
    def _fd(self) -> int:
        if self._handle is None:
            raise ValueError(f"{self.path} is already closed")
        return self._handle


def complete_length(handle: int, path: Path) -> int:
    """Bytes of an open file up to and including its last line end.

    Raises:
        RecordsError: far more follows than a power cut or a full disk can leave.
    """
    end = size = os.fstat(handle).st_size
    while end > 0:
        if size - end > _MAX_TAIL_BYTES:
            raise RecordsError(
                f"{path} is damaged: more than {bytes_text(_MAX_TAIL_BYTES)} at its end are "
                "no lines. Cut them off with `truncate`, or restore a copy."
            )
        start = max(0, end - _TAIL_BYTES)
        cut = os.pread(handle, end - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


class CutError(RecordsError):
    """Lines that were read are no longer in the file."""


class LineReader:
    """Reads one file a block at a time, also while it grows.

    It keeps no file open between two blocks, so that a run folder can be moved or removed
    meanwhile. Iterating yields all tables of the file.
    """

    def __init__(
        self, path: Path, *, start_bytes: int = 0, tail_bytes: int | None = None
    ) -> None:
        """Prepare to read; nothing is read yet.

        Args:
            path: the file.
            start_bytes: of whole lines to leave out.
            tail_bytes: begin this far before its end, with a whole line; `None`: do not.
        """
        self.path = path
        self.lines_read = 0
        self.zeroed_lines: list[int] = []  # numbers of those with NULs
        self.numbers: Sequence[int] = ()  # of the lines of the tables that were read last
        self.has_partial_line = False  # after the last whole line, once all were read
        self._tail_bytes = tail_bytes
        self._is_numbered = not start_bytes  # lines that are left out are not counted
        self._offset = start_bytes
        self._last = b""  # line read, to check whether it is still there

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while tables := self.read():
            yield from tables

    def read(self) -> list[dict[str, Any]]:
        """The next tables, at most a block of them; empty: all were read.

        Raises:
            CutError: the file was replaced or truncated.
            RecordsError: it cannot be read, or a line of it is not a JSON table.
        """
        while True:
            tables, is_end = self._read_block()
            if tables or is_end:
                return tables

    def _read_block(self) -> tuple[list[dict[str, Any]], bool]:
        """The tables of the next block, and whether there are no more lines."""
        try:
            with open_regular(self.path) as file:
                block = self._next_block(file.fileno())
        except OSError as error:
            raise RecordsError(f"cannot read {self.path}: {error.strerror}.") from error
        whole, newline, rest = block.rpartition(b"\n")
        self.has_partial_line = bool(rest)
        if not newline:
            return [], True
        tables = self._parse(whole)
        self._offset += len(whole) + 1
        self._last = whole[whole.rfind(b"\n") + 1 :] + b"\n"
        return tables, False

    def place(self, number: int) -> str:
        """For messages: the file, and the line with that number among those that were read."""
        return f"{self.path}, line {number}" if self._is_numbered else f"{self.path}: a line"

    def _next_block(self, handle: int) -> bytes:
        """Whole lines, and the beginning of another one."""
        if self._tail_bytes is not None:
            self._go_to_tail(handle, self._tail_bytes)
        self._tail_bytes = None
        start = self._offset - len(self._last)
        if os.pread(handle, len(self._last), start) != self._last:
            raise CutError(
                f"{self.path} was truncated or replaced while it was read. Try again."
            )
        left, size = os.fstat(handle).st_size - self._offset, _BLOCK_BYTES
        block = os.pread(handle, max(0, min(size, left)), self._offset)
        while len(block) == size and b"\n" not in block:
            if size == _MAX_LINE_BYTES and b"\0" in block:
                break  # zeros at the end, as after a power cut
            if size == _MAX_LINE_BYTES:
                place, most = self.place(self.lines_read + 1), bytes_text(_MAX_LINE_BYTES)
                raise RecordsError(f"{place} is damaged: it is longer than {most}.")
            size *= 2
            block = os.pread(handle, min(size, left), self._offset)
        return block

    def _go_to_tail(self, handle: int, tail_bytes: int) -> None:
        start = os.fstat(handle).st_size - tail_bytes
        if start > 0:  # otherwise the whole file is shorter than that
            self._offset = start + os.pread(handle, tail_bytes, start).find(b"\n") + 1
            self._is_numbered = False

    def _parse(self, whole: bytes) -> list[dict[str, Any]]:
        """Parse lines at once, which is much faster; one by one if that fails."""
        first, count = self.lines_read + 1, whole.count(b"\n") + 1
        self.lines_read += count
        try:
            tables: list[Any] = parse_json(b"[%b]" % whole.replace(b"\n", b","))
        except ValueError:
            tables = []
        if len(tables) == count and {*map(type, tables)} == {dict}:
            self.numbers = range(first, first + count)
            return tables
        known = {}
        for number, line in enumerate(whole.split(b"\n"), start=first):
            if b"\0" in line:
                self._leave_out(number)
            else:
                known[number] = _parse_line(line, self.place(number))
        self.numbers = list(known)
        return list(known.values())

    def _leave_out(self, number: int) -> None:
        """Count a line with NULs, and name the first one."""
        if not self.zeroed_lines:
            place = self.place(number)
            logger.warning("%s has NULs, as after a power cut, and is left out", place)
        self.zeroed_lines.append(number)


def _parse_line(line: bytes, place: str) -> dict[str, Any]:
    try:
        table = parse_json(line)
    except ValueError as error:
        raise RecordsError(f"{place} is damaged: {error}.") from error
    if not isinstance(table, dict):
        raise RecordsError(f"{place} is damaged: it is not a JSON table.")
    return table


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of `LineFile.hold`; a killed one does not.

    During the check nobody else can lock it; `LineFile.hold` waits for that long.

    Raises:
        RecordsError: the file is missing, or its file system has no locks.
    """
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise RecordsError(f"cannot check {path}: {error.strerror}.") from error
    return False
