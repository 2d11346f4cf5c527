"""The temperature zones over time: which is the hottest, and which cannot be read any more.

Units: degrees Celsius, seconds of one clock that never goes back. Reads no hardware and no
clock.
"""

from collections.abc import Mapping
from typing import NamedTuple


class ZoneReading(NamedTuple):
    """One zone at one moment."""

    temperature_c: float | None
    problem: str | None = None  # why it is unknown, with the file and its value


class Hottest(NamedTuple):
    """The hottest zone."""

    zone: str
    temperature_c: float
    same_s: float  # for how long it has read exactly this


class ZoneChange(NamedTuple):
    """A zone cannot be read any more, or again."""

    zone: str
    temperature_c: float | None  # the last one, or the present one
    problem: str | None  # None: it is back
    gap_s: float | None  # how long it was unknown


class HeatUnknown(NamedTuple):
    """The temperature of the board is not known."""

    zone: str  # that was the hottest; all of them if none was ever read
    reason: str
    for_s: float


class _Zone:
    """What is known of one zone that has been read."""

    def __init__(self, t_s: float, temperature_c: float) -> None:
        self.known_s = self.same_since_s = t_s
        self.temperature_c = temperature_c
        self.problem: str | None = None
        self.was_hottest = False  # when it was last read

    def see(self, t_s: float, temperature_c: float) -> None:
        if temperature_c != self.temperature_c:
            self.temperature_c, self.same_since_s = temperature_c, t_s
        self.known_s, self.problem = t_s, None


class HeatWatch:
    """Takes the readings of all zones in."""

    def __init__(self) -> None:
        self._zones: dict[str, _Zone] = {}
        self._never: dict[str, str] = {}  # zones that were never read, and why not
        self._now_s: float | None = None
        self._begin_s = 0.0

    def see(self, t_s: float, readings: Mapping[str, ZoneReading]) -> list[ZoneChange]:
        """Take one reading of every zone in; returns what has changed."""
        if self._now_s is None:
            self._begin_s = t_s
        self._now_s = t_s
        changes = []
        for name, (temperature_c, problem) in readings.items():
            zone = self._zones.get(name)
            if temperature_c is None:
                why = problem or "no value"
                if zone is None:
                    self._never[name] = why
                elif zone.problem is None:
                    zone.problem = why
                    changes.append(ZoneChange(name, zone.temperature_c, why, None))
            elif zone is None:
                self._zones[name] = _Zone(t_s, temperature_c)
                self._never.pop(name, None)
            else:
                if zone.problem is not None:
                    gap_s = t_s - zone.known_s
                    changes.append(ZoneChange(name, temperature_c, None, gap_s))
                zone.see(t_s, temperature_c)
        hottest = self._hottest_name()
        for name, zone in self._zones.items():
            if zone.problem is None:
                zone.was_hottest = name == hottest
        return changes

    def hottest(self) -> Hottest | None:
        """The hottest zone of the last reading."""
        name = self._hottest_name()
        if name is None or self._now_s is None:
            return None
        zone = self._zones[name]
        return Hottest(name, zone.temperature_c, self._now_s - zone.same_since_s)

    def unknown(self, now_s: float) -> HeatUnknown | None:
        """Why the board's temperature is not known; `None` if it is.

        It is not known without any zone, nor while the zone that was the hottest is missing:
        the others may be far cooler.
        """
        missing = [
            (zone.known_s, name, zone)
            for name, zone in self._zones.items()
            if zone.problem is not None and zone.was_hottest
        ]
        if missing:
            known_s, name, zone = min(missing)[:3]
            reason = f"zone {name}, {zone.temperature_c:.1f} C at last: {zone.problem}"
            return HeatUnknown(name, reason, now_s - known_s)
        if self._hottest_name() is not None:
            return None
        names = ", ".join(self._never) or "none"
        reason = "; ".join(f"zone {name}: {why}" for name, why in self._never.items())
        reason = reason or "no temperature sensor was found"
        return HeatUnknown(names, reason, now_s - self._begin_s)

    def _hottest_name(self) -> str | None:
        known = [name for name, zone in self._zones.items() if zone.problem is None]
        return max(known, key=lambda name: self._zones[name].temperature_c, default=None)
