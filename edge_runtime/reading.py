"""Opens files that somebody else wrote, without waiting for any; reads JSON strictly.

A FIFO, a terminal or a device may block for ever or never end. Opening anything but a regular
file is an `OSError`, like opening one that does not exist; so is one that is too large. Sizes
are bytes.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

from edge_runtime.units import bytes_text

MAX_TABLE_BYTES = 10 << 20  # of a JSON document; as objects it takes up to 27 times as much
MAX_TOML_BYTES = 64 << 10  # people write them; parsing takes quadratic time
MAX_STATE_BYTES = 64 << 30  # of all tensors of a training run


def open_regular(path: str | Path, most_bytes: int | None = None) -> FileIO:
    """Open a regular file for reading, without a buffer.

    Args:
        path: the file; links are followed.
        most_bytes: its largest size; `None`: any size, for readers that keep only a part.

    Raises:
        OSError: it cannot be opened, is not a regular file, or is larger.
    """
    return open(path, "rb", buffering=0, opener=partial(_open, most_bytes=most_bytes))


def _open(path: str, flags: int, most_bytes: int | None) -> int:
    _check(os.stat(path), path, most_bytes)  # opening alone starts some devices
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check(os.fstat(handle), path, most_bytes)  # it may have been replaced
    except OSError:
        os.close(handle)
        raise
    return handle


def require_regular(handle: int, path: Path) -> None:
    """Refuse what is not a regular file.

    Raises:
        OSError: the descriptor is of something else.
    """
    _check(os.fstat(handle), str(path), None)


def _check(status: os.stat_result, path: str, most_bytes: int | None) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    if most_bytes is not None and status.st_size > most_bytes:
        size, most = bytes_text(status.st_size), bytes_text(most_bytes)
        raise OSError(errno.EFBIG, f"it has {size}; at most {most} are read", path)


def read_file(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file, as `read_blocks` reads it."""
    return b"".join(read_blocks(path, most_bytes, block_bytes=most_bytes))


def read_blocks(path: Path, most_bytes: int, *, block_bytes: int) -> Iterator[bytes]:
    """The content of a regular file in blocks, as long as it was when it was opened.

    Files of /proc have no length and read as empty: some would block, or never end.

    Raises:
        OSError: see `open_regular`.
    """
    with open_regular(path, most_bytes) as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (block := file.read(min(left, block_bytes))):
            yield block
            left -= len(block)


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        OSError: see `open_regular`; more than `MAX_TABLE_BYTES` are too large.
        ValueError: see `parse_json`.
    """
    return parse_json(read_file(path, MAX_TABLE_BYTES))


def parse_json(content: bytes) -> Any:
    """What a JSON document says.

    Raises:
        ValueError: it is not UTF-8 or not JSON, has NaN, infinity, an endless number or half
            of a surrogate pair, or is nested too deeply.
    """
    text = content.decode()
    try:
        value = json.loads(text, parse_constant=_refuse)
        if b"\\u" in content:  # it may be half of a pair; pairs are one character
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair") from None
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
