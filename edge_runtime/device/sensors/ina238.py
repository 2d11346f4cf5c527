"""INA238: the monitor of a whole board's input, as on the carrier board of Jetson Thor.

Its rail is called VIN unless the device tree labels it. The rails of an INA3221 on the same
board are read as well.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from edge_runtime.device.board import Board
from edge_runtime.device.files import NumberFile, chip_of, not_mounted, sysfs, text
from edge_runtime.device.sensors import ina3221
from edge_runtime.device.sensors.rails import FoundRail, PowerFile, RailSensor
from edge_runtime.errors import SensorError


def open_ina238(board: Board, root: Path) -> RailSensor:
    """Open every INA238, with the rails of the board's INA3221."""
    sys = sysfs(root)
    if not any(find_rails(sys)):
        missing = not_mounted(sorted(sys.glob("class/hwmon/hwmon*")))
        raise SensorError(missing or "no ina238 power monitor was found")
    return RailSensor(
        "ina238", board, sys, lambda: chain(find_rails(sys), ina3221.find_rails(sys))
    )


def find_rails(sys: Path) -> Iterator[FoundRail]:
    """Every INA238's input."""
    for folder in sorted(sys.glob("class/hwmon/hwmon*")):
        if text(folder / "name") == "ina238":
            rail = PowerFile(NumberFile(folder / "power1_input"), 1e6)
            yield FoundRail(text(folder / "label") or "VIN", chip_of(folder), rail)
