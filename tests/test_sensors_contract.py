"""The contract of power sensors, on files and libraries in place of hardware.

On a real board, EDGE_TRAIN_TEST_SENSORS names those that it has, in place of all others:
device_tests/test_board_sensors.py.
"""

import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fake_board
import psutil
import pytest
from boards import board
from fake_vendors import FakeNvml, install_jtop, install_nvml, jtop_rail

from edge_runtime.device import (
    Calibration,
    Meter,
    PowerSensor,
    ReplaySensor,
    load_board,
    open_sensor,
)
from edge_runtime.device.sensors.rpi_pmic import RpiPmic
from edge_runtime.errors import SensorError


@dataclass
class Case:
    """A sensor, and functions that remove its hardware and restore it."""

    sensor: PowerSensor
    take_away: Callable[[], None] | None = None
    give_back: Callable[[], None] | None = None
    advance: Callable[[], None] | None = None  # a counter continues


def _removed(folder: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Remove the files, as when a driver is taken out, and put new ones in their place."""
    copy = folder.with_name("copy")

    def take_away() -> None:
        shutil.copytree(folder, copy, symlinks=True)
        shutil.rmtree(folder)

    return take_away, lambda: shutil.move(copy, folder) and None


def _lost(gpus: FakeNvml) -> tuple[Callable[[], None], Callable[[], None]]:
    return (lambda: setattr(gpus, "is_lost", True), lambda: setattr(gpus, "is_lost", False))


def ina3221(root: Path, _: pytest.MonkeyPatch) -> Case:
    fake_board.ina3221(root, {"VDD_IN": 4.5, "NC": 0.0, "VDD_SOC": 1.4})
    sensor = open_sensor(board(total=("VDD_IN",)), root=root, prefer="ina3221")
    assert sensor
    return Case(sensor, *_removed(root / "sys/devices/i2c"))


def ina3221_of_jetpack_4(root: Path, _: pytest.MonkeyPatch) -> Case:
    folder = fake_board.ina3221_of_jetpack_4(root, {"POM_5V_IN": 1.5, "POM_5V_CPU": 0.3})
    sensor = open_sensor(board(total=("POM_5V_IN",)), root=root, prefer="ina3221")
    assert sensor
    return Case(sensor, *_removed(folder))


def ina238(root: Path, _: pytest.MonkeyPatch) -> Case:
    fake_board.ina238(root, 30.0)
    fake_board.ina3221(root, {"VDD_GPU": 8.0})
    sensor = open_sensor(board(total=("VIN",)), root=root, prefer="ina238")
    assert sensor
    return Case(sensor, *_removed(root / "sys/devices/i2c/2-0044"))


def hwmon(root: Path, _: pytest.MonkeyPatch) -> Case:
    files = {"name": "ina226", "power1_label": "IN_12V", "power1_input": 12_500_000}
    fake_board.hwmon(root, 5, "3-0041", files)
    sensor = open_sensor(board(total=("IN_12V",)), root=root, prefer="hwmon")
    assert sensor
    return Case(sensor, *_removed(root / "sys/devices/i2c"))


def jtop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    first = {"rail": {"VDD_SOC": jtop_rail(1.4)}, "tot": jtop_rail(4.5, name="VDD_IN")}
    service = install_jtop(monkeypatch, first)
    sensor = open_sensor(board(total=("VDD_IN",)), root=root, prefer="jtop")
    assert sensor

    def take_away() -> None:
        service.refusal = ConnectionRefusedError("refused")
        service.clients[-1].alive = False

    def give_back() -> None:
        service.refusal = None

    return Case(sensor, take_away, give_back)


def rpi_pmic(root: Path, _: pytest.MonkeyPatch) -> Case:
    script = root / "vcgencmd"
    script.write_text(
        "#!/bin/sh\n"
        "echo '     VDD_CORE_A current(7)=1.50000000A'\n"
        "echo '     VDD_CORE_V volt(15)=0.80000000V'\n"
        "echo '     EXT5V_V volt(24)=5.10000000V'\n"
    )
    script.chmod(0o755)
    return Case(
        RpiPmic(board(), command=[str(script)]),
        lambda: script.chmod(0),
        lambda: script.chmod(0o755),
    )


def rapl(root: Path, _: pytest.MonkeyPatch) -> Case:
    domains = {"intel-rapl:0": ("package-0", 999.0), "intel-rapl:0:0": ("core", 5.0)}
    folder = fake_board.rapl(root, domains)
    sensor = open_sensor(board(), root=root, prefer="rapl")
    assert sensor
    advance = lambda: fake_board.put(folder / "intel-rapl:0/energy_uj", 2_000_000)  # noqa: E731
    return Case(sensor, *_removed(folder), advance)


def nvml(root: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    gpus = install_nvml(monkeypatch, FakeNvml(energy_j=[10.0], power_w=[None]))
    sensor = open_sensor(board(total=("gpu0",)), root=root, prefer="nvml")
    assert sensor

    return Case(sensor, *_lost(gpus), lambda: gpus.energy_j.__setitem__(0, 12.0))


def nvml_without_counter(root: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    gpus = install_nvml(monkeypatch, FakeNvml(energy_j=[None, None], power_w=[35.0, 40.0]))
    sensor = open_sensor(board(total=("gpu0", "gpu1")), root=root, prefer="nvml")
    assert sensor
    return Case(sensor, *_lost(gpus))


def rapl_and_nvml(root: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    install_nvml(monkeypatch, FakeNvml(energy_j=[10.0], power_w=[None]))
    folder = fake_board.rapl(root, {"intel-rapl:0": ("package-0", 999.0)})
    sensor = open_sensor(board(), root=root, prefer="rapl+nvml")
    assert sensor
    assert sensor.total == ("package-0", "gpu0")
    advance = lambda: fake_board.put(folder / "intel-rapl:0/energy_uj", 2_000_000)  # noqa: E731
    return Case(sensor, *_removed(folder), advance)


def battery(root: Path, _: pytest.MonkeyPatch) -> Case:
    folder = fake_board.battery(root, power_now=-7_500_000)
    sensor = open_sensor(board(), root=root, prefer="battery")
    assert sensor
    return Case(sensor, *_removed(folder))


def estimate(root: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    stat = fake_board.processor_load(root, 10.0)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(stat.parent))
    sensor = open_sensor(board(idle_w=2.0, full_w=6.0), root=root, prefer="estimate")
    assert sensor
    return Case(sensor, *_removed(stat.parent))


def replay(root: Path, _: pytest.MonkeyPatch) -> Case:
    return Case(
        ReplaySensor([(0.0, {"VDD_IN": 4.5}), (1.0, {"VDD_IN": 5.0})], total=["VDD_IN"])
    )


def calibrated(root: Path, _: pytest.MonkeyPatch) -> Case:
    fake_board.ina3221(root, {"VDD_IN": 4.5, "VDD_SOC": 1.4})
    own = board(total=("VDD_IN",), calibration={"VDD_IN": Calibration(gain=2.0, offset_w=0.5)})
    sensor = open_sensor(own, root=root, prefer="ina3221")
    assert sensor
    return Case(sensor, *_removed(root / "sys/devices/i2c"))


def real(name: str) -> Callable[[Path, pytest.MonkeyPatch], Case]:
    """A sensor of the board that this runs on; nobody takes its hardware away."""

    def make(root: Path, _: pytest.MonkeyPatch) -> Case:
        sensor = open_sensor(load_board(None), prefer=name)
        assert sensor
        counts = lambda: threading.Event().wait(0.5) and None  # noqa: E731 - by itself
        return Case(sensor, advance=counts if sensor.counts_energy else None)

    make.__name__ = name
    return make


REAL = [
    real(name) for name in os.environ.get("EDGE_TRAIN_TEST_SENSORS", "").split(",") if name
]
ALL = REAL or [
    ina3221, ina3221_of_jetpack_4, ina238, hwmon, jtop, rpi_pmic, rapl, nvml,
    nvml_without_counter, rapl_and_nvml, battery, estimate, replay, calibrated,
]  # fmt: skip
CAN_GO = [] if REAL else [make for make in ALL if make is not replay]


@pytest.fixture(params=ALL, ids=lambda case: case.__name__)
def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Case]:
    made: Case = request.param(tmp_path, monkeypatch)
    yield made
    made.sensor.close()


def read_total(sensor: PowerSensor) -> float | None:
    """The total, or `None` if it is unknown: all ways in which a sensor may fail."""
    try:
        reading = sensor.read()
    except SensorError:
        return None
    assert set(reading) == set(sensor.rails)
    parts = [reading[rail] for rail in sensor.total]
    return None if None in parts else math.fsum(part or 0.0 for part in parts)


def test_it_has_a_name_and_a_description(case: Case) -> None:
    sensor = case.sensor
    assert sensor.name
    assert sensor.description
    assert sensor.is_estimate == (sensor.name == "estimate")
    assert sensor.period_s >= 0
    assert len(set(sensor.rails)) == len(sensor.rails) > 0
    assert set(sensor.total) <= set(sensor.rails)
    assert sensor.total


def test_readings_are_finite_and_not_negative(case: Case) -> None:
    for _ in range(3):
        reading = case.sensor.read()
        assert list(reading) == list(case.sensor.rails)
        known = [value for value in reading.values() if value is not None]
        assert known
        assert all(0 <= value < 1e6 for value in known)


def test_power_is_above_zero_and_energy_never_decreases(case: Case) -> None:
    before = read_total(case.sensor)
    if case.advance:
        case.advance()
    after = read_total(case.sensor)
    assert before is not None
    assert after is not None
    if case.sensor.counts_energy:
        assert after > before or not case.advance
        assert after >= before
    else:
        assert after > 0


@pytest.mark.parametrize("case", CAN_GO, ids=lambda case: case.__name__, indirect=True)
def test_lost_hardware_is_reported_and_reconnected(case: Case) -> None:
    assert case.take_away
    assert case.give_back
    case.take_away()
    assert read_total(case.sensor) is None
    assert read_total(case.sensor) is None
    case.give_back()
    for _ in range(100):  # jtop connects beside us
        if read_total(case.sensor) is not None:
            return
        threading.Event().wait(0.01)
    pytest.fail("it was not reading again")


def test_closing_twice_is_fine(case: Case) -> None:
    case.sensor.close()
    case.sensor.close()


def test_a_meter_reads_it_in_its_thread(case: Case) -> None:
    with Meter(case.sensor, rate_hz=50) as meter:
        threading.Event().wait(0.05)
        if case.advance:  # a counter that has counted nothing is unknown
            case.advance()
        threading.Event().wait(0.1)
    sample = meter.latest()
    assert sample is not None
    assert list(sample.rails_w) == list(case.sensor.rails)
    if case.sensor.period_s < 0.1:
        assert meter.spent_j() is not None
