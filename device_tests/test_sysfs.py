"""edge-train on an emulated board read through EDGE_TRAIN_SYSFS, as in a container."""

import os
import time
from pathlib import Path

import pytest

from device_tests.emulated_board.boards import BOARDS, MEASURED
from device_tests.emulated_board.driving import DriveOptions
from device_tests.emulated_board.running import running_board
from device_tests.emulated_board.tools import write_tools
from device_tests.emulated_board.tree import set_rails, set_temperature, write_board
from edge_runtime.device import Meter, Thermometer, load_board, machine_facts, open_sensor

STEP_W = 0.0096  # half of what a current of 1 mA is at 19 V


def emulate(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    board = write_board(folder, name)
    write_tools(folder, board, sysfs=folder)
    monkeypatch.setenv("EDGE_TRAIN_SYSFS", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'usr/bin'}{os.pathsep}{os.environ['PATH']}")
    return name


@pytest.fixture(params=BOARDS)
def any_name(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    return emulate(request.param, tmp_path, monkeypatch)


@pytest.fixture(params=MEASURED)
def name(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A board with a power sensor."""
    return emulate(request.param, tmp_path, monkeypatch)


def test_the_board_is_recognised(any_name: str) -> None:
    assert load_board(None).id == BOARDS[any_name].profile
    assert machine_facts()["board"] == load_board(None).id


def test_its_profile_knows_rails_and_modes(any_name: str) -> None:
    board, power = BOARDS[any_name], load_board(None).power
    if not board.pmic:  # its rails are those that it reports
        assert set(power.rails) == {rail.label for rail in board.rails}
        assert set(power.total) == set(board.total)
    for mode in board.jetson.modes if board.jetson else ():
        clocks = power.modes[mode.name]
        if mode.max_khz is not None and clocks.cpu_mhz is not None:
            assert clocks.cpu_mhz * 1000 == mode.max_khz


def test_a_board_without_a_sensor_says_so(any_name: str) -> None:
    sensor = open_sensor(load_board(None))
    assert (sensor is not None and not sensor.is_estimate) == (any_name in MEASURED)
    if any_name not in MEASURED:
        assert "o power sensor" in (load_board(None).note or "")
    if sensor is not None:
        sensor.close()


def test_the_sensor_reads_every_rail(name: str, tmp_path: Path) -> None:
    sensor = open_sensor(load_board(None))
    assert sensor is not None
    assert (sensor.name, sensor.is_estimate) == (BOARDS[name].sensor, False)
    assert set(sensor.total) == set(BOARDS[name].total)
    idle_w = {rail.label: rail.idle_mw / 1000 for rail in BOARDS[name].rails}
    assert sensor.read() == pytest.approx(idle_w, abs=STEP_W)
    first, *others = idle_w
    set_rails(tmp_path, BOARDS[name], {first: 9500})
    now_w = {first: 9.5} | {other: idle_w[other] for other in others}
    assert sensor.read() == pytest.approx(now_w, abs=STEP_W)
    sensor.close()


def test_the_total_counts_nothing_twice(name: str) -> None:
    with Meter(open_sensor(load_board(None))) as meter:
        sample = meter.latest()
    assert sample is not None
    true_w = sum(rail.idle_mw for rail in BOARDS[name].inputs) / 1000
    assert sample.total_w == pytest.approx(true_w, abs=len(BOARDS[name].total) * STEP_W)


def test_temperature_and_throttling_are_seen(any_name: str, tmp_path: Path) -> None:
    name = any_name
    thermometer = Thermometer()
    set_temperature(tmp_path, BOARDS[name], 71.5, throttled=False)
    assert thermometer.highest_c() == 71.5
    assert thermometer.is_throttled() is False
    set_temperature(tmp_path, BOARDS[name], 99.5, throttled=True)
    assert thermometer.highest_c() == 99.5
    assert thermometer.is_throttled() is True
    assert len(thermometer.temperatures_c()) == len(BOARDS[name].zones)
    thermometer.close()


@pytest.mark.parametrize("board_name", MEASURED)
def test_a_window_has_the_true_energy(
    board_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power that rises in steps; benchmarks/energy_truth.py has longer runs."""
    # It follows an idle process, so that other work on this machine does not matter.
    with running_board(board_name, DriveOptions(pid=os.getpid(), k_mw=0)) as board:
        for variable, value in board.environment.items():
            monkeypatch.setenv(variable, value)
        with Meter(open_sensor(load_board(None))) as meter, meter.window("rise") as window:
            start_s = time.monotonic()
            for step in range(20):
                board.set_factor(1.0 + 0.025 * step)
                time.sleep(0.15)
        energy = window.energy
        true_j = board.energy_j(start_s, start_s + energy.duration_s)
    assert energy.gross_j is not None
    assert energy.gross_j == pytest.approx(true_j, rel=0.01)
    assert energy.gap_s == 0
