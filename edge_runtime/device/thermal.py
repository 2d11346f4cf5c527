"""Temperatures and throttling, from the kernel's thermal zones and from monitor chips.

Unit: degrees Celsius.

Throttled means now: a cooling device that slows down the processor or the GPU is active, or a
Raspberry Pi's firmware reports it, or an event counter of x86 processors or of a Jetson's
over-current protection has increased since the last reading.
"""

from collections.abc import Iterator
from pathlib import Path

from edge_runtime.device.files import NumberFile, chip_of, sysfs, text
from edge_runtime.device.heat import ZoneReading

# Zones read nonsense while their part is powered off (-256 on Jetsons), and some always do;
# at 125 a processor has switched itself off, and 127 is the highest value of many chips.
_POSSIBLE_C = (-50.0, 125.0)
_LOWEST_THOUSANDTHS = 1000  # less, either way: stuck at 0, or in whole degrees
# Processors and GPUs without a zone of their own; of Intel's, the package is the hottest.
_CHIPS = {"k10temp": "", "zenpower": "", "amdgpu": "", "coretemp": "Package"}
_NO_SENSORS = ("pmic-die",)  # a constant 50 or 100 on older Jetsons
_SLOWING = ("cpufreq", "thermal-cpufreq", "devfreq", "thermal-devfreq", "processor")
_ALERTS = "throttle-alert"
_EVENTS = (
    "class/hwmon/hwmon*/oc*_event_cnt",
    "devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",
)
_PI_FLAGS = (
    "devices/platform/*firmware/get_throttled",
    "devices/platform/soc*/*/get_throttled",
)
_PI_NOW = 0xF  # the higher bits report the past


class Thermometer:
    """Reads the zones that existed when it was made; one that cannot be read is `None`."""

    def __init__(self, root: Path = Path("/")) -> None:
        sys = sysfs(root)
        self._zones: dict[str, NumberFile] = {}
        for zone in sorted(sys.glob("class/thermal/thermal_zone*")):
            name = text(zone / "type") or zone.name
            if name.lower() not in _NO_SENSORS:
                unique = name if name not in self._zones else f"{name} ({zone.name})"
                self._zones[unique] = NumberFile(zone / "temp")
        for name, file in _chip_zones(sys):
            self._zones.setdefault(name, file)
        self._states = [
            NumberFile(device / "cur_state")
            for device in sorted(sys.glob("class/thermal/cooling_device*"))
            if _slows_down(text(device / "type") or "")
        ]
        self._flags = [
            NumberFile(path, base=16) for pattern in _PI_FLAGS for path in sys.glob(pattern)
        ]
        counters = sorted(path for pattern in _EVENTS for path in sys.glob(pattern))
        self._counters = [NumberFile(path) for path in counters]
        self._counts = [counter.read() for counter in self._counters]

    def read(self) -> dict[str, ZoneReading]:
        """Each zone: its temperature, or why it is unknown."""
        return {name: _read(file) for name, file in self._zones.items()}

    def temperatures_c(self) -> dict[str, float | None]:
        """The temperature of each zone."""
        return {name: zone.temperature_c for name, zone in self.read().items()}

    def highest_c(self) -> float | None:
        """The hottest zone's temperature."""
        known = [value for value in self.temperatures_c().values() if value is not None]
        return max(known, default=None)

    def is_throttled(self) -> bool | None:
        """Whether the machine is throttled; `None` where nothing reports it."""
        before, self._counts = self._counts, [counter.read() for counter in self._counters]
        states, flags = (
            [file.read() for file in files] for files in (self._states, self._flags)
        )
        signs = [state > 0 for state in states if state is not None]
        signs += [bits & _PI_NOW != 0 for bits in flags if bits is not None]
        signs += [
            now > then
            for then, now in zip(before, self._counts, strict=True)
            if now is not None and then is not None
        ]
        return any(signs) if signs else None

    def close(self) -> None:
        """Close the files. Calling it twice is fine."""
        for file in (*self._zones.values(), *self._states, *self._flags, *self._counters):
            file.close()


def _chip_zones(sys: Path) -> Iterator[tuple[str, NumberFile]]:
    """Temperatures of monitor chips, which the kernel does not make zones of."""
    for folder in sorted(sys.glob("class/hwmon/hwmon*")):
        chip = text(folder / "name") or ""
        if chip not in _CHIPS:
            continue
        for file in sorted(folder.glob("temp*_input")):
            label = text(folder / file.name.replace("_input", "_label")) or file.name
            if label.startswith(_CHIPS[chip]):
                yield f"{chip} {label} ({chip_of(folder)})", NumberFile(file)


def _slows_down(kind: str) -> bool:
    return kind.lower().startswith(_SLOWING) or kind.endswith(_ALERTS)


def temperature_problem(thousandths_c: int) -> str | None:
    """Why a zone's number cannot be its temperature; `None` if it can."""
    if abs(thousandths_c) < _LOWEST_THOUSANDTHS:
        return f"{thousandths_c} is not in thousandths of a degree, or stuck"
    value_c = thousandths_c / 1000
    if not _POSSIBLE_C[0] < value_c < _POSSIBLE_C[1]:
        return f"{value_c:g} C is outside {_POSSIBLE_C[0]:g} to {_POSSIBLE_C[1]:g} C"
    return None


def _read(file: NumberFile) -> ZoneReading:
    thousandths_c = file.read()
    if thousandths_c is None:
        return ZoneReading(None, file.problem)
    if problem := temperature_problem(thousandths_c):
        return ZoneReading(None, f"{file.path}: {problem}")
    return ZoneReading(thousandths_c / 1000)
