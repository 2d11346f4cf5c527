"""INA3221: the three-channel power monitor of Jetson modules.

The kernel has two layouts: hwmon (JetPack 5 and later), where a rail is a voltage and a
current, and the older industrial I/O (JetPack 4), which multiplies them itself. The resolution
is 8 mV and, with the usual 5 mOhm shunts, 8 mA: about 40 mW at 5 V.
"""

from collections.abc import Iterator
from pathlib import Path

from edge_runtime.device.board import Board
from edge_runtime.device.files import NumberFile, chip_of, read_number, sysfs, text
from edge_runtime.device.sensors.rails import (
    FoundRail,
    PowerFile,
    RailSensor,
    VoltageTimesCurrent,
)

_NOT_CONNECTED = "NC"
_FULL_SCALE_UV = 163_800.0  # over the shunt: 4095 steps of 40 uV
_USUAL_SHUNT_UOHM = 5_000  # where the kernel does not report it


def open_ina3221(board: Board, root: Path) -> RailSensor:
    """Open every INA3221 of the board as one sensor."""
    sys = sysfs(root)
    return RailSensor("ina3221", board, sys, lambda: find_rails(sys))


def find_rails(sys: Path) -> Iterator[FoundRail]:
    """The connected channels of every chip."""
    yield from _hwmon_rails(sys)
    yield from _iio_rails(sys)


def _hwmon_rails(sys: Path) -> Iterator[FoundRail]:
    for folder in sorted(sys.glob("class/hwmon/hwmon*")):  # numbers change between boots
        if text(folder / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):  # 4 to 7 are shunt voltages and their sum
            label = text(folder / f"in{channel}_label")
            if label and label != _NOT_CONNECTED:
                files = (folder / f"in{channel}_input", folder / f"curr{channel}_input")
                rail = VoltageTimesCurrent(
                    NumberFile(files[0]),
                    NumberFile(files[1]),
                    full_scale_ma=_full_scale_ma(folder / f"shunt{channel}_resistor"),
                )
                yield FoundRail(label, chip_of(folder), rail)


def _iio_rails(sys: Path) -> Iterator[FoundRail]:
    for folder in sorted(sys.glob("bus/i2c/drivers/ina3221x/*/iio:device*")):
        for channel in (0, 1, 2):
            label = text(folder / f"rail_name_{channel}")
            if label and label != _NOT_CONNECTED:
                power_mw = NumberFile(folder / f"in_power{channel}_input")
                rail = PowerFile(power_mw, 1e3)
                yield FoundRail(label, folder.parent.name, rail)


def _full_scale_ma(shunt_file: Path) -> float:
    """The highest current that a channel can measure."""
    return _FULL_SCALE_UV / (read_number(shunt_file) or _USUAL_SHUNT_UOHM) * 1e3
