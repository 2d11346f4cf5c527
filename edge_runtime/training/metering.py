"""Measurements and totals of a run: samples, windows, lost sensors, time and energy spent.

Clock: monotonic seconds. Energy is gross, of the board's total; `None` is unknown, and a sum
with an unknown part is unknown.
"""

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType

from typing_extensions import Self

from edge_runtime.device import Board, Meter, PowerSample, PowerSensor, SensorEvent, Window
from edge_runtime.facts import Spent
from edge_runtime.records import Run, RunWriter, has_estimates
from edge_runtime.records.events import (
    Event,
    Moment,
    ReadingRefused,
    SensorBack,
    SensorLost,
    WindowEnded,
    ZoneBack,
    ZoneLost,
)
from edge_runtime.records.power import PowerRecord
from edge_runtime.records.spending import Spending
from edge_runtime.schema import unstructure

NOTHING = Spent(time_s=0.0, energy_j=0.0)


class Metering:
    """The meter of one process and the totals of the whole run.

    A context manager. What happens after entering it, such as loading models or measuring
    rungs, is counted, too.
    """

    def __init__(
        self,
        sensor: PowerSensor | None,
        *,
        board: Board | None = None,
        began_s: float | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Prepare the meter; nothing is read yet.

        Args:
            sensor: closed at the end; `None`: joules stay unknown.
            board: profile of the board.
            began_s: start of the count, monotonic; `None`: now.
            meter: one that already runs, keeps what it reads, and counts from `began_s`; its
                owner ends it. `None`: a new one.
        """
        self.began_s = time.monotonic() if began_s is None else began_s
        self._log = _PowerLog(began_s=self.began_s)
        self._from_sensor: SimpleQueue[SensorEvent] = SimpleQueue()
        self._is_own, put = meter is None, self._from_sensor.put
        self.meter = meter or Meter(
            sensor, since_s=self.began_s, record=self._log, on_event=put
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
        return calibration_of(self.sensor, self.board)

    @property
    def sensor_name(self) -> str | None:
        """Name of the power sensor."""
        return None if self.sensor is None else self.sensor.name

    @property
    def is_estimate(self) -> bool:
        """Whether its joules are derived, not read as power."""
        return self.sensor is not None and self.sensor.is_estimate

    def take_over(self, run: Run, spending: Spending) -> None:
        """Add what earlier processes of a run spent.

        Raises:
            RecordsError: events.jsonl is damaged.
        """
        events = run.events()
        estimated = has_estimates(run.info, events)
        self.earlier = _spent_before(spending, energy_is_estimate=estimated)
        # A process that ended before its first sample has logged an event.
        logged = [each.moment.process for each in events if each.moment]
        self._process = max([spending.process, *logged]) + 1

    def count_lost(self, at_checkpoint: Spent) -> None:
        """Count what was spent after this checkpoint as lost."""
        self.earlier = _with_loss(self.earlier, at_checkpoint)

    def write_to(self, writer: RunWriter) -> None:
        """Write all samples, past ones included, to the run folder from now on."""
        self._log.write_to(writer, self._process)

    def moment(self, now_s: float) -> Moment:
        """A time of the clock as records contain it."""
        return Moment(process=self._process, t_s=now_s - self.began_s)

    def spent(self, now_s: float) -> Spent:
        """Totals of all processes of the run, until now.

        Raises:
            StorageError: a sample could not be written.
        """
        before = self.earlier
        return replace(
            before,
            time_s=before.time_s + now_s - self.began_s,
            energy_j=_plus(before.energy_j, self.meter.spent_j()),
            energy_is_estimate=before.energy_is_estimate or self.is_estimate,
        )

    def sensor_events(self, step: int) -> list[Event]:
        """What the sensor reported since the last call."""
        events: list[Event] = []
        while not self._from_sensor.empty():
            events.append(event_of_sensor(self._from_sensor.get(), step))
        return events

    def change_window(self, rung: str | None, step: int) -> WindowEnded | None:
        """End the window of a rung after `step`, and begin that of the next one."""
        if rung == self._rung:
            return None
        self._open.close()
        ended = None
        if self._window is not None:
            energy = self._window.energy
            energy = replace(energy, start_s=energy.start_s - self.began_s)
            ended = WindowEnded(step=step, window=energy)
        self._rung, self._window = rung, None
        if rung is not None:
            self._window = self._open.enter_context(self.meter.window(f"rung {rung}"))
        return ended

    def stop_writing(self) -> None:
        """Release the run folder."""
        self._log.stop()

    def __enter__(self) -> Self:
        if self._is_own:
            self.meter.__enter__()
        else:
            self.meter.hand_over(self._log, self._from_sensor.put)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        if self._is_own:
            self.meter.__exit__(kind, error, trace)


def event_of_sensor(reported: SensorEvent, step: int) -> Event:
    """The event of a run for what its sensor reported."""
    sensor, reason = reported.sensor, reported.reason or ""
    if reported.kind.startswith("zone"):
        celsius, gap_s = reported.temperature_c, reported.gap_s
        if reported.kind == "zone_lost":
            return ZoneLost(step=step, zone=sensor, temperature_c=celsius, reason=reason)
        return ZoneBack(step=step, zone=sensor, temperature_c=celsius, gap_s=gap_s or 0.0)
    if reported.kind == "back":
        return SensorBack(step=step, sensor=sensor, gap_s=reported.gap_s or 0.0)
    kind = SensorLost if reported.kind == "lost" else ReadingRefused
    return kind(step=step, sensor=sensor, reason=reason)


def calibration_of(
    sensor: PowerSensor | None, board: Board | None
) -> dict[str, dict[str, float]]:
    """Corrections of a sensor's rails, by rail."""
    if sensor is None or board is None:
        return {}
    known = board.calibration
    return {rail: unstructure(known[rail]) for rail in sensor.rails if rail in known}


class _PowerLog:
    """Writes a meter's samples to the run folder; keeps them until the folder exists.

    Called by the sampling thread; the meter reports a full disk to the loop.
    """

    def __init__(self, *, began_s: float) -> None:
        self._began_s = began_s
        self._lock = threading.Lock()
        self._early: list[PowerSample] = []
        self._writer: RunWriter | None = None
        self._process = 0

    def __call__(self, sample: PowerSample) -> None:
        """Take one sample."""
        with self._lock:
            if self._writer is None:
                self._early.append(sample)
            else:
                self._write(self._writer, sample)

    def write_to(self, writer: RunWriter, process: int) -> None:
        """Write to this run folder from now on, as its process number `process`."""
        with self._lock:
            self._writer, self._process = writer, process
            for sample in self._early:
                self._write(writer, sample)
            self._early.clear()

    def stop(self) -> None:
        """Release the run folder; later samples are dropped."""
        with self._lock:
            self._writer = None

    def _write(self, writer: RunWriter, sample: PowerSample) -> None:
        """Raises `StorageError`."""
        record = PowerRecord(
            process=self._process,
            t_s=sample.t_s - self._began_s,
            total_w=sample.total_w,
            energy_j=sample.energy_j,
            rails_w=sample.rails_w,
            temperature_c=sample.temperature_c,
            throttled=sample.throttled,
            cpu_hz=sample.cpu_hz,
            gpu_hz=sample.gpu_hz,
            gpu_load=sample.gpu_load,
        )
        writer.sample(record)


def _spent_before(spending: Spending, *, energy_is_estimate: bool) -> Spent:
    """Totals of a run's processes, each from its start to its last sample."""
    if not spending.process:  # killed before the first sample
        return NOTHING
    return replace(
        NOTHING,
        time_s=spending.time_s,
        energy_j=spending.energy_j,
        energy_is_estimate=energy_is_estimate,
    )


def _with_loss(earlier: Spent, at_checkpoint: Spent) -> Spent:
    """Earlier processes' totals, with everything after the checkpoint counted as lost."""
    lost_j = None
    if earlier.energy_j is not None and at_checkpoint.energy_j is not None:
        lost_j = _plus(
            at_checkpoint.lost_j, max(0.0, earlier.energy_j - at_checkpoint.energy_j)
        )
    return replace(
        earlier,
        lost_s=at_checkpoint.lost_s + max(0.0, earlier.time_s - at_checkpoint.time_s),
        lost_j=lost_j,
    )


def _plus(a: float | None, b: float | None) -> float | None:
    """A sum; unknown if a part is."""
    return None if a is None or b is None else a + b


def minus(a: float | None, b: float | None) -> float | None:
    """A difference; unknown if a part is."""
    return None if a is None or b is None else a - b
