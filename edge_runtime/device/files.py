"""Small files of the kernel that hold one number each and are read often.

A file stays open between readings: reading costs a tenth of opening. Units are known to the
callers.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from edge_runtime.errors import ConfigError

SYSFS = "EDGE_TRAIN_SYSFS"
_LONGEST = 64  # bytes; a number is shorter
_PAGE = 4096  # bytes; files of sysfs and procfs have the size of a page, or 0


def sysfs(root: Path = Path("/")) -> Path:
    """The board's sysfs folder, usually /sys.

    EDGE_TRAIN_SYSFS names it in a container where the board's own /sys is mounted elsewhere.
    The variable applies to the real root only: a tree given by `root` is never mixed with it.

    Raises:
        ConfigError: EDGE_TRAIN_SYSFS is not a folder.
    """
    elsewhere = os.environ.get(SYSFS)
    if not elsewhere or root != Path("/"):
        return root / "sys"
    if not os.path.isdir(elsewhere):
        raise ConfigError(
            f"{SYSFS} is {elsewhere!r}, which is not a folder. Mount the board's /sys there, "
            "or unset it to use /sys."
        )
    return Path(elsewhere)


def text(path: Path) -> str | None:
    """A file's text, stripped of blanks and NULs; `None` if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return None


def chip_of(folder: Path) -> str:
    """The device that a folder of /sys/class/hwmon belongs to; hwmon numbers may change."""
    return folder.resolve().parents[1].name


def not_mounted(paths: Iterable[Path]) -> str | None:
    """Why one of these entries of /sys cannot be followed; `None` if all can.

    /sys/class has links to /sys/devices. In a container that has only the former, they lead
    nowhere: that is not the same as a board without these parts.
    """
    for link in paths:
        if link.is_symlink() and not link.exists():
            return (
                f"{link} leads to {os.readlink(link)}, which is not mounted: mount the whole "
                "/sys of the board"
            )
    return None


def read_number(path: Path) -> int | None:
    """Read one whole number once; `None` if there is none."""
    file = NumberFile(path)
    try:
        return file.read()
    finally:
        file.close()


class NumberFile:
    """One whole number in a file, read again and again.

    A file that is gone, empty, not a number or not permitted reads as `None`, and `problem`
    says why; every reading tries again.
    """

    __slots__ = ("_base", "_handle", "_is_virtual", "path", "problem")

    def __init__(self, path: Path, *, base: int = 10) -> None:
        self.path, self._base = path, base
        self.problem: str | None = None  # of the last reading
        self._handle: int | None = None
        self._is_virtual = True

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
            content = raw.decode(errors="replace").strip()
            what = f"holds {content!r}" if content else "is empty"
            self.problem = f"{self.path} {what}, not a number"
            return None
        self.problem = None
        return number

    def _read_bytes(self) -> bytes:
        if self._handle is not None and self._was_replaced(self._handle):
            self.close()
        if self._handle is not None:
            try:
                return os.pread(self._handle, _LONGEST, 0)
            except OSError:  # its driver was bound again: the old handle is stale
                self.close()
        self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._is_virtual = not 0 < os.fstat(self._handle).st_size < _PAGE
        return os.pread(self._handle, _LONGEST, 0)

    def _was_replaced(self, handle: int) -> bool:
        """Whether the file was replaced, which is how an emulated board changes its values."""
        return not self._is_virtual and os.fstat(handle).st_nlink == 0

    def close(self) -> None:
        """Close the handle; reading opens it again. Calling it twice is fine."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
