"""Temperatures, throttling, clocks and power modes, from the kernel's files."""

from pathlib import Path

import fake_board
import pytest

from edge_runtime.device import Thermometer, power_mode
from edge_runtime.device.environment import EnvironmentReading, EnvironmentSensors


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    fake_board.zone(tmp_path, 0, "cpu-thermal", 48_500)
    fake_board.zone(tmp_path, 1, "tj-thermal", 51_250)
    thermometer = Thermometer(tmp_path)
    assert thermometer.temperatures_c() == {"cpu-thermal": 48.5, "tj-thermal": 51.25}
    assert thermometer.highest_c() == 51.25
    thermometer.close()


@pytest.mark.parametrize(
    "nonsense", [-256_000, "", "off", 300_000, 127_000, 0, 45, -999, 125_000, -50_000]
)
def test_a_zone_with_an_impossible_value_is_unknown(tmp_path: Path, nonsense: object) -> None:
    fake_board.zone(tmp_path, 0, "cpu-thermal", 48_500)
    fake_board.zone(tmp_path, 1, "cv0-thermal", nonsense)
    thermometer = Thermometer(tmp_path)
    assert thermometer.temperatures_c()["cv0-thermal"] is None
    assert thermometer.highest_c() == 48.5
    thermometer.close()


def test_why_a_zone_is_unknown_names_its_file_and_value(tmp_path: Path) -> None:
    for number, value in enumerate(("45", "127000", "off", "48500")):
        fake_board.zone(tmp_path, number, f"zone{number}", value)
    thermometer = Thermometer(tmp_path)
    problems = [zone.problem or "" for zone in thermometer.read().values()]
    thermometer.close()
    assert "thermal_zone0/temp: 45 is not in thousandths of a degree" in problems[0]
    assert "thermal_zone1/temp: 127 C is outside -50 to 125 C" in problems[1]
    assert "thermal_zone2/temp holds 'off', not a number" in problems[2]
    assert problems[3] == ""


def test_a_constant_is_not_a_temperature(tmp_path: Path) -> None:
    fake_board.zone(tmp_path, 0, "PMIC-Die", 100_000)
    assert Thermometer(tmp_path).temperatures_c() == {}
    assert Thermometer(tmp_path).highest_c() is None


def test_zones_of_one_name_are_both_shown(tmp_path: Path) -> None:
    fake_board.zone(tmp_path, 0, "acpitz", 40_000)
    fake_board.zone(tmp_path, 1, "acpitz", 45_000)
    thermometer = Thermometer(tmp_path)
    assert thermometer.temperatures_c() == {"acpitz": 40.0, "acpitz (thermal_zone1)": 45.0}
    thermometer.close()


def test_a_monitor_chip_is_a_zone(tmp_path: Path) -> None:
    """As on AMD's processors, whose temperature is in no thermal zone."""
    files = {"name": "k10temp", "temp1_label": "Tctl", "temp1_input": 61_500}
    fake_board.hwmon(tmp_path, 2, "0000:00:18.3", files)
    intel = {"name": "coretemp", "temp1_label": "Package id 0", "temp1_input": 50_000}
    intel |= {"temp2_label": "Core 0", "temp2_input": 49_000}
    fake_board.hwmon(tmp_path, 3, "coretemp.0", intel)
    fake_board.hwmon(tmp_path, 4, "nvme0", {"name": "nvme", "temp1_input": 70_000})
    thermometer = Thermometer(tmp_path)
    assert thermometer.temperatures_c() == {
        "k10temp Tctl (0000:00:18.3)": 61.5,
        "coretemp Package id 0 (coretemp.0)": 50.0,
    }
    thermometer.close()


def test_throttling_without_a_source_is_unknown(tmp_path: Path) -> None:
    fake_board.write(
        tmp_path / "sys/class/thermal/cooling_device0", {"type": "pwm-fan", "cur_state": 3}
    )
    assert Thermometer(tmp_path).is_throttled() is None  # a fan that turns throttles nothing


@pytest.mark.parametrize(
    "kind",
    ["cpufreq-cpu0", "thermal-cpufreq-0", "17000000.gpu devfreq", "devfreq-17000000.gpu",
     "Processor", "cpu-throttle-alert"],
)  # fmt: skip
def test_a_part_that_is_slowed_down_is_throttled(tmp_path: Path, kind: str) -> None:
    device = tmp_path / "sys/class/thermal/cooling_device0"
    fake_board.write(device, {"type": kind, "cur_state": 0})
    thermometer = Thermometer(tmp_path)
    if kind.startswith("17"):
        assert thermometer.is_throttled() is None
        return
    assert thermometer.is_throttled() is False
    fake_board.put(device / "cur_state", 1)
    assert thermometer.is_throttled() is True
    thermometer.close()


@pytest.mark.parametrize(
    "place",
    ["devices/platform/soc/soc:firmware", "devices/platform/soc@107c000000/soc:firmware"],
)
@pytest.mark.parametrize(
    ("flags", "is_throttled"), [("0", False), ("50000", False), ("50005", True), ("8", True)]
)
def test_a_pis_firmware_reports_present_and_past_throttling(
    tmp_path: Path, place: str, flags: str, is_throttled: bool
) -> None:
    fake_board.put(tmp_path / "sys" / place / "get_throttled", flags)
    thermometer = Thermometer(tmp_path)
    assert thermometer.is_throttled() is is_throttled
    thermometer.close()


@pytest.mark.parametrize(
    "counter",
    ["class/hwmon/hwmon2/oc3_event_cnt",
     "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
     "devices/system/cpu/cpu17/thermal_throttle/core_throttle_count"],
)  # fmt: skip
def test_an_event_throttles_until_the_next_reading(tmp_path: Path, counter: str) -> None:
    fake_board.put(tmp_path / "sys" / counter, 7)
    thermometer = Thermometer(tmp_path)
    assert thermometer.is_throttled() is False  # it was before the first reading
    fake_board.put(tmp_path / "sys" / counter, 9)
    assert thermometer.is_throttled() is True
    assert thermometer.is_throttled() is False
    fake_board.put(tmp_path / "sys" / counter, "gone")
    assert thermometer.is_throttled() is None
    thermometer.close()


def clock_files(root: Path) -> Path:
    sys = root / "sys"
    for policy, khz in ((0, 1_500_000), (4, 2_200_000)):
        fake_board.put(
            sys / f"devices/system/cpu/cpufreq/policy{policy}/scaling_cur_freq", khz
        )
        for cpu in (policy, policy + 1):
            link = sys / f"devices/system/cpu/cpu{cpu}/cpufreq"
            link.parent.mkdir(parents=True)
            link.symlink_to(f"../cpufreq/policy{policy}")
    gpu = sys / "class/devfreq/17000000.gpu"
    fake_board.write(gpu, {"cur_freq": 918_000_000, "device/load": 430})
    fake_board.put(sys / "class/devfreq/15340000.vic/cur_freq", 999_000_000)
    return root


def test_clocks_are_those_of_the_fastest_cores_and_of_the_gpu(tmp_path: Path) -> None:
    environment = EnvironmentSensors(clock_files(tmp_path))
    assert environment.read()[2:] == (2.2e9, 918e6, 0.43)
    assert len(environment._cpu_khz) == 2  # cores that share a clock are read once
    environment.close()


def test_unknown_clocks_are_none(tmp_path: Path) -> None:
    assert EnvironmentSensors(tmp_path).read() == (None, None, None, None, None)


def test_the_environment_is_temperature_throttling_and_clocks(tmp_path: Path) -> None:
    fake_board.zone(clock_files(tmp_path), 0, "cpu-thermal", 48_500)
    environment = EnvironmentSensors(tmp_path)
    assert environment.read() == EnvironmentReading(
        temperature_c=48.5, throttled=None, cpu_hz=2.2e9, gpu_hz=918e6, gpu_load=0.43
    )
    environment.close()


CONF = """
# POWER_MODEL ID=9 NAME=COMMENT
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=10 NAME=MODE_10W >
< POWER_MODEL ID=1 NAME=MODE_15W >
"""


@pytest.mark.parametrize(
    ("status", "mode"),
    [("pmode:0001", "MODE_15W"), ("pmode:0000 fmode:cool", "MAXN"), ("pmode:0007", None),
     ("", None)],
)  # fmt: skip
def test_the_mode_is_named_by_its_number(
    tmp_path: Path, status: str, mode: str | None
) -> None:
    files = {"var/lib/nvpmodel/status": status, "etc/nvpmodel.conf": CONF}
    assert power_mode(fake_board.write(tmp_path, files)) == mode


@pytest.mark.parametrize(
    ("script", "mode"),
    [
        ("printf 'NV Power Mode: MODE_30W\\n2\\n'", "MODE_30W"),
        ("echo no such thing; exit 1", None),
    ],
)
def test_without_a_file_the_program_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, mode: str | None
) -> None:
    program = tmp_path / "nvpmodel"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert power_mode() == mode


def test_a_board_without_modes_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("EDGE_TRAIN_SYSFS", str(tmp_path))  # nor cpufreq
    assert power_mode(tmp_path) is None
    assert power_mode() is None
