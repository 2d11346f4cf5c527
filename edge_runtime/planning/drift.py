"""How the costs of a run differ from its profile's: ratios, learnt while it trains.

A ratio has two parts: one of the board, which another program or a hot day changes for every
rung, and one of the rung, where its profile was wrong. What differs from the first step on,
or changes while a rung is trained, belongs to the board. What shows right after a switch
belongs to the rung.
"""

import math
from dataclasses import dataclass

_MEMORY_S = 20.0  # of training; what is older counts less
_PRIOR_S = 0.3  # of training, that the profile is worth
_SETTLING_S = 10.0  # of training after a switch, unless something changes
_SETTLED_S = 3.0  # of training since the board last changed
_MOST_OWN = 1.15
_RECENT_S = 2.0
_CHANGE = 0.2  # mean relative error of recent steps that says: it is not what it was
_LARGEST_JUMP = 4.0  # one step that hangs says nothing of the others


@dataclass(slots=True)
class _Ratio:
    """A mean over what was seen lately."""

    value: float = 1.0
    seen_s: float = _PRIOR_S

    def move(self, change: float, duration_s: float) -> None:
        seen_s = self.seen_s + duration_s
        self.value *= 1 + change * duration_s / seen_s
        self.seen_s = min(seen_s, _MEMORY_S)


class Drift:
    """Ratio of real to profiled cost, of one kind of cost. No clock: durations come in."""

    def __init__(self) -> None:
        self._board = _Ratio()
        self._own: dict[str, _Ratio] = {}
        self._rung: str | None = None
        self._settling_s = 0.0
        self._surprise = 0.0  # mean relative error of recent steps

    def ratio(self, rung: str) -> float:
        """Real cost of that rung over the profile's."""
        return self._board.value * self._own.get(rung, _Ratio()).value

    def observe(self, rung: str, ratio: float, duration_s: float) -> None:
        """Take in one step: its real cost over the profile's, and how long it was to take."""
        if rung != self._rung:
            is_known = self._rung is not None and self._board.seen_s >= _SETTLED_S
            self._settling_s = _SETTLING_S if is_known else 0.0
            self._rung, self._surprise = rung, 0.0
        most = _LARGEST_JUMP
        change = min(max(ratio / self.ratio(rung), 1 / most), most) - 1
        self._surprise += (change - self._surprise) * -math.expm1(-duration_s / _RECENT_S)
        own = self._own.setdefault(rung, _Ratio())
        # Rungs were measured against each other: one cannot be far off alone.
        is_board = own.value >= _MOST_OWN if change > 0 else own.value <= 1 / _MOST_OWN
        if self._settling_s > 0 and not is_board:
            own.move(change, duration_s)
            own.value = min(max(own.value, 1 / _MOST_OWN), _MOST_OWN)
        else:
            self._board.move(change, duration_s)
        self._settling_s -= duration_s
        if abs(self._surprise) > _CHANGE:
            # The next step begins a new mean, of the board: a rung does not change.
            self._board.seen_s = self._settling_s = self._surprise = 0.0
