"""A thread that reads a board all the time, to judge what edge-train says about itself.

Clock: monotonic seconds. Units: watts, joules, degrees Celsius, bytes. `None` is unknown.
"""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from typing_extensions import Self

from device_tests.real_board import kernel
from edge_runtime.device import Board

_SERIES = 60  # moments that the results keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was read at one time."""

    t_s: float
    power_w: float | None  # of the board's input
    hottest_c: float | None
    resident_bytes: int | None = None  # of the process that is watched, and its descendants
    open_files: int | None = None  # of that process alone


class Watch:
    """Reads the board during the block, and a process once there is one."""

    def __init__(self, board: Board, *, every_s: float = 0.1) -> None:
        """Prepare the thread.

        Args:
            board: its profile says which rails are its input.
            every_s: between two readings.
        """
        self._board, self._every_s = board, every_s
        self.pid: int | None = None  # of the process to watch
        self.moments: list[Moment] = []
        self.peak_bytes = 0  # the most that the processes held
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.moments.append(self._moment())
            if self._stop.wait(self._every_s):
                return

    def _moment(self) -> Moment:
        begin_s = time.monotonic()
        power_w = kernel.input_power_w(self._board)
        t_s = (begin_s + time.monotonic()) / 2
        hottest_c = max(kernel.temperatures_c().values(), default=None)
        if self.pid is None or not (tree := kernel.process_tree(self.pid)):
            return Moment(t_s=t_s, power_w=power_w, hottest_c=hottest_c)
        resident = kernel.resident_bytes(tree)
        self.peak_bytes = max(self.peak_bytes, resident, *map(kernel.peak_bytes, tree))
        return Moment(
            t_s=t_s,
            power_w=power_w,
            hottest_c=hottest_c,
            resident_bytes=resident,
            open_files=kernel.open_files(self.pid),
        )

    def energy_j(self, from_s: float, to_s: float) -> float | None:
        """The board's energy between two times, by trapezoids.

        Returns:
            `None` where power is unknown, or does not cover the time by half a second.
        """
        known = [(each.t_s, each.power_w) for each in self.moments if each.power_w is not None]
        if not known or known[0][0] > from_s + 0.5 or known[-1][0] < to_s - 0.5:
            return None
        # Constant before the first and after the last reading
        known = [(min(from_s, known[0][0]), known[0][1]), *known]
        known += [(max(to_s, known[-1][0]), known[-1][1])]
        return trapezoids_j(known, from_s, to_s)

    def mean_w(self, from_s: float, to_s: float) -> float | None:
        """The mean power between two times."""
        energy_j = self.energy_j(from_s, to_s)
        return None if energy_j is None else energy_j / (to_s - from_s)

    def highest_c(self, from_s: float, to_s: float) -> float | None:
        """The highest temperature between two times."""
        seen = [each.hottest_c for each in self.moments if from_s <= each.t_s <= to_s]
        return max((each for each in seen if each is not None), default=None)

    def series(self) -> list[dict[str, Any]]:
        """About sixty moments for the results."""
        every = max(1, len(self.moments) // _SERIES)
        return [
            {
                "t_s": round(each.t_s - self.moments[0].t_s, 1),
                "power_w": each.power_w,
                "hottest_c": each.hottest_c,
                "resident_bytes": each.resident_bytes,
                "open_files": each.open_files,
            }
            for each in self.moments[::every]
        ]


def trapezoids_j(power_w: Sequence[tuple[float, float]], from_s: float, to_s: float) -> float:
    """The energy between two times, of powers at growing times."""
    energy_j = 0.0
    for (a_s, a_w), (b_s, b_w) in itertools.pairwise(power_w):
        left_s, right_s = max(a_s, from_s), min(b_s, to_s)
        if left_s >= right_s:
            continue
        slope = (b_w - a_w) / (b_s - a_s)
        mean_w = a_w + slope * ((left_s + right_s) / 2 - a_s)
        energy_j += mean_w * (right_s - left_s)
    return energy_j


def slope_per_s(values: Sequence[tuple[float, float]]) -> float:
    """The slope of the line through points (seconds, value), by least squares."""
    mean_s = sum(t_s for t_s, _ in values) / len(values)
    mean = sum(value for _, value in values) / len(values)
    spread = sum((t_s - mean_s) ** 2 for t_s, _ in values)
    return sum((t_s - mean_s) * (value - mean) for t_s, value in values) / spread


def wait_until(condition: Callable[[], object], longest_s: float) -> bool:
    """Wait for a condition; returns whether it came true."""
    deadline_s = time.monotonic() + longest_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True
