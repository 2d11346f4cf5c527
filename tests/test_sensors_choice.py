"""The choice of a board's power sensor, and its calibration."""

from pathlib import Path

import fake_board
import pytest
from boards import board

from edge_runtime.device import SENSORS, Board, Calibration, choose_sensor, open_sensor
from edge_runtime.device.sensors.calibrated import CalibratedSensor
from edge_runtime.device.sensors.replay import ReplaySensor
from edge_runtime.errors import ConfigError, DeviceError, SensorError

pytestmark = pytest.mark.usefixtures("bare_machine")


def chosen(own: Board, root: Path) -> tuple[str | None, dict[str, str]]:
    choice = choose_sensor(own, root=root)
    if choice.sensor is None:
        return None, choice.refused
    choice.sensor.close()
    return choice.sensor.name, choice.refused


def test_the_best_sensor_that_knows_the_total_is_chosen(tmp_path: Path) -> None:
    own = board(total=("VDD_IN",), idle_w=2.0, full_w=9.0)
    fake_board.processor_load(tmp_path, 1.0)
    assert chosen(own, tmp_path)[0] == "estimate"
    fake_board.battery(tmp_path, power_now=1_000_000)
    assert chosen(board(idle_w=2.0, full_w=9.0), tmp_path)[0] == "battery"
    fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 1.0)})
    assert chosen(board(idle_w=2.0, full_w=9.0), tmp_path)[0] == "rapl"
    fake_board.ina3221(tmp_path, {"VDD_IN": 4.5})
    assert chosen(own, tmp_path)[0] == "ina3221"


def test_why_not_a_better_one_is_reported(tmp_path: Path) -> None:
    fake_board.ina3221(tmp_path, {"VDD_SOC": 1.5})
    fake_board.processor_load(tmp_path, 1.0)
    name, refused = chosen(board(total=("VDD_IN",), idle_w=2.0, full_w=9.0), tmp_path)
    assert name == "estimate"
    assert list(refused) == [kind for kind in SENSORS if kind != "estimate"]
    assert "its total needs rail VDD_IN, but the sensor has VDD_SOC" in refused["ina3221"]
    assert "Correct power.total in a board file of your own" in refused["ina3221"]
    assert "jetson-stats is not installed" in refused["jtop"]


def test_rails_without_a_total_are_better_than_nothing(tmp_path: Path) -> None:
    fake_board.ina3221(tmp_path, {"VDD_SOC": 1.5})
    fake_board.processor_load(tmp_path, 1.0)
    name, refused = chosen(board(), tmp_path)
    assert name == "ina3221"
    assert "which of its rails form the total of board shed is unknown" in refused["ina3221"]
    assert chosen(board(idle_w=2.0, full_w=9.0), tmp_path)[0] == "estimate"


def test_without_any_sensor_the_choice_is_none(tmp_path: Path) -> None:
    name, refused = chosen(board(), tmp_path)
    assert name is None
    assert set(refused) == set(SENSORS)
    assert open_sensor(board(), root=tmp_path) is None


def test_a_requested_one_works_or_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SensorError, match="rapl does not work here: no RAPL energy counter"):
        open_sensor(board(), root=tmp_path, prefer="rapl")
    with pytest.raises(
        ConfigError, match=r"no power sensor 'wattmeter'; there are ina238, .*"
    ):
        open_sensor(board(), root=tmp_path, prefer="wattmeter")
    assert issubclass(SensorError, DeviceError)  # exit code 4


CALIBRATED = {"VDD_IN": Calibration(gain=1.1, offset_w=-0.25)}


def test_a_calibration_corrects_its_rail_and_is_reported(tmp_path: Path) -> None:
    fake_board.ina3221(tmp_path, {"VDD_IN": 4.0, "VDD_SOC": 1.5})
    own = board(total=("VDD_IN",), calibration=CALIBRATED)
    sensor = open_sensor(own, root=tmp_path)
    assert sensor
    assert sensor.read() == {"VDD_IN": pytest.approx(4.15), "VDD_SOC": 1.5}
    assert sensor.description == (
        "ina3221 power monitor, calibrated: VDD_IN = 1.1 * read - 0.25 W"
    )
    sensor.close()


def test_a_sensor_without_that_rail_is_not_called_calibrated(tmp_path: Path) -> None:
    fake_board.processor_load(tmp_path, 1.0)
    own = board(total=("VDD_IN",), idle_w=2.0, full_w=9.0, calibration=CALIBRATED)
    sensor = open_sensor(own, root=tmp_path)
    assert sensor
    assert "calibrated" not in sensor.description
    sensor.close()


def test_an_unknown_rail_stays_unknown() -> None:
    replay = ReplaySensor([(0.0, {"VDD_IN": None})], total=["VDD_IN"])
    assert CalibratedSensor(replay, CALIBRATED).read() == {"VDD_IN": None}


def test_of_counted_energy_the_offset_takes_time(tmp_path: Path) -> None:
    folder = fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 10.0)})
    inner = open_sensor(board(), root=tmp_path, prefer="rapl")
    assert inner
    now_s = [5.0]
    calibration = {"package-0": Calibration(gain=2.0, offset_w=3.0)}
    sensor = CalibratedSensor(inner, calibration, clock=lambda: now_s[0])
    fake_board.put(folder / "intel-rapl:0/energy_uj", 14_000_000)
    now_s[0] += 2.0
    assert sensor.read() == {"package-0": pytest.approx(2.0 * 4.0 + 3.0 * 2.0)}
    sensor.close()
