"""Temperatures and throttling, from the kernel's thermal zones. Unit: degrees Celsius.

Throttled means now: a cooling device that slows down the processor or the GPU is active, or a
Raspberry Pi's firmware reports it, or an event counter of x86 processors or of a Jetson's
over-current protection has increased since the last reading.
"""

from pathlib import Path

from edge_runtime.device.files import NumberFile, sysfs, text

# Zones read nonsense while their part is powered off (-256 on Jetsons), and some always do.
_POSSIBLE_C = (-50.0, 150.0)
_NO_SENSORS = ("pmic-die",)  # a constant 50 or 100 on older Jetsons
_SLOWING = ("cpufreq", "thermal-cpufreq", "devfreq", "thermal-devfreq", "processor")
_ALERTS = "throttle-alert"
_EVENTS = (
    "class/hwmon/hwmon*/oc*_event_cnt",
    "devices/system/cpu/cpu0/thermal_throttle/*_throttle_count",
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

    def temperatures_c(self) -> dict[str, float | None]:
        """The temperature of each zone."""
        return {name: _celsius(file.read()) for name, file in self._zones.items()}

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


def _slows_down(kind: str) -> bool:
    return kind.lower().startswith(_SLOWING) or kind.endswith(_ALERTS)


def _celsius(thousandths: int | None) -> float | None:
    if thousandths is None:
        return None
    value_c = thousandths / 1000
    return value_c if _POSSIBLE_C[0] < value_c < _POSSIBLE_C[1] else None
