"""Joules that one process has spent by any time, computed while its readings are read.

Seconds from the start of the process. The power is constant between two readings, and from the
start to the first one. After the last reading it is unknown, and nothing is counted.
"""

from collections.abc import Iterable

import numpy as np

from edge_runtime.report.summary.loader import Array

_KEPT = 1000  # readings before the time that is needed


class EnergyCurve:
    """The readings that are still needed, and the answers to what was asked in advance."""

    def __init__(self, asked_s: Iterable[float]) -> None:
        """Begin at zero.

        Args:
            asked_s: times of which the joules will be wanted in the end.
        """
        self._t_s, self._joules = np.zeros(1), np.zeros(1)
        self._asked_s = np.unique(np.fromiter(asked_s, "float64"))
        self._answered: dict[float, float] = {}
        self.last_s: float | None = None  # of the readings

    @property
    def joules(self) -> float | None:
        """Until the last reading; `None`: there is none."""
        return None if self.last_s is None else float(self._joules[-1])

    def add(self, t_s: Array, joules: Array) -> None:
        """Add readings behind those that were added before."""
        if not len(t_s):
            return
        self._t_s = np.concatenate([self._t_s, t_s])
        self._joules = np.concatenate([self._joules, joules])
        self.last_s = float(t_s[-1])
        known = np.searchsorted(self._asked_s, self.last_s, side="right")
        self._answer(self._asked_s[:known])
        self._asked_s = self._asked_s[known:]

    def until(self, at_s: Array) -> Array:
        """(n,) joules by each of (n,) times that were not forgotten."""
        return np.asarray(np.interp(at_s, self._t_s, self._joules))

    def answer(self, at_s: float) -> float:
        """Joules by one of the times given at the beginning, once all readings were added."""
        self._answer(self._asked_s)
        self._asked_s = self._asked_s[:0]
        return self._answered[at_s]

    def forget_before(self, t_s: float) -> None:
        """Drop most of what is earlier than a time."""
        first = int(np.searchsorted(self._t_s, t_s)) - _KEPT
        if first > _KEPT:
            self._t_s, self._joules = self._t_s[first:], self._joules[first:]

    def _answer(self, asked_s: Array) -> None:
        answers = self.until(asked_s).tolist()
        self._answered |= dict(zip(asked_s.tolist(), answers, strict=True))
