"""A discharging battery: the power of the whole machine, screen included.

Batteries update their readings about once per second, some every half minute. While a battery
charges, its reading is not the power of the machine: the power is unknown then.
"""

from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from edge_runtime.device.board import Board
from edge_runtime.device.files import NumberFile, sysfs, text
from edge_runtime.device.plausibility import SensorKind
from edge_runtime.device.sensors.base import PowerSensor, total_rails
from edge_runtime.errors import SensorError


def open_battery(board: Board, root: Path) -> "Battery":
    """Open every battery of the machine."""
    return Battery(board, sysfs(root))


class Battery(PowerSensor):
    """Watts by battery: `BAT0`, ..."""

    name = "battery"
    description = "battery of the machine, while it runs on it"
    is_estimate = False
    counts_energy = False
    period_s = 1.0
    kind = SensorKind(frozen_s=300.0)  # some update their reading every half minute

    def __init__(self, board: Board, sys: Path) -> None:
        """Find the batteries.

        Raises:
            SensorError: there are none, or the machine does not run on them.
        """
        self._cells = {cell.rail: cell for cell in _cells(sys / "class/power_supply")}
        self.rails = tuple(self._cells)
        if not self.rails:
            raise SensorError("no battery was found")
        self.total = total_rails(board, self.rails, usual=self.rails)
        self.read()

    @override
    def read(self) -> dict[str, float | None]:
        watts = {rail: cell.read_w() for rail, cell in self._cells.items()}
        if all(power_w is None for power_w in watts.values()):
            raise SensorError(
                "battery: the machine does not run on it, or it does not report its power"
            )
        return watts

    @override
    def close(self) -> None:
        for cell in self._cells.values():
            cell.close()


class _Cell:
    """One battery. Some report their power, others voltage and current."""

    def __init__(self, folder: Path) -> None:
        self.rail = folder.name
        self._status = folder / "status"
        self._power_uw = NumberFile(folder / "power_now")
        self._voltage_uv = NumberFile(folder / "voltage_now")
        self._current_ua = NumberFile(folder / "current_now")

    def read_w(self) -> float | None:
        """Watts drawn from it. Drivers disagree on the sign, so the status decides."""
        if text(self._status) != "Discharging":
            return None
        power_uw = self._power_uw.read()
        if power_uw is not None:
            return abs(power_uw) / 1e6
        voltage_uv, current_ua = self._voltage_uv.read(), self._current_ua.read()
        if voltage_uv is None or current_ua is None:
            return None
        return abs(current_ua) / 1e6 * voltage_uv / 1e6

    def close(self) -> None:
        """Close its files."""
        for file in (self._power_uw, self._voltage_uv, self._current_ua):
            file.close()


def _cells(supplies: Path) -> Iterator[_Cell]:
    for folder in sorted(supplies.glob("*")):
        # A mouse's or a pen's battery has the scope "Device".
        if text(folder / "type") == "Battery" and text(folder / "scope") != "Device":
            yield _Cell(folder)
