"""The meter: one thread reads the power sensor, and windows of time get their energy.

Units: joules, watts, degrees Celsius, monotonic seconds. `None` is unknown, never 0. The
thread never raises: a sensor that fails, or whose readings cannot be true, is reported once,
tried again, and reported again when it is back. The power during such a gap is interpolated,
and the windows say how long it was.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from typing_extensions import Self

from edge_runtime.device.energy import EnergyLedger, Watts
from edge_runtime.device.environment import EnvironmentReading, EnvironmentSensors
from edge_runtime.device.heat import HeatUnknown, HeatWatch, Hottest
from edge_runtime.device.probe import Probe, SensorEvent
from edge_runtime.device.samples import PowerSample, PowerUnknown, Window
from edge_runtime.device.sensors.base import PowerSensor
from edge_runtime.errors import ConfigError
from edge_runtime.facts import WindowEnergy

T = TypeVar("T")

GAP_S = 1.0  # readings further apart leave a gap
HISTORY_S = 3600.0  # how far back `energy_between` can look
_GOLDEN = (math.sqrt(5) - 1) / 2
_ENVIRONMENT_S = 1.0  # how often temperatures and clocks are read


class Meter:
    """`with Meter(open_sensor(board)) as meter:` measures until the block ends.

    It owns the sensor and closes it. All methods may be called from any thread.
    """

    def __init__(
        self,
        sensor: PowerSensor | None,
        *,
        rate_hz: float = 10.0,
        since_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        record: Callable[[PowerSample], None] | None = None,
        on_event: Callable[[SensorEvent], None] | None = None,
        keep_until_handed_over: bool = False,
        root: Path = Path("/"),
    ) -> None:
        """Set up; nothing is read yet.

        Args:
            sensor: `None` leaves every energy unknown; temperatures are still read.
            rate_hz: readings per second, or fewer where the sensor has no more.
            since_s: the clock's time to count from, if before the meter is entered; until the
                first reading, the power is assumed to be that of the first reading.
            clock: monotonic seconds.
            record: called with every regular sample in the meter's thread, and with the first
                and the last one in the thread of the block.
            on_event: called when the sensor is lost or back, or a reading is not used, in the
                thread that noticed it.
            keep_until_handed_over: keep samples and events for `hand_over`, in place of
                `record` and `on_event`.
            root: where /sys is.

        Raises:
            ConfigError: the rate is not a finite number above 0.
        """
        if not 0 < rate_hz < math.inf:
            raise ConfigError(f"meter: rate_hz: expected a number > 0, got {rate_hz:g}")
        self.sensor, self._clock, self._root = sensor, clock, root
        self._since_s = since_s
        self._kept: tuple[list[PowerSample], list[SensorEvent]] = ([], [])
        if keep_until_handed_over:
            record, on_event = self._kept[0].append, self._kept[1].append
        self._record, self._on_event = record, on_event
        self._period_s = max(1 / rate_hz, sensor.period_s if sensor else _ENVIRONMENT_S)
        # The longest interval is 1.62 periods, and a busy machine may double it.
        self._period_s = min(self._period_s, sensor.within_s / 4 if sensor else math.inf)
        self.rate_hz = 1 / self._period_s
        # The mean power of a counter over a very short time would be noise.
        self._min_gap_s = 0.5 * self._period_s if sensor and sensor.counts_energy else 0.0
        # Sensors are also read at the edges of windows, unless that returns nothing new.
        self._edge_s = max(sensor.period_s, self._min_gap_s) if sensor else 0.0
        self._probe = Probe(sensor, self._report) if sensor else None
        self._ledger = EnergyLedger(
            sensor.rails if sensor else (),
            sensor.total if sensor else (),
            counts_energy=sensor.counts_energy if sensor else False,
            longest_s=max(GAP_S, 3 * self._period_s),
            history_s=HISTORY_S,
        )
        self.idle_w: float | None = None  # of the idle board; set by `measure_idle`
        self.sampling_cpu_s = 0.0  # processor time used by the thread
        self._latest: PowerSample | None = None
        self._handed_over: PowerSample | None = None  # to `record`; each sample once
        self._environment_now = EnvironmentReading()
        self._heat = HeatWatch()
        self._windows: list[Window] = []
        self._whole: Window | None = None
        self._spent_j: float | None = None
        self._failure: Exception | None = None  # of `record` or `on_event`
        self._reading = threading.Lock()  # only one thread reads the sensor at a time
        self._lock = threading.Lock()  # of everything that readings change
        self._handing_over = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-train-meter", daemon=True)

    def __enter__(self) -> Self:
        self._environment = EnvironmentSensors(self._root)
        self._read_environment()
        self._whole = self._open("whole", self._since_s)
        self._entered_s = self._clock()
        self._write(self._take_at_edge())
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
        self._write(self._take_at_edge())
        if self._whole is not None:
            self._close(self._whole)
        self._environment.close()
        if self.sensor is not None:
            self.sensor.close()
        if error is None:
            self._raise_failure()

    @contextmanager
    def window(self, name: str) -> Iterator[Window]:
        """Measure a block: `with meter.window("epoch") as window: ...`, then `window.energy`.

        Windows may nest and overlap. `window.energy` may be asked for at any time.
        """
        self._take_at_edge()
        window = self._open(name)
        try:
            yield window
        finally:
            self._take_at_edge()
            self._close(window)

    def measure_idle(self, duration_s: float) -> float | None:
        """Wait, and take the mean power of that time as the power of the idle board.

        Returns:
            Watts, which `idle_w` keeps; `None` if unknown.
        """
        with self.window("idle") as window:
            time.sleep(duration_s)
        self.idle_w = window.energy.mean_w
        return self.idle_w

    def hand_over(
        self,
        record: Callable[[PowerSample], None],
        on_event: Callable[[SensorEvent], None],
    ) -> None:
        """Give all samples and events until now, and those that follow, to these functions."""
        with self._handing_over:
            for sample in self._kept[0]:
                record(sample)
            for event in self._kept[1]:
                on_event(event)
            self._kept[0].clear()
            self._kept[1].clear()
            self._record, self._on_event = record, on_event

    def spent_j(self) -> float | None:
        """Gross energy of the board since the meter started; it never decreases.

        Raises:
            Exception: the first one of `record` or `on_event`, once.
        """
        self._raise_failure()
        now_j = self._whole.energy.gross_j if self._whole else None
        if now_j is not None:
            self._spent_j = max(now_j, self._spent_j or 0.0)
        return self._spent_j

    def so_far(self) -> WindowEnergy:
        """Energy of the whole time since the meter started."""
        if self._whole is None:
            raise ConfigError("meter: it has not started; use it in a `with` statement")
        return self._whole.energy

    def energy_between(self, from_s: float, to_s: float) -> float | None:
        """Gross energy of the board between two times of the clock.

        Known for the last hour; `None` before it and where nothing was read.
        """
        with self._lock:
            return self._ledger.between(from_s, to_s)

    def power_unknown(self) -> PowerUnknown | None:
        """Why the board's power is not known now, and for how long; `None`: it is known."""
        probe = self._probe
        if probe is None:
            return PowerUnknown("no power sensor", math.inf)
        if probe.problem is None:
            return None
        since_s = self._entered_s if probe.known_s is None else probe.known_s
        return PowerUnknown(probe.problem, max(0.0, self._clock() - since_s))

    def lost_because(self) -> str | None:
        """Why the sensor is lost now; `None`: it is not, or there is none."""
        return self._probe.problem if self._probe and self._probe.is_lost else None

    def hottest(self) -> Hottest | None:
        """The hottest zone now; `None`: none can be read."""
        with self._lock:
            return self._heat.hottest()

    def heat_unknown(self) -> HeatUnknown | None:
        """Why the board's temperature is not known now; `None`: it is known."""
        with self._lock:
            return self._heat.unknown(self._clock())

    def latest(self) -> PowerSample | None:
        """The newest sample."""
        return self._latest

    def _run(self) -> None:
        due_s = seen_s = self._clock()
        share = 0.0
        while True:
            # Not evenly: power that oscillates in step with the sampling would be read at its
            # highest or lowest only. Intervals are 0.62 or 1.62 periods, without a cycle.
            step, share = 1 - share, (share + _GOLDEN) % 1
            due_s += (step + share) * self._period_s
            wait_s = min(2 * self._period_s, max(0.0, due_s - self._clock()))
            if self._stop.wait(wait_s):
                return
            now_s = self._clock()
            late = max(0, int((now_s - due_s) / self._period_s))
            due_s += late * self._period_s
            if due_s - now_s > 2 * self._period_s:  # a clock that went back
                due_s = now_s
            if abs(now_s - seen_s) >= _ENVIRONMENT_S:
                seen_s = now_s
                self._read_environment()
            self._take_regular(late)
            self.sampling_cpu_s = time.thread_time()

    def _take_regular(self, late: int) -> None:
        """A regular sample, after `late` samples that were missed."""
        with self._reading:
            # A reading made just now at the edge of a window is the sample. One that is late
            # may itself have been made just now: it is handed over already.
            is_new = not 0 <= self._clock() - self._ledger.last_s < self._min_gap_s
            sample = self._take() if is_new else self._latest
            is_lost = self._probe is not None and self._probe.is_lost
        with self._lock:
            self._ledger.miss(late + (sample is None or is_lost))
        self._write(sample)

    def _take_at_edge(self) -> PowerSample | None:
        """A sample at the edge of a window, unless it has to wait or returns nothing new."""
        if self._probe is None or self._probe.is_lost:
            return None
        if not self._reading.acquire(blocking=False):
            return None
        try:
            is_new = self._clock() - self._ledger.last_s >= self._edge_s
            return self._take() if is_new else None
        finally:
            self._reading.release()

    def _write(self, sample: PowerSample | None) -> None:
        if sample is None or sample is self._handed_over:
            return
        self._handed_over = sample
        with self._handing_over:
            if self._record is not None:
                self._call(self._record, sample)

    def _take(self) -> PowerSample | None:
        """Read the sensor; `None` if the clock has not advanced. `_reading` is held."""
        read = self._probe.read(self._clock) if self._probe else (self._clock(), {})
        with self._lock:
            if read is None and self._probe is not None and not self._probe.is_lost:
                return None  # a counter that has not counted since
            if read is None:  # the rest of the sample is still known
                unknown = dict.fromkeys(self.sensor.rails if self.sensor else ())
                self._latest = self._sample(self._clock(), Watts(unknown, None))
                return self._latest
            watts = self._ledger.add(*read)
            if watts is None:
                return None
            self._latest = self._sample(read[0], watts)
            return self._latest

    def _sample(self, t_s: float, watts: Watts) -> PowerSample:
        energy_j = None
        if watts.total_w is not None and self._whole is not None:
            energy_j = self._ledger.total(self._whole.account, t_s).energy_j
        return PowerSample(
            t_s=t_s,
            rails_w=watts.rails_w,
            total_w=watts.total_w,
            energy_j=energy_j,
            **self._environment_now._asdict(),
        )

    def _read_environment(self) -> None:
        reading, t_s = self._environment.read(), self._clock()
        with self._lock:
            self._environment_now = reading
            changes = self._heat.see(t_s, self._environment.zones)
            for window in self._windows:
                window.observe(reading)
        for change in changes:
            self._report(SensorEvent.of_zone(t_s, change))

    def _report(self, event: SensorEvent) -> None:
        probe = self._probe
        if event.kind == "lost" and probe is not None and probe.known_s is not None:
            with self._lock:
                self._ledger.doubt(probe.known_s)
        with self._handing_over:
            if self._on_event is not None:
                self._call(self._on_event, event)

    def _call(self, callback: Callable[[T], None], value: T) -> None:
        """Call a function whose errors must not end the thread; `spent_j` raises the first."""
        try:
            callback(value)
        except Exception as error:  # noqa: BLE001
            self._failure = self._failure or error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _open(self, name: str, since_s: float | None = None) -> Window:
        with self._lock:
            since_s = self._clock() if since_s is None else since_s
            window = Window(name, self._ledger.open(since_s), self._energy)
            window.observe(self._environment_now)
            self._windows.append(window)
        return window

    def _close(self, window: Window) -> None:
        window.end()
        with self._lock:
            self._windows.remove(window)
            self._ledger.close(window.account)

    def _energy(self, window: Window) -> WindowEnergy:
        """Energy of a window until now."""
        with self._lock:
            account, at_s = window.account, max(self._clock(), self._ledger.last_s)
            total = self._ledger.total(account, at_s)
            rails_j = self._ledger.rails_j(account, at_s)
            samples, missed, peak_w = account.samples, account.missed, account.total.peak_w
        duration_s, gross_j = at_s - account.since_s, total.energy_j
        idle_j = None if self.idle_w is None else self.idle_w * duration_s
        return WindowEnergy(
            name=window.name,
            start_s=account.since_s,
            duration_s=duration_s,
            gross_j=gross_j,
            idle_j=idle_j,
            net_j=None if gross_j is None or idle_j is None else gross_j - idle_j,
            mean_w=gross_j / duration_s if gross_j is not None and duration_s > 0 else None,
            peak_w=peak_w,
            rails_j=rails_j,
            samples=samples,
            missed=missed,
            largest_gap_s=total.largest_gap_s,
            gap_s=total.gap_s,
            peak_temperature_c=window.peak_temperature_c,
            throttled=window.throttled,
            is_estimate=self.sensor.is_estimate if self.sensor else None,
        )
