"""Energy of time windows, computed from readings of power or of counters of energy.

Units: joules, watts, seconds of one monotonic clock. Between two readings of power it is
taken as a straight line (trapezoid rule); between two of a counter as constant. An unknown
reading is `None`, never 0: the line then goes from the last known reading to the next one, and
who asks learns how long the gap was. Reads no hardware and no clock.
"""

import math
from array import array
from collections.abc import Iterator
from typing import NamedTuple


class Stretch(NamedTuple):
    """Power from one reading to the next."""

    start_s: float
    end_s: float
    start_w: float
    end_w: float

    @property
    def energy_j(self) -> float:
        """Of the whole of it."""
        return (self.end_s - self.start_s) * (self.start_w + self.end_w) / 2

    def within(self, from_s: float, to_s: float) -> "Stretch":
        """The part that lies in a window; it ends before it begins where there is none."""
        if from_s <= self.start_s and self.end_s <= to_s:
            return self
        from_s, to_s = max(from_s, self.start_s), min(to_s, self.end_s)
        return Stretch(from_s, to_s, self._power_w(from_s), self._power_w(to_s))

    def _power_w(self, t_s: float) -> float:
        """On the straight line."""
        share = (t_s - self.start_s) / (self.end_s - self.start_s)
        return self.start_w + share * (self.end_w - self.start_w)


class Track:
    """Readings of one rail, or of the total, made into stretches. Times have to grow."""

    __slots__ = ("_counted_j", "_counted_s", "last_s", "last_w")

    def __init__(self) -> None:
        self.last_s: float | None = None  # of the last known power
        self.last_w = 0.0
        self._counted_s = 0.0
        self._counted_j: float | None = None

    def power(self, t_s: float, power_w: float | None) -> tuple[Stretch, ...]:
        """Take a reading of power; what it completes."""
        if power_w is None:
            return ()
        last_s, last_w = self.last_s, self.last_w
        self.last_s, self.last_w = t_s, power_w
        return () if last_s is None else (Stretch(last_s, t_s, last_w, power_w),)

    def count(self, t_s: float, counted_j: float | None) -> tuple[Stretch, ...]:
        """Take a reading of a counter; what it completes.

        After an unknown reading the count may have begun anew: the next one starts it, and
        the gap is closed when a power is known again.
        """
        begin_s, begin_j = self._counted_s, self._counted_j
        self._counted_s, self._counted_j = t_s, counted_j
        if begin_j is None or counted_j is None:
            return ()
        mean_w = (counted_j - begin_j) / (t_s - begin_s)
        last_s, last_w = self.last_s, self.last_w
        self.last_s, self.last_w = t_s, mean_w
        known = Stretch(begin_s, t_s, mean_w, mean_w)
        if last_s is None or last_s >= begin_s:
            return (known,)
        return Stretch(last_s, begin_s, last_w, mean_w), known


class Amount(NamedTuple):
    """Energy of a window."""

    energy_j: float | None  # None: unknown
    gap_s: float  # without readings for longer than allowed
    largest_gap_s: float  # between two readings


class Tally:
    """What the stretches of one track amount to since a moment."""

    __slots__ = (
        "_covered_from_s",
        "_covered_to_s",
        "_energy_j",
        "_first_w",
        "_gap_s",
        "_largest_gap_s",
        "_longest_s",
        "peak_w",
        "since_s",
    )

    def __init__(self, since_s: float, *, longest_s: float) -> None:
        """Begin.

        Args:
            since_s: what comes before does not count.
            longest_s: readings further apart than this leave a gap.
        """
        self.since_s, self._longest_s = since_s, longest_s
        self._energy_j = self._gap_s = self._largest_gap_s = self._first_w = 0.0
        self._covered_from_s: float | None = None
        self._covered_to_s = since_s
        self.peak_w: float | None = None  # of the readings inside

    def add(self, stretch: Stretch, until_s: float = math.inf) -> None:
        """Count a stretch, or what of it lies in the window; they come in their order."""
        length_s = stretch.end_s - stretch.start_s
        stretch = stretch.within(self.since_s, until_s)
        from_s, to_s, from_w, to_w = stretch
        if to_s <= from_s:
            return
        if self._covered_from_s is None:
            self._covered_from_s, self._first_w = from_s, from_w
        self._covered_to_s = to_s
        self._energy_j += stretch.energy_j
        if length_s > self._longest_s:
            self._gap_s += to_s - from_s
        if to_s - from_s > self._largest_gap_s:
            self._largest_gap_s = to_s - from_s
        if self.peak_w is None or max(from_w, to_w) > self.peak_w:
            self.peak_w = max(from_w, to_w)

    def amount(self, at_s: float, track: Track) -> Amount:
        """The whole from the beginning until `at_s`.

        Before the first known power that one holds, after the last one that one: for a moment
        at the edges of a window always, for longer as a gap. Where no reading lies in the
        window or shortly before it, nothing is known.
        """
        if self._covered_from_s is None:
            if track.last_s is None or not 0 <= at_s - track.last_s <= self._longest_s:
                return Amount(None, at_s - self.since_s, at_s - self.since_s)
            return Amount(track.last_w * (at_s - self.since_s), 0.0, at_s - track.last_s)
        lead_s = self._covered_from_s - self.since_s
        tail_s = max(0.0, at_s - self._covered_to_s)
        return Amount(
            energy_j=self._energy_j + lead_s * self._first_w + tail_s * track.last_w,
            gap_s=self._gap_s + sum(s for s in (lead_s, tail_s) if s > self._longest_s),
            largest_gap_s=max(self._largest_gap_s, lead_s, tail_s),
        )


class History:
    """The stretches of the last while, 32 bytes each."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._numbers = array("d")  # start, end, start power, end power, start, ...
        self.begins_s = -math.inf  # before this, something was dropped

    def add(self, stretch: Stretch) -> None:
        """Keep one more; drop the old ones, many at a time."""
        self._numbers.extend(stretch)
        if stretch.end_s - self._numbers[0] > 1.25 * self._keep_s:
            self.begins_s = stretch.end_s - self._keep_s
            del self._numbers[: self._first_after(self.begins_s)]

    def within(self, from_s: float, to_s: float) -> Iterator[Stretch]:
        """Those that touch a window, in their order."""
        for i in range(self._first_after(from_s), len(self._numbers), 4):
            stretch = Stretch(*self._numbers[i : i + 4])
            if stretch.start_s >= to_s:
                return
            yield stretch

    def _first_after(self, t_s: float) -> int:
        """Index of the first stretch that ends after a time; searched from the newest."""
        for i in range(len(self._numbers) - 4, -1, -4):
            if self._numbers[i + 1] <= t_s:
                return i + 4
        return 0
