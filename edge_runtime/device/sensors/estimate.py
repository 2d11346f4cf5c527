"""An estimate from processor load, for boards without a sensor. Not a measurement.

Power = idle_w + (full_w - idle_w) * load, with the two figures of the board's profile and the
share of all processors that was busy. It sees neither the GPU nor the clocks.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from edge_runtime.device.board import Board
from edge_runtime.errors import SensorError

_BUSY = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq; not idle, iowait, steal
_FIRST_LINE = 256  # bytes


def open_estimate(board: Board, root: Path) -> "Estimate":
    """Open it; see `Opener`."""
    return Estimate(board, root)


class Estimate:
    """Joules of the whole board by the load of its processors."""

    name = "estimate"
    is_estimate = True
    counts_energy = True  # the load's clock is too coarse for the watts of a moment
    period_s = 0.1
    rails = ("board",)
    total = ("board",)

    def __init__(
        self, board: Board, root: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin to count.

        Raises:
            SensorError: the profile has no idle_w and full_w, or no load can be read.
        """
        if board.power.idle_w is None or board.power.full_w is None:
            raise SensorError(
                f"board {board.id}: power.idle_w and power.full_w are unknown; give them in a "
                "board file of your own to have energy estimated from processor load"
            )
        self._idle_w, self._full_w = board.power.idle_w, board.power.full_w
        self._stat, self._clock = root / "proc/stat", clock
        self._processors = _count_processors(self._stat)
        self._handle: int | None = None
        self._last = (clock(), self._busy_s())
        self._sum_j = 0.0

    @property
    def description(self) -> str:
        """See `PowerSensor.description`."""
        return (
            f"estimate from processor load, {self._idle_w:g} W idle to {self._full_w:g} W busy"
        )

    def read(self) -> dict[str, float | None]:
        """Joules; see `PowerSensor.read`."""
        now = (self._clock(), self._busy_s())
        passed_s, busy_s = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        if busy_s < 0 or passed_s <= 0:  # a processor was switched off: its time is gone
            return {"board": None if busy_s < 0 else self._sum_j}
        # May be a little above 1 by the coarse ticks: over a while, they are right.
        load = busy_s / passed_s / self._processors
        self._sum_j += (self._idle_w + (self._full_w - self._idle_w) * load) * passed_s
        return {"board": self._sum_j}

    def _busy_s(self) -> float:
        """Seconds that all processors together have worked."""
        try:
            if self._handle is None:
                self._handle = os.open(self._stat, os.O_RDONLY | os.O_CLOEXEC)
            line = os.pread(self._handle, _FIRST_LINE, 0).split(b"\n", 1)[0]
            ticks = [int(word) for word in line.split()[1:]]
            return sum(ticks[index] for index in _BUSY) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError) as error:
            self.close()
            raise SensorError(f"processor load: {self._stat}: {error}") from error

    def close(self) -> None:
        """See `PowerSensor.close`."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _count_processors(stat: Path) -> int:
    try:
        lines = stat.read_text().splitlines()
    except OSError as error:
        raise SensorError(f"processor load: {stat}: {error.strerror}") from error
    return max(1, sum(line.startswith("cpu") for line in lines) - 1)
