"""A sensor whose rails are calibrated by the board's profile.

Power = gain * read power + offset. Counters of energy add the offset times the seconds since
the start.
"""

import time
from collections.abc import Callable, Mapping

from typing_extensions import override

from edge_runtime.device.board import Calibration
from edge_runtime.device.sensors.base import PowerSensor


class CalibratedSensor(PowerSensor):
    """Another sensor with calibrated rails; it owns that sensor."""

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
        self.period_s, self.kind = sensor.period_s, sensor.kind
        self.within_s = sensor.within_s
        corrections = [
            f"{rail} = {own.gain:g} * read {'-' if own.offset_w < 0 else '+'} "
            f"{abs(own.offset_w):g} W"
            for rail, own in self._calibration.items()
        ]
        self.description = f"{sensor.description}, calibrated: {'; '.join(corrections)}"

    @override
    def read(self) -> dict[str, float | None]:
        per_offset = self._clock() - self._start_s if self.counts_energy else 1.0
        values = self._sensor.read()
        for rail, own in self._calibration.items():
            value = values[rail]
            if value is not None:
                values[rail] = own.gain * value + own.offset_w * per_offset
        return values

    @override
    def why_unknown(self, rail: str) -> str | None:
        return self._sensor.why_unknown(rail)

    @override
    def untrue_s(self) -> float:
        return self._sensor.untrue_s()

    @override
    def close(self) -> None:
        self._sensor.close()
