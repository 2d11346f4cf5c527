"""Power monitors without a sensor of their own, and how `doctor` reports them."""

from pathlib import Path

import fake_board
import pytest
from boards import board

from edge_runtime.cli import doctor, doctor_text
from edge_runtime.device import open_sensor, take_inventory
from edge_runtime.device.sensors.hwmon import open_hwmon
from edge_runtime.errors import SensorError

pytestmark = pytest.mark.usefixtures("bare_machine")


def monitor(root: Path, number: int, name: str, **files: object) -> None:
    fake_board.hwmon(root, number, f"3-00{40 + number}", {"name": name, **files})


@pytest.mark.parametrize(
    ("name", "files", "rail"),
    [
        ("ina226", {"power1_input": 12_500_000}, "ina226"),
        ("ina219", {"label": "IN_5V", "power1_input": 12_500_000}, "IN_5V"),
        ("pmbus", {"power1_label": "pin", "power1_input": 12_500_000}, "pin"),
        ("power_meter", {"power1_average": 12_500_000}, "power_meter"),
    ],
)
def test_the_total_may_be_any_of_them(tmp_path, name, files, rail) -> None:
    monitor(tmp_path, 3, name, **files)
    sensor = open_sensor(board(total=(rail,)), root=tmp_path)
    assert sensor
    assert (sensor.name, sensor.total) == ("hwmon", (rail,))
    assert sensor.read() == {rail: 12.5}
    sensor.close()


def test_only_the_meter_of_a_machine_is_its_total_without_a_profile(tmp_path) -> None:
    monitor(tmp_path, 3, "pmbus", power1_label="pin", power1_input=1, power2_input=2_000_000)
    assert open_hwmon(board(), tmp_path).total == ()
    monitor(tmp_path, 4, "power_meter", power1_average=80_000_000)
    sensor = open_hwmon(board(), tmp_path)
    assert sensor.total == ("power_meter",)
    assert sensor.rails == ("pin", "pmbus power2", "power_meter")
    sensor.close()


def test_two_meters_are_not_guessed(tmp_path) -> None:
    for number in (3, 4):
        monitor(tmp_path, number, "power_meter", power1_average=80_000_000)
    with pytest.raises(SensorError, match="power_meter occurs 2 times"):
        open_hwmon(board(), tmp_path)


def test_the_present_power_is_better_than_a_mean(tmp_path) -> None:
    monitor(tmp_path, 3, "amdgpu", power1_average=1_000_000, power1_input=3_000_000)
    assert open_hwmon(board(), tmp_path).read() == {"amdgpu": 3.0}


def test_a_monitor_that_is_not_used_is_reported(tmp_path) -> None:
    monitor(tmp_path, 3, "amd_energy", energy1_label="Esocket0", energy1_input=5)
    found = take_inventory(board(idle_w=1.0, full_w=2.0), root=tmp_path)
    assert found.unused_monitors == ("amd_energy (hwmon3) counts energy and is not used",)


def test_doctor_reports_a_monitor_whose_place_is_unknown(
    tmp_path, monkeypatch, capsys
) -> None:
    """It exists and is not used for the total: why, and what else is."""
    monitor(tmp_path, 3, "ina226", power1_input=12_500_000)
    monitor(tmp_path, 4, "amd_energy", energy1_input=5)
    monkeypatch.setenv("EDGE_TRAIN_SYSFS", str(tmp_path / "sys"))
    path = tmp_path / "shed.toml"
    path.write_text('id = "shed"\nname = "Shed"\n[power]\nidle_w = 2.5\nfull_w = 7\n')
    lines = "\n".join(doctor_text._sensor_lines(doctor.board_facts(path)))
    assert "form the total of board shed is unknown: it has ina226" in lines
    assert "ina226 (3-0043) reports power and is not used: if it is the board's" in lines
    assert "amd_energy (hwmon4) counts energy and is not used" in lines
