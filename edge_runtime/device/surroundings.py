"""Temperature, throttling and clocks at once: what is read beside power, and more rarely."""

from pathlib import Path
from typing import NamedTuple

from edge_runtime.device.clocks import Clocks
from edge_runtime.device.thermal import Thermometer


class SurroundingsNow(NamedTuple):
    """`None` is unknown."""

    temperature_c: float | None = None  # of the hottest zone
    throttled: bool | None = None
    cpu_hz: float | None = None
    gpu_hz: float | None = None
    gpu_load: float | None = None  # 0 to 1


class Surroundings:
    """Reads what it found when it was made."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._thermometer, self._clocks = Thermometer(root), Clocks(root)

    def read(self) -> SurroundingsNow:
        """Everything, now."""
        return SurroundingsNow(
            self._thermometer.highest_c(),
            self._thermometer.is_throttled(),
            *self._clocks.read(),
        )

    def close(self) -> None:
        """Let go of the files. Calling it twice is fine."""
        self._thermometer.close()
        self._clocks.close()
