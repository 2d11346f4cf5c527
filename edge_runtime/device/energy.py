"""Energy of time windows, computed from readings of power or of counters of energy.

Units: joules, watts, seconds of one monotonic clock. Power is interpolated linearly between
two readings (trapezoid rule), and is constant between two readings of a counter. An unknown
reading is `None`, never 0: the power is then interpolated from the last known reading to the
next one, and the result says how long the gap was. Reads no hardware and no clock; not
thread-safe.
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class PowerSegment(NamedTuple):
    """Power from one reading to the next."""

    start_s: float
    end_s: float
    start_w: float
    end_w: float

    @property
    def energy_j(self) -> float:
        """Energy of the whole segment."""
        return (self.end_s - self.start_s) * (self.start_w + self.end_w) / 2

    def within(self, from_s: float, to_s: float) -> "PowerSegment":
        """The part inside a window; where there is none, it ends before it starts."""
        if from_s <= self.start_s and self.end_s <= to_s:
            return self
        from_s, to_s = max(from_s, self.start_s), min(to_s, self.end_s)
        return PowerSegment(from_s, to_s, self._power_w(from_s), self._power_w(to_s))

    def _power_w(self, t_s: float) -> float:
        """Interpolated linearly."""
        share = (t_s - self.start_s) / (self.end_s - self.start_s)
        return self.start_w + share * (self.end_w - self.start_w)


class Track:
    """Turns the readings of one rail, or of the total, into segments. Times have to grow."""

    __slots__ = ("_counted_j", "_counted_s", "last_s", "last_w")

    def __init__(self) -> None:
        self.last_s: float | None = None  # of the last known power
        self.last_w = 0.0
        self._counted_s = 0.0
        self._counted_j: float | None = None

    def power(self, t_s: float, power_w: float | None) -> tuple[PowerSegment, ...]:
        """Add a reading of power; returns the segments that it completes."""
        if power_w is None:
            return ()
        last_s, last_w = self.last_s, self.last_w
        self.last_s, self.last_w = t_s, power_w
        return () if last_s is None else (PowerSegment(last_s, t_s, last_w, power_w),)

    def count(self, t_s: float, counted_j: float | None) -> tuple[PowerSegment, ...]:
        """Add a reading of a counter; returns the segments that it completes.

        The counter may have restarted at an unknown reading: the next reading is then its new
        start, and the gap is closed when a power is known again.
        """
        begin_s, begin_j = self._counted_s, self._counted_j
        self._counted_s, self._counted_j = t_s, counted_j
        if begin_j is None or counted_j is None:
            return ()
        mean_w = (counted_j - begin_j) / (t_s - begin_s)
        last_s, last_w = self.last_s, self.last_w
        self.last_s, self.last_w = t_s, mean_w
        known = PowerSegment(begin_s, t_s, mean_w, mean_w)
        if last_s is None or last_s >= begin_s:
            return (known,)
        return PowerSegment(last_s, begin_s, last_w, mean_w), known


class Amount(NamedTuple):
    """Energy of a window."""

    energy_j: float | None  # None: unknown
    gap_s: float  # without readings for longer than allowed
    largest_gap_s: float  # between two readings


class EnergyIntegral:
    """Energy of the segments of one track since a start time."""

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
        """Start at zero.

        Args:
            since_s: what comes before does not count.
            longest_s: readings further apart than this leave a gap.
        """
        self.since_s, self._longest_s = since_s, longest_s
        self._energy_j = self._gap_s = self._largest_gap_s = self._first_w = 0.0
        self._covered_from_s: float | None = None
        self._covered_to_s = since_s
        self.peak_w: float | None = None  # of the readings inside

    def add(self, segment: PowerSegment, until_s: float = math.inf) -> None:
        """Add a segment, or its part inside the window; they come in order of time."""
        length_s = segment.end_s - segment.start_s
        segment = segment.within(self.since_s, until_s)
        from_s, to_s, from_w, to_w = segment
        if to_s <= from_s:
            return
        if self._covered_from_s is None:
            self._covered_from_s, self._first_w = from_s, from_w
        self._covered_to_s = to_s
        self._energy_j += segment.energy_j
        if length_s > self._longest_s:
            self._gap_s += to_s - from_s
        if to_s - from_s > self._largest_gap_s:
            self._largest_gap_s = to_s - from_s
        if self.peak_w is None or max(from_w, to_w) > self.peak_w:
            self.peak_w = max(from_w, to_w)

    def doubt(self, from_s: float) -> None:
        """Count what was added since a time as a gap: the readings there were not true."""
        doubted_s = self._covered_to_s - max(from_s, self._covered_from_s or self.since_s)
        if self._covered_from_s is not None and doubted_s > 0:
            self._gap_s += doubted_s
            self._largest_gap_s = max(self._largest_gap_s, doubted_s)

    def amount(self, at_s: float, track: Track) -> Amount:
        """The energy from the start until `at_s`.

        Before the first known power and after the last one, that power is assumed to hold;
        what is longer than a moment counts as a gap. The energy is unknown where no reading
        lies in the window or shortly before it.
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
    """The most recent segments, 32 bytes each."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._numbers = array("d")  # start, end, start power, end power, start, ...
        self.begins_s = -math.inf  # segments before this were dropped

    def add(self, segment: PowerSegment) -> None:
        """Add a segment; drop the old ones, many at a time."""
        self._numbers.extend(segment)
        if segment.end_s - self._numbers[0] > 1.25 * self._keep_s:
            self.begins_s = segment.end_s - self._keep_s
            del self._numbers[: self._first_after(self.begins_s)]

    def within(self, from_s: float, to_s: float) -> Iterator[PowerSegment]:
        """The segments that overlap a window, in order of time."""
        for i in range(self._first_after(from_s), len(self._numbers), 4):
            segment = PowerSegment(*self._numbers[i : i + 4])
            if segment.start_s >= to_s:
                return
            yield segment

    def _first_after(self, t_s: float) -> int:
        """Index of the first segment that ends after a time; searched from the newest."""
        for i in range(len(self._numbers) - 4, -1, -4):
            if self._numbers[i + 1] <= t_s:
                return i + 4
        return 0


class Watts(NamedTuple):
    """Power at one moment; `None` is unknown."""

    rails_w: dict[str, float | None]
    total_w: float | None


class Account:
    """A window of time that is still open."""

    def __init__(self, since_s: float, rails: Sequence[str], longest_s: float) -> None:
        self.since_s = since_s
        self.total = EnergyIntegral(since_s, longest_s=longest_s)
        self.rails = {rail: EnergyIntegral(since_s, longest_s=longest_s) for rail in rails}
        self.samples = self.missed = 0


class EnergyLedger:
    """Integrates the readings of a sensor for every open account."""

    def __init__(
        self,
        rails: Sequence[str],
        total: Sequence[str],
        *,
        counts_energy: bool,
        longest_s: float,
        history_s: float,
    ) -> None:
        """Start without readings.

        Args:
            rails: what the sensor reads.
            total: those whose sum is the board's input; empty where that is unknown.
            counts_energy: whether readings are joules that add up, or watts.
            longest_s: readings further apart than this leave a gap.
            history_s: how far back `between` reaches.
        """
        self._tracks = {rail: Track() for rail in rails}
        self._total_track, self._total = Track(), tuple(total)
        self._counts_energy, self._longest_s = counts_energy, longest_s
        self._history = History(history_s)
        self._accounts: list[Account] = []
        self.last_s = -math.inf  # time of the last reading

    def add(self, t_s: float, values: Mapping[str, float | None]) -> Watts | None:
        """Add a reading.

        Returns:
            The power now, or of counters since the previous reading. `None`: the clock has not
            advanced since then, and the reading is dropped.
        """
        if t_s <= self.last_s:
            return None
        self.last_s = t_s
        rails_w: dict[str, float | None] = {}
        for rail, track in self._tracks.items():
            segments, rails_w[rail] = self._follow(track, t_s, values.get(rail))
            for account in self._accounts:
                for segment in segments:
                    account.rails[rail].add(segment)
        segments, total_w = self._follow(self._total_track, t_s, self._sum(values))
        for segment in segments:
            self._history.add(segment)
        is_known = self._is_known(values)
        for account in self._accounts:
            for segment in segments:
                account.total.add(segment)
            account.samples += is_known
            account.missed += not is_known
        return Watts(rails_w, total_w)

    def _follow(
        self, track: Track, t_s: float, value: float | None
    ) -> tuple[tuple[PowerSegment, ...], float | None]:
        if not self._counts_energy:
            return track.power(t_s, value), value
        segments = track.count(t_s, value)
        return segments, segments[-1].end_w if segments else None

    def _sum(self, values: Mapping[str, float | None]) -> float | None:
        """The total of a reading; unknown if any of its rails is."""
        parts = [values.get(rail) for rail in self._total]
        known = [part for part in parts if part is not None]
        return sum(known) if known and len(known) == len(parts) else None

    def _is_known(self, values: Mapping[str, float | None]) -> bool:
        """Whether a reading has the total, or any rail where there is no total."""
        if self._total:
            return self._sum(values) is not None
        return any(value is not None for value in values.values())

    def miss(self, readings: int) -> None:
        """Count readings that were not made."""
        for account in self._accounts:
            account.missed += readings

    def doubt(self, from_s: float) -> None:
        """Mark the energy of the board since a time as a gap in every open account."""
        for account in self._accounts:
            account.total.doubt(from_s)

    def open(self, since_s: float) -> Account:
        """Start a window."""
        account = Account(since_s, tuple(self._tracks), self._longest_s)
        self._accounts.append(account)
        return account

    def close(self, account: Account) -> None:
        """End a window; its energy must be read before."""
        self._accounts.remove(account)

    def total(self, account: Account, at_s: float) -> Amount:
        """Energy of the board in a window up to a time."""
        return account.total.amount(at_s, self._total_track)

    def rails_j(self, account: Account, at_s: float) -> dict[str, float | None]:
        """Energy of each rail in a window up to a time."""
        return {
            rail: integral.amount(at_s, self._tracks[rail]).energy_j
            for rail, integral in account.rails.items()
        }

    def between(self, from_s: float, to_s: float) -> float | None:
        """Energy of the board between two times; `None` beyond the history."""
        if to_s <= from_s:
            return 0.0
        if from_s < self._history.begins_s:
            return None
        integral = EnergyIntegral(from_s, longest_s=self._longest_s)
        for segment in self._history.within(from_s, to_s):
            integral.add(segment, until_s=to_s)
        return integral.amount(to_s, self._total_track).energy_j
