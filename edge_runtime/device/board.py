"""Boards: facts of a device that no sensor tells, one TOML file each.

profiles/README.md explains the keys. The profiles that come with edge-train lie in
`edge_runtime/profiles` of an installed wheel and in `profiles` of a checkout. Units: watts,
bytes.
"""

import math
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edge_runtime.device.files import sysfs, text
from edge_runtime.device.meminfo import meminfo_bytes
from edge_runtime.errors import ConfigError, DeviceError
from edge_runtime.schema import structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ABOVE_ZERO = math.ulp(0.0)
_LOWEST = -sys.float_info.max


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSigns:
    """How to recognise a board; the first kind of sign that fits any board decides."""

    compatible: tuple[str, ...] = ()  # parts of an entry of the device tree's `compatible`
    model: tuple[str, ...] = ()  # parts of the device tree's model, or of DMI's product name
    machine: tuple[str, ...] = ()  # what `uname -m` may say


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFacts:
    """What is known of the board's power; empty and `None` are unknown."""

    rails: tuple[str, ...] = ()  # that its sensor shows
    total: tuple[str, ...] = ()  # those whose sum is the board's input
    idle_w: float | None = None  # for the estimate from processor load alone
    full_w: float | None = None
    modes: tuple[str, ...] = ()  # names of its power modes


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Corrects a rail: true watts = gain * read watts + offset."""

    gain: float = 1.0
    offset_w: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One kind of device."""

    id: str  # as run folders and results name it
    name: str
    recognise: BoardSigns = field(default_factory=BoardSigns)  # none: by --board only
    memory_gib: float | None = None  # that it is sold with
    note: str | None = None  # what its owner has to know
    power: PowerFacts = field(default_factory=PowerFacts)
    calibration: dict[str, Calibration] = field(default_factory=dict)  # by rail


def load_board(path: Path | None) -> Board:
    """The board of a profile file, or the one we run on where `path` is `None`.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has wrong keys: all at once.
        DeviceError: `path` is `None` and no profile fits this machine.
    """
    return detect_board() if path is None else _read(path)


def detect_board(machine: str | None = None, *, root: Path = Path("/")) -> Board:
    """The profile that fits this machine.

    The device tree's list of compatible boards decides, then its model's name, then the
    firmware's (DMI), then the kind of machine. Where several boards fit, which happens when
    they differ in memory only, it is the smallest that has as much as this machine.

    Args:
        machine: what `uname -m` says, when not that of this machine.
        root: where /sys and /proc lie.

    Raises:
        DeviceError: none fits.
    """
    machine = machine or platform.machine()
    boards = known_boards()
    for kind, found in [*_names_here(sysfs(root)), ("machine", [machine])]:
        if fitting := [board for board in boards if _fits(board.recognise, kind, found)]:
            return _by_memory(fitting, meminfo_bytes(root).get("MemTotal"))
    known = ", ".join(
        f"{board.id} ({'/'.join(board.recognise.machine)})"
        for board in boards
        if board.recognise.machine
    )
    raise DeviceError(
        f"no board profile fits a machine of type {machine!r}; there are {known}. "
        "Describe yours in a file like those in profiles/ and give it with --board."
    )


def _names_here(sys: Path) -> list[tuple[str, list[str]]]:
    """Kinds of signs, the surest first, and what this machine shows of them."""
    tree = sys / "firmware/devicetree/base"
    return [
        ("compatible", (text(tree / "compatible") or "").split("\0")),
        ("model", [text(tree / "model") or ""]),
        ("model", [text(sys / "devices/virtual/dmi/id/product_name") or ""]),
    ]


def _fits(signs: BoardSigns, kind: str, found: list[str]) -> bool:
    if kind == "machine":
        return found[0] in signs.machine
    return any(part in name for part in getattr(signs, kind) for name in found)


def _by_memory(boards: list[Board], memory_bytes: int | None) -> Board:
    """The smallest board with that memory; the kernel shows a little less than was sold."""
    by_size = sorted(boards, key=lambda board: board.memory_gib or 0.0)
    enough = [
        board for board in by_size if (board.memory_gib or 0.0) * 2**30 >= (memory_bytes or 0)
    ]
    return [*enough, by_size[-1]][0]


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
    return _checked(table, where=f"board profile {path}")


def _checked(table: dict[str, Any], where: str) -> Board:
    problems = _contradictions(table)
    try:
        board = structure(Board, table, where=where, error=ConfigError)
    except ConfigError as error:  # its first line counts its problems, the others tell them
        problems = [*str(error).splitlines()[1:], *problems]
    if problems:
        raise ConfigError("\n".join([f"{where}: {len(problems)} problem(s)", *problems]))
    return board


def _contradictions(table: dict[str, Any]) -> list[str]:
    """What is wrong with values of the right type; the schema tells of the others."""
    power, calibration = _table(table, "power"), _table(table, "calibration")
    recognise = _table(table, "recognise")
    lists = {f"recognise.{key}": recognise.get(key) for key in _field_names(BoardSigns)}
    lists |= {f"power.{key}": power.get(key) for key in ("rails", "total", "modes")}
    problems = [
        f"{place}: want a list, got {value!r}"  # which would be read letter by letter
        for place, value in lists.items()
        if isinstance(value, str)
    ]
    problems += _rail_problems(power, calibration)
    if (power.get("idle_w") is None) != (power.get("full_w") is None):
        problems.append("power: give idle_w and full_w, or neither")
    problems += [
        f"{place}: want {want}, got {value:g}"
        for place, value, want, least in _bounds(table, power, calibration)
        if value is not None and not least <= value < math.inf  # nor NaN
    ]
    return [f"  {problem}" for problem in problems]


def _rail_problems(power: Mapping[str, Any], calibration: Mapping[str, Any]) -> list[str]:
    rails, total = _strings(power.get("rails")), _strings(power.get("total"))
    known = ", ".join(rails) or "none"
    named = [("power.total", rail) for rail in total]
    named += [("calibration", rail) for rail in calibration]
    return [
        f"{place}: unknown rail {rail!r}; power.rails are {known}"
        for place, rail in named
        if rail not in rails
    ] + [
        f"power.{key}: a rail occurs twice in {', '.join(found)}"
        for key, found in (("rails", rails), ("total", total))
        if len(set(found)) < len(found)
    ]


def _bounds(
    table: Mapping[str, Any], power: Mapping[str, Any], calibration: Mapping[str, Any]
) -> Iterator[tuple[str, float | None, str, float]]:
    """Place, value, what is wanted, and the least that is allowed."""
    idle_w = _number(power.get("idle_w"))
    above_idle_w = math.nextafter(idle_w, math.inf) if idle_w and idle_w > 0 else 0.0
    yield "memory_gib", _number(table.get("memory_gib")), "a number > 0", _ABOVE_ZERO
    yield "power.idle_w", idle_w, "a number >= 0", 0.0
    yield "power.full_w", _number(power.get("full_w")), "more than power.idle_w", above_idle_w
    for rail in calibration:
        own, place = _table(calibration, rail), f"calibration.{rail}"
        yield f"{place}.gain", _number(own.get("gain")), "a number > 0", _ABOVE_ZERO
        yield f"{place}.offset_w", _number(own.get("offset_w")), "a finite number", _LOWEST


def _field_names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = table.get(key)
    return found if isinstance(found, Mapping) else {}


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None
