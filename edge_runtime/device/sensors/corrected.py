"""A sensor whose rails are corrected by the board's calibration.

Power = gain * read power + offset. Energy that is counted takes the offset times the seconds
since the start.
"""

import time
from collections.abc import Callable, Mapping

from edge_runtime.device.board import Calibration
from edge_runtime.device.sensors.base import PowerSensor


class Corrected:
    """Another sensor with corrected rails; it owns that sensor."""

    def __init__(
        self,
        sensor: PowerSensor,
        calibration: Mapping[str, Calibration],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sensor = sensor
        self._calibration = {
            rail: own for rail, own in calibration.items() if rail in sensor.rails
        }
        self._clock, self._start_s = clock, clock()
        self.name, self.rails, self.total = sensor.name, sensor.rails, sensor.total
        self.is_estimate, self.counts_energy = sensor.is_estimate, sensor.counts_energy
        self.period_s = sensor.period_s

    @property
    def description(self) -> str:
        """See `PowerSensor.description`."""
        corrections = [
            f"{rail} = {own.gain:g} * read {'-' if own.offset_w < 0 else '+'} "
            f"{abs(own.offset_w):g} W"
            for rail, own in self._calibration.items()
        ]
        return f"{self._sensor.description}, calibrated: {'; '.join(corrections)}"

    def read(self) -> dict[str, float | None]:
        """See `PowerSensor.read`."""
        per_offset = self._clock() - self._start_s if self.counts_energy else 1.0
        found = self._sensor.read()
        for rail, own in self._calibration.items():
            value = found[rail]
            if value is not None:
                found[rail] = own.gain * value + own.offset_w * per_offset
        return found

    def close(self) -> None:
        """See `PowerSensor.close`."""
        self._sensor.close()
