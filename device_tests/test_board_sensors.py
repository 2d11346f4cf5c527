"""Power sensors and temperatures of a real board: `pytest device_tests --board NAME`.

Nothing else should run on the board. An own reading of the kernel's files is the judge.
"""

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from device_tests.real_board import kernel
from device_tests.real_board.results import ROOT, RecordProperty, not_run
from device_tests.real_board.training import WINDOW_S, busy_processors
from device_tests.real_board.watching import Watch
from edge_runtime.device import (
    SENSORS,
    Board,
    Meter,
    PowerSample,
    PowerSensor,
    Thermometer,
    choose_sensor,
    open_sensor,
)
from edge_runtime.errors import SensorError
from edge_runtime.facts import WindowEnergy

ESTIMATE = "estimate"
CONTRACT_TESTS = 5  # for each sensor
POSSIBLE_W = (0.3, 300.0)  # of a board
SETTLE_S = min(1.0, WINDOW_S)


def require_sensor(profile: Board) -> PowerSensor:
    """The sensor that a run would use."""
    choice = choose_sensor(profile)
    if choice.sensor is None and not kernel.has_power_sensor(profile):
        not_run(f"no sensor works here. {profile.note or ''} {choice.refused}")
    assert choice.sensor is not None, choice.refused
    return choice.sensor


def test_the_board_has_the_sensor_of_its_profile(
    profile: Board, record_property: RecordProperty
) -> None:
    choice = choose_sensor(profile)
    record_property("refused", choice.refused)
    if choice.sensor is not None:
        record_property("sensor", choice.sensor.description)
        record_property("rails", choice.sensor.rails)
        record_property("total", choice.sensor.total)
        choice.sensor.close()
    if not kernel.has_power_sensor(profile):
        not_run(f"the profile {profile.id} promises none. {profile.note or ''}")
    assert choice.sensor is not None
    assert not choice.sensor.is_estimate, choice.refused
    assert set(profile.power.rails) <= set(choice.sensor.rails)
    if profile.power.total:
        assert choice.sensor.total == profile.power.total


def test_every_sensor_of_the_board_keeps_the_contract(
    profile: Board, record_property: RecordProperty
) -> None:
    names, refused = [], {}
    for name in SENSORS:
        try:
            sensor = open_sensor(profile, prefer=name)
        except SensorError as error:
            refused[name] = str(error)
            continue
        assert sensor is not None
        if sensor.total:
            names.append(name)
        else:
            refused[name] = f"its total is unknown; it has {', '.join(sensor.rails)}"
        sensor.close()
    record_property("sensors", names)
    record_property("refused", refused)
    if not names and not kernel.has_power_sensor(profile):
        not_run(f"no sensor with a total works here: {refused}")
    assert names, refused
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "tests/test_sensors_contract.py"],
        env={**os.environ, "EDGE_TRAIN_TEST_SENSORS": ",".join(names)},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) == CONTRACT_TESTS * len(names), done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The board at rest, and then with busy processors."""

    sensor: PowerSensor
    samples: list[PowerSample]
    rest: WindowEnergy
    load: WindowEnergy
    own_rest_w: float | None  # by the kernel's files
    own_load_w: float | None


@pytest.fixture(scope="module")
def measured(profile: Board) -> Measured:
    sensor = require_sensor(profile)
    samples: list[PowerSample] = []
    with (
        Watch(profile, every_s=0.1) as watch,
        Meter(sensor, record=samples.append) as meter,
    ):
        time.sleep(SETTLE_S)
        own_w = []
        with meter.window("rest") as rest:
            begin_s = time.monotonic()
            time.sleep(WINDOW_S)
            own_w.append((begin_s, time.monotonic()))
        with busy_processors():
            time.sleep(SETTLE_S)
            with meter.window("load") as load:
                begin_s = time.monotonic()
                time.sleep(WINDOW_S)
                own_w.append((begin_s, time.monotonic()))
        time.sleep(0.2)
    own_rest_w, own_load_w = (watch.mean_w(*span) for span in own_w)
    return Measured(
        sensor=sensor,
        samples=samples,
        rest=rest.energy,
        load=load.energy,
        own_rest_w=own_rest_w,
        own_load_w=own_load_w,
    )


def test_energy_never_decreases_and_is_the_sum_of_power(
    measured: Measured, record_property: RecordProperty
) -> None:
    known = [(s.t_s, s.energy_j) for s in measured.samples if s.energy_j is not None]
    assert len(known) > 2
    for (_, before_j), (_, after_j) in itertools.pairwise(known):
        assert after_j >= before_j
    (first_s, first_j), (last_s, last_j) = known[0], known[-1]
    powers_w = [s.total_w for s in measured.samples if s.total_w is not None]
    mean_w = (last_j - first_j) / (last_s - first_s)
    record_property("mean_w", mean_w)
    assert min(powers_w) <= mean_w <= max(powers_w)


def test_power_is_in_watts_and_that_of_the_kernels_files(
    profile: Board, measured: Measured, record_property: RecordProperty
) -> None:
    pairs = [
        (measured.rest.mean_w, measured.own_rest_w),
        (measured.load.mean_w, measured.own_load_w),
    ]
    record_property("rest_w, own_rest_w; load_w, own_load_w", pairs)
    for mean_w, own_w in pairs:
        assert mean_w is not None
        assert POSSIBLE_W[0] < mean_w < POSSIBLE_W[1]
        if own_w is None and (
            measured.sensor.name == "jtop" or not kernel.has_power_sensor(profile)
        ):
            not_run(f"no file of the kernel to judge sensor {measured.sensor.name} by")
        assert own_w is not None, "the kernel's files do not show the board's input"
        # The other readings were made at other times, of a power that is never still
        assert mean_w == pytest.approx(own_w, rel=0.1, abs=0.2)


def test_the_total_is_plausible_beside_its_rails(
    measured: Measured, record_property: RecordProperty
) -> None:
    for window in (measured.rest, measured.load):
        rails_w = {
            rail: energy_j / window.duration_s
            for rail, energy_j in window.rails_j.items()
            if energy_j is not None
        }
        record_property(f"rails_w at {window.name}", rails_w)
        assert set(measured.sensor.total) <= set(rails_w)
        assert window.mean_w is not None
        total_w = sum(rails_w[rail] for rail in measured.sensor.total)
        assert window.mean_w == pytest.approx(total_w, rel=0.01)
        for rail, power_w in rails_w.items():  # a part of a board, or the chip's offset
            assert -0.5 < power_w <= 1.05 * total_w, rail


def test_the_board_takes_less_at_rest_than_under_load(
    measured: Measured, record_property: RecordProperty
) -> None:
    rest_w, load_w = measured.rest.mean_w, measured.load.mean_w
    record_property("rest_w", rest_w)
    record_property("load_w", load_w)
    assert rest_w is not None
    assert load_w is not None
    assert rest_w < 0.97 * load_w, "is another program running?"


def test_no_reading_is_missing(measured: Measured, record_property: RecordProperty) -> None:
    for window in (measured.rest, measured.load):
        record_property(f"samples at {window.name}", window.samples)
        record_property(f"largest_gap_s at {window.name}", window.largest_gap_s)
        assert window.gap_s == 0
        period_s = max(0.1, measured.sensor.period_s)
        assert window.samples > 0.7 * window.duration_s / period_s
        assert window.largest_gap_s < max(1.0, 3 * period_s)
    times_s = [sample.t_s for sample in measured.samples]
    gaps_s = [after - before for before, after in itertools.pairwise(times_s)]
    record_property("median_gap_s", statistics.median(gaps_s))


READER = """
import json, sys, time
from edge_runtime.device import Meter, load_board, open_sensor
with Meter(open_sensor(load_board(None), prefer=sys.argv[1])) as meter:
    print("ready", flush=True)
    sys.stdin.readline()
    with meter.window("shared") as window:
        time.sleep(float(sys.argv[2]))
energy = window.energy
print(json.dumps([energy.mean_w, energy.gap_s, energy.samples]))
"""


def test_two_processes_read_the_same(profile: Board, record_property: RecordProperty) -> None:
    sensor = require_sensor(profile)
    name = sensor.name
    sensor.close()
    command = [sys.executable, "-c", READER, name, str(WINDOW_S)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    readers = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    # The power of their start would be in the one window and not in the other
    time.sleep(SETTLE_S)
    for reader in readers:
        reader.stdin.write("go\n")
        reader.stdin.flush()
    answers = [json.loads(reader.communicate()[0]) for reader in readers]
    record_property("mean_w, gap_s, samples", answers)
    (first_w, *_), (second_w, *_) = answers
    assert first_w == pytest.approx(second_w, rel=0.1, abs=0.2)
    assert [gap_s for _, gap_s, _ in answers] == [0, 0]


@pytest.fixture
def zones(profile: Board) -> dict[str, float]:
    zones = kernel.temperatures_c()
    if not zones and profile.id.startswith("generic-"):
        not_run("the kernel shows no temperature of this machine")
    return zones


def test_temperatures_are_those_of_the_kernel(
    zones: dict[str, float], record_property: RecordProperty
) -> None:
    record_property("zones_c", zones)
    assert zones
    thermometer = Thermometer()
    highest_c = thermometer.highest_c()
    thermometer.close()
    # Read a little later, and here from monitor chips, too
    assert highest_c is not None
    assert highest_c > max(zones.values()) - 3
