"""Reads a sensor that may fail, and tells of its loss and return once each.

Clock: monotonic seconds, given by the caller.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.device.sensors.base import PowerSensor

RETRY_S = 1.0  # a lost sensor is tried this often


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorEvent:
    """The sensor was lost, or it is back."""

    kind: str  # "lost" or "back"
    t_s: float
    sensor: str
    reason: str | None  # why it was lost
    gap_s: float | None  # how long it has been away


class Probe:
    """A sensor, and whether it works."""

    def __init__(self, sensor: PowerSensor, tell: Callable[[SensorEvent], None]) -> None:
        self.sensor, self._tell = sensor, tell
        self.is_lost = False
        self._known_s: float | None = None  # of the last good reading
        self._tried_s = 0.0

    def read(self, clock: Callable[[], float]) -> tuple[float, dict[str, float | None]] | None:
        """When it was read, and what it said; `None` if it is lost."""
        begin_s = clock()
        if self.is_lost and 0 <= begin_s - self._tried_s < RETRY_S:
            return None
        self._tried_s = begin_s
        try:
            found = self.sensor.read()
        except Exception as error:  # noqa: BLE001 - whatever a vendor's library comes up with
            self._lose(clock(), str(error) or type(error).__name__)
            return None
        # Counters are read as the last thing, rails one after the other.
        end_s = clock()
        t_s = end_s if self.sensor.counts_energy else (begin_s + end_s) / 2
        needed = self.sensor.total or self.sensor.rails
        unknown = [rail for rail in needed if found.get(rail) is None]
        if unknown and (self.sensor.total or len(unknown) == len(needed)):
            self._lose(t_s, f"{self.sensor.name} gives no value for {', '.join(unknown)}")
        else:
            self._find(t_s)
        return t_s, found

    def _lose(self, t_s: float, reason: str) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._known_s = t_s if self._known_s is None else self._known_s
            self._tell(
                SensorEvent(
                    kind="lost", t_s=t_s, sensor=self.sensor.name, reason=reason, gap_s=None
                )
            )

    def _find(self, t_s: float) -> None:
        if self.is_lost:
            self.is_lost = False
            gap_s = t_s - (t_s if self._known_s is None else self._known_s)
            self._tell(
                SensorEvent(
                    kind="back", t_s=t_s, sensor=self.sensor.name, reason=None, gap_s=gap_s
                )
            )
        self._known_s = t_s
