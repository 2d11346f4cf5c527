"""Files that are complete or absent, also after a power cut.

Every write goes to a hidden temporary file in the same folder, is flushed to the disk and
renamed into place. An `OSError` becomes a `StorageError`; the old file or folder is then
unchanged.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.reading import MAX_STATE_BYTES, read_blocks

StrPath: TypeAlias = str | os.PathLike[str]
CACHE = "EDGE_TRAIN_CACHE"
_BLOCK_BYTES = 1 << 20  # read at once
_PREFIX = 40  # characters of a name, of at most four bytes each
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MODES = (errno.EPERM, errno.ENOTSUP)  # vfat, CIFS: the mount decides who may read


@contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` into `StorageError`: the only place that does."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "Free some space or choose" if error.errno in _FULL else "Choose"
        raise StorageError(
            f"cannot {action} {path}: {reason}. {advice} another folder; what was saved "
            "before is unchanged."
        ) from error


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made; the kernel frees it however a process ends.

    Raises:
        BlockingIOError: another process holds it.
        StorageError: the file cannot be opened.
    """
    with storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def fsync_path(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as long as it was when it was opened.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    digest = hashlib.sha256()
    for block in read_blocks(path, MAX_STATE_BYTES, block_bytes=_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Replace the content of `path` atomically.

    Raises:
        StorageError: the disk is full, read-only or gone; the old content is unchanged.
    """
    write_chunks(path, [content])


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> int:
    """Replace the content of `path` atomically, piece by piece; returns its bytes.

    Raises:
        StorageError: the disk is full, read-only or gone; the old content is unchanged.
    """
    with new_file(path) as file:
        return sum(map(file.write, chunks))


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A temporary file that replaces `path` if the block succeeds, and else is removed.

    Raises:
        StorageError: the disk is full, read-only or gone; the old content is unchanged.
    """
    with storage_errors("write", path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _set_mode(temporary, 0o644)  # mkstemp gives 0600
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        fsync_path(path.parent)


def require_replaceable(target: Path, kind: str, is_former: Callable[[Path], bool]) -> None:
    """Refuse to write a file where something else is; an empty file is nothing.

    Args:
        target: the file to write.
        kind: what is written, such as `a report`.
        is_former: whether an existing file is a former output of that kind, to replace.

    Raises:
        ConfigError: it exists and is something else.
    """
    try:
        there = target.lstat()
    except OSError:  # missing; or writing will tell
        return
    if not stat.S_ISREG(there.st_mode):
        raise ConfigError(f"{target} exists and is not a file. Choose another name.")
    if there.st_size and not is_former(target):
        raise ConfigError(
            f"{target} exists and is not {kind} that could be replaced. Choose another name, "
            "or remove it first."
        )


def require_writable(target: Path) -> None:
    """Make the folders above a file, and see whether one can be written there.

    For long work, whose result would be lost.

    Raises:
        StorageError: it cannot.
    """
    with storage_errors("write", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent, prefix=_prefix(target)) as file:
            file.write(b"0")


def _prefix(target: Path) -> str:
    """Of a temporary name, which is longer than the name it stands for."""
    return f".{target.name[:_PREFIX]}-"


def _set_mode(path: str | Path, mode: int) -> None:
    """Set the permissions, where the file system has any."""
    try:
        os.chmod(path, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `target` if the block succeeds.

    Files and folders inside are flushed before the rename. If the block raises, the folder is
    removed. An existing `target` that is not empty is never overwritten.

    Raises:
        StorageError: the disk is full, read-only or gone, or `target` exists.
    """
    with storage_errors("write", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target)))
    try:
        yield building
        with storage_errors("write", target):
            _set_mode(building, 0o755)  # mkdtemp gives 0700
            for path in [building, *building.rglob("*")]:
                fsync_path(path)
            os.rename(building, target)
            fsync_path(target.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def cache_folder(variables: Mapping[str, str] = os.environ) -> Path:
    """`EDGE_TRAIN_CACHE`, or `edge-train` in the XDG cache folder; it need not exist.

    Raises:
        ConfigError: neither is known.
    """
    if named := variables.get(CACHE):
        return Path(named)
    if Path(xdg := variables.get("XDG_CACHE_HOME", "")).is_absolute():
        return Path(xdg) / "edge-train"
    try:
        return Path.home() / ".cache" / "edge-train"
    except RuntimeError as error:
        raise ConfigError(
            f"this user has no home folder for a cache. Set {CACHE} to a folder."
        ) from error
