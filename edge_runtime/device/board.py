"""Board profiles: facts of a device that its sensors do not report, one TOML file each.

profiles/README.md explains the keys. The profiles of edge-train are in `edge_runtime/profiles`
of an installed wheel and in `profiles` of a checkout. Units: watts, bytes.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from edge_runtime.device.files import sysfs, text
from edge_runtime.device.meminfo import meminfo_bytes
from edge_runtime.errors import ConfigError, DeviceError
from edge_runtime.facts.costs import BoardWatts, Correction
from edge_runtime.schema import PositiveInt, Range, read_toml, structure

Gain = Annotated[float, Range(gt=0, le=10_000)]
FullWatts = Annotated[float, Range(gt=0, le=10_000)]
Megahertz = Annotated[float, Range(gt=0, le=100_000)]
Gibibytes = Annotated[float, Range(gt=0, le=1_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSigns:
    """How to recognise a board; the first kind of sign that matches any board decides."""

    compatible: tuple[str, ...] = ()  # parts of an entry of the device tree's `compatible`
    model: tuple[str, ...] = ()  # parts of the device tree's model, or of DMI's product name
    machine: tuple[str, ...] = ()  # outputs of `uname -m`


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeClocks:
    """What a power mode allows, as its manufacturer documents it; `None`: not known here."""

    cpus: PositiveInt | None = None  # that are switched on
    cpu_mhz: Megahertz | None = None  # the highest clock rates
    gpu_mhz: Megahertz | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFacts:
    """Facts of the board's power; empty and `None` are unknown."""

    rails: tuple[str, ...] = ()  # of its sensor
    total: tuple[str, ...] = ()  # rails whose sum is the board's input
    chips: dict[str, str] = field(default_factory=dict)  # of rails that other chips have too
    idle_w: BoardWatts | None = None  # for the estimate from processor load only
    full_w: FullWatts | None = None  # above idle_w
    modes: dict[str, ModeClocks] = field(default_factory=dict)  # of nvpmodel, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Corrects a rail: true watts = gain * read watts + offset."""

    gain: Gain = 1.0
    offset_w: Correction = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One kind of device."""

    id: str  # its name in run folders and results
    name: str
    recognise: BoardSigns = field(default_factory=BoardSigns)  # none: only by --board
    memory_gib: Gibibytes | None = None  # as sold
    note: str | None = None  # for its owner; shown by `doctor`
    power: PowerFacts = field(default_factory=PowerFacts)
    calibration: dict[str, Calibration] = field(default_factory=dict)  # by rail


def load_board(path: Path | None) -> Board:
    """The board of a profile file, or this machine's if `path` is `None`.

    Raises:
        ConfigError: the file cannot be read, is not valid TOML, or has wrong keys or
            values: all at once.
        DeviceError: `path` is `None` and no profile matches this machine.
    """
    return detect_board() if path is None else _read(path)


def detect_board(machine: str | None = None, *, root: Path = Path("/")) -> Board:
    """The profile that matches this machine.

    The device tree's list of compatible boards decides, then its model name, then the
    firmware's (DMI), then the machine type. Several boards match if they differ in memory
    only: then it is the smallest that has at least the memory of this machine.

    Args:
        machine: the output of `uname -m`; default: this machine's.
        root: where /sys and /proc are.

    Raises:
        DeviceError: none matches.
    """
    machine = machine or platform.machine()
    boards = known_boards()
    for kind, names in [*_names_here(sysfs(root)), ("machine", [machine])]:
        if matching := [board for board in boards if _matches(board.recognise, kind, names)]:
            return _by_memory(matching, meminfo_bytes(root).get("MemTotal"))
    known = ", ".join(
        f"{board.id} ({'/'.join(board.recognise.machine)})"
        for board in boards
        if board.recognise.machine
    )
    raise DeviceError(
        f"no board profile matches a machine of type {machine!r}; known are {known}. "
        "Describe yours in a file such as those in profiles/ and pass it with --board."
    )


def _names_here(sys: Path) -> list[tuple[str, list[str]]]:
    """Kinds of signs, the most reliable first, with their values on this machine."""
    tree = sys / "firmware/devicetree/base"
    return [
        ("compatible", (text(tree / "compatible") or "").split("\0")),
        ("model", [text(tree / "model") or ""]),
        ("model", [text(sys / "devices/virtual/dmi/id/product_name") or ""]),
    ]


def _matches(signs: BoardSigns, kind: str, names: list[str]) -> bool:
    if kind == "machine":
        return names[0] in signs.machine
    return any(part in name for part in getattr(signs, kind) for name in names)


def _by_memory(boards: list[Board], memory_bytes: int | None) -> Board:
    """The smallest board with that memory; the kernel reports a little less than was sold."""
    by_size = sorted(boards, key=lambda board: board.memory_gib or 0.0)
    enough = [
        board for board in by_size if (board.memory_gib or 0.0) * 2**30 >= (memory_bytes or 0)
    ]
    return [*enough, by_size[-1]][0]


def known_boards() -> list[Board]:
    """The profiles of edge-train, sorted by file name."""
    return [_read(path) for path in sorted(_profiles_folder().glob("*.toml"))]


def _profiles_folder() -> Path:
    package = Path(__file__).parents[1]
    installed = package / "profiles"
    return installed if installed.is_dir() else package.parent / "profiles"  # of a checkout


def _read(path: Path) -> Board:
    where = f"board profile {path}"
    advice = "Give an existing file with --board; without it, the board is recognised."
    table = read_toml(path, where=where, error=ConfigError, advice=advice)
    problems = [f"  {problem}" for problem in _contradictions(table)]
    try:
        board = structure(Board, table, where=where, error=ConfigError)
    except ConfigError as error:  # its first line counts the problems that follow
        problems = [*str(error).splitlines()[1:], *problems]
    if problems:
        raise ConfigError("\n".join([f"{where}: {len(problems)} problem(s)", *problems]))
    return board


def _contradictions(table: Mapping[str, Any]) -> list[str]:
    """Problems between keys; values of the wrong type are reported by the schema."""
    power, calibration = _mapping(table.get("power")), _mapping(table.get("calibration"))
    rails, total = _strings(power.get("rails")), _strings(power.get("total"))
    named = [("power.total", rail) for rail in total]
    named += [("power.chips", rail) for rail in _mapping(power.get("chips"))]
    named += [("calibration", rail) for rail in calibration]
    problems = [
        f"{place}: unknown rail {rail!r}; power.rails are {', '.join(rails) or 'none'}"
        for place, rail in named
        if rail not in rails
    ]
    problems += [
        f"power.{key}: a rail occurs twice in {', '.join(names)}"
        for key, names in (("rails", rails), ("total", total))
        if len(set(names)) < len(names)
    ]
    return problems + _power_problems(power.get("idle_w"), power.get("full_w"))


def _power_problems(idle_w: Any, full_w: Any) -> list[str]:
    if (idle_w is None) != (full_w is None):
        return ["power: give idle_w and full_w, or neither"]
    are_numbers = all(type(value) in (int, float) for value in (idle_w, full_w))
    if are_numbers and 0 < full_w <= idle_w:
        return [f"power.full_w: expected more than power.idle_w, got {full_w:g}"]
    return []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
