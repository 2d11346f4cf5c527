"""Rails in files of the kernel, and the sensor made of them.

Units: watts; millivolts, milliamperes and microwatts are only in the files.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from typing_extensions import override

from edge_runtime.device.board import Board
from edge_runtime.device.files import NumberFile, not_mounted
from edge_runtime.device.plausibility import RAIL, Reading, SensorKind, judge
from edge_runtime.device.sensors.base import PowerSensor, rail_names, total_rails
from edge_runtime.errors import SensorError


class Rail(Protocol):
    """One rail."""

    def read_w(self) -> float | None:
        """Watts now; `None` if they cannot be read."""

    @property
    def problem(self) -> str | None:
        """Why the last reading gave `None`."""

    def close(self) -> None:
        """Close its files."""


class VoltageTimesCurrent(Rail):
    """A rail of two files, in millivolts and milliamperes."""

    def __init__(
        self,
        voltage_mv: NumberFile,
        current_ma: NumberFile,
        *,
        full_scale_ma: float | None = None,
    ) -> None:
        """Prepare it.

        Args:
            voltage_mv: file of the voltage.
            current_ma: file of the current.
            full_scale_ma: the highest current that the chip can measure, if known.
        """
        self._voltage_mv, self._current_ma = voltage_mv, current_ma
        self._full_scale_ma = full_scale_ma
        self._doubt: str | None = None

    @override
    def read_w(self) -> float | None:
        self._doubt = None
        voltage_mv, current_ma = self._voltage_mv.read(), self._current_ma.read()
        if voltage_mv is None or current_ma is None:
            return None
        power_w = voltage_mv * current_ma / 1e6
        scale = current_ma / self._full_scale_ma if self._full_scale_ma else None
        if doubt := judge(Reading(power_w, scale=scale), RAIL):
            self._doubt = f"{self._current_ma.path} holds {current_ma}: {doubt}"
            return None
        return power_w

    @property
    @override
    def problem(self) -> str | None:
        return self._voltage_mv.problem or self._current_ma.problem or self._doubt

    @override
    def close(self) -> None:
        self._voltage_mv.close()
        self._current_ma.close()


class PowerFile(Rail):
    """A rail of one file."""

    def __init__(self, file: NumberFile, units_per_watt: float) -> None:
        self._file, self._units_per_watt = file, units_per_watt
        self._doubt: str | None = None

    @override
    def read_w(self) -> float | None:
        self._doubt = None
        units = self._file.read()
        if units is None:
            return None
        power_w = units / self._units_per_watt
        if doubt := judge(Reading(power_w), RAIL):
            self._doubt = f"{self._file.path} holds {units}: {doubt}"
            return None
        return power_w

    @property
    @override
    def problem(self) -> str | None:
        return self._file.problem or self._doubt

    @override
    def close(self) -> None:
        self._file.close()


class FoundRail(NamedTuple):
    """A rail of one chip."""

    label: str
    chip: str  # its address on the board, such as `1-0040`
    rail: Rail


# The last digit of a board's input changes several times a second.
_MONITOR = SensorKind(frozen_s=30.0)


class RailSensor(PowerSensor):
    """Rails in files, which are searched for again when the total cannot be read."""

    is_estimate = False
    counts_energy = False
    period_s = 0.0

    def __init__(
        self,
        name: str,
        board: Board,
        sys: Path,
        find: Callable[[], Iterable[FoundRail]],
        *,
        usual: tuple[str, ...] = (),
        kind: SensorKind = _MONITOR,
    ) -> None:
        """Find the rails.

        Args:
            name: of the sensor.
            board: its profile says which rails are the total.
            sys: where /sys is.
            find: the rails that exist now.
            usual: the total if the profile names none.
            kind: what its readings can be.

        Raises:
            SensorError: there are none, they lack the board's total, or none can be read.
        """
        self.name, self.kind = name, kind
        self._find, self._chips = find, board.power.chips
        self.description = f"{name} power monitor"
        self._rails = self._found()
        self.rails = tuple(self._rails)
        if not self.rails:
            missing = not_mounted(sorted(sys.glob("class/hwmon/hwmon*")))
            raise SensorError(missing or f"no {name} power monitor was found")
        self.total = total_rails(board, self.rails, usual=usual)
        self.read()

    @override
    def read(self) -> dict[str, float | None]:
        watts = self._read_w()
        if not any(watts[name] is not None for name in self.rails) or any(
            watts[name] is None for name in self.total
        ):
            self.close()
            self._rails = self._found()  # the driver may have been bound again, elsewhere
            watts = self._read_w()
        if all(value is None for value in watts.values()):
            problems = [rail.problem for rail in self._rails.values()]
            why = problems[0] if problems else "its files have vanished"
            raise SensorError(f"{self.name}: no rail can be read: {why}")
        return watts

    def _found(self) -> dict[str, Rail]:
        found = list(self._find())
        names = rail_names([(label, chip) for label, chip, _ in found], self._chips)
        return dict(zip(names, (rail for _, _, rail in found), strict=True))

    def _read_w(self) -> dict[str, float | None]:
        return {
            name: rail.read_w() if (rail := self._rails.get(name)) else None
            for name in self.rails
        }

    @override
    def why_unknown(self, rail: str) -> str | None:
        return found.problem if (found := self._rails.get(rail)) else "its files have vanished"

    @override
    def close(self) -> None:
        for rail in self._rails.values():
            rail.close()
