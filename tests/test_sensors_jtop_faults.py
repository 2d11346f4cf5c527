"""Readings of the jtop service that cannot be true."""

import pytest
from boards import board
from fake_vendors import Clock, FakeJtop, install_jtop, jtop_rail

from edge_runtime.device.probe import Probe, SensorEvent
from edge_runtime.device.sensors.jtop import Jtop, rails_w


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type[FakeJtop]:
    return install_jtop(monkeypatch, {"rail": {"VDD_IN": jtop_rail(7.0)}})


def send(service: type[FakeJtop], clock: Clock, power_w: float, seconds: float) -> None:
    for _ in range(int(2 * seconds)):
        clock.now_s += 0.5
        service.clients[-1].send({"rail": {"VDD_IN": jtop_rail(power_w)}})


@pytest.mark.parametrize("power_w", [0.0, -0.5])
def test_a_total_that_is_not_above_zero_is_unknown(service, clock, power_w) -> None:
    sensor = Jtop(board(total=("VDD_IN",)), clock=clock)
    send(service, clock, power_w, 1.0)
    assert sensor.read() == {"VDD_IN": None}
    assert sensor.why_unknown("VDD_IN") == f"{power_w:.3f} W is not above zero"
    assert sensor.untrue_s() == 0.0
    send(service, clock, 7.0, 1.0)
    begin_j = sensor.read()["VDD_IN"]
    send(service, clock, 7.0, 1.0)
    assert sensor.read()["VDD_IN"] - begin_j == pytest.approx(7.0)


def test_a_total_that_does_not_change_is_unknown(service, clock) -> None:
    """Also in hindsight: the meter marks the time since the first equal reading."""
    sensor = Jtop(board(total=("VDD_IN",)), clock=clock)
    send(service, clock, 7.0, 29.0)
    assert sensor.read()["VDD_IN"] == pytest.approx(7.0 * 29)
    send(service, clock, 7.0, 3.0)
    assert sensor.read() == {"VDD_IN": None}
    assert "exactly 7.000 W for 32 s" in (sensor.why_unknown("VDD_IN") or "")
    assert sensor.untrue_s() == 32.0
    reported: list[SensorEvent] = []
    probe = Probe(sensor, reported.append)
    probe.read(clock)
    assert [event.kind for event in reported] == ["lost"]
    assert probe.known_s == clock.now_s - 32.0
    send(service, clock, 7.04, 1.0)
    assert sensor.read()["VDD_IN"]
    assert sensor.untrue_s() == 0.0


def test_a_rail_at_full_scale_is_unknown() -> None:
    spike = jtop_rail(163.8, curr=32_760)
    assert rails_w({"rail": {"VDD_IN": spike, "VDD_SOC": jtop_rail(1.4, curr=280)}}) == {
        "VDD_SOC": 1.4
    }
