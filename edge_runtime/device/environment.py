"""Temperature, throttling and clocks: what is read beside power, and more rarely.

Units: degrees Celsius, hertz; load from 0 to 1.
"""

from pathlib import Path
from typing import NamedTuple

from edge_runtime.device.files import NumberFile, sysfs
from edge_runtime.device.heat import ZoneReading
from edge_runtime.device.thermal import Thermometer

_GPUS = ("gpu", "ga10b", "gv11b", "gp10b")  # in the names of their devfreq devices


class EnvironmentReading(NamedTuple):
    """`None` is unknown."""

    temperature_c: float | None = None  # of the hottest zone
    throttled: bool | None = None
    cpu_hz: float | None = None  # of the fastest group of cores
    gpu_hz: float | None = None
    gpu_load: float | None = None


class EnvironmentSensors:
    """Reads the sensors that existed when it was made."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._thermometer = Thermometer(root)
        self.zones: dict[str, ZoneReading] = {}  # of the last reading
        sys = sysfs(root)
        policies = sorted(
            {path.resolve() for path in sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq")}
        )
        self._cpu_khz = [NumberFile(policy / "scaling_cur_freq") for policy in policies]
        gpus = [
            path
            for path in sorted(sys.glob("class/devfreq/*"))
            if any(name in path.name for name in _GPUS)
        ]
        self._gpu_hz = [NumberFile(gpu / "cur_freq") for gpu in gpus]
        self._gpu_permille = [NumberFile(gpu / "device/load") for gpu in gpus]

    def read(self) -> EnvironmentReading:
        """Read everything now."""
        self.zones = self._thermometer.read()
        known = [c for c, _ in self.zones.values() if c is not None]
        cpu_khz, gpu_hz = _highest(self._cpu_khz), _highest(self._gpu_hz)
        gpu_permille = _highest(self._gpu_permille)
        return EnvironmentReading(
            temperature_c=max(known, default=None),
            throttled=self._thermometer.is_throttled(),
            cpu_hz=None if cpu_khz is None else cpu_khz * 1e3,
            gpu_hz=None if gpu_hz is None else float(gpu_hz),
            gpu_load=None if gpu_permille is None else gpu_permille / 1e3,
        )

    def close(self) -> None:
        """Close the files. Calling it twice is fine."""
        self._thermometer.close()
        for file in (*self._cpu_khz, *self._gpu_hz, *self._gpu_permille):
            file.close()


def _highest(files: list[NumberFile]) -> int | None:
    return max((value for file in files if (value := file.read()) is not None), default=None)
