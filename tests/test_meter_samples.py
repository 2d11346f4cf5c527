"""The samples of a meter, and their joules."""

import time
from collections.abc import Callable
from itertools import cycle, pairwise

import pytest
from test_meter import Counting, Scripted, until

from edge_runtime.device import Meter, PowerSample
from edge_runtime.training import Metering


def samples_beyond(samples: list[PowerSample], count: int) -> Callable[[], bool]:
    return lambda: len(samples) > count


def test_every_regular_sample_is_handed_over() -> None:
    samples: list[PowerSample] = []
    with Meter(Scripted(5.0), rate_hz=50, record=samples.append) as meter:
        with meter.window("edges are not regular samples"):
            pass
        until(lambda: len(samples) >= 5)
    steps_s = [b.t_s - a.t_s for a, b in pairwise(samples)]
    assert min(steps_s) > 0
    assert all(sample.total_w == 5.0 for sample in samples)


def test_a_sample_has_the_joules_until_then() -> None:
    """Also before the meter's start, at the first power that was read."""
    sensor, samples = Scripted(5.0), []
    began_s = time.monotonic()
    time.sleep(0.05)
    with Meter(sensor, rate_hz=100, since_s=began_s, record=samples.append):
        for power_w in (8.0, None, 3.0):
            until(samples_beyond(samples, len(samples) + 3))
            sensor.power_w = power_w
        until(samples_beyond(samples, len(samples) + 3))
    known = [sample for sample in samples if sample.total_w is not None]
    expected_j = (known[0].t_s - began_s) * known[0].total_w
    assert known[0].energy_j == pytest.approx(expected_j)
    for before, sample in pairwise(known):
        expected_j += (sample.t_s - before.t_s) * (before.total_w + sample.total_w) / 2
        assert sample.energy_j == pytest.approx(expected_j)
    unknown = [sample for sample in samples if sample.total_w is None]
    assert len(unknown) >= 3
    assert all(sample.energy_j is None for sample in unknown)


def test_a_sample_of_a_counter_has_the_joules_that_it_counted() -> None:
    samples: list[PowerSample] = []
    with Meter(Counting(), rate_hz=50, record=samples.append):
        until(samples_beyond(samples, 10))
    assert samples[0].energy_j is None  # one reading of a counter gives no energy
    for before, sample in pairwise(samples[1:]):
        mean_w = (sample.energy_j - before.energy_j) / (sample.t_s - before.t_s)
        assert mean_w == pytest.approx(sample.total_w)


def test_a_meter_that_began_before_its_records_hands_all_samples_over_once() -> None:
    """The first seconds of a process are measured, not assumed from what comes after them."""
    sensor, samples, events = Scripted(20.0), [], []
    began_s = time.monotonic()
    with Meter(sensor, rate_hz=50, since_s=began_s, keep_until_handed_over=True) as meter:
        time.sleep(0.3)  # libraries are loaded
        sensor.power_w = 5.0
        early_s = time.monotonic() - began_s
        with Metering(sensor, began_s=began_s, meter=meter) as metering:
            meter.hand_over(samples.append, events.append)
            until(samples_beyond(samples, 15))
            spent = metering.spent(time.monotonic())
        assert meter.latest() is not None
    times_s = [sample.t_s for sample in samples]
    assert times_s == sorted(set(times_s))
    later_s = spent.time_s - early_s
    assert spent.energy_j == pytest.approx(20.0 * early_s + 5.0 * later_s, rel=0.15)
    assert sensor.closed == 1


def test_samples_before_the_records_are_the_first_of_them() -> None:
    samples, events = [], []
    with Meter(Scripted(5.0), rate_hz=50, keep_until_handed_over=True) as meter:
        time.sleep(0.2)
        handed_over_s = time.monotonic()
        meter.hand_over(samples.append, events.append)
        early = [sample for sample in samples if sample.t_s < handed_over_s]
        assert len(early) >= 3
        until(samples_beyond(samples, len(early) + 3))
    times_s = [sample.t_s for sample in samples]
    assert times_s == sorted(set(times_s))


class SometimesLate(Counting):
    """Every other reading takes so long that the next one is due at once."""

    def __init__(self, takes_s: float) -> None:
        super().__init__()
        self._takes_s = cycle((0.0, takes_s))

    def read(self) -> dict[str, float | None]:
        time.sleep(next(self._takes_s))
        return super().read()


def test_a_sample_of_a_busy_machine_is_handed_over_once() -> None:
    samples: list[PowerSample] = []
    with Meter(SometimesLate(0.018), rate_hz=50, record=samples.append):
        until(samples_beyond(samples, 40))
    times_s = [sample.t_s for sample in samples]
    assert len(set(times_s)) == len(times_s)
    assert times_s == sorted(times_s)
