"""Whether a reading of power or of counted energy can be true.

A reading that cannot be true is unknown. Units: watts, joules, seconds of one clock that
never goes back. Reads no hardware and no clock.
"""

import math
from typing import NamedTuple


class SensorKind(NamedTuple):
    """What the readings of one kind of sensor, or of a part of it, can be."""

    frozen_s: float | None = None  # exactly equal for longer: it has stopped; None: it may be
    above_w: float = 0.0  # what it measures always uses more than this


RAIL = SensorKind(above_w=-1.0)  # a part of a board may be off, and its chip has an offset
ANYTHING = SensorKind(above_w=-math.inf)  # derived, not measured


class Reading(NamedTuple):
    """One reading, and what is known about it."""

    power_w: float | None = None  # None: a counter that has not counted since the last time
    same_s: float = 0.0  # for how long it has been exactly equal
    scale: float | None = None  # share of what the chip can measure; None: unknown


def judge(reading: Reading, kind: SensorKind) -> str | None:
    """Why the reading cannot be true, for people; `None` if it can."""
    power_w, same_s, scale = reading
    if power_w is not None and not math.isfinite(power_w):
        return f"{power_w} W is not a number"
    if scale is not None and abs(scale) >= 1:
        return "at full scale: the true value is higher, or the chip is disturbed"
    if power_w is not None and power_w <= kind.above_w:
        return (
            f"{power_w:.3f} W is not above {f'{kind.above_w:g} W' if kind.above_w else 'zero'}"
        )
    if kind.frozen_s is not None and same_s > kind.frozen_s:
        if power_w is None:
            return f"has counted nothing for {same_s:.0f} s"
        return f"exactly {power_w:.3f} W for {same_s:.0f} s: it has stopped to measure"
    return None


class Judge:
    """Judges the totals that one sensor reads, in their order."""

    def __init__(self, kind: SensorKind, *, counts_energy: bool) -> None:
        self._kind, self._counts_energy = kind, counts_energy
        self._value: float | None = None
        self._read_s = self._same_since_s = 0.0
        self.stopped_since_s: float | None = None  # the last reading was not true for that

    @property
    def needs_change(self) -> bool:
        """Whether an equal reading is no new reading: of what always counts."""
        return self._counts_energy and self._kind.above_w >= 0

    def see(self, t_s: float, total: float) -> tuple[str | None, bool]:
        """Take a reading of the total in.

        Returns:
            Why it cannot be true, if so, and whether it differs from the one before.
        """
        before, before_s, self._read_s = self._value, self._read_s, t_s
        is_new = total != before
        if is_new:
            self._value, self._same_since_s = total, t_s
        power_w: float | None = total
        if self._counts_energy:
            known = is_new and before is not None and t_s > before_s
            power_w = (total - (before or 0.0)) / (t_s - before_s) if known else None
        same_s = t_s - self._same_since_s
        problem = judge(Reading(power_w, same_s), self._kind)
        is_stopped = problem is not None and judge(Reading(power_w), self._kind) is None
        self.stopped_since_s = self._same_since_s if is_stopped else None
        return problem, is_new

    def forget(self) -> None:
        """Forget the last reading: a counter may have restarted."""
        self._value = self.stopped_since_s = None
