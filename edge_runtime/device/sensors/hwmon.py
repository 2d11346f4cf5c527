"""Any other power monitor that the kernel reads: INA226, PMBus, ACPI power meters, ...

All of them have their power in microwatts in `power1_input`, or as a mean in `power1_average`.
Which of them is the board's input is known for the ACPI power meter only, which measures the
whole machine; for others, the board's profile has to name it.
"""

from collections.abc import Iterator
from pathlib import Path

from edge_runtime.device.board import Board
from edge_runtime.device.files import NumberFile, chip_of, sysfs, text
from edge_runtime.device.plausibility import SensorKind
from edge_runtime.device.sensors.base import PowerSensor
from edge_runtime.device.sensors.rails import FoundRail, PowerFile, RailSensor

NAME = "hwmon"
_OWN_SENSOR = ("ina238", "ina3221")  # with a module of their own
_WHOLE_MACHINE = "power_meter"  # of the ACPI driver
_COUNTERS = "energy*_input"  # as of amd_energy; not used


def open_hwmon(board: Board, root: Path) -> RailSensor:
    """Open every monitor that reports power, except those with a sensor of their own."""
    sys = sysfs(root)
    found = {rail.label for rail in find_rails(sys)}
    return RailSensor(
        NAME,
        board,
        sys,
        lambda: find_rails(sys),
        usual=(_WHOLE_MACHINE,) if _WHOLE_MACHINE in found else (),
        # Some have whole watts, or a new reading every few seconds.
        kind=SensorKind(frozen_s=300.0),
    )


def find_rails(sys: Path) -> Iterator[FoundRail]:
    """Every rail by its label, or by its chip's name."""
    for folder in sorted(sys.glob("class/hwmon/hwmon*")):
        name = text(folder / "name")
        if not name or name in _OWN_SENSOR:
            continue
        files = _power_files(folder)
        for file in files:
            channel = file.name.partition("_")[0]  # "power1"
            usual = name if len(files) == 1 else f"{name} {channel}"
            label = text(folder / f"{channel}_label") or text(folder / "label") or usual
            yield FoundRail(label, chip_of(folder), PowerFile(NumberFile(file), 1e6))


def unused_monitors(sys: Path, used: PowerSensor | None) -> list[str]:
    """Monitors that exist and that the sensor does not read, with what to do about it."""
    unused = [
        f"{text(folder / 'name')} ({folder.name}) counts energy and is not used"
        for folder in sorted(sys.glob("class/hwmon/hwmon*"))
        if any(folder.glob(_COUNTERS)) and not _power_files(folder)
    ]
    if used is not None and used.name == NAME:
        return unused
    return unused + [
        f"{label} ({chip}) reports power and is not used: if it is the board's input, name it "
        "under power.total in a board file of your own"
        for label, chip, _ in find_rails(sys)
    ]


def _power_files(folder: Path) -> list[Path]:
    """A file for each channel; the present power is better than its mean."""
    channels = {file.name.partition("_")[0]: file for file in folder.glob("power*_average")}
    channels |= {file.name.partition("_")[0]: file for file in folder.glob("power*_input")}
    return [channels[name] for name in sorted(channels)]
