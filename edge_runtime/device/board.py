"""Boards: facts of a device that no sensor tells, one TOML file each.

profiles/README.md explains the keys. The profiles that come with edge-train lie in
`edge_runtime/profiles` of an installed wheel and in `profiles` of a checkout.
"""

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import ConfigError, DeviceError
from edge_runtime.schema import structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSigns:
    """How to recognise a board."""

    machine: tuple[str, ...]  # what `uname -m` may say


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One kind of device."""

    id: str  # as run folders and results name it
    name: str
    recognise: BoardSigns


def load_board(path: Path | None) -> Board:
    """The board of a profile file, or the one we run on where `path` is `None`.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has wrong keys: all at once.
        DeviceError: `path` is `None` and no profile fits this machine.
    """
    return detect_board() if path is None else _read(path)


def detect_board(machine: str | None = None) -> Board:
    """The profile that fits this machine.

    Args:
        machine: what `uname -m` says, when not that of this machine.

    Raises:
        DeviceError: none fits.
    """
    machine = machine or platform.machine()
    boards = known_boards()
    for board in boards:
        if machine in board.recognise.machine:
            return board
    known = ", ".join(f"{board.id} ({'/'.join(board.recognise.machine)})" for board in boards)
    raise DeviceError(
        f"no board profile fits a machine of type {machine!r}; there are {known}. "
        "Describe yours in a file like those in profiles/ and give it with --board."
    )


def known_boards() -> list[Board]:
    """The profiles that come with edge-train, by file name."""
    return [_read(path) for path in sorted(_profiles_folder().glob("*.toml"))]


def _profiles_folder() -> Path:
    package = Path(__file__).parents[1]
    installed = package / "profiles"
    return installed if installed.is_dir() else package.parent / "profiles"  # of a checkout


def _read(path: Path) -> Board:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"board profile {path} cannot be read ({error.strerror}). Give an existing file "
            "with --board, or leave it out to have the board recognised."
        ) from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise ConfigError(f"board profile {path} is no TOML: {error}") from error
    return structure(Board, table, where=f"board profile {path}", error=ConfigError)
