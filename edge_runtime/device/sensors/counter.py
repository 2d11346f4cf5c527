"""A counter of energy that wraps, made into joules that only grow.

Clock: monotonic seconds. A counter that wrapped once looks like one that wrapped twice: the
difference is right only while less than a full range can have passed, which the highest power
that is possible at all tells. After a longer silence the energy is unknown, not guessed.
"""

from collections.abc import Callable


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
        self._longest_s = range_j / most_w
        self._range_j, self._clock = range_j, clock
        self._last: tuple[float, float] | None = None  # time and counter
        self._sum_j = 0.0

    def joules(self, counter_j: float) -> float | None:
        """Take a reading in; `None` if it cannot be compared with the one before."""
        now_s, last = self._clock(), self._last
        self._last = (now_s, counter_j)
        if last is None:
            return self._sum_j
        if now_s - last[0] >= self._longest_s:
            return None
        self._sum_j += (counter_j - last[1]) % self._range_j
        return self._sum_j
