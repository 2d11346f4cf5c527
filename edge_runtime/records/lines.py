"""Files of one JSON table per line that only grow.

Each line is written in one go, so a reader sees whole lines. A power cut or a full disk can
leave half a line at the end: readers pass over it, the next writer cuts it off.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.errors import RecordsError
from edge_runtime.storage import storage_errors

_BLOCK_BYTES = 4096
_LOOKING_S = 0.05  # longer than `is_held` takes


class LineFile:
    """Writes one file; made if it is not there. `close` may be called twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors("open", path):
            self._handle: int | None = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644
            )

    def append(self, table: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            StorageError: the disk is full, read-only or gone; the lines before are unchanged.
        """
        line = (json.dumps(table, allow_nan=False) + "\n").encode()
        with storage_errors("append to", self.path):
            if (length := complete_length(self._fd)) < os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, length)
            while line:
                line = line[os.write(self._fd, line) :]

    def size_bytes(self) -> int:
        """Bytes up to and including the last whole line."""
        return complete_length(self._fd)

    def count_after(self, size_bytes: int) -> int:
        """Whole lines after the first `size_bytes` bytes.

        Raises:
            StorageError: the file cannot be read.
        """
        with storage_errors("read", self.path), self.path.open("rb") as file:
            file.seek(size_bytes)
            return sum(line.endswith(b"\n") for line in file)

    def truncate(self, size_bytes: int) -> None:
        """Forget all lines after the first `size_bytes` bytes."""
        with storage_errors("shorten", self.path):
            os.ftruncate(self._fd, size_bytes)
            os.fsync(self._fd)

    def sync(self) -> None:
        """Flush the lines to the disk."""
        with storage_errors("write", self.path):
            os.fsync(self._fd)

    def hold(self) -> None:
        """Take the file for this process until `close`; a killed process lets go of it.

        Raises:
            RecordsError: another process holds it.
            StorageError: the file system knows no locks.
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
        """Try twice: somebody may be in `is_held` just now."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOKING_S)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers of this file out for a moment."""
        with storage_errors("lock", self.path):
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file and let go of it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    @property
    def _fd(self) -> int:
        if self._handle is None:
            raise ValueError(f"{self.path} is already closed")
        return self._handle


def complete_length(handle: int) -> int:
    """Bytes of an open file up to and including its last line end."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        cut = os.pread(handle, end - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


def each_line(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file, one by one: a long run's do not fit into memory.

    Raises:
        RecordsError: the file cannot be read, or a line in it is no JSON table.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield table_of(line, f"{path}, line {number}")
    except OSError as error:
        raise RecordsError(f"cannot read {path}: {error.strerror}.") from error


def table_of(
    line: bytes, where: str, *, parse_constant: Callable[[str], object] | None = None
) -> dict[str, Any]:
    """One line, parsed; `parse_constant` is that of `json.loads`.

    Raises:
        RecordsError: it is no JSON table; `where` begins the message.
    """
    try:
        table = json.loads(line, parse_constant=parse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordsError(f"{where} is damaged: {error}.") from error
    if not isinstance(table, dict):
        raise RecordsError(f"{where} is damaged: it is no JSON table.")
    return table


def is_held(path: Path) -> bool:
    """Whether a process holds a file by `LineFile.hold`; a killed one does not.

    For a moment nobody else can hold it; `LineFile.hold` waits as long.

    Raises:
        RecordsError: the file is gone, or its file system knows no locks.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise RecordsError(f"cannot look at {path}: {error.strerror}.") from error
    return False
