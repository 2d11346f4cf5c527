"""An estimate from processor load, for boards without a sensor. Not a measurement.

Power = idle_w + (full_w - idle_w) * load, with the two values of the board's profile and the
share of all processors that was busy. It includes neither the GPU nor the clocks.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typing_extensions import override

from edge_runtime.device.board import Board
from edge_runtime.device.plausibility import ANYTHING
from edge_runtime.device.sensors.base import PowerSensor
from edge_runtime.errors import SensorError


def open_estimate(board: Board, root: Path) -> "Estimate":
    """Open it."""
    return Estimate(board)


class Estimate(PowerSensor):
    """Joules of the whole board from the load of its processors."""

    name = "estimate"
    is_estimate = True
    counts_energy = True  # the kernel counts load in ticks too coarse for the current watts
    period_s = 0.1
    kind = ANYTHING
    rails = ("board",)
    total = ("board",)

    def __init__(self, board: Board, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start to count.

        Raises:
            SensorError: the profile has no idle_w and full_w, or the load cannot be read.
        """
        if board.power.idle_w is None or board.power.full_w is None:
            raise SensorError(
                f"board {board.id}: power.idle_w and power.full_w are unknown; set them in a "
                "board file of your own to have energy estimated from processor load"
            )
        self._idle_w, self._full_w = board.power.idle_w, board.power.full_w
        self.description = (
            f"estimate from processor load, {self._idle_w:g} W idle to {self._full_w:g} W busy"
        )
        import psutil  # 10 ms and 1 MB, saved where there is a sensor

        self._cpu_times: Callable[[], Any] = psutil.cpu_times
        self._clock = clock
        self._last = (clock(), self._busy_s())
        self._processors = len(psutil.cpu_times(percpu=True))
        self._sum_j = 0.0

    @override
    def read(self) -> dict[str, float | None]:
        now = (self._clock(), self._busy_s())
        passed_s, busy_s = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        if busy_s < 0 or passed_s <= 0:  # a processor was switched off: its time is gone
            return {"board": None if busy_s < 0 else self._sum_j}
        # The ticks may give a little more than 1; they average out.
        load = busy_s / passed_s / self._processors
        self._sum_j += (self._idle_w + (self._full_w - self._idle_w) * load) * passed_s
        return {"board": self._sum_j}

    def _busy_s(self) -> float:
        """Seconds that all processors together were busy: not idle, waiting or stolen."""
        try:
            times = self._cpu_times()
        except (OSError, TypeError, ValueError) as error:
            raise SensorError(f"processor load: {error}") from error
        return float(times.user + times.nice + times.system + times.irq + times.softirq)

    @override
    def close(self) -> None:
        pass
