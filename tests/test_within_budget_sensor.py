"""Limits on energy and power whose sensor cannot be read, before and after measuring."""

import time
from dataclasses import replace

import pytest
import test_within_budget
from measuring_fakes import environment
from test_within_budget import HOUR, profile_of, train_within

from edge_runtime import within_budget
from edge_runtime.device import ReplaySensor
from edge_runtime.errors import DeviceError, SensorError
from edge_runtime.facts import Budget
from edge_runtime.profiling import for_run

package = test_within_budget.package


class Unplugged(ReplaySensor):
    """Was chosen, and cannot be read any more."""

    def __init__(self) -> None:
        super().__init__([(0.0, {"ALL": 1.0})], total=("ALL",))

    def read(self):
        raise SensorError("ina3221: /sys/curr1_input cannot be read")


@pytest.mark.parametrize("budget", [Budget(energy_j=100.0), Budget(power_w=5.0)])
def test_a_sensor_that_cannot_be_read_is_named_before_anything_is_measured(
    package, tmp_path, monkeypatch, budget
) -> None:
    def measure(*_, **__):
        raise AssertionError("this takes minutes")

    monkeypatch.setattr(for_run, "profile_package", measure)
    home = "edge_runtime.profiling.environment"
    monkeypatch.setattr(f"{home}.open_sensor", lambda board: Unplugged())
    with pytest.raises(DeviceError, match="cannot be kept: ina3221: /sys/curr1_input cannot"):
        train_within(package, tmp_path / "run", budget=budget)
    assert not (tmp_path / "run").exists()


class Late(Unplugged):
    """Cannot be read in its first half second."""

    def __init__(self) -> None:
        super().__init__()
        self._works_s = time.monotonic() + 0.5

    def read(self):
        return super().read() if time.monotonic() < self._works_s else {"ALL": 1.0}


def test_a_sensor_may_be_late(package, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(for_run, "profile_package", lambda *_, **__: profile_of(package))
    monkeypatch.setattr(within_budget.Environment, "check_energy", lambda *_: None)
    home = "edge_runtime.profiling.environment"
    monkeypatch.setattr(f"{home}.open_sensor", lambda board: Late())
    train_within(package, tmp_path / "run", budget=Budget(power_w=50.0))
    assert (tmp_path / "run").exists()


def test_a_profile_without_the_energy_of_its_sensor_is_not_cached(
    package, tmp_path, monkeypatch
) -> None:
    """It would refuse every later limit on energy, with a sensor that is repaired."""

    def measure(package, environment, meter, **_):
        costs = [replace(cost, step_j=None) for cost in profile_of(package).rungs]
        return profile_of(package, rungs=tuple(costs))

    monkeypatch.setattr(for_run, "profile_package", measure)
    train_within(package, tmp_path / "run", budget=HOUR)
    assert not environment().cached_profile_path(package).exists()
