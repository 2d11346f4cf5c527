"""edge-train on an emulated board read through EDGE_TRAIN_SYSFS, as in a container."""

import os
import time
from pathlib import Path

import pytest

from device_tests.emulated_board.boards import BOARDS
from device_tests.emulated_board.driving import DriveOptions
from device_tests.emulated_board.running import running_board
from device_tests.emulated_board.tree import set_rails, set_temperature, write_board
from edge_runtime.device import Meter, Thermometer, load_board, machine_facts, open_sensor

# Enough memory for the largest of boards that differ in memory only.
IDS = {"orin_nx": "jetson-orin-nx", "agx_orin": "jetson-agx-orin", "nano": "jetson-nano"}


@pytest.fixture(params=BOARDS)
def name(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    board_name: str = request.param
    write_board(tmp_path, board_name)
    monkeypatch.setenv("EDGE_TRAIN_SYSFS", str(tmp_path))
    return board_name


def test_the_board_is_recognised(name: str) -> None:
    assert load_board(None).id.startswith(IDS[name])
    assert machine_facts()["board"] == load_board(None).id


def test_its_profile_knows_the_rails(name: str) -> None:
    power = load_board(None).power
    assert set(power.rails) == {rail.label for rail in BOARDS[name].rails}
    assert set(power.total) == set(BOARDS[name].total)
    assert set(BOARDS[name].modes) <= set(power.modes)


def test_the_sensor_reads_every_rail(name: str, tmp_path: Path) -> None:
    sensor = open_sensor(load_board(None))
    assert sensor is not None
    assert (sensor.name, sensor.is_estimate) == ("ina3221", False)
    assert set(sensor.total) == set(BOARDS[name].total)
    idle_w = {rail.label: rail.idle_mw / 1000 for rail in BOARDS[name].rails}
    assert sensor.read() == pytest.approx(idle_w)
    first, *others = idle_w
    set_rails(tmp_path, BOARDS[name], {first: 9500})
    assert sensor.read() == pytest.approx({first: 9.5} | {o: idle_w[o] for o in others})
    sensor.close()


def test_the_total_counts_nothing_twice(name: str) -> None:
    with Meter(open_sensor(load_board(None))) as meter:
        sample = meter.latest()
    assert sample is not None
    true_w = sum(rail.idle_mw for rail in BOARDS[name].inputs) / 1000
    assert sample.total_w == pytest.approx(true_w)


def test_temperature_and_throttling_are_seen(name: str, tmp_path: Path) -> None:
    thermometer = Thermometer()
    set_temperature(tmp_path, BOARDS[name], 71.5, throttled=False)
    assert thermometer.highest_c() == 71.5
    assert thermometer.is_throttled() is False
    set_temperature(tmp_path, BOARDS[name], 99.5, throttled=True)
    assert thermometer.highest_c() == 99.5
    assert thermometer.is_throttled() is True
    assert len(thermometer.temperatures_c()) == len(BOARDS[name].zones)
    thermometer.close()


@pytest.mark.parametrize("board_name", BOARDS)
def test_a_window_has_the_true_energy(
    board_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power that jumps; benchmarks/energy_truth.py has longer runs."""
    # It follows an idle process, so that other work on this machine does not matter.
    with running_board(board_name, DriveOptions(pid=os.getpid(), k_mw=0)) as board:
        monkeypatch.setenv("EDGE_TRAIN_SYSFS", str(board.sysfs))
        with Meter(open_sensor(load_board(None))) as meter, meter.window("jump") as window:
            start_s = time.monotonic()
            time.sleep(1.0)
            board.set_factor(2.0)
            time.sleep(1.0)
        energy = window.energy
        true_j = board.energy_j(start_s, start_s + energy.duration_s)
    assert energy.gross_j is not None
    # The time of the jump is known to a tenth of a second, of two seconds.
    assert energy.gross_j == pytest.approx(true_j, rel=0.05)
    assert energy.gap_s == 0
