"""Small files of the kernel, read often: where they lie, and one number in each.

A file stays open between readings, which costs a tenth of opening it. Values have no unit
here; their readers know it.
"""

import os
from pathlib import Path

from edge_runtime.errors import ConfigError

SYSFS = "EDGE_TRAIN_SYSFS"
_LONGEST = 64  # bytes; a number is shorter
_PAGE = 4096  # bytes; the kernel shows its files as a page long, or as empty


def sysfs(root: Path = Path("/")) -> Path:
    """The folder that holds what the kernel says of this board, usually /sys.

    In a container that sees the board's own tree elsewhere, EDGE_TRAIN_SYSFS names it. It is
    heeded for the real root only, so that a tree given by `root` is never mixed with it.

    Raises:
        ConfigError: EDGE_TRAIN_SYSFS names no folder.
    """
    elsewhere = os.environ.get(SYSFS)
    if not elsewhere or root != Path("/"):
        return root / "sys"
    if not os.path.isdir(elsewhere):
        raise ConfigError(
            f"{SYSFS} is {elsewhere!r}, which is no folder. Mount the board's /sys there, or "
            "unset it to use /sys."
        )
    return Path(elsewhere)


def text(path: Path) -> str | None:
    """What a file says, without blanks and NULs around it; `None` if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """One whole number, read once; `None` if there is none."""
    file = NumberFile(path)
    try:
        return file.read()
    finally:
        file.close()


class NumberFile:
    """One whole number in a file, read again and again.

    A file that vanished, is empty, holds text or is forbidden gives `None`, and `problem`
    says which; it is tried anew at every reading.
    """

    __slots__ = ("_base", "_handle", "_is_kernels", "path", "problem")

    def __init__(self, path: Path, *, base: int = 10) -> None:
        self.path, self._base = path, base
        self.problem: str | None = None  # of the last reading
        self._handle: int | None = None
        self._is_kernels = True

    def read(self) -> int | None:
        """The number, or `None`."""
        try:
            raw = self._read_bytes()
        except OSError as error:
            self.close()
            self.problem = f"{self.path} cannot be read ({error.strerror})"
            return None
        try:
            number = int(raw, self._base)
        except ValueError:
            self.close()
            found = f"holds {raw.decode(errors='replace').strip()!r}" if raw.strip() else ""
            self.problem = f"{self.path} {found or 'is empty'}, not a number"
            return None
        self.problem = None
        return number

    def _read_bytes(self) -> bytes:
        if self._handle is not None and self._was_replaced(self._handle):
            self.close()
        if self._handle is not None:
            try:
                return os.pread(self._handle, _LONGEST, 0)
            except OSError:  # its driver was bound anew: the old handle is of no use any more
                self.close()
        self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._is_kernels = not 0 < os.fstat(self._handle).st_size < _PAGE
        return os.pread(self._handle, _LONGEST, 0)

    def _was_replaced(self, handle: int) -> bool:
        """Whether another file has taken its place, which is how an emulated board changes."""
        return not self._is_kernels and os.fstat(handle).st_nlink == 0

    def close(self) -> None:
        """Free the handle. Calling it twice is fine, and reading opens it again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
