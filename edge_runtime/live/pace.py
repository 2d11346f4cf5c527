"""How fast a run is, and how long it will take, from its last minute.

Time that passes between two steps, for a checkpoint or a pause, counts: the rest of the run
will have such times, too. Seconds.
"""

from collections import deque
from typing import NamedTuple

from edge_runtime.records.events import StepRecord

_POINTS = 60
_APART_S = 1.0


class _Point(NamedTuple):
    step: int
    t_s: float  # when it was done, since the start of the process


class Pace:
    """Follows step records."""

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps
        self._points: deque[_Point] = deque(maxlen=_POINTS)
        self._last: StepRecord | None = None

    def follow(self, record: StepRecord) -> None:
        """Take one record in."""
        measured = record.measured
        if self._last is not None and self._last.measured.process != measured.process:
            self._points.clear()  # its clock began anew
        self._last = record
        if not self._points or measured.t_s - self._points[-1].t_s >= _APART_S:
            self._points.append(_Point(record.step, measured.t_s))

    @property
    def step_s(self) -> float | None:
        """Seconds per step. The first one, which loads its graph, counts while it is alone."""
        if self._last is None:
            return None
        measured, first = self._last.measured, self._points[0]
        steps = self._last.step - first.step
        if steps <= 0:
            return measured.step_s + measured.wait_s
        return (measured.t_s - first.t_s) / steps

    @property
    def images_per_s(self) -> float | None:
        """Pictures that pass through training."""
        if self._last is None or not self.step_s:
            return None
        return self._last.images / self.step_s

    @property
    def left_s(self) -> float | None:
        """Until the last step, at this pace; `None` while only one step is known."""
        if self._last is None or self.step_s is None:
            return None
        if self._last.step == self._points[0].step:  # it has loaded its graph
            return None
        return (self._total_steps - self._last.step) * self.step_s
