"""What the meter tells a run: samples, named windows, lost sensors, and the running total.

Clock: monotonic seconds.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType

from typing_extensions import Self

from edge_runtime.device import Board, Meter, PowerSensor, SensorEvent, Window
from edge_runtime.facts import Spent
from edge_runtime.records import Run, RunWriter, has_estimates
from edge_runtime.records.events import Event, Moment, SensorBack, SensorLost, WindowEnded
from edge_runtime.schema import unstructure
from edge_runtime.training.accounts import (
    NOTHING,
    PowerLog,
    plus,
    spent_before,
    with_loss,
)


class Metering:
    """The meter of one process and the accounts of a whole run.

    A context manager. Whoever enters it before loading models or measuring rungs has that
    counted, too.
    """

    def __init__(
        self,
        sensor: PowerSensor | None,
        *,
        board: Board | None = None,
        began_s: float | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            sensor: closed at the end; `None`: joules stay unknown.
            board: whose power that is.
            began_s: when the process began to spend, monotonic; `None`: now.
        """
        self.began_s = time.monotonic() if began_s is None else began_s
        self._log = PowerLog(began_s=self.began_s)
        self._news: SimpleQueue[SensorEvent] = SimpleQueue()
        self.meter = Meter(
            sensor, since_s=self.began_s, record=self._log, on_event=self._news.put
        )
        self.sensor, self.board = sensor, board
        self.earlier = NOTHING
        self._process = 1
        self._open = ExitStack()  # the window of the present rung
        self._rung: str | None = None
        self._window: Window | None = None

    @property
    def calibration(self) -> dict[str, dict[str, float]]:
        """Corrections of the sensor's rails, by rail."""
        if self.sensor is None or self.board is None:
            return {}
        known = self.board.calibration
        return {rail: unstructure(known[rail]) for rail in self.sensor.rails if rail in known}

    @property
    def sensor_name(self) -> str | None:
        """What measures."""
        return None if self.sensor is None else self.sensor.name

    @property
    def is_estimate(self) -> bool:
        """Whether its joules are computed from something that is no power."""
        return self.sensor is not None and self.sensor.is_estimate

    def take_over(self, run: Run) -> None:
        """Count what earlier processes of a run spent.

        Raises:
            RecordsError: power.jsonl or events.jsonl is damaged.
        """
        spending, found = run.spending(), run.events()
        estimated = has_estimates(run.info, found)
        self.earlier = spent_before(spending, energy_is_estimate=estimated)
        # A process that ended before its first sample has told what it began.
        told = [each.moment.process for each in found if each.moment]
        self._process = max([spending.process, *told]) + 1

    def count_lost(self, at_checkpoint: Spent) -> None:
        """What was spent after this checkpoint was spent for nothing."""
        self.earlier = with_loss(self.earlier, at_checkpoint)

    def write_to(self, writer: RunWriter) -> None:
        """Write all samples, those before too, into the run folder from now on."""
        self._log.write_to(writer, self._process)

    def moment(self, now_s: float) -> Moment:
        """A time of the clock, as the records tell it."""
        return Moment(process=self._process, t_s=now_s - self.began_s)

    def spent(self, now_s: float) -> Spent:
        """By all processes of the run, until now.

        Raises:
            StorageError: a sample could not be written.
        """
        before = self.earlier
        return replace(
            before,
            time_s=before.time_s + now_s - self.began_s,
            energy_j=plus(before.energy_j, self.meter.spent_j()),
            energy_is_estimate=before.energy_is_estimate or self.is_estimate,
        )

    def news(self, step: int) -> Iterator[Event]:
        """What became of the sensor since this was last asked."""
        while not self._news.empty():
            event = self._news.get()
            if event.kind == "lost":
                yield SensorLost(step=step, sensor=event.sensor, reason=event.reason or "")
            else:
                yield SensorBack(step=step, sensor=event.sensor, gap_s=event.gap_s or 0.0)

    def change_window(self, rung: str | None, step: int) -> Iterator[Event]:
        """End the window of a rung after `step`, and begin that of another one."""
        if rung == self._rung:
            return
        self._open.close()
        if self._window is not None:
            energy = self._window.energy
            energy = replace(energy, start_s=energy.start_s - self.began_s)
            yield WindowEnded(step=step, window=energy)
        self._rung, self._window = rung, None
        if rung is not None:
            self._window = self._open.enter_context(self.meter.window(f"rung {rung}"))

    def stop_writing(self) -> None:
        """Let go of the run folder."""
        self._log.stop()

    def __enter__(self) -> Self:
        self.meter.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        self.meter.__exit__(kind, error, trace)
