"""Readings of jtop, of a Raspberry Pi 5's chip, and of replays."""

import json
import sys
import time
from pathlib import Path

import pytest
from boards import board
from fake_vendors import Clock, FakeJtop, install_jtop, jtop_rail

from edge_runtime.device import ReplaySensor, open_sensor, read_trace
from edge_runtime.device.sensors.jtop import Jtop, rails_w
from edge_runtime.device.sensors.rpi_pmic import RpiPmic, parse_adc
from edge_runtime.errors import SensorError

ORIN_NX = {
    "rail": {"VDD_CPU_GPU_CV": jtop_rail(0.7), "VDD_SOC": jtop_rail(1.4)},
    "tot": jtop_rail(4.5, name="VDD_IN"),
}
AGX_ORIN = {
    "rail": {
        "VDDQ_VDD2_1V8AO": jtop_rail(0.45),
        "VDD_CPU_CV": jtop_rail(1.14),
        "VDD_GPU_SOC": jtop_rail(3.8),
        "VIN_SYS_5V0": jtop_rail(3.5),
    },
    "tot": {"power": 8890, "avg": 8890},
}


def test_jtops_named_total_is_a_rail_and_its_sum_is_none() -> None:
    assert rails_w(ORIN_NX) == {"VDD_CPU_GPU_CV": 0.7, "VDD_SOC": 1.4, "VDD_IN": 4.5}
    assert set(rails_w(AGX_ORIN)) == set(AGX_ORIN["rail"])


@pytest.mark.parametrize("odd", [{}, {"rail": None, "tot": None}, {"rail": {"VDD_IN": {}}}])
def test_jtops_keys_may_be_missing(odd: dict) -> None:
    assert rails_w(odd) == {}


def test_a_rail_that_is_offline_is_unknown() -> None:
    assert rails_w({"rail": {"VDD_IN": jtop_rail(4.5) | {"online": False}}}) == {}


def test_the_agx_orins_total_counts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    install_jtop(monkeypatch, AGX_ORIN)
    inputs = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    clock = Clock()
    sensor = Jtop(board(total=inputs), clock=clock)
    clock.now_s += 2.0
    watts = sensor.read()
    assert sum(watts[rail] or 0.0 for rail in sensor.total) == pytest.approx(2 * 8.44)
    sensor.close()


def test_jtops_readings_are_added_up_as_they_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    service = install_jtop(monkeypatch, {"rail": {"VDD_IN": jtop_rail(4.0)}})
    clock = Clock()
    sensor = Jtop(board(total=("VDD_IN",)), clock=clock)
    for wait_s, power_w in ((0.5, 10.0), (0.25, 2.0)):
        clock.now_s += wait_s
        service.clients[-1].send({"rail": {"VDD_IN": jtop_rail(power_w)}})
    clock.now_s += 1.0
    # 4 W for 0.5 s, 10 W for 0.25 s, 2 W for the second since; its "avg" is never used
    assert sensor.read() == {"VDD_IN": pytest.approx(2.0 + 2.5 + 2.0)}
    service.clients[-1].send({"rail": {}})
    assert sensor.read() == {"VDD_IN": None}
    service.clients[-1].send(None)
    sensor.close()


def wait_for(client_count: int, service: type[FakeJtop]) -> None:
    end_s = time.monotonic() + 5
    while len(service.clients) < client_count and time.monotonic() < end_s:
        time.sleep(0.005)
    assert len(service.clients) == client_count


def test_over_a_silent_service_power_is_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    service = install_jtop(monkeypatch, {"rail": {"VDD_IN": jtop_rail(4.0)}})
    clock = Clock()
    sensor = Jtop(board(total=("VDD_IN",)), clock=clock)
    clock.now_s += 10.0
    service.first = {"rail": {"VDD_IN": jtop_rail(8.0)}}
    with pytest.raises(
        SensorError, match=r"jtop: no reading for 10\.0 s: the service has gone"
    ):
        sensor.read()
    wait_for(2, service)
    assert sensor.read() == {"VDD_IN": pytest.approx(60.0)}
    assert not service.clients[0].alive  # the old one was closed
    sensor.close()


def test_why_the_service_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    service = install_jtop(monkeypatch, ORIN_NX)
    sensor = Jtop(board(total=("VDD_IN",)))
    service.refusal = PermissionError("I can't access jtop.service.\nPlease logout")
    service.clients[-1].alive = False
    for _ in range(500):
        with pytest.raises(SensorError) as caught:
            sensor.read()
        if "Please" in str(caught.value):
            break
        time.sleep(0.005)
    assert str(caught.value).endswith("I can't access jtop.service. Please logout")


@pytest.mark.parametrize(
    ("first", "why"),
    [({}, "has no power rails"), (ORIN_NX, "its total needs rail VIN, but the sensor has")],
)
def test_a_service_without_the_right_rails_is_released(
    monkeypatch: pytest.MonkeyPatch, first: dict, why: str
) -> None:
    service = install_jtop(monkeypatch, first)
    with pytest.raises(SensorError, match=why):
        Jtop(board(total=("VIN",)))
    for _ in range(500):
        if not service.clients[0].alive:
            return
        time.sleep(0.005)
    pytest.fail("its client is still connected")


@pytest.mark.parametrize(
    ("kind", "what"), [("jtop", "jetson-stats"), ("nvml", "nvidia-ml-py")]
)
def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, kind: str, what: str
) -> None:
    for module in ("jtop", "pynvml"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        SensorError, match=f"{kind} does not work here: {what} is not installed"
    ):
        open_sensor(board(), prefer=kind)


ADC = """\
     3V7_WL_SW_A current(0)=0.00195200A
     VDD_CORE_A current(7)=2.50000000A
  3V7_WL_SW_V volt(8)=3.70000000V
      VDD_CORE_V volt(15)=0.80000000V
     EXT5V_V volt(24)=5.14848000V
      BATT_V volt(25)=0.00000000V
      HDMI_A current(22)=0.02000000A
garbage
"""


def test_rails_of_the_pi_have_current_and_voltage() -> None:
    assert parse_adc(ADC) == {
        "3V7_WL_SW": pytest.approx(0.0072224),
        "VDD_CORE": pytest.approx(2.0),
    }


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            "echo 'VCHI initialization failed' >&2; exit 1",
            "no rails: VCHI initialization failed",
        ),
        ("exit 3", "no rails: exit code 3"),
    ],
)
def test_a_pi_that_does_not_answer_is_reported(tmp_path: Path, script: str, why: str) -> None:
    with pytest.raises(SensorError, match=why):
        RpiPmic(board(), command=["sh", "-c", script])


def test_a_replay_plays_in_a_circle() -> None:
    clock = Clock()
    trace = [(7.0, {"VDD_IN": 4.0}), (8.0, {"VDD_IN": 6.0, "VDD_SOC": 1.0}), (10.0, {})]
    sensor = ReplaySensor(trace, total=["VDD_IN"], clock=clock)
    readings = []
    for clock.now_s in (50.0, 50.9, 51.0, 53.0, 54.9, 55.0, 56.5):
        readings.append(sensor.read()["VDD_IN"])
    assert readings == [4.0, 4.0, 6.0, None, None, 4.0, 6.0]
    assert sensor.read()["VDD_SOC"] == 1.0


@pytest.mark.parametrize(
    ("trace", "total", "why"),
    [
        ([], [], "at least one value"),
        ([(1.0, {"A": 1.0}), (1.0, {"A": 2.0})], ["A"], "growing times"),
        ([(1.0, {"A": 1.0})], ["A", "B"], "total needs rail B; the trace has A"),
    ],
)
def test_a_trace_that_cannot_be_played_is_refused(trace: list, total: list, why: str) -> None:
    with pytest.raises(SensorError, match=why):
        ReplaySensor(trace, total=total)


def test_a_runs_power_file_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "power.jsonl"
    samples = [
        {"process": 1, "t_s": 0.1, "rails_w": {"VDD_IN": 4.5}, "total_w": 4.5},
        {"process": 1, "t_s": 0.2, "rails_w": {"VDD_IN": None}, "total_w": None},
    ]
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    sensor = open_sensor(board(total=("VDD_IN",)), prefer=f"replay:{path}")
    assert sensor
    assert sensor.read() == {"VDD_IN": 4.5}
    assert sensor.description == f"replay of {path}"


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"t_s": 1}', '{"t_s": 1, "rails_w": {"A": "x"}}']
)
def test_a_line_without_a_reading_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"t_s": 0, "rails_w": {}}\n' + line + "\n")
    with pytest.raises(SensorError, match=r"trace\.jsonl, line 2 is not a reading such as"):
        read_trace(path)


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(SensorError, match=r"none\.jsonl cannot be read \(.*No such file"):
        open_sensor(board(), prefer=f"replay:{tmp_path / 'none.jsonl'}")
