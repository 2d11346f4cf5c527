"""A counter of energy that wraps, made into joules that only grow.

Clock: monotonic seconds. A counter that wrapped once looks like one that wrapped twice: the
difference is right only while less than a full range can have passed, which the highest power
that is possible at all tells. After a longer silence the energy is unknown, not guessed. The
same power tells a counter that was set back from one that wrapped.
"""

from collections.abc import Callable

_SLACK_S = 0.1  # hardware renews its counter at moments of its own


class WrappingCounter:
    """Joules of a counter since it was first read."""

    def __init__(self, *, range_j: float, most_w: float, clock: Callable[[], float]) -> None:
        """Begin.

        Args:
            range_j: the counter goes from this value to 0.
            most_w: no more is possible: energy is known across at most `range_j / most_w`
                seconds between two readings.
            clock: monotonic seconds.
        """
        self._range_j, self._most_w, self._clock = range_j, most_w, clock
        self._last: tuple[float, float] | None = None  # time and counter
        self._sum_j = 0.0

    def joules(self, counter_j: float) -> float | None:
        """Take a reading in; `None` if it cannot be compared with the one before."""
        now_s, last = self._clock(), self._last
        self._last = (now_s, counter_j)
        if last is None:
            return self._sum_j
        passed_s, used_j = now_s - last[0], (counter_j - last[1]) % self._range_j
        most_j = passed_s * self._most_w
        if most_j >= self._range_j or used_j > most_j + _SLACK_S * self._most_w:
            return None
        self._sum_j += used_j
        return self._sum_j
