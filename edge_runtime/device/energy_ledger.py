"""Keeps the books of a meter: readings of a sensor in, energy of any window out.

Units as in `energy`. Reads no hardware and no clock; not safe for several threads.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edge_runtime.device.energy import Amount, History, Stretch, Tally, Track


class Watts(NamedTuple):
    """Power of a moment; `None` is unknown."""

    rails_w: dict[str, float | None]
    total_w: float | None


class Account:
    """A window of time that is still open."""

    def __init__(self, since_s: float, rails: Sequence[str], longest_s: float) -> None:
        self.since_s = since_s
        self.total = Tally(since_s, longest_s=longest_s)
        self.rails = {rail: Tally(since_s, longest_s=longest_s) for rail in rails}
        self.samples = self.missed = 0


class EnergyLedger:
    """Adds up what a sensor says, for every open account."""

    def __init__(
        self,
        rails: Sequence[str],
        total: Sequence[str],
        *,
        counts_energy: bool,
        longest_s: float,
        history_s: float,
    ) -> None:
        """Begin with nothing.

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
        """Take a reading in.

        Returns:
            The power since the reading before (of counters) or now. `None`: the clock has
            not moved on since the last reading, which is thus dropped.
        """
        if t_s <= self.last_s:
            return None
        self.last_s = t_s
        rails_w: dict[str, float | None] = {}
        for rail, track in self._tracks.items():
            stretches, rails_w[rail] = self._follow(track, t_s, values.get(rail))
            for account in self._accounts:
                for stretch in stretches:
                    account.rails[rail].add(stretch)
        stretches, total_w = self._follow(self._total_track, t_s, self._sum(values))
        for stretch in stretches:
            self._history.add(stretch)
        is_known = self._is_known(values)
        for account in self._accounts:
            for stretch in stretches:
                account.total.add(stretch)
            account.samples += is_known
            account.missed += not is_known
        return Watts(rails_w, total_w)

    def _follow(
        self, track: Track, t_s: float, value: float | None
    ) -> tuple[tuple[Stretch, ...], float | None]:
        if not self._counts_energy:
            return track.power(t_s, value), value
        stretches = track.count(t_s, value)
        return stretches, stretches[-1].end_w if stretches else None

    def _sum(self, values: Mapping[str, float | None]) -> float | None:
        """The total of a reading: unknown if any part of it is."""
        parts = [values.get(rail) for rail in self._total]
        known = [part for part in parts if part is not None]
        return sum(known) if known and len(known) == len(parts) else None

    def _is_known(self, values: Mapping[str, float | None]) -> bool:
        """Whether a reading tells the total, or where there is none, any rail."""
        if self._total:
            return self._sum(values) is not None
        return any(value is not None for value in values.values())

    def miss(self, readings: int) -> None:
        """So many readings were not made."""
        for account in self._accounts:
            account.missed += readings

    def open(self, since_s: float) -> Account:
        """Begin a window."""
        account = Account(since_s, tuple(self._tracks), self._longest_s)
        self._accounts.append(account)
        return account

    def close(self, account: Account) -> None:
        """End a window; what it amounts to must have been asked before."""
        self._accounts.remove(account)

    def total(self, account: Account, at_s: float) -> Amount:
        """Energy of the board in a window up to a time."""
        return account.total.amount(at_s, self._total_track)

    def rails_j(self, account: Account, at_s: float) -> dict[str, float | None]:
        """Energy of each rail in a window up to a time."""
        return {
            rail: tally.amount(at_s, self._tracks[rail]).energy_j
            for rail, tally in account.rails.items()
        }

    def between(self, from_s: float, to_s: float) -> float | None:
        """Energy of the board between two times; `None` beyond what is remembered."""
        if to_s <= from_s:
            return 0.0
        if from_s < self._history.begins_s:
            return None
        tally = Tally(from_s, longest_s=self._longest_s)
        for stretch in self._history.within(from_s, to_s):
            tally.add(stretch, until_s=to_s)
        return tally.amount(to_s, self._total_track).energy_j
