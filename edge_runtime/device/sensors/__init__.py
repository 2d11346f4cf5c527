"""Power sensors, and the choice among them.

The first that knows the board's total, and reads one that can be true, is taken, in this
order: monitors of the board's input (INA238, INA3221), the same through a service (jtop), the
chip of a Raspberry Pi 5, any other monitor that the kernel reads, the counters of a PC with
and without its GPU, a GPU alone, a battery, and last an estimate from processor load. Without
any of them, a sensor whose total is unknown is taken for its rails.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.device.board import Board
from edge_runtime.device.plausibility import Judge
from edge_runtime.device.sensors.base import Opener, PowerSensor
from edge_runtime.device.sensors.battery import open_battery
from edge_runtime.device.sensors.calibrated import CalibratedSensor
from edge_runtime.device.sensors.combined import open_rapl_and_nvml
from edge_runtime.device.sensors.estimate import open_estimate
from edge_runtime.device.sensors.hwmon import open_hwmon, unused_monitors
from edge_runtime.device.sensors.ina238 import open_ina238
from edge_runtime.device.sensors.ina3221 import open_ina3221
from edge_runtime.device.sensors.jtop import open_jtop
from edge_runtime.device.sensors.nvml import open_nvml
from edge_runtime.device.sensors.rapl import open_rapl
from edge_runtime.device.sensors.replay import ReplaySensor, read_trace
from edge_runtime.device.sensors.rpi_pmic import open_rpi_pmic
from edge_runtime.errors import ConfigError, SensorError

__all__ = [
    "SENSORS",
    "PowerSensor",
    "ReplaySensor",
    "SensorChoice",
    "choose_sensor",
    "open_sensor",
    "read_trace",
    "unused_monitors",
]

SENSORS: Mapping[str, Opener] = {  # best first
    "ina238": open_ina238,
    "ina3221": open_ina3221,
    "jtop": open_jtop,
    "rpi-pmic": open_rpi_pmic,
    "hwmon": open_hwmon,
    "rapl+nvml": open_rapl_and_nvml,
    "rapl": open_rapl,
    "nvml": open_nvml,
    "battery": open_battery,
    "estimate": open_estimate,
}
REPLAY = "replay:"
_ATTEMPTS, _ATTEMPT_S = 3, 0.02  # to read a total before its sensor is chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorChoice:
    """A sensor, and why the better ones were not chosen."""

    sensor: PowerSensor | None
    refused: dict[str, str]  # better ones by name, and why not


def open_sensor(
    board: Board, *, root: Path = Path("/"), prefer: str | None = None
) -> PowerSensor | None:
    """The best sensor of this board, calibrated by its profile; `None` if there is none.

    Args:
        board: its profile says which rails are the total.
        root: where /sys and /proc are.
        prefer: a name of `SENSORS` that must be used, or `replay:FILE`, a recorded trace.

    Raises:
        ConfigError: there is no sensor `prefer`.
        SensorError: `prefer` does not work here.
    """
    return choose_sensor(board, root=root, prefer=prefer).sensor


def _unusable(sensor: PowerSensor) -> str | None:
    """Why the total cannot be read now; a single reading may be disturbed."""
    judge, problem = Judge(sensor.kind, counts_energy=sensor.counts_energy), None
    for attempt in range(_ATTEMPTS if sensor.total else 0):
        time.sleep(_ATTEMPT_S if attempt else 0.0)
        values = sensor.read()
        if unknown := [rail for rail in sensor.total if values[rail] is None]:
            why = sensor.why_unknown(unknown[0])
            problem = f"its total lacks {', '.join(unknown)}" + (f": {why}" if why else "")
            continue
        total = math.fsum(values[rail] or 0.0 for rail in sensor.total)
        problem, _ = judge.see(time.monotonic(), total)
        if problem is None:
            return None
        problem = f"{' + '.join(sensor.total)}: {problem}"
    return problem


def _require_usable(sensor: PowerSensor) -> PowerSensor:
    """The sensor, if its total can be read now; else it is closed.

    Raises:
        SensorError: the total cannot be read, or not be true.
    """
    try:
        problem = _unusable(sensor)
    except SensorError as error:
        problem = str(error)
    if problem is None:
        return sensor
    sensor.close()
    raise SensorError(problem)


def choose_sensor(
    board: Board, *, root: Path = Path("/"), prefer: str | None = None
) -> SensorChoice:
    """`open_sensor`, with the reasons against the better sensors."""
    if prefer is not None:
        return SensorChoice(sensor=_open(prefer, board, root), refused={})
    refused: dict[str, str] = {}
    best: PowerSensor | None = None
    for name, opener in SENSORS.items():
        try:
            sensor = _require_usable(_calibrated(opener(board, root), board))
        except SensorError as error:
            refused[name] = str(error)
            continue
        if sensor.total:
            if best is not None:
                best.close()
            return SensorChoice(sensor=sensor, refused=refused)
        refused[name] = (
            f"which of its rails form the total of board {board.id} is unknown: it has "
            f"{', '.join(sensor.rails)}"
        )
        if best is None:
            best = sensor
        else:
            sensor.close()
    return SensorChoice(sensor=best, refused=refused)


def _open(name: str, board: Board, root: Path) -> PowerSensor:
    if name.startswith(REPLAY):
        path = Path(name.removeprefix(REPLAY))
        replay = ReplaySensor(read_trace(path), total=board.power.total, source=str(path))
        return _calibrated(replay, board)
    if name not in SENSORS:
        known = ", ".join(SENSORS)
        raise ConfigError(f"there is no power sensor {name!r}; there are {known}, replay:FILE")
    try:
        return _require_usable(_calibrated(SENSORS[name](board, root), board))
    except SensorError as error:
        raise SensorError(f"power sensor {name} does not work here: {error}") from error


def _calibrated(sensor: PowerSensor, board: Board) -> PowerSensor:
    if any(rail in sensor.rails for rail in board.calibration):
        return CalibratedSensor(sensor, board.calibration)
    return sensor
