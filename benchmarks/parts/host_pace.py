"""Detects whether others on this machine's host slowed it down, by a fixed computation.

A virtual machine does not see its neighbours. They can make every step take two or three
times as long for minutes, which no schedule could have known.

It errs on the strict side. Where others took the processors it was seen to slow down as much
as training, about 1.6 times; where one took memory bandwidth only, 1.04 times while training
took 1.34. Trials beside such a neighbour count like all others.
"""

import time
from statistics import median

import numpy as np

STEADY = 1.2  # relative to the beginning: above the usual noise of a machine
_REPEATS = 9
_CACHED, _STREAMED = (
    1 << 21,
    1 << 24,
)  # values of 4 bytes: some sizes fit the caches, some do not


class HostPace:
    """The time of a fixed computation, relative to that in the beginning."""

    def __init__(self) -> None:
        self._cached = np.random.default_rng(0).random(_CACHED, dtype=np.float32)
        self._streamed = np.ones(_STREAMED, np.float32)
        self._usual_s = self._took_s()

    def now(self) -> float:
        """The present pace; takes about a second of one processor."""
        return self._took_s() / self._usual_s

    def _took_s(self) -> float:
        return median(self._once_s() for _ in range(_REPEATS))

    def _once_s(self) -> float:
        start_s = time.perf_counter()
        np.sort(self._cached)
        np.add(self._streamed, 1.0, out=self._streamed)
        return time.perf_counter() - start_s
