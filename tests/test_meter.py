"""The meter's thread, its windows, and sensors and clocks that misbehave."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import fake_board
import pytest
from boards import board

from edge_runtime.device import (
    Meter,
    PowerSample,
    PowerSensor,
    ReplaySensor,
    SensorEvent,
    open_sensor,
)
from edge_runtime.errors import ConfigError, SensorError, StorageError


class Scripted(PowerSensor):
    """A sensor of one rail under control of the test."""

    name, description = "scripted", "a sensor of the tests"
    is_estimate = counts_energy = False
    rails = total = ("VDD_IN",)
    period_s = 0.0

    def __init__(self, power_w: float | None = 5.0) -> None:
        self.power_w = power_w
        self.error: Exception | None = None
        self.takes_s = 0.0
        self.reads = self.closed = 0

    def read(self) -> dict[str, float | None]:
        self.reads += 1
        time.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return {"VDD_IN": self.power_w}

    def close(self) -> None:
        self.closed += 1


def until(happened: Callable[[], object], within_s: float = 5.0) -> None:
    end_s = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.005)


def samples_after(meter: Meter, t_s: float) -> Callable[[], bool]:
    def has_one() -> bool:
        sample = meter.latest()
        return sample is not None and sample.t_s > t_s

    return has_one


def test_a_window_has_its_energy_and_its_gaps() -> None:
    with Meter(Scripted(5.0), rate_hz=50) as meter:
        began_s = time.monotonic()
        with meter.window("load") as window:
            time.sleep(0.3)
        ended_s = time.monotonic()
    energy = window.energy
    assert energy.name == "load"
    assert energy.duration_s == pytest.approx(ended_s - began_s, abs=0.05)
    assert began_s <= energy.start_s <= began_s + 0.05
    assert energy.gross_j == pytest.approx(5.0 * energy.duration_s)
    assert energy.rails_j == {"VDD_IN": pytest.approx(5.0 * energy.duration_s)}
    assert (energy.mean_w, energy.peak_w) == (pytest.approx(5.0), 5.0)
    assert energy.samples >= 2
    assert 0 < energy.largest_gap_s <= energy.duration_s
    assert energy.gap_s == 0.0
    assert energy.is_estimate is False
    assert (energy.idle_j, energy.net_j) == (None, None)  # no baseline was measured


class Counting(Scripted):
    """Counts 10 W, and 0.1 J for each reading: the error of a coarse counter."""

    counts_energy = True

    def read(self) -> dict[str, float | None]:
        self.reads += 1
        return {"VDD_IN": 10.0 * time.monotonic() + 0.1 * self.reads}


def test_a_counter_is_never_read_twice_in_a_moment() -> None:
    seen: list[PowerSample] = []
    with Meter(Counting(), rate_hz=20, record=seen.append) as meter:
        for _ in range(60):
            with meter.window("short"):
                time.sleep(0.011)
    times_s = [sample.t_s for sample in seen[:-1]]  # the last is that of the end
    assert len(times_s) > 5
    assert min(b - a for a, b in pairwise(times_s)) >= 0.02
    assert max(sample.total_w or 0.0 for sample in seen[:-1]) < 15  # 10, and 0.1 J in 25 ms


def test_a_short_window_is_read_at_its_edges() -> None:
    sensor = Scripted(5.0)
    with Meter(sensor, rate_hz=0.5) as meter, meter.window("step") as window:
        sensor.power_w = 15.0
        time.sleep(0.02)
    assert window.energy.samples >= 1
    # a straight line from 5 W to 15 W
    assert window.energy.mean_w == pytest.approx(10.0, rel=0.05)


def test_windows_nest_and_may_be_read_while_they_are_open() -> None:
    sensor = Scripted(5.0)
    with Meter(sensor, rate_hz=50) as meter, meter.window("run") as outer:
        with meter.window("first") as first:
            time.sleep(0.1)
            so_far_j = first.energy.gross_j
        sensor.power_w = 20.0
        with meter.window("second") as second:
            time.sleep(0.1)
    whole_j, first_j, second_j = (w.energy.gross_j for w in (outer, first, second))
    assert so_far_j is not None
    assert whole_j is not None
    assert 0 < so_far_j < (first_j or 0)
    assert second_j == pytest.approx(20.0 * second.energy.duration_s, rel=0.05)
    # what is between the two, while the power rises, belongs to the outer one only
    assert 0 <= whole_j - (first_j or 0) - second_j < 20.0 * 0.05


def test_energy_of_the_idle_board_is_distinguished() -> None:
    sensor = Scripted(2.0)
    with Meter(sensor, rate_hz=50) as meter:
        assert meter.measure_idle(0.05) == pytest.approx(2.0)
        sensor.power_w = 7.0
        with meter.window("load") as window:
            time.sleep(0.1)
    energy = window.energy
    assert energy.idle_j == pytest.approx(2.0 * energy.duration_s)
    assert energy.net_j == pytest.approx(5.0 * energy.duration_s, rel=0.01)


def test_without_a_sensor_energy_is_unknown_and_temperature_is_not(tmp_path: Path) -> None:
    fake_board.zone(tmp_path, 0, "cpu-thermal", 48_500)
    with Meter(None, root=tmp_path) as meter:
        assert meter.measure_idle(0.01) is None
        with meter.window("run") as window:
            assert meter.spent_j() is None
    energy = window.energy
    for value in (energy.gross_j, energy.net_j, energy.mean_w, energy.peak_w):
        assert value is None
    assert (energy.is_estimate, energy.rails_j, energy.samples) == (None, {}, 0)
    assert energy.peak_temperature_c == 48.5


def test_an_estimate_is_marked_in_every_window(tmp_path: Path) -> None:
    fake_board.processor_load(tmp_path, 1.0)
    sensor = open_sensor(board(idle_w=2.0, full_w=9.0), root=tmp_path)
    with Meter(sensor) as meter, meter.window("run") as window:
        pass
    assert window.energy.is_estimate is True


def test_the_highest_temperature_and_throttling_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.device.meter._ENVIRONMENT_S", 0.02)
    zone = fake_board.zone(tmp_path, 0, "tj-thermal", 50_000)
    cooling = tmp_path / "sys/class/thermal/cooling_device0"
    fake_board.write(cooling, {"type": "cpufreq-cpu0", "cur_state": 0})
    with Meter(None, root=tmp_path, rate_hz=100) as meter, meter.window("run") as window:
        assert window.energy.throttled is False
        fake_board.put(zone / "temp", 91_000)
        fake_board.put(cooling / "cur_state", 2)
        until(lambda: window.energy.throttled)
        fake_board.put(zone / "temp", 40_000)
        fake_board.put(cooling / "cur_state", 0)
        sample = meter.latest()
        until(samples_after(meter, sample.t_s + 0.1 if sample else 0.0))
    assert window.energy.peak_temperature_c == 91.0
    assert window.energy.throttled is True


@pytest.mark.parametrize("error", [SensorError("unplugged"), ZeroDivisionError("a vendor's")])
def test_a_lost_and_returned_sensor_is_reported_once_each(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("edge_runtime.device.probe.RETRY_S", 0.05)
    monkeypatch.setattr("edge_runtime.device.meter.GAP_S", 0.25)
    sensor, events, records = Scripted(4.0), [], []
    with (
        Meter(sensor, rate_hz=100, on_event=events.append, record=records.append) as meter,
        meter.window("run") as window,
    ):
        time.sleep(0.1)
        sensor.error = error
        until(lambda: events)
        lost_s = time.monotonic()
        reads = sensor.reads
        until(lambda: time.monotonic() > lost_s + 0.5)
        latest = meter.latest()
        assert latest is not None
        assert (latest.total_w, latest.rails_w) == (None, {"VDD_IN": None})
        assert sensor.reads - reads < 15  # a lost sensor is not read a hundred times a second
        assert meter.spent_j() == pytest.approx(window.energy.gross_j, rel=0.2)
        sensor.error, sensor.power_w = None, 8.0
        until(lambda: len(events) == 2)
    lost, back = events
    assert (lost.kind, lost.sensor, lost.reason) == ("lost", "scripted", str(error))
    assert (back.kind, back.reason) == ("back", None)
    assert back.gap_s == pytest.approx(0.55, abs=0.1)
    energy = window.energy
    assert energy.gap_s == pytest.approx(back.gap_s, abs=0.1)
    assert energy.largest_gap_s == pytest.approx(back.gap_s, abs=0.1)
    assert energy.missed > 20
    # from 4 W to 8 W on a straight line
    assert energy.gross_j == pytest.approx(
        4.0 * (energy.duration_s - energy.gap_s) + 6.0 * energy.gap_s, rel=0.1
    )
    gap = [record for record in records if record.total_w is None]
    assert len(gap) > 20  # temperatures and clocks are still known
    assert lost.t_s <= gap[0].t_s < gap[-1].t_s <= back.t_s
    assert all(a.t_s < b.t_s for a, b in pairwise(records))


def test_a_total_that_cannot_be_read_is_a_lost_sensor() -> None:
    events: list[SensorEvent] = []
    sensor = Scripted(4.0)
    with Meter(sensor, rate_hz=100, on_event=events.append):
        sensor.power_w = None
        until(lambda: events)
    assert events[0].reason == "scripted has no value for VDD_IN"


def test_a_sensor_that_never_works_leaves_energy_unknown() -> None:
    sensor = Scripted()
    sensor.error = SensorError("unplugged")
    with Meter(sensor, rate_hz=50) as meter, meter.window("run") as window:
        time.sleep(0.05)
        assert meter.spent_j() is None
    assert window.energy.gross_j is None
    assert window.energy.gap_s == window.energy.duration_s
    assert sensor.closed == 1


def test_a_slow_sensor_misses_samples() -> None:
    sensor = Scripted(5.0)
    with Meter(sensor, rate_hz=100) as meter, meter.window("run") as window:
        sensor.takes_s = 0.06
        time.sleep(0.4)
    energy = window.energy
    assert energy.samples < 12
    assert 15 < energy.missed <= 100 * energy.duration_s
    assert energy.largest_gap_s >= 0.06
    assert energy.gross_j == pytest.approx(5.0 * energy.duration_s)


class JumpingClock:
    def __init__(self) -> None:
        self.jump_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.jump_s


def test_a_clock_that_jumps_ahead_leaves_a_marked_gap() -> None:
    clock = JumpingClock()
    with (
        Meter(Scripted(5.0), rate_hz=100, clock=clock) as meter,
        meter.window("run") as window,
    ):
        time.sleep(0.05)
        clock.jump_s = 60.0
        until(samples_after(meter, clock()))
    energy = window.energy
    assert energy.gross_j == pytest.approx(5.0 * energy.duration_s)
    assert energy.gap_s == pytest.approx(60.0, abs=0.5)
    assert energy.missed >= 5900  # 60 s at 100 Hz


def test_a_clock_that_jumps_back_makes_no_energy_and_stops_nothing() -> None:
    clock, sensor = JumpingClock(), Scripted(5.0)
    with Meter(sensor, rate_hz=100, clock=clock) as meter, meter.window("run") as window:
        time.sleep(0.05)
        before_j = meter.spent_j() or 0.0
        clock.jump_s, reads = -100.0, sensor.reads
        until(lambda: sensor.reads > reads + 5)
        assert meter.spent_j() == pytest.approx(before_j, abs=0.5)
        clock.jump_s = 0.0
        until(lambda: (meter.spent_j() or 0.0) > before_j + 0.5)
    assert window.energy.missed > 0
    assert window.energy.gross_j == pytest.approx(5.0 * window.energy.duration_s)


def test_spent_energy_never_decreases() -> None:
    sensor = Scripted(50.0)
    with Meter(sensor, rate_hz=100) as meter:
        values = []
        for sensor.power_w in (50.0, 0.0, 30.0, 0.0):
            for _ in range(20):
                values.append(meter.spent_j() or 0.0)
                time.sleep(0.001)
    assert values == sorted(values)
    assert values[-1] > 0


def test_energy_between_two_times_is_remembered() -> None:
    with Meter(Scripted(5.0), rate_hz=50) as meter:
        time.sleep(0.1)
        now_s = time.monotonic()
        assert meter.energy_between(now_s - 0.08, now_s) == pytest.approx(0.4)
        assert meter.energy_between(now_s + 100, now_s + 101) is None


def test_an_error_of_the_recorder_reaches_the_caller_once() -> None:
    def record(_: PowerSample) -> None:
        raise StorageError("disk full")

    with Meter(Scripted(5.0), rate_hz=100, record=record) as meter:
        until(lambda: meter._failure)
        with pytest.raises(StorageError, match="disk full"):
            meter.spent_j()
        meter._record = None
        assert (meter.spent_j() or 0.0) > 0
    with (
        pytest.raises(StorageError, match="disk full"),
        Meter(Scripted(5.0), rate_hz=100, record=record) as meter,
    ):
        until(lambda: meter._failure)  # without a call, it is raised at the end


def test_an_error_of_the_block_is_not_hidden_by_one_of_the_recorder() -> None:
    def record(_: PowerSample) -> None:
        raise StorageError("disk full")

    def fail() -> None:
        with Meter(Scripted(5.0), rate_hz=100, record=record) as meter:
            until(lambda: meter._failure)
            raise KeyError("the block's own")

    with pytest.raises(KeyError, match="the block's own"):
        fail()


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_rate_is_refused(rate_hz: float) -> None:
    with pytest.raises(ConfigError, match="rate_hz: expected a number > 0"):
        Meter(None, rate_hz=rate_hz)


def test_its_thread_ends_and_its_sensor_is_closed() -> None:
    sensor = Scripted(5.0)
    with Meter(sensor) as meter:
        assert "edge-train-meter" in {thread.name for thread in threading.enumerate()}
        with pytest.raises(ValueError, match="of the block"), meter.window("run") as window:
            raise ValueError("of the block")
    assert window.energy.gross_j is not None  # a window ends with an error, too
    assert "edge-train-meter" not in {thread.name for thread in threading.enumerate()}
    assert sensor.closed == 1
    assert meter.spent_j() is not None  # still known


def test_a_sensor_sets_the_pace_where_it_is_slower() -> None:
    sensor = Scripted(5.0)
    sensor.period_s = 0.2
    with Meter(sensor, rate_hz=100) as meter, meter.window("run"):
        time.sleep(0.3)
    assert sensor.reads <= 4


def test_sampling_is_cheap(tmp_path: Path) -> None:
    fake_board.ina3221(tmp_path, {"VDD_IN": 4.5, "VDD_CPU_GPU_CV": 1.0, "VDD_SOC": 1.4})
    for number in range(8):
        fake_board.zone(tmp_path, number, f"zone{number}", 40_000)
    sensor = open_sensor(board(total=("VDD_IN",)), root=tmp_path)
    with Meter(sensor, rate_hz=50, root=tmp_path) as meter, meter.window("run") as window:
        time.sleep(0.6)
    per_sample_s = meter.sampling_cpu_s / window.energy.samples
    assert 0 < per_sample_s < 0.001  # at 10 Hz: 1 % of a processor


def test_a_replayed_trace_gives_its_energy() -> None:
    trace = [(0.0, {"VDD_IN": 2.0}), (0.05, {"VDD_IN": 10.0})]
    sensor = ReplaySensor(trace, total=["VDD_IN"])
    with Meter(sensor, rate_hz=500) as meter, meter.window("run") as window:
        time.sleep(0.5)
    assert window.energy.mean_w == pytest.approx(6.0, rel=0.15)
    assert (window.energy.peak_w, window.energy.throttled) == (10.0, None)
