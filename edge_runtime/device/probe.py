"""Reads a sensor that may fail, and reports its loss and its return once each.

Clock: monotonic seconds of the caller.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.device.sensors.base import PowerSensor

RETRY_S = 1.0  # how often a lost sensor is tried


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorEvent:
    """The sensor was lost, or it is back."""

    kind: str  # "lost" or "back"
    t_s: float
    sensor: str
    reason: str | None  # why it was lost
    gap_s: float | None  # how long it was lost


class Probe:
    """A sensor, and whether it works."""

    def __init__(self, sensor: PowerSensor, report: Callable[[SensorEvent], None]) -> None:
        self.sensor, self._report = sensor, report
        self.is_lost = False
        self._known_s: float | None = None  # of the last good reading
        self._tried_s = 0.0

    def read(self, clock: Callable[[], float]) -> tuple[float, dict[str, float | None]] | None:
        """When it was read, and its values; `None` if it is lost."""
        begin_s = clock()
        if self.is_lost and 0 <= begin_s - self._tried_s < RETRY_S:
            return None
        self._tried_s = begin_s
        try:
            values = self.sensor.read()
        except Exception as error:  # noqa: BLE001 - whatever a vendor's library raises
            self._lose(clock(), str(error) or type(error).__name__)
            return None
        # A counter is read last, rails one after the other.
        end_s = clock()
        t_s = end_s if self.sensor.counts_energy else (begin_s + end_s) / 2
        needed = self.sensor.total or self.sensor.rails
        unknown = [rail for rail in needed if values.get(rail) is None]
        if unknown and (self.sensor.total or len(unknown) == len(needed)):
            self._lose(t_s, f"{self.sensor.name} has no value for {', '.join(unknown)}")
        else:
            self._recover(t_s)
        return t_s, values

    def _lose(self, t_s: float, reason: str) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._known_s = t_s if self._known_s is None else self._known_s
            self._report(
                SensorEvent(
                    kind="lost", t_s=t_s, sensor=self.sensor.name, reason=reason, gap_s=None
                )
            )

    def _recover(self, t_s: float) -> None:
        if self.is_lost:
            self.is_lost = False
            gap_s = t_s - (t_s if self._known_s is None else self._known_s)
            self._report(
                SensorEvent(
                    kind="back", t_s=t_s, sensor=self.sensor.name, reason=None, gap_s=gap_s
                )
            )
        self._known_s = t_s
