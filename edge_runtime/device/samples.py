"""What a meter gives: samples of power, and windows of time.

Units: joules, watts, degrees Celsius, monotonic seconds. `None` is unknown, never 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from edge_runtime.device.energy import Account
from edge_runtime.device.environment import EnvironmentReading
from edge_runtime.facts import WindowEnergy


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSample:
    """Readings of one moment. Temperatures and clocks are up to a second older."""

    t_s: float
    rails_w: dict[str, float | None]
    total_w: float | None
    energy_j: float | None  # gross, of the board since the meter started; None: no total_w
    temperature_c: float | None  # of the hottest zone
    throttled: bool | None
    cpu_hz: float | None
    gpu_hz: float | None
    gpu_load: float | None  # 0 to 1


class PowerUnknown(NamedTuple):
    """The board's power is not known now."""

    reason: str  # names the sensor, the rail or file, and its value
    for_s: float


class Window:
    """A named part of a meter's time; see `Meter.window`."""

    def __init__(
        self, name: str, account: Account, so_far: Callable[["Window"], WindowEnergy]
    ):
        self.name, self.account, self._so_far = name, account, so_far
        self.peak_temperature_c: float | None = None
        self.throttled: bool | None = None
        self._result: WindowEnergy | None = None

    @property
    def energy(self) -> WindowEnergy:
        """Energy of the window, or of its time so far."""
        return self._so_far(self) if self._result is None else self._result

    def end(self) -> None:
        """Fix the energy used until now."""
        self._result = self._so_far(self)

    def observe(self, reading: EnvironmentReading) -> None:
        """Update the highest temperature and whether the board was throttled."""
        known = [c for c in (self.peak_temperature_c, reading.temperature_c) if c is not None]
        self.peak_temperature_c = max(known, default=None)
        if reading.throttled is not None:
            self.throttled = bool(self.throttled) or reading.throttled
