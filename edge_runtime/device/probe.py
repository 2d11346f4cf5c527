"""Reads a sensor that may fail or be wrong, and reports what is not used.

A sensor that fails is lost at once. One whose readings are missing or cannot be true is lost
after a second of them; single ones are only left out. Lost and back are reported once each.
Clock: monotonic seconds of the caller.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_runtime.device.heat import ZoneChange
from edge_runtime.device.plausibility import Judge
from edge_runtime.device.sensors.base import PowerSensor

RETRY_S = 1.0  # how often a sensor that fails is tried
_TOLERATED_S = 1.0  # without a reading that can be used
_REPORT_EVERY_S = 60.0  # single readings that are not used


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorEvent:
    """A sensor was lost, or it is back, or a reading was not used."""

    kind: str  # "lost", "back" or "refused"; "zone_lost" or "zone_back" of a temperature
    t_s: float
    sensor: str  # or zone
    reason: str | None  # why it was lost, or the reading was not used
    gap_s: float | None  # how long it was lost
    temperature_c: float | None = None  # of a zone: the last one

    @classmethod
    def of_zone(cls, t_s: float, change: ZoneChange) -> "SensorEvent":
        """The event of a temperature zone."""
        return cls(
            kind="zone_back" if change.problem is None else "zone_lost",
            t_s=t_s,
            sensor=change.zone,
            reason=change.problem,
            gap_s=change.gap_s,
            temperature_c=change.temperature_c,
        )


class Probe:
    """A sensor, and whether it works."""

    def __init__(self, sensor: PowerSensor, report: Callable[[SensorEvent], None]) -> None:
        self.sensor, self._report = sensor, report
        self._judge = Judge(sensor.kind, counts_energy=sensor.counts_energy)
        self.is_lost = False
        self.problem: str | None = None  # of the last reading
        self.known_s: float | None = None  # time of the last reading that was used
        self._doubted_s: float | None = None  # since when no reading could be used
        self._refused_s = -math.inf  # when a single one was reported
        self._tried_s, self._has_failed = 0.0, False  # the last attempt

    def read(self, clock: Callable[[], float]) -> tuple[float, dict[str, float | None]] | None:
        """When it was read, and its values; `None` if there is nothing new."""
        begin_s = clock()
        if self._has_failed and 0 <= begin_s - self._tried_s < RETRY_S:
            return None
        self._tried_s = begin_s
        try:
            values = self.sensor.read()
        except Exception as error:  # noqa: BLE001 - whatever a vendor's library raises
            self._judge.forget()
            self._has_failed = True
            self._lose(clock(), str(error) or type(error).__name__)
            return None
        self._has_failed = False
        # A counter is read last, rails one after the other.
        end_s = clock()
        t_s = end_s if self.sensor.counts_energy else (begin_s + end_s) / 2
        problem, is_new = self._judged(t_s, values)
        if problem is not None:
            self._refuse(t_s, problem)
            return t_s, values | dict.fromkeys(self.sensor.total)
        if not is_new and self._judge.needs_change:
            return None
        self._recover(t_s)
        return t_s, values

    def _judged(
        self, t_s: float, values: Mapping[str, float | None]
    ) -> tuple[str | None, bool]:
        """Why a reading cannot be used, and whether it is new."""
        name, total = self.sensor.name, self.sensor.total
        needed = total or self.sensor.rails
        unknown = [rail for rail in needed if values.get(rail) is None]
        if unknown and (total or len(unknown) == len(needed)):
            self._judge.forget()
            why = self.sensor.why_unknown(unknown[0])
            reason = f"{name} has no value for {', '.join(unknown)}"
            return (f"{reason}: {why}" if why else reason), True
        if not total:
            return None, True
        problem, is_new = self._judge.see(
            t_s, math.fsum(values[rail] or 0.0 for rail in total)
        )
        return (f"{name}: {' + '.join(total)}: {problem}" if problem else None), is_new

    def _refuse(self, t_s: float, problem: str) -> None:
        """A reading that cannot be used."""
        self.problem = problem
        if self.is_lost:
            return
        stopped_s = self._judge.stopped_since_s
        if untrue_s := self.sensor.untrue_s():
            stopped_s = t_s - untrue_s
        if stopped_s is not None:  # what was read since then was not true, either
            self.known_s = stopped_s
        if self._doubted_s is None:
            self._doubted_s = t_s
        if stopped_s is not None or t_s - self._doubted_s >= _TOLERATED_S:
            self._lose(t_s, problem)
        elif self._doubted_s == t_s and t_s - self._refused_s >= _REPORT_EVERY_S:
            self._refused_s = t_s
            self._send("refused", t_s, reason=problem)

    def _lose(self, t_s: float, reason: str) -> None:
        self.problem = reason
        if not self.is_lost:
            self.is_lost = True
            self.known_s = t_s if self.known_s is None else self.known_s
            self._send("lost", t_s, reason=reason)

    def _recover(self, t_s: float) -> None:
        if self.is_lost:
            self.is_lost = False
            gap_s = t_s - (t_s if self.known_s is None else self.known_s)
            self._send("back", t_s, gap_s=gap_s)
        self.known_s, self.problem, self._doubted_s = t_s, None, None

    def _send(
        self, kind: str, t_s: float, *, reason: str | None = None, gap_s: float | None = None
    ) -> None:
        self._report(
            SensorEvent(
                kind=kind, t_s=t_s, sensor=self.sensor.name, reason=reason, gap_s=gap_s
            )
        )
