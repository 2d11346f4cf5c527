"""Runs with a limit on energy or power, for each kind of power sensor.

The first reading of a sensor that counts energy gives no energy yet: with a cached profile, a
run plans before the second one.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import fake_board
import pytest
from boards import board
from fake_vendors import FakeNvml, install_nvml
from measuring_fakes import constant_sensor, environment
from simulated_board import rung_cost
from test_within_budget import profile_of, train_within
from training_fakes import FakeEngine, stop_after, write_package
from typing_extensions import override

from edge_runtime import within_budget
from edge_runtime.device import Calibration, PowerSensor, ReplaySensor
from edge_runtime.device.sensors.calibrated import CalibratedSensor
from edge_runtime.device.sensors.combined import CombinedSensor
from edge_runtime.device.sensors.estimate import Estimate
from edge_runtime.device.sensors.nvml import Nvml
from edge_runtime.device.sensors.rapl import Rapl
from edge_runtime.errors import DeviceError, StoppedError
from edge_runtime.facts import Budget
from edge_runtime.profiling import for_run, save_profile
from edge_runtime.records import events

POWER_W = 10.0
LIMITS = [Budget(energy_j=5e4), Budget(power_w=20.0)]


class Advancing(PowerSensor):
    """A sensor whose counters are moved on before each reading."""

    def __init__(self, sensor: PowerSensor, advance: Callable[[float], None]) -> None:
        self._sensor, self._advance, self._start_s = sensor, advance, time.monotonic()
        self.name, self.description = sensor.name, sensor.description
        self.is_estimate, self.counts_energy = sensor.is_estimate, sensor.counts_energy
        self.rails, self.total, self.period_s = sensor.rails, sensor.total, sensor.period_s

    @override
    def read(self) -> dict[str, float | None]:
        self._advance(POWER_W * (time.monotonic() - self._start_s))
        return self._sensor.read()

    @override
    def close(self) -> None:
        self._sensor.close()


def rapl(root: Path, _: pytest.MonkeyPatch) -> PowerSensor:
    folder = fake_board.rapl(root, {"intel-rapl:0": ("package-0", 999.0)})
    file = folder / "intel-rapl:0/energy_uj"

    def advance(energy_j: float) -> None:  # it wraps at 1000 J
        fake_board.put(file, round((999.0 + energy_j) % 1000.0 * 1e6))

    return Advancing(Rapl(board(), root / "sys"), advance)


def nvml(_: Path, monkeypatch: pytest.MonkeyPatch) -> PowerSensor:
    gpus = install_nvml(monkeypatch, FakeNvml(energy_j=[10.0], power_w=[None]))
    return Advancing(
        Nvml(board(total=("gpu0",))),
        lambda energy_j: gpus.energy_j.__setitem__(0, 10.0 + energy_j),
    )


def rapl_and_nvml(root: Path, monkeypatch: pytest.MonkeyPatch) -> PowerSensor:
    both = rapl(root, monkeypatch), nvml(root, monkeypatch)
    return CombinedSensor(*both, board=board(), total=("package-0", "gpu0"))


def calibrated_rapl(root: Path, monkeypatch: pytest.MonkeyPatch) -> PowerSensor:
    correction = {"package-0": Calibration(gain=1.1, offset_w=0.5)}
    return CalibratedSensor(rapl(root, monkeypatch), correction)


def slow_counter(root: Path, monkeypatch: pytest.MonkeyPatch) -> PowerSensor:
    sensor = rapl(root, monkeypatch)
    sensor.period_s = 1.0
    return sensor


def estimate(_: Path, __: pytest.MonkeyPatch) -> PowerSensor:
    return Estimate(board(idle_w=8.0, full_w=11.0))


def power(_: Path, __: pytest.MonkeyPatch) -> PowerSensor:
    return constant_sensor()


def power_unknown_at_first(_: Path, __: pytest.MonkeyPatch) -> PowerSensor:
    return ReplaySensor([(0.0, {"ALL": None}), (1.0, {"ALL": POWER_W})], total=("ALL",))


KINDS = [
    rapl, nvml, rapl_and_nvml, calibrated_rapl, slow_counter, estimate, power,
    power_unknown_at_first,
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def package(request, tmp_path, monkeypatch):
    """A package on a machine with a fake engine and that sensor."""
    home = "edge_runtime.profiling.environment"
    monkeypatch.setattr(f"{home}.engine_runtime", lambda *_: "numpy")
    monkeypatch.setattr(
        f"{home}.open_sensor", lambda board: request.param(tmp_path, monkeypatch)
    )
    monkeypatch.setattr(within_budget, "create_engine", lambda *_, **__: FakeEngine())
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))
    return write_package(tmp_path / "package")


def profile_here(package):
    sensor = environment().sensor
    return profile_of(
        package, sensor=sensor.name, energy_is_estimate=sensor.is_estimate, startup_s=0.2
    )


@pytest.mark.parametrize("budget", LIMITS, ids=str)
def test_the_first_run_and_the_next_ones_begin(package, tmp_path, monkeypatch, budget) -> None:
    """Measured first, cached, stopped and resumed, and with a given profile."""
    profile = profile_here(package)
    monkeypatch.setattr(for_run, "profile_package", lambda *_, **__: profile)
    file = tmp_path / "profile.json"
    save_profile(profile, file)
    ways = {"first": {}, "second": {}, "given": {"profile": file}}
    for name, way in ways.items():
        folder = tmp_path / name
        with pytest.raises(StoppedError):
            train_within(package, folder, budget=budget, stop=stop_after(3), **way)
        *_, finished = train_within(package, folder, budget=budget, resume=True, **way)
        assert isinstance(finished, events.Finished)
        assert (finished.steps, finished.stopped_by) == (10, None)


@pytest.mark.parametrize("package", [rapl, estimate], indirect=True)
def test_a_run_goes_on_after_a_power_cut_before_its_energy_was_known(
    package, tmp_path
) -> None:
    profile = profile_here(package)
    save_profile(profile, environment().cached_profile_path(package))
    budget, folder = LIMITS[0], tmp_path / "run"
    with pytest.raises(StoppedError):
        train_within(package, folder, budget=budget, stop=stop_after(3))
    samples = folder / "power.jsonl"
    samples.write_text(samples.read_text().splitlines(keepends=True)[0])
    *_, finished = train_within(package, folder, budget=budget, resume=True)
    assert (finished.steps, finished.stopped_by) == (10, None)


@pytest.mark.parametrize("package", [rapl], indirect=True)
def test_what_earlier_processes_spent_is_not_estimated_again(package, tmp_path) -> None:
    """They spent 2 W for 100 s: at the 10 W of the profile, nothing would be left."""
    large = rung_cost("k100", 80, 0.01, 10.0)
    save_profile(
        profile_of(package, sensor="rapl", rungs=(large,)),
        environment().cached_profile_path(package),
    )
    budget, folder = Budget(energy_j=500.0), tmp_path / "run"
    with pytest.raises(StoppedError):
        train_within(package, folder, budget=budget, rungs=["k100"], stop=stop_after(3))
    samples = folder / "power.jsonl"
    *others, last = samples.read_text().splitlines()
    with samples.open("w") as file:
        file.write("\n".join([*others, spent(last, 100.0, 200.0), ""]))
    *_, finished = train_within(package, folder, budget=budget, rungs=["k100"], resume=True)
    assert (finished.steps, finished.stopped_by) == (10, None)


def spent(line: str, t_s: float, energy_j: float) -> str:
    """The sample of that line at another time."""
    return json.dumps(json.loads(line) | {"t_s": t_s, "energy_j": energy_j})


@pytest.mark.parametrize("package", [power], indirect=True)
def test_a_profile_of_another_sensor_is_refused_where_its_joules_count(
    package, tmp_path
) -> None:
    save_profile(
        profile_of(package, sensor="estimate", energy_is_estimate=True),
        environment().cached_profile_path(package),
    )
    message = "power sensor: measured with estimate, here replay"
    with pytest.raises(DeviceError, match=message):
        train_within(package, tmp_path / "run", budget=LIMITS[0])
    train_within(package, tmp_path / "run", budget=Budget(time_s=3600))


@pytest.mark.parametrize("package", [power], indirect=True)
def test_a_profile_of_other_processors_is_refused(package, tmp_path, monkeypatch) -> None:
    file = tmp_path / "profile.json"
    save_profile(profile_of(package, cpus=environment().cpus), file)
    cached = environment().cached_profile_path(package)
    home = "edge_runtime.profiling.environment"
    monkeypatch.setattr(f"{home}.usable_cpus", lambda: 0.5)  # taskset, or a quota
    assert environment().cached_profile_path(package) != cached
    with pytest.raises(DeviceError, match=r"processors: measured with \d+, here 0.5"):
        train_within(package, tmp_path / "run", budget=LIMITS[0], profile=file)
